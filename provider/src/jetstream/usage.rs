//! Counters of the bytes stored for each tenant: JetStream counters (nats-server 2.12), one for each tenant and stretch
//! of time, which go when everything that they count has expired.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use fanout_plan::TenantId;
use serde::Deserialize;

use super::last::subject_of;
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

    async fn read_counters(&self, tenant: &TenantId) -> Result<Vec<(String, u64)>, async_nats::Error> {
        let counters = self.last_of(&self.names.usage(), &self.names.usage_of(tenant)).await?;
        let mut found = Vec::new();
        for counter in counters.ok_or("a tenant has more counters than one answer holds")? {
            let name = subject_of(&counter)?.rsplit('.').next().unwrap_or_default();
            let Counter { val } = serde_json::from_slice(&counter.payload)?;
            found.push((name.to_owned(), val.parse()?));
        }
        Ok(found)
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
