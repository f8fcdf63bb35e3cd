//! Dead letters: an event that no attempt is left for leaves its subscription only once its letter is stored.

use std::time::Duration;

use bytes::Bytes;
use fanout_plan::journal::Outcome;
use fanout_plan::retry::FailedAttempt;
use fanout_plan::{Code, Position, Problem, TenantId, Timestamp};
use tracing::info;

use super::Health;
use super::incoming::Metadata;
use super::settle::{DEAD_LETTERS_WAIT, InFlight, Settler, Source, nak};
use super::state::DeliveryState;
use crate::jetstream::{Full, NewDeadLetter, StoreError};

/// What a dead letter keeps of an event.
struct Unhandled {
    position: Position,
    tenant: TenantId,
    payload: Bytes,
    published_at: Timestamp,
}

impl Settler {
    pub(super) async fn give_up(&self, event: &mut InFlight) -> DeliveryState {
        let unhandled = Unhandled {
            position: event.delivery.position,
            tenant: event.delivery.attributes.tenant().clone(),
            payload: event.delivery.data.clone(),
            published_at: event.delivery.published_at,
        };
        match self.dead_letter(&event.source, &unhandled, &event.failed).await {
            Ok(()) => {
                self.forget_attempts(event).await;
                DeliveryState::Settled
            }
            Err((problem, wait)) => {
                // This attempt is made again, and counted then.
                event.failed.pop();
                event.waits_for = Some(Box::new(problem));
                DeliveryState::StoreUnavailable(wait)
            }
        }
    }

    /// Dead-letters a message that is no event: nothing could ever handle it, and it is not dropped. `tenant` is the one
    /// that its subject names.
    pub(super) async fn dead_letter_unreadable(
        &self,
        source: &Source,
        (tenant, metadata): (Option<TenantId>, &Metadata),
        problem: &Problem,
    ) {
        let (Some(message), Some(tenant)) = (source.message(), tenant.or_else(|| "_".parse().ok())) else {
            return;
        };
        let failed = [FailedAttempt {
            attempt: 0,
            at: self.context.store.now().to_string(),
            reason: format!("not an event: {problem}"),
            late: None,
        }];
        let unhandled = Unhandled {
            position: metadata.position,
            tenant,
            payload: message.payload.clone(),
            published_at: metadata.published_at,
        };
        match self.dead_letter(source, &unhandled, &failed).await {
            Ok(()) => {
                let why = (Code::Rejected, failed[0].reason.as_str());
                let at = self.position_in_log(source, metadata.position);
                self.context.note(at, 0, (Outcome::DeadLettered, Some(why)));
            }
            Err((_, wait)) => nak(message, wait).await,
        }
    }

    /// Why an event has no dead letter yet.
    fn no_letter(&self, event: &Unhandled, error: &StoreError) -> Problem {
        let (subscription, position, tenant) = (self.context.name(), event.position, &event.tenant);
        let (code, why) = match (error, error.full()) {
            (StoreError::Refused(problems), _) if !problems.is_empty() => {
                (problems[0].code, problems[0].message.clone())
            }
            (_, Some(Full::Storage)) => (Code::StoreFull, format!("{} is full: give it more", Full::Storage)),
            (_, Some(_)) => (
                Code::StoreFull,
                "the dead letters are full: redrive or discard some, or raise `dead-letters.max-bytes` or `dead-letters.max-events`"
                    .to_owned(),
            ),
            (_, None) => (Code::StoreUnavailable, error.to_string()),
        };
        let message = format!("subscription {subscription}: {why}; event {position} of tenant {tenant} waits");
        Problem::new(code, message)
    }

    /// Stores a dead letter and only then settles the event.
    ///
    /// # Errors
    /// Why the event has none yet, and how long it waits.
    async fn dead_letter(
        &self,
        source: &Source,
        event: &Unhandled,
        attempts: &[FailedAttempt],
    ) -> Result<(), (Problem, Duration)> {
        let (headers, replaces) = match source {
            Source::Log(message) | Source::Retry(message) => (message.headers.as_ref(), None),
            Source::Redrive(_, letter) => (Some(&letter.headers), Some(letter.number)),
        };
        let letter = NewDeadLetter {
            of: &self.context.id(),
            tenant: &event.tenant,
            at: self.position_in_log(source, event.position),
            headers,
            payload: event.payload.clone(),
            attempts,
            published_at: event.published_at,
            replaces,
        };
        let store = &self.context.store;
        let stored = match source {
            // It takes the place of the one before.
            Source::Redrive(redrive, _) => match store.store_dead_letter(letter).await {
                Ok(()) => store.dead_lettered_again(redrive).await,
                failed => failed,
            },
            Source::Log(_) | Source::Retry(_) => {
                match store.admit_letter(&self.context.registered, letter.bytes()).await {
                    Ok(()) => store.store_dead_letter(letter).await,
                    failed => failed,
                }
            }
        };
        if let Err(error) = stored {
            let problem = self.no_letter(event, &error);
            self.context.health.fails(problem.clone());
            let wait = self.must_wait(&error);
            // What the store refuses now it refuses for a while, and each further try is an invocation.
            let refuses = error.answer().is_some() || matches!(error, StoreError::Refused(_));
            return Err((problem, if refuses { DEAD_LETTERS_WAIT } else { wait }));
        }
        Health::count(&self.context.health.dead_lettered);
        let (subscription, tenant, position) = (self.context.name(), &event.tenant, event.position);
        let reason = attempts.last().map_or("", |a| a.reason.as_str());
        info!(%subscription, %tenant, %position, attempts = attempts.len(), reason, "stored as a dead letter");
        if let Some(message) = source.message() {
            self.acknowledge(message).await;
        }
        Ok(())
    }
}
