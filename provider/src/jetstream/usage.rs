//! Counters of the bytes stored for each tenant: JetStream counters (nats-server 2.12), one for each tenant and stretch
//! of time, which go when everything that they count has expired.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use fanout_plan::TenantId;
use futures::StreamExt as _;
use serde::Deserialize;

use super::{Store, StoreError};

/// How long the store may take to list a tenant's counters.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a counter's message holds.
#[derive(Deserialize)]
struct Counter {
    val: String,
}

impl Store {
    /// A tenant's counters: the name of the stretch of time, and the bytes stored in it.
    pub(crate) async fn usage(&self, tenant: &TenantId) -> Result<Vec<(String, u64)>, StoreError> {
        let action = || format!("read what is stored for tenant {tenant}");
        tokio::time::timeout(DEADLINE, self.read_counters(tenant))
            .await
            .map_err(StoreError::when(action()))?
            .map_err(StoreError::when(action()))
    }

    /// The last message of each of the tenant's counters, in one request (ADR-31, "batched requests").
    async fn read_counters(&self, tenant: &TenantId) -> Result<Vec<(String, u64)>, async_nats::Error> {
        let nats = self.nats();
        let inbox = nats.new_inbox();
        let mut answers = nats.subscribe(inbox.clone()).await?;
        let request = serde_json::json!({ "multi_last": [self.names.usage_of(tenant)] });
        let subject = format!("{}.DIRECT.GET.{}", self.policy.jetstream.subject(), self.names.usage());
        nats.publish_with_reply(subject, inbox, request.to_string().into())
            .await?;
        let mut found = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.status {
                None => {}
                // 204 ends the list; 404 is an empty one.
                Some(status) if matches!(status.as_u16(), 204 | 404) => return Ok(found),
                Some(status) => return Err(format!("the store answered {status}").into()),
            }
            let subject = answer
                .headers
                .as_ref()
                .and_then(|h| h.get("Nats-Subject"))
                .ok_or("an answer without its subject")?;
            let counter: Counter = serde_json::from_slice(&answer.payload)?;
            let name = subject.as_str().rsplit('.').next().unwrap_or_default();
            found.push((name.to_owned(), counter.val.parse()?));
        }
        Err("the connection was closed".into())
    }

    /// Adds bytes to a counter and returns its total, unless the same addition was made before. The same id is counted
    /// once.
    pub(crate) async fn add_usage(
        &self,
        tenant: &TenantId,
        stretch: &str,
        bytes: u64,
        id: &str,
    ) -> Result<Option<u64>, StoreError> {
        let message = PublishMessage::build()
            .header("Nats-Incr", format!("+{bytes}"))
            .message_id(id);
        let added = async {
            let subject = self.names.usage_in(tenant, stretch);
            self.js.send_publish(subject, message).await?.await
        };
        let ack = added
            .await
            .map_err(StoreError::when(format!("count what is stored for tenant {tenant}")))?;
        Ok(ack.value.and_then(|v| v.parse().ok()).filter(|_| !ack.duplicate))
    }
}
