//! What a migration asks of a JetStream, with configurations as they are: what the client's types do not know would be lost.

use std::collections::BTreeSet;

use fanout_plan::{Code, Problem};
use futures::TryStreamExt as _;
use serde_json::{Value, json};

use super::super::{Store, StoreError};

/// The server's codes (nats-server 2.15.1): there is no such stream, no such consumer.
const NO_STREAM: u64 = 10059;
const NO_CONSUMER: u64 = 10014;

/// Consumers that are read at once are as many as the server lists in one answer.
type Consumers = Vec<(String, Value)>;

pub(super) fn refused(code: Code, message: String) -> StoreError {
    StoreError::Refused(vec![Problem::new(code, message)])
}

/// A number of a stream's state.
pub(super) fn state(info: &Value, member: &str) -> u64 {
    info["state"][member].as_u64().unwrap_or(0)
}

/// A mark of a stream.
pub(super) fn mark<'a>(info: &'a Value, name: &str) -> Option<&'a str> {
    info["config"]["metadata"][name].as_str()
}

impl Store {
    /// What the server answers, a refusal included.
    pub(super) async fn answer_of(&self, subject: &str, body: &Value) -> Result<Value, StoreError> {
        let asked = self.js.request(subject.to_owned(), body).await;
        asked.map_err(StoreError::when(subject))
    }

    pub(super) async fn request_api(&self, subject: &str, body: &Value) -> Result<Value, StoreError> {
        let answer = self.answer_of(subject, body).await?;
        match answer.get("error") {
            Some(error) => Err(StoreError::when(subject)(error.to_string())),
            None => Ok(answer),
        }
    }

    /// What a stream is, with the positions that it has lost in its middle where that is asked; `None` if there is none.
    pub(super) async fn raw_info(&self, stream: &str, deleted: bool) -> Result<Option<Value>, StoreError> {
        let subject = format!("STREAM.INFO.{stream}");
        let answer = self.answer_of(&subject, &json!({ "deleted_details": deleted })).await?;
        match answer.get("error") {
            Some(error) if error["err_code"] == NO_STREAM => Ok(None),
            Some(error) => Err(StoreError::when(subject)(error.to_string())),
            None => Ok(Some(answer)),
        }
    }

    pub(super) async fn domain(&self) -> Result<String, StoreError> {
        let info = self.request_api("INFO", &json!({})).await?;
        Ok(info["domain"].as_str().unwrap_or_default().to_owned())
    }

    /// The streams of the bus that a migration takes along. Leases are in memory, and taken anew.
    pub(super) async fn migrated_streams(&self) -> Result<Vec<String>, StoreError> {
        let (n, kv) = (&self.names, |name: String| format!("KV_{name}"));
        let beside = [
            n.scheduled_stream(),
            n.marks(),
            n.retries(),
            n.journal(),
            n.usage(),
            kv(n.attempts()),
            kv(n.registry()),
            // The last: an instance does not begin before it.
            n.dead_letters(),
        ];
        let names: BTreeSet<String> = self
            .js
            .stream_names()
            .try_collect()
            .await
            .map_err(StoreError::when("list its streams"))?;
        let logs = names.iter().filter(|name| n.partition_of(name).is_some()).cloned();
        Ok(logs
            .chain(beside.into_iter().filter(|name| names.contains(name)))
            .collect())
    }

    /// Every consumer of these streams that settles what it delivers: its stream, and what the server says of it.
    pub(super) async fn settling_consumers(&self, streams: &[String]) -> Result<Consumers, StoreError> {
        let mut all = Vec::new();
        for stream in streams {
            let mut offset = 0;
            loop {
                let page = json!({ "offset": offset });
                let page = self.request_api(&format!("CONSUMER.LIST.{stream}"), &page).await?;
                let found = page["consumers"].as_array().cloned().unwrap_or_default();
                offset += found.len() as u64;
                let last = found.is_empty() || offset >= page["total"].as_u64().unwrap_or(0);
                let settles = |c: &Value| c["config"]["ack_policy"] == "explicit";
                all.extend(found.into_iter().filter(settles).map(|c| (stream.clone(), c)));
                if last {
                    break;
                }
            }
        }
        Ok(all)
    }

    /// Removes a consumer; one that is not there is as good.
    pub(super) async fn remove_consumer(&self, stream: &str, consumer: &Value) -> Result<(), StoreError> {
        let subject = format!("CONSUMER.DELETE.{stream}.{}", consumer_name(consumer));
        let answer = self.answer_of(&subject, &json!({})).await?;
        match answer.get("error") {
            Some(error) if error["err_code"] != NO_CONSUMER => Err(StoreError::when(subject)(error.to_string())),
            _ => Ok(()),
        }
    }
}

pub(super) fn consumer_name(consumer: &Value) -> &str {
    consumer["name"].as_str().unwrap_or_default()
}
