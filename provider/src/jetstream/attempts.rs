//! Remembers the failed attempts of an event at a subscription, with their reasons, across instances and restarts.
//!
//! The server's own delivery count can't serve: it also counts deliveries that never reached the handler (a subscriber
//! that is down, a crash), and it holds no reasons.

use async_nats::jetstream::kv;
use fanout_plan::retry::FailedAttempt;
use fanout_plan::{Position, SubscriptionName};

use super::{Store, StoreError};

/// The failed attempts of one bus.
#[derive(Clone, Debug)]
pub(crate) struct Attempts(kv::Store);

impl Store {
    /// Opens the bucket of failed attempts.
    pub(crate) async fn attempts(&self) -> Result<Attempts, StoreError> {
        Ok(Attempts(self.bucket(&self.names.attempts()).await?))
    }
}

fn key(subscription: &SubscriptionName, position: Position) -> String {
    format!("{subscription}.{}.{}", position.partition, position.offset)
}

impl Attempts {
    /// The failed attempts of an event so far.
    pub(crate) async fn of(
        &self,
        subscription: &SubscriptionName,
        position: Position,
    ) -> Result<Vec<FailedAttempt>, StoreError> {
        let value = self
            .0
            .get(key(subscription, position))
            .await
            .map_err(StoreError::when("read failed attempts"))?;
        Ok(value.and_then(|v| serde_json::from_slice(&v).ok()).unwrap_or_default())
    }

    /// Writes them.
    pub(crate) async fn put(
        &self,
        subscription: &SubscriptionName,
        position: Position,
        attempts: &[FailedAttempt],
    ) -> Result<(), StoreError> {
        let value = serde_json::to_vec(attempts).map_err(StoreError::when("write failed attempts"))?;
        self.0
            .put(key(subscription, position), value.into())
            .await
            .map_err(StoreError::when("write failed attempts"))?;
        Ok(())
    }

    /// Forgets them, once the event is settled. What is left behind by a failure here expires with the event.
    pub(crate) async fn clear(&self, subscription: &SubscriptionName, position: Position) -> Result<(), StoreError> {
        self.0
            .purge(key(subscription, position))
            .await
            .map_err(StoreError::when("clear failed attempts"))
    }
}
