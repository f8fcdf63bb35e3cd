//! A reader of a live tail.

use std::time::Duration;

use serde_json::Value;

use crate::http_caller::HttpCaller;

const LIMIT: Duration = Duration::from_secs(30);

/// A reader of server-sent events, as a browser is one.
pub struct TailReader {
    response: reqwest::Response,
    text: String,
    /// The last `id`, with which it connects again.
    pub last_id: String,
}

/// A message: its kind, and its data.
pub type Message = (String, Value);

impl TailReader {
    /// Opens a tail, and waits until nothing is missed from there on.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn open(bus: &HttpCaller, query: &str, last_id: &str) -> Self {
        let mut reader = Self::begin(bus, query, last_id).await;
        // The first block has an id and no data: from here on nothing is missed.
        assert!(reader.block().await.is_none_or(|message| message.1.is_null()));
        assert!(!reader.last_id.is_empty());
        reader
    }

    /// Opens a tail, which may have to wait before it reads.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn begin(bus: &HttpCaller, query: &str, last_id: &str) -> Self {
        let last = [("last-event-id", last_id)];
        let headers: &[_] = if last_id.is_empty() { &[] } else { &last };
        let response = bus.send("GET", &format!("/v1/events{query}"), headers, "").await;
        let status = response.status().as_u16();
        assert_eq!(status, 200, "{}", response.text().await.unwrap_or_default());
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            text: String::new(),
            last_id: last_id.to_owned(),
        }
    }

    /// The next block of lines, a `comment` too; `None` at the end.
    ///
    /// # Panics
    /// If nothing comes in time.
    pub async fn block(&mut self) -> Option<Message> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let (mut kind, mut data) = ("message".to_owned(), Value::Null);
                for line in block.lines() {
                    match line.split_once(": ") {
                        Some(("id", id)) => id.clone_into(&mut self.last_id),
                        Some(("event", name)) => name.clone_into(&mut kind),
                        Some(("", _)) => "comment".clone_into(&mut kind),
                        Some(("data", text)) => data = serde_json::from_str(text).expect("data is JSON"),
                        _ => {}
                    }
                }
                return Some((kind, data));
            }
            let chunk = tokio::time::timeout(LIMIT, self.response.chunk())
                .await
                .expect("something comes");
            // A server that was killed says no more.
            let Ok(Some(chunk)) = chunk else { return None };
            self.text.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
    }

    /// The next message that has data; `None` at the end.
    ///
    /// # Panics
    /// If nothing comes in time.
    pub async fn message(&mut self) -> Option<Message> {
        loop {
            let message = self.block().await?;
            if !message.1.is_null() {
                return Some(message);
            }
        }
    }

    /// The id of the next event.
    ///
    /// # Panics
    /// If something else comes.
    pub async fn event(&mut self) -> String {
        let (kind, data) = self.message().await.expect("it goes on");
        assert_eq!(kind, "message", "{data}");
        data["event"]["id"].as_str().expect("an id").to_owned()
    }
}
