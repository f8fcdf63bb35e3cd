//! `settle`: acts on a fetcher's verdict, at whichever instance it arrives.

use std::time::Duration;

use fanout_plan::journal::Outcome;
use fanout_plan::retry::{FailedAttempt, Late, Rejection};
use fanout_plan::{Code, Problem};

use super::verdicts::Ended;
use super::{Inbox, Settled, Unsettled, admit_here, unavailable_to};
use crate::delivery::{DeliveryHandle, DeliveryState, Health, Verdict, settle_fetched};
use crate::jetstream::{RACES, StoreError};

/// Settles one delivery. Verdicts on the same one are acted on in the order in which they come, and the first that settles it stands:
/// after it, the same again or another changes nothing.
pub(crate) async fn settle(inbox: &Inbox, handle: DeliveryHandle, verdict: Verdict) -> Result<Settled, Unsettled> {
    let turn = inbox.verdicts.turn(&handle).await;
    match (turn.ended(), &verdict) {
        (None, _) => {}
        (Some(_), Verdict::StillWorking) | (Some(Ended::Released), Verdict::Rejected(_)) => return Err(ended(&handle)),
        // The event was handled, whoever has it next.
        (Some(Ended::Released), Verdict::Handled) => {}
        (Some(Ended::Handled), Verdict::Handled) => return inbox.handled_again(&handle).await.map(|()| Settled::Taken),
        (Some(_), _) => return Ok(Settled::Taken),
    }
    let how = match verdict {
        Verdict::StillWorking => None,
        Verdict::Handled => Some(Ended::Handled),
        // Of a queue subscription nothing comes again.
        Verdict::Released if !inbox.is_queue() => Some(Ended::Released),
        Verdict::Rejected(_) | Verdict::Released => Some(Ended::Refused),
    };
    let settled = if inbox.is_queue() {
        Ok(inbox.note(handle, &verdict))
    } else {
        match handle.dispatched.clone() {
            Some(dispatched) => inbox.settle_dispatched(handle, &dispatched, verdict).await,
            None => inbox.settle_leased(handle, verdict).await,
        }
    };
    if let (Some(how), Ok(_)) = (how, &settled) {
        turn.ends(how);
    }
    settled
}

impl Inbox {
    /// Settles by the lease alone.
    pub(super) async fn settle_leased(&self, handle: DeliveryHandle, verdict: Verdict) -> Result<Settled, Unsettled> {
        let is_over = self.lease_is_over(&handle);
        match verdict {
            // Taken however late it comes: the event was handled, and another delivery helps nobody.
            Verdict::Handled => self.handled(&handle).await.map(|()| Settled::Taken),
            Verdict::Rejected(rejection) if is_over && handle.redrive.is_none() => {
                self.rejected_late(&handle, &rejection).await.map(|()| Settled::Taken)
            }
            _ if is_over => Err(over(&handle)),
            Verdict::StillWorking => self.extend(handle).await.map(Settled::Leased),
            Verdict::Released => self.release(&handle).await.map(|()| Settled::Taken),
            Verdict::Rejected(rejection) => self.rejected(&handle, rejection).await.map(|()| Settled::Taken),
        }
    }

    async fn handled(&self, handle: &DeliveryHandle) -> Result<(), Unsettled> {
        if let Some(redrive) = &handle.redrive {
            return self.settle_redriven(handle, redrive, Ok(())).await;
        }
        let failed = |e| unsettled(handle, e);
        let settler = self.settler().await.map_err(failed)?;
        settler.lease_handled(handle).await.map_err(failed)?;
        self.note_handled(handle);
        Ok(())
    }

    /// The same settlement came before. A server that was killed may have forgotten it, and delivered the event under the same reply
    /// once more (nats-server 2.15.1).
    async fn handled_again(&self, handle: &DeliveryHandle) -> Result<(), Unsettled> {
        if self.is_queue() || handle.redrive.is_some() || handle.dispatched.is_some() {
            return Ok(());
        }
        let failed = |e| unsettled(handle, e);
        let settler = self.settler().await.map_err(failed)?;
        settler.acknowledge_lease(handle).await.map_err(failed)
    }

    /// Writes down what its fetcher acknowledged: of the event it is known where it stands.
    pub(super) fn note_handled(&self, handle: &DeliveryHandle) {
        self.note_outcome(handle, (Outcome::Handled, None));
    }

