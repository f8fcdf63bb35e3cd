//! `settle`: acts on a fetcher's verdict, at whichever instance it arrives.

use std::time::Duration;

use async_nats::jetstream::AckKind;
use fanout_plan::retry::Rejection;
use fanout_plan::{Code, Problem};

use super::fetch::nanos;
use super::{Hold, Inbox, Settled, Unsettled, Verdict, admit_here, unavailable_to};
use crate::delivery::{Health, Next};
use crate::jetstream::StoreError;

/// Settles one delivery.
pub(crate) async fn settle(inbox: &Inbox, hold: Hold, verdict: Verdict) -> Result<Settled, Unsettled> {
    if inbox.is_queue() {
        return Ok(inbox.note(hold, &verdict));
    }
    if let Some(lent) = hold.lent.clone() {
        return inbox.settle_lent(hold, &lent, verdict).await;
    }
    match verdict {
        // Taken however late it comes: the event was handled, and giving it out once more helps nobody.
        Verdict::Handled => inbox.handled(&hold).await.map(|()| Settled::Taken),
        _ if inbox.context.store.now() >= hold.until => Err(over(&hold)),
        Verdict::StillWorking => inbox.extend(hold).await.map(Settled::Held),
        Verdict::Released => inbox.release(&hold).await.map(|()| Settled::Taken),
        Verdict::Rejected(rejection) => inbox.rejected(&hold, rejection).await.map(|()| Settled::Taken),
    }
}

impl Inbox {
    pub(super) async fn handled(&self, hold: &Hold) -> Result<(), Unsettled> {
        if let Some(by) = &hold.redriven {
            return self.settle_redriven(hold, by, Ok(())).await;
        }
        let context = &self.context;
        context
            .store
            .settle(&hold.reply, AckKind::Ack)
            .await
            .map_err(|e| unsettled(hold, e))?;
        Health::count(&context.health.handled);
        if hold.attempt > 1
            && let Ok(settler) = self.settler().await
        {
            settler.forget(hold.position).await;
        }
        Ok(())
    }

    pub(super) async fn extend(&self, hold: Hold) -> Result<Hold, Unsettled> {
        let context = &self.context;
        let from = context.store.now();
        context
            .store
            .settle(&hold.reply, AckKind::Progress)
            .await
            .map_err(|e| unsettled(&hold, e))?;
        Ok(Hold {
            until: from.saturating_add(nanos(context.store.policy().ack_wait)),
            ..hold
        })
    }

    pub(super) async fn release(&self, hold: &Hold) -> Result<(), Unsettled> {
        let given_back = self.context.store.settle(&hold.reply, AckKind::Nak(None));
        given_back.await.map_err(|e| unsettled(hold, e))
    }

    pub(super) async fn rejected(&self, hold: &Hold, rejection: Rejection) -> Result<(), Unsettled> {
        if let Some(by) = &hold.redriven {
            return self.settle_redriven(hold, by, Err(rejection)).await;
        }
        let context = &self.context;
        let failed = |e| unsettled(hold, e);
        let settler = self.settler().await.map_err(failed)?;
        let earlier = settler.attempts_so_far(hold.position).await.map_err(failed)?;
        if earlier.last().is_some_and(|a| a.attempt >= hold.attempt) {
            // The same settlement came before, and its answer was lost.
            return Ok(());
        }
        if earlier.is_empty() && settler.was_settled(hold.position).await.map_err(failed)? {
            // So it did, and the event was handled or became a dead letter since: it does not begin anew.
            return context.store.settle(&hold.reply, AckKind::Ack).await.map_err(failed);
        }
        let message = context
            .store
            .taken_before(hold.position, &hold.reply)
            .await
            .map_err(failed)?;
        let Some(message) = message else {
            // The store has let it go meanwhile: there is nothing left to deliver again or to dead-letter.
            return Err(over(hold));
        };
        let Some(mut held) = admit_here(context, settler, message).await else {
            return Ok(());
        };
        match settler.settle(&mut held, Err(rejection)).await {
            Next::Gone | Next::Waits => return Ok(()),
            Next::Again(delay) => {
                // What has an order waits for its time with the owner that comes next.
                let delay = if hold.lent.is_some() { Duration::ZERO } else { delay };
                held.give_back(delay).await;
                return Ok(());
            }
            Next::Stuck(wait) | Next::Unreached(wait) => held.give_back(wait).await,
        }
        Err(not_taken(hold))
    }

    /// A queue subscription settles nothing; what its fetcher says is counted.
    fn note(&self, hold: Hold, verdict: &Verdict) -> Settled {
        match verdict {
            Verdict::StillWorking => Settled::Held(hold),
            Verdict::Handled => Settled::Taken,
            Verdict::Rejected(_) | Verdict::Released => {
                Health::count(&self.context.health.missed);
                Settled::Taken
            }
        }
    }
}

pub(super) fn unsettled(hold: &Hold, error: StoreError) -> Unsettled {
    match error {
        StoreError::Forgotten => Unsettled::LeaseExpired(Problem::new(
            Code::LeaseExpired,
            format!(
                "subscription {}: the store was killed and forgot that it gave event {} out: it is given out again",
                hold.of.name, hold.position
            ),
        )),
        error => Unsettled::Unavailable(unavailable_to(&hold.of.name, error)),
    }
}

pub(super) fn not_taken(hold: &Hold) -> Unsettled {
    Unsettled::Unavailable(Problem::new(
        Code::StoreUnavailable,
        format!(
            "subscription {}: the store did not take what belongs to its event {}: try again",
            hold.of.name, hold.position
        ),
    ))
}

/// The instance that lent it is gone.
pub(super) fn lender_gone(hold: &Hold) -> Unsettled {
    Unsettled::LeaseExpired(Problem::new(
        Code::LeaseExpired,
        format!(
            "subscription {}: the instance that lent event {} has ended, and nobody can extend its hold: it is given out again once that ends; an event of the log can still be settled before",
            hold.of.name, hold.position
        ),
    ))
}

pub(super) fn over(hold: &Hold) -> Unsettled {
    Unsettled::LeaseExpired(Problem::new(
        Code::LeaseExpired,
        format!(
            "subscription {}: the hold of event {} is over, and it is given out again: settle earlier, or say `still-working` before the hold ends",
            hold.of.name, hold.position
        ),
    ))
}
