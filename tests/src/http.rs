//! HTTP to loopback, for tests: one exchange at a time on a shared pool, bodies in memory.

use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

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
pub struct Pool(Client<HttpConnector, Full<Bytes>>);

impl Default for Pool {
    fn default() -> Self {
        Self(Client::builder(TokioExecutor::new()).build(HttpConnector::new()))
    }
}

impl Pool {
    /// POST.
    pub async fn post(&self, url: &str, headers: &[(String, String)], body: impl Into<Bytes>) -> Result<Answer> {
        let mut request = Request::post(url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        self.send(request.body(Full::new(body.into())).context("not a request")?)
            .await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let exchange = async {
            let response = self.0.request(request).await.context("no answer")?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.context("the answer broke off")?;
            anyhow::Ok(Answer {
                status,
                body: body.to_bytes(),
            })
        };
        tokio::time::timeout(LIMIT, exchange)
            .await
            .context("no answer in time")?
    }
}

/// POST, on a connection of its own.
pub async fn post(url: &str, headers: &[(String, String)], body: impl Into<Bytes>) -> Result<Answer> {
    Pool::default().post(url, headers, body).await
}

/// GET, on a connection of its own.
pub async fn get(url: &str) -> Result<Answer> {
    let request = Request::get(url).body(Full::default()).context("not a request")?;
    Pool::default().send(request).await
}
