//! An HTTP client for loopback: keep-alive, one time limit on a whole exchange, bodies in memory.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;

/// After this long, an exchange counts as one without an answer.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(15);

/// A client without connections. Clones share them.
pub(crate) fn client() -> Result<Client> {
    let client = Client::builder().no_proxy().timeout(EXCHANGE_LIMIT).build();
    client.context("can't make an HTTP client")
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).with_context(|| format!("unexpected answer: {self}"))
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} {}",
            self.status.as_u16(),
            String::from_utf8_lossy(&self.body)
        )
    }
}

/// One exchange. An error means that no answer came: the request may have been carried out all the same.
pub(crate) async fn send(request: RequestBuilder) -> Result<Answer> {
    let response = request.send().await.context("no answer")?;
    let status = response.status();
    let body = response.bytes().await.context("the answer broke off")?;
    Ok(Answer { status, body })
}

/// GET of JSON; any status but 200 is an error.
pub(crate) async fn get_json<T: DeserializeOwned>(client: &Client, url: &str) -> Result<T> {
    let answer = send(client.get(url)).await.with_context(|| format!("GET {url}"))?;
    anyhow::ensure!(answer.status == StatusCode::OK, "GET {url}: {answer}");
    answer.json()
}
