//! What the journal says of a delivery.

use std::time::{Duration, Instant};

use fanout_plan::journal::{Entry, Outcome};
use fanout_plan::{Code, LogPosition};

use super::state::DeliveryState;
use super::{Context, Delivery};

/// The call in which an event is, as far as the journal tells of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Call {
    /// `None` where a fetcher has the event.
    began: Option<Instant>,
    /// Why there was no answer.
    pub(super) code: Option<&'static str>,
    /// How long the event waits for its next attempt.
    pub(super) wait: Option<Duration>,
}

impl Call {
    /// One that begins now.
    pub(super) fn begin() -> Self {
        Self {
            began: Some(Instant::now()),
            ..Self::default()
        }
    }

    /// How long it has taken so far.
    pub(super) fn took(&self) -> Option<Duration> {
        self.began.map(|began| began.elapsed())
    }
}

/// What came of a delivery, if anything did; `was_refused` says whether the subscriber refused it.
pub(super) fn outcome(state: DeliveryState, was_refused: bool) -> Option<Outcome> {
    Some(match state {
        DeliveryState::Settled if was_refused => Outcome::DeadLettered,
        DeliveryState::Settled => Outcome::Handled,
        DeliveryState::WaitingRetry | DeliveryState::Retry(_) => Outcome::Retry,
        DeliveryState::StoreUnavailable(_) => Outcome::WaitsForStore,
        // Nobody had it.
        DeliveryState::SubscriberUnavailable(_) | DeliveryState::New | DeliveryState::InFlight => return None,
    })
}

impl Context {
    /// An entry of a delivery that was called for, or fetched, and took this long. `why` it was refused, if it was.
    pub(super) fn entry(
        &self,
        delivery: &Delivery,
        at: LogPosition,
        (call, took): (&Call, Option<Duration>),
        (outcome, why): (Outcome, Option<&str>),
    ) -> Entry {
        let attributes = &delivery.attributes;
        let now = self.store.now();
        let mut entry = Entry {
            attempt: delivery.attempt,
            began_at: call.began.map(|began| now - began.elapsed()),
            took_us: took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            wait_ms: call
                .wait
                .map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            ..Entry::new(delivery.subscription.clone(), at, now, outcome).of(attributes.tenant(), attributes.id())
        };
        if outcome == Outcome::WaitsForStore {
            entry = entry.because(Code::StoreUnavailable, why.unwrap_or_default());
        } else if let Some(why) = why {
            entry = entry.because(Code::Rejected, why);
            if let Some(code) = call.code {
                entry.code = Some(code.to_owned());
            }
        }
        entry
    }

    /// Notes a delivery of which only its place is known, because its fetcher acknowledged it, or it was none of an event.
    pub(crate) fn note(&self, at: LogPosition, attempt: u32, (outcome, why): (Outcome, Option<(Code, &str)>)) {
        let went_well_at_once = outcome == Outcome::Handled && attempt <= 1;
        self.journal.note(went_well_at_once, || {
            let now = self.store.now();
            let entry = Entry {
                attempt,
                ..Entry::new(self.name().clone(), at, now, outcome)
            };
            match why {
                Some((code, why)) => entry.because(code, why),
                None => entry,
            }
        });
    }
}
