//! One delivery in the program's hands.

use std::time::Duration;

use fanout_wit::types::{Origin, Rejection, RetryDelay, Verdict};
use tokio::sync::OwnedSemaphorePermit;

use crate::leases::Leases;
use crate::{Error, Event, Position};

/// One attempt to hand over an event. It is leased until it is settled: the client tells the bus that it is still worked
/// on for as long as this exists. Dropped without a settlement, it is refused, and comes again by the bus's schedule.
///
/// Deliveries come at least once: be idempotent by `tenant`, `source` and `id`.
#[derive(Debug)]
pub struct Delivery {
    event: Event,
    position: Position,
    attempt: u32,
    replayed: bool,
    published_at: i64,
    /// The program has it: until then, nobody has tried to handle it.
    taken: bool,
    lease: Option<Lease>,
}

/// What settles it, and its place among those that are leased.
#[derive(Debug)]
struct Lease {
    id: u64,
    leases: Leases,
    _place: OwnedSemaphorePermit,
}

impl Delivery {
    pub(crate) fn new(
        delivery: fanout_wit::types::Delivery,
        traceparent: Option<String>,
        id: u64,
        leases: Leases,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            event: Event {
                traceparent,
                ..delivery.event.into()
            },
            position: delivery.position.into(),
            attempt: delivery.attempt,
            replayed: delivery.origin == Origin::Replayed,
            published_at: delivery.published_at,
            taken: false,
            lease: Some(Lease {
                id,
                leases,
                _place: place,
            }),
        }
    }

    /// Puts it into the program's hands.
    pub(crate) fn taken(mut self) -> Self {
        self.taken = true;
        self
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Where it stands in the log.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// 1 for the first attempt.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether it was in the log before the subscription was made.
    #[must_use]
    pub fn replayed(&self) -> bool {
        self.replayed
    }

    /// When the bus stored it, nanoseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn published_at(&self) -> i64 {
        self.published_at
    }

    /// It is handled: settles it for good. Returns once the bus has done so.
    ///
    /// # Errors
    /// When the lease was over before; then it comes again.
    pub async fn ack(self) -> Result<(), Error> {
        self.settle(Verdict::Handled).await
    }

    /// Refuses it: it comes again by the bus's schedule, or becomes a dead letter when its attempts are used up.
    ///
    /// # Errors
    /// When the lease was over before; then it comes again too.
    pub async fn retry(self, reason: impl Into<String>) -> Result<(), Error> {
        self.settle(Verdict::Rejected(Rejection::Retry(reason.into()))).await
    }

    /// Refuses it: it comes again without waiting.
    ///
    /// # Errors
    /// When the lease was over before; then it comes again too.
    pub async fn retry_now(self, reason: impl Into<String>) -> Result<(), Error> {
        self.settle(Verdict::Rejected(Rejection::RetryNow(reason.into()))).await
    }

    /// Refuses it: it comes again after this time.
    ///
    /// # Errors
    /// When the lease was over before; then it comes again too.
    pub async fn retry_after(self, delay: Duration, reason: impl Into<String>) -> Result<(), Error> {
        let delay = RetryDelay {
            delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            reason: reason.into(),
        };
        self.settle(Verdict::Rejected(Rejection::RetryAfter(delay))).await
    }

    /// Makes it a dead letter, with this reason.
    ///
    /// # Errors
    /// When the lease was over before; then it comes again.
    pub async fn dead_letter(self, reason: impl Into<String>) -> Result<(), Error> {
        self.settle(Verdict::Rejected(Rejection::DeadLetter(reason.into())))
            .await
    }

    /// Gives it back untried: it comes again, to whoever fetches next, and that counts as no attempt.
    ///
    /// # Errors
    /// When the lease was over before; then it comes again too.
    pub async fn release(self) -> Result<(), Error> {
        self.settle(Verdict::Released).await
    }

    /// Whether the lease was lost: it could not be renewed in time, and the bus delivers the event again. Settling it fails.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lease.as_ref().is_none_or(|l| !l.leases.holds(l.id))
    }

    async fn settle(mut self, verdict: Verdict) -> Result<(), Error> {
        // The place is free once the bus has answered.
        match self.lease.take() {
            Some(lease) => lease.leases.settle(lease.id, verdict).await,
            None => Ok(()),
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            let verdict = if self.taken {
                Verdict::Rejected(Rejection::Retry("dropped without a settlement".to_owned()))
            } else {
                Verdict::Released
            };
            lease.leases.settle_later(lease.id, verdict);
        }
    }
}
