//! What a subscription's deliveries are handed to: a component's exports, by wRPC (`target/component.rs`). Deliveries know
//! no more of it than what came of a call.

use std::fmt;

use fanout_plan::retry::Rejection;
use fanout_plan::subscription::Reach;
use fanout_plan::{Code, Position, SubscriptionName, Timestamp};
use futures::future::BoxFuture;

use super::Delivery;

/// Whoever takes a subscription's deliveries.
pub(crate) trait Target: fmt::Debug + Send + Sync {
    /// Hands over deliveries. One answer for each, in order; the reach `handler` takes one delivery at a time.
    ///
    /// # Errors
    /// When it gave no answer.
    fn handle(
        &self,
        reach: Reach,
        deliveries: Vec<Delivery>,
    ) -> BoxFuture<'_, Result<Vec<Result<(), Rejection>>, CallFailure>>;

    /// Tells it that a backfill has caught up.
    ///
    /// # Errors
    /// When it gave no answer, or a refusal.
    fn tell_caught_up(&self, caught_up: CaughtUp) -> BoxFuture<'_, Result<(), CallFailure>>;
}

/// Why a target did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallFailure {
    /// It never saw the delivery: this counts as no attempt.
    #[error("it can't be reached")]
    Unreachable,
    /// It had the delivery, and did not answer in time.
    #[error("component {component} did not answer within {deadline_ms} ms")]
    Deadline { component: String, deadline_ms: u128 },
    /// It had the delivery, and trapped or broke off.
    #[error("component {component} failed without an answer: {reason}")]
    Failed { component: String, reason: String },
}

impl CallFailure {
    /// Its code, which has a page.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable => Code::SubscriberUnreachable.as_str(),
            Self::Deadline { .. } => "call-deadline",
            Self::Failed { .. } => "call-failed",
        }
    }

    /// As if the handler had refused: a trap or a missed deadline is an attempt.
    pub(crate) fn as_rejection(&self) -> Rejection {
        Rejection::Retry(self.to_string())
    }
}

/// What a backfill's subscriber is notified of once.
#[derive(Clone, Debug)]
pub(crate) struct CaughtUp {
    pub(crate) subscription: SubscriptionName,
    pub(crate) reached: Option<Position>,
    pub(crate) replayed: u64,
    pub(crate) at: Timestamp,
    pub(crate) finished: bool,
}