    fn note_outcome(&self, handle: &DeliveryHandle, (outcome, why): (Outcome, Option<(Code, &str)>)) {
        let went_well_at_once = outcome == Outcome::Handled && handle.attempt <= 1;
        if self.context.journal.kept().keeps(went_well_at_once) {
            let at = self.context.store.in_its_log(handle.position);
            self.context.note(at, handle.attempt, (outcome, why));
        }
    }

    async fn extend(&self, handle: DeliveryHandle) -> Result<DeliveryHandle, Unsettled> {
        let settler = self.settler().await.map_err(|e| unsettled(&handle, e))?;
        let extended = settler.extend_lease(handle.clone()).await;
        extended.map_err(|e| unsettled(&handle, e))
    }

    async fn release(&self, handle: &DeliveryHandle) -> Result<(), Unsettled> {
        let failed = |e| unsettled(handle, e);
        let settler = self.settler().await.map_err(failed)?;
        settler
            .release_lease(&handle.reply, Duration::ZERO)
            .await
            .map_err(failed)
    }

    async fn rejected(&self, handle: &DeliveryHandle, rejection: Rejection) -> Result<(), Unsettled> {
        if let Some(redrive) = &handle.redrive {
            return self.settle_redriven(handle, redrive, Err(rejection)).await;
        }
        let context = &self.context;
        let failed = |e| unsettled(handle, e);
        let settler = self.settler().await.map_err(failed)?;
        let earlier = settler.attempts_so_far(handle.position).await.map_err(failed)?;
        if self.is_counted(handle, &earlier) {
            // The same settlement came before, and its answer was lost.
            return Ok(());
        }
        if earlier.is_empty() && settler.was_settled(handle.position).await.map_err(failed)? {
            // So it did, and the event was handled or became a dead letter since: it does not begin anew.
            return settler.acknowledge_lease(handle).await.map_err(failed);
        }
        let message = context
            .store
            .taken_before(handle.position, &handle.reply)
            .await
            .map_err(failed)?;
        let Some(message) = message else {
            // The store has let it go meanwhile: there is nothing left to deliver again or to dead-letter.
            return Err(over(handle));
        };
        let Some(mut event) = admit_here(context, settler, message).await else {
            return Ok(());
        };
        match settle_fetched(context, settler, &mut event, Err(rejection)).await {
            // What has an order waits for its time with the owner that comes next.
            DeliveryState::Retry(_) if handle.dispatched.is_some() => event.release().await,
            DeliveryState::StoreUnavailable(_) | DeliveryState::SubscriberUnavailable(_) => {
                event.nak().await;
                return Err(not_taken(handle, event.waits_for.take()));
            }
            _ => event.nak().await,
        }
        Ok(())
    }

    /// A refusal that comes when the lease is over is an attempt as any other. Nothing is settled by it: the event may be in other
    /// hands, or on its way there.
    pub(super) async fn rejected_late(&self, handle: &DeliveryHandle, rejection: &Rejection) -> Result<(), Unsettled> {
        let failed = |e| unsettled(handle, e);
        let settler = self.settler().await.map_err(failed)?;
        for _ in 0..RACES {
            let (earlier, revision) = settler.attempts_revised(handle.position).await.map_err(failed)?;
            if self.is_counted(handle, &earlier) {
                // It came before, and its answer was lost.
                return Ok(());
            }
            if earlier.is_empty() && settler.was_settled(handle.position).await.map_err(failed)? {
                return Err(over(handle));
            }
            // In another log, another event stands there; one that is gone needs no attempts.
            let event = self.context.store.taken_before(handle.position, &handle.reply);
            if event.await.map_err(failed)?.is_none() {
                return Err(over(handle));
            }
            let attempt = FailedAttempt {
                // Another delivery of the same attempt may have been refused late, too.
                attempt: earlier.last().map_or(0, |a| a.attempt + 1).max(handle.attempt),
                at: self.context.store.now().to_string(),
                reason: rejection.reason().to_owned(),
                late: Some(Late {
                    delivery: self.number_of(handle),
                    is_final: matches!(rejection, Rejection::DeadLetter(_)),
                }),
            };
            let counted = attempt.attempt;
            // Whoever has the event now may refuse it, or settle it, at the same moment.
            let noted = settler.count_late(handle.position, (earlier, revision), attempt).await;
            if noted.map_err(failed)? {
                let at = self.context.store.in_its_log(handle.position);
                let what = (Outcome::Retry, Some((Code::Rejected, rejection.reason())));
                self.context.note(at, counted, what);
                return Ok(());
            }
        }
        Err(not_taken(handle, None))
    }

