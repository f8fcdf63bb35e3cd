//! HTTP to loopback, for tests: one exchange at a time on a shared pool, bodies in memory.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder};

const LIMIT: Duration = Duration::from_secs(30);

/// Names and values.
pub type Headers = Vec<(String, String)>;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client of its own, with its own connections. One runtime each: a connection ends with the runtime it was made on.
#[derive(Debug, Clone)]
pub struct Pool(Client);

impl Default for Pool {
    fn default() -> Self {
        let client = Client::builder().redirect(Policy::none()).no_proxy().timeout(LIMIT);
        Self(client.build().expect("there is a client"))
    }
}

impl Pool {
    /// POST.
    pub async fn post(&self, url: &str, headers: &[(String, String)], body: impl Into<Bytes>) -> Result<Answer> {
        let request = self.0.post(url).body(body.into());
        send(headers.iter().fold(request, |r, (name, value)| r.header(name, value))).await
    }
}

/// POST, on a connection of its own.
pub async fn post(url: &str, headers: &[(String, String)], body: impl Into<Bytes>) -> Result<Answer> {
    Pool::default().post(url, headers, body).await
}

/// GET, on a connection of its own.
pub async fn get(url: &str) -> Result<Answer> {
    send(Pool::default().0.get(url)).await
}

async fn send(request: RequestBuilder) -> Result<Answer> {
    let response = request.send().await.context("no answer")?;
    let status = response.status().as_u16();
    let body = response.bytes().await.context("the answer broke off")?;
    Ok(Answer { status, body })
}
