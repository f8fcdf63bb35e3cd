//! A caller of a bus over HTTP.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

/// For one request.
const LIMIT: Duration = Duration::from_secs(30);
/// One event, whole.
pub const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json");
/// Many.
pub const BATCHED: (&str, &str) = ("content-type", "application/cloudevents-batch+json");
const JSON: (&str, &str) = ("content-type", "application/json");

/// A caller, and where the bus is.
#[derive(Clone, Debug)]
pub struct HttpCaller {
    base: String,
    client: Client,
    token: Option<String>,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub text: String,
}

impl HttpCaller {
    /// A caller of the bus at this URL, known by its connection.
    ///
    /// # Panics
    /// If there is no client.
    #[must_use]
    pub fn at(url: &str) -> Self {
        Self {
            base: url.trim_end_matches('/').to_owned(),
            client: Client::builder().no_proxy().build().expect("there is a client"),
            token: None,
        }
    }

    /// Another caller of the same bus, known by this token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..Self::at(&self.base)
        }
    }

    /// Where something is.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Sends a request; its answer may go on.
    ///
    /// # Panics
    /// If there is none.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Response {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.client.request(method, self.url(path)).body(body.into());
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("there is an answer")
    }

    /// Sends a request, and reads its answer.
    ///
    /// # Panics
    /// If there is none in time.
    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answered {
        let asked = async {
            let response = self.send(method, path, headers, body).await;
            Answered {
                status: response.status().as_u16(),
                headers: response.headers().clone(),
                text: response.text().await.expect("the answer is whole"),
            }
        };
        tokio::time::timeout(LIMIT, asked)
            .await
            .expect("there is an answer in time")
    }

    /// Sends JSON.
    pub async fn json(&self, method: &str, path: &str, body: Value) -> Answered {
        self.ask(method, path, &[JSON], body.to_string()).await
    }

    /// Asks without a body.
    pub async fn get(&self, path: &str) -> Answered {
        self.ask("GET", path, &[], "").await
    }

    /// Publishes an event of a tenant; its id is its data too.
    pub async fn publish(&self, tenant: &str, id: &str) -> Answered {
        self.ask("POST", "/v1/events", &[STRUCTURED], document(tenant, id).to_string())
            .await
    }

    /// Every event that the log holds, by ids in their order.
    ///
    /// # Panics
    /// If it can't be read.
    pub async fn stored(&self) -> Vec<String> {
        let name = "what-is-stored";
        let wanted = json!({ "need": "backfill" });
        let path = format!("/v1/subscriptions/{name}");
        self.json("PUT", &path, wanted).await.good();
        let mut ids = Vec::new();
        loop {
            let fetched = self
                .json("POST", &format!("{path}:fetch"), json!({ "wait_ms": 1_000 }))
                .await
                .good();
            let deliveries = fetched["deliveries"].as_array().expect("deliveries").clone();
            let tokens = deliveries
                .iter()
                .map(|d| json!({ "token": d["token"], "verdict": "handled" }));
            let settlements: Vec<_> = tokens.collect();
            ids.extend(
                deliveries
                    .iter()
                    .map(|d| d["event"]["id"].as_str().expect("an id").to_owned()),
            );
            if deliveries.is_empty() && fetched["caught_up"].is_object() {
                break;
            }
            if !settlements.is_empty() {
                self.json("POST", "/v1/settlements", json!({ "settlements": settlements }))
                    .await
                    .good();
            }
        }
        let ended = self.ask("DELETE", &path, &[], "").await;
        assert_eq!(ended.status, 204, "{ended:?}");
        ids
    }
}

/// An event as a document.
#[must_use]
pub fn document(tenant: &str, id: &str) -> Value {
    json!({ "specversion": "1.0", "tenant": tenant, "type": "invoice.paid", "source": "/tests", "id": id, "data": { "id": id } })
}

impl Answered {
    /// Its body.
    ///
    /// # Panics
    /// If it is no JSON.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Its body, of a good answer.
    ///
    /// # Panics
    /// If it is another.
    pub fn good(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.content_type(), "application/json", "{self:?}");
        self.value()
    }

    /// The code of a problem with this status.
    ///
    /// # Panics
    /// If it is another answer.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.content_type(), "application/problem+json", "{self:?}");
        let value = self.value();
        assert!(
            value["detail"].as_str().is_some_and(|detail| detail.len() > 8),
            "{self:?}"
        );
        value["code"].as_str().expect("a code").to_owned()
    }

    /// What it says of its body.
    #[must_use]
    pub fn content_type(&self) -> &str {
        self.headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}
