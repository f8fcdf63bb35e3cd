//! An HTTP client for loopback: keep-alive, one time limit on a whole exchange, bodies in memory.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;

/// After this long, an exchange counts as one without an answer.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(15);

/// The client. Clones share its connections.
#[derive(Debug, Clone)]
pub(crate) struct HttpClient {
    pool: Pool<HttpConnector, Full<Bytes>>,
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

impl HttpClient {
    /// A client without connections.
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            pool: Pool::builder(TokioExecutor::new()).build(connector),
        }
    }

    /// One exchange. An error means that no answer came: the request may have been carried out all the same.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let exchange = async {
            let response = self.pool.request(request).await.context("no answer")?;
            let status = response.status();
            let body = response.into_body().collect().await.context("the answer broke off")?;
            anyhow::Ok(Answer {
                status,
                body: body.to_bytes(),
            })
        };
        tokio::time::timeout(EXCHANGE_LIMIT, exchange)
            .await
            .context("no answer in time")?
    }

    /// GET.
    pub(crate) async fn get(&self, url: &str) -> Result<Answer> {
        let request = Request::get(url).body(Full::default()).context("not a request")?;
        self.send(request).await
    }

    /// GET of JSON; any status but 200 is an error.
    pub(crate) async fn get_json<T: DeserializeOwned>(&self, url: &str) -> Result<T> {
        let answer = self.get(url).await.with_context(|| format!("GET {url}"))?;
        anyhow::ensure!(answer.status == StatusCode::OK, "GET {url}: {answer}");
        answer.json()
    }

    /// POST of JSON.
    pub(crate) async fn post_json(&self, url: &str, body: &serde_json::Value) -> Result<Answer> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))
            .context("not a request")?;
        self.send(request).await.with_context(|| format!("POST {url}"))
    }
}
