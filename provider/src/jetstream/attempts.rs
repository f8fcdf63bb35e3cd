//! Remembers the failed attempts of an event at a subscription, with their reasons, across instances and restarts.
//!
//! The server's own delivery count can't serve: it also counts deliveries that never reached the handler (a subscriber
//! that is down, a crash), and it holds no reasons.
//!
//! They are counted in *rounds*: a name that is used again, a subscription that was rewound, and a dead letter that is
//! redriven, begin anew; so does an event at the same place of another log.

use std::fmt::Display;
use std::time::Duration;

use async_nats::jetstream::kv;
use fanout_plan::Position;
use fanout_plan::retry::FailedAttempt;

use super::{Store, StoreError};

/// The failed attempts of one bus.
#[derive(Clone, Debug)]
pub(crate) struct Attempts {
    bucket: kv::Store,
    /// For how long it is known that they were forgotten.
    known_settled: Duration,
}

/// The shortest time to live that the server takes.
const SHORTEST_TTL: Duration = Duration::from_secs(1);

impl Store {
    /// Opens the bucket of failed attempts.
    pub(crate) async fn attempts(&self) -> Result<Attempts, StoreError> {
        Ok(Attempts {
            bucket: self.bucket(&self.names.attempts()).await?,
            // Who asks leases the event, or did when the same settlement came first.
            known_settled: (2 * self.policy.delivery.ack_wait).max(SHORTEST_TTL),
        })
    }
}

fn key(round: impl Display, position: Position) -> String {
    format!("{round}.{}.{}", position.partition, position.offset)
}

impl Attempts {
    /// The failed attempts of an event so far.
    pub(crate) async fn of(&self, round: impl Display, position: Position) -> Result<Vec<FailedAttempt>, StoreError> {
        let value = self
            .bucket
            .get(key(round, position))
            .await
            .map_err(StoreError::when("read failed attempts"))?;
        Ok(value.and_then(|v| serde_json::from_slice(&v).ok()).unwrap_or_default())
    }

    /// Whether they were forgotten lately: the event was settled after it had been refused.
    pub(crate) async fn are_over(&self, round: impl Display, position: Position) -> Result<bool, StoreError> {
        let entry = self
            .bucket
            .entry(key(round, position))
            .await
            .map_err(StoreError::when("read failed attempts"))?;
        Ok(entry.is_some_and(|e| e.operation != kv::Operation::Put))
    }

    /// The failed attempts of an event so far, and the revision of their entry: 0 where there is none.
    pub(crate) async fn revised(
        &self,
        round: impl Display,
        position: Position,
    ) -> Result<(Vec<FailedAttempt>, u64), StoreError> {
        let entry = self
            .bucket
            .entry(key(round, position))
            .await
            .map_err(StoreError::when("read failed attempts"))?;
        Ok(entry.map_or_else(Default::default, |entry| {
            (serde_json::from_slice(&entry.value).unwrap_or_default(), entry.revision)
        }))
    }

    /// Writes them in place of a revision; `false` where another instance has written since.
    pub(crate) async fn replace(
        &self,
        round: impl Display,
        position: Position,
        revision: u64,
        attempts: &[FailedAttempt],
    ) -> Result<bool, StoreError> {
        const ACTION: &str = "write failed attempts";
        let value = serde_json::to_vec(attempts).map_err(StoreError::when(ACTION))?;
        match self.bucket.update(key(round, position), value.into(), revision).await {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(e) => Err(StoreError::when(ACTION)(e)),
        }
    }

    /// Writes them.
    pub(crate) async fn put(
        &self,
        round: impl Display,
        position: Position,
        attempts: &[FailedAttempt],
    ) -> Result<(), StoreError> {
        let value = serde_json::to_vec(attempts).map_err(StoreError::when("write failed attempts"))?;
        self.bucket
            .put(key(round, position), value.into())
            .await
            .map_err(StoreError::when("write failed attempts"))?;
        Ok(())
    }

    /// Forgets them, once the event is settled. What is left behind by a failure here expires with the event.
    pub(crate) async fn clear(&self, round: impl Display, position: Position) -> Result<(), StoreError> {
        let key = key(round, position);
        // The marker goes by itself: one that stayed as long as an entry may would be one for each refused event.
        self.bucket
            .purge_with_ttl(key, self.known_settled)
            .await
            .map_err(StoreError::when("clear failed attempts"))
    }
}
