//! What comes of an event once its handler has answered: it leaves the subscription, waits for another attempt, or
//! becomes a dead letter.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, AckKind};
use fanout_plan::retry::{Disposition, FailedAttempt, Rejection};
use fanout_plan::{Code, Position, Problem, TenantId, timestamp};
use tracing::{debug, info, warn};

use super::incoming::Place;
use super::{Context, Delivery, Health};
use crate::clock;
use crate::jetstream::{Attempts, DeadLetter, DeadLetters, StoreError};

/// How long an event waits when the store could not take what belongs to it.
const STORE_WAIT: Duration = Duration::from_secs(1);

/// An event that this instance holds: the store gives it to no other until `delivery.ack-wait` has passed.
pub(crate) struct Held {
    pub(crate) message: jetstream::Message,
    pub(crate) delivery: Delivery,
    pub(super) failed: Vec<FailedAttempt>,
}

impl Held {
    /// Tells the store. When that is lost, the event is delivered again: at least once.
    pub(super) async fn settle(&self, kind: AckKind) {
        settle(&self.message, kind).await;
    }
}

async fn settle(message: &jetstream::Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        debug!(subject = %message.subject, %error, "a settlement was not sent; the event comes again");
    }
}

/// Settles the events of one subscription.
pub(crate) struct Settler {
    context: Arc<Context>,
    attempts: Attempts,
    dead_letters: DeadLetters,
}

impl Settler {
    pub(crate) async fn new(context: &Arc<Context>) -> Result<Self, StoreError> {
        Ok(Self {
            attempts: context.store.attempts().await?,
            dead_letters: context.store.dead_letters(),
            context: Arc::clone(context),
        })
    }

    /// What is known of an event that was given out before.
    pub(crate) async fn earlier_attempts(&self, position: Position) -> Result<Vec<FailedAttempt>, StoreError> {
        self.attempts.of(self.context.name(), position).await
    }

    /// An event that is none of the subscription's.
    pub(super) async fn skip(&self, message: &jetstream::Message) {
        settle(message, AckKind::Ack).await;
    }

    /// Puts an event off because the store does not answer.
    pub(super) async fn wait_for_store(&self, message: &jetstream::Message, error: &StoreError) {
        warn!(subscription = %self.context.name(), subject = %message.subject, %error, "an event waits for the store");
        settle(message, AckKind::Nak(Some(STORE_WAIT))).await;
    }

    /// Acts on a handler's answer. Returns whether the store took what belongs to it; if not, the event comes again.
    pub(crate) async fn settle(&self, mut held: Held, answer: Result<(), Rejection>) -> bool {
        let health = &self.context.health;
        let Err(rejection) = answer else {
            Health::count(&health.handled);
            // Acknowledged only now that the handler has returned: a crash before this delivers again.
            held.settle(AckKind::Ack).await;
            self.forget_attempts(&held).await;
            return true;
        };
        Health::count(&health.refused);
        held.failed.push(FailedAttempt {
            attempt: held.delivery.attempt,
            at: timestamp::to_rfc3339(clock::now()),
            reason: rejection.reason().to_owned(),
        });
        let position = held.delivery.position;
        match self
            .context
            .store
            .policy()
            .retry
            .disposition(&rejection, held.delivery.attempt)
        {
            Disposition::RetryAfter(delay) => {
                // Written before the event is given back, so that no attempt is forgotten.
                if let Err(error) = self.attempts.put(self.context.name(), position, &held.failed).await {
                    self.wait_for_store(&held.message, &error).await;
                    return false;
                }
                debug!(
                    subscription = %self.context.name(), %position, attempt = held.delivery.attempt,
                    ?delay, reason = rejection.reason(), "refused; it is tried again"
                );
                held.settle(AckKind::Nak(Some(delay).filter(|d| !d.is_zero()))).await;
                true
            }
            Disposition::DeadLetter => {
                let stored = self
                    .set_aside(&held.message, position, held.delivery.attributes.tenant(), &held.failed)
                    .await;
                if stored {
                    self.forget_attempts(&held).await;
                }
                stored
            }
        }
    }

    async fn forget_attempts(&self, held: &Held) {
        if !held.failed.is_empty() {
            self.forget(held.delivery.position).await;
        }
    }

    /// Forgets the failed attempts of an event that is settled.
    pub(crate) async fn forget(&self, position: Position) {
        if let Err(error) = self.attempts.clear(self.context.name(), position).await {
            debug!(%error, "failed attempts stay until they expire");
        }
    }

    /// Something on the bus's subjects that is no event: nothing could ever handle it, and it is not dropped.
    pub(super) async fn set_aside_unreadable(&self, message: &jetstream::Message, place: &Place, problem: &Problem) {
        let tenant = self
            .context
            .store
            .template(place.position.partition)
            .parse_subject(&message.subject)
            .map(|(tenant, _)| tenant)
            .or_else(|| "_".parse().ok());
        let Some(tenant) = tenant else { return };
        let failed = [FailedAttempt {
            attempt: 0,
            at: timestamp::to_rfc3339(clock::now()),
            reason: format!("not an event: {problem}"),
        }];
        self.set_aside(message, place.position, &tenant, &failed).await;
    }

    /// Stores a dead letter and only then settles the event.
    async fn set_aside(
        &self,
        message: &jetstream::Message,
        position: Position,
        tenant: &TenantId,
        attempts: &[FailedAttempt],
    ) -> bool {
        let subscription = self.context.name();
        let stored = self
            .dead_letters
            .store(DeadLetter {
                subscription,
                tenant,
                position,
                headers: message.headers.as_ref(),
                payload: message.payload.clone(),
                attempts,
            })
            .await;
        match stored {
            Ok(()) => {
                Health::count(&self.context.health.dead_lettered);
                let reason = attempts.last().map_or("", |a| a.reason.as_str());
                info!(%subscription, %tenant, %position, attempts = attempts.len(), reason, "set aside as a dead letter");
                settle(message, AckKind::Ack).await;
                true
            }
            Err(error) => {
                self.context.health.fails(Problem::new(
                    Code::StoreUnavailable,
                    format!("subscription {subscription}: {error}; its event {position} waits"),
                ));
                self.wait_for_store(message, &error).await;
                false
            }
        }
    }
}