    /// Whether this refusal was counted before. One that another made late, of the same attempt, is another's.
    fn is_counted(&self, handle: &DeliveryHandle, earlier: &[FailedAttempt]) -> bool {
        let number = self.number_of(handle);
        let is_it =
            |a: &FailedAttempt| a.attempt >= handle.attempt && a.late.is_none_or(|late| late.delivery == number);
        earlier.iter().any(is_it)
    }

    /// Which delivery of its event this was: the owner's number where there is one, since the store knows of one delivery to it.
    fn number_of(&self, handle: &DeliveryHandle) -> u64 {
        let stored = || self.context.store.delivery_number(&handle.reply);
        handle
            .dispatched
            .as_ref()
            .map_or_else(stored, |dispatched| dispatched.number)
    }

    pub(super) fn lease_is_over(&self, handle: &DeliveryHandle) -> bool {
        self.context.store.now() >= handle.lease_until
    }

    /// A queue subscription settles nothing; what its fetcher says is counted.
    fn note(&self, handle: DeliveryHandle, verdict: &Verdict) -> Settled {
        match verdict {
            Verdict::StillWorking => Settled::Leased(handle),
            Verdict::Handled => {
                self.note_handled(&handle);
                Settled::Taken
            }
            Verdict::Rejected(_) | Verdict::Released => {
                let why = match verdict {
                    Verdict::Rejected(rejection) => rejection.reason(),
                    _ => "its fetcher released it",
                };
                self.note_outcome(&handle, (Outcome::Missed, Some((Code::Rejected, why))));
                Health::count(&self.context.health.missed);
                Settled::Taken
            }
        }
    }
}

pub(super) fn unsettled(handle: &DeliveryHandle, error: StoreError) -> Unsettled {
    match error {
        StoreError::Forgotten => Unsettled::LeaseExpired(Problem::new(
            Code::LeaseExpired,
            format!(
                "subscription {}: the store was killed and forgot that it delivered event {}: it is delivered again",
                handle.of.name, handle.position
            ),
        )),
        error => Unsettled::Unavailable(unavailable_to(&handle.of.name, error)),
    }
}

/// The store did not take a settlement; `full` says which part of it takes no more, if that is why.
pub(super) fn not_taken(handle: &DeliveryHandle, full: Option<Box<Problem>>) -> Unsettled {
    if let Some(full) = full.filter(|problem| problem.code == Code::StoreFull) {
        return Unsettled::Unavailable(*full);
    }
    Unsettled::Unavailable(Problem::new(
        Code::StoreUnavailable,
        format!(
            "subscription {}: the store did not take what belongs to its event {}: try again",
            handle.of.name, handle.position
        ),
    ))
}

/// The owner that dispatched it is gone.
pub(super) fn owner_gone(handle: &DeliveryHandle) -> Unsettled {
    Unsettled::LeaseExpired(Problem::new(
        Code::LeaseExpired,
        format!(
            "subscription {}: the instance that dispatched event {} has ended, and nobody can renew its lease: it is delivered again once that ends; an event of the log can still be settled before",
            handle.of.name, handle.position
        ),
    ))
}

/// A verdict under the same token ended the lease.
fn ended(handle: &DeliveryHandle) -> Unsettled {
    Unsettled::LeaseExpired(Problem::new(
        Code::LeaseExpired,
        format!(
            "subscription {}: an earlier verdict under this token ended the lease of event {}: this one changes nothing; give one verdict on a delivery, and `still-working` only before it",
            handle.of.name, handle.position
        ),
    ))
}

pub(super) fn over(handle: &DeliveryHandle) -> Unsettled {
    Unsettled::LeaseExpired(Problem::new(
        Code::LeaseExpired,
        format!(
            "subscription {}: the lease of event {} is over, and it is delivered again: settle earlier, or say `still-working` before the lease ends",
            handle.of.name, handle.position
        ),
    ))
}
