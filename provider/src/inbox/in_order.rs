//! Events that have an order, for fetchers at any instance: lent and settled by the instance that owns the order.

use std::time::Duration;

use async_nats::RequestErrorKind;
use async_nats::jetstream::AckKind;
use futures::{StreamExt as _, stream};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::desk::{Answer, Desk, Question};
use super::fetch::nanos;
use super::settle::{lender_gone, not_taken, over, unsettled};
use super::token::Lent;
use super::{Hold, Inbox, Settled, Unsettled, Verdict, admit_here};
use crate::delivery::{Delivery, Next, owner_of, redriven};
use crate::jetstream::{Redrive, StoreError};

/// How long the owner may take beyond what it was asked to wait.
const ANSWERS_IN: Duration = Duration::from_secs(4);
/// How often it is looked for when there is none.
const LOOKS: Duration = Duration::from_millis(100);
/// Events that are read from the store at once.
const READS: usize = 16;

impl Inbox {
    /// What the owner lends until then.
    pub(super) async fn borrow(
        &self,
        desk: &Desk,
        (places, room): (usize, usize),
        end: Instant,
    ) -> Result<Vec<(Delivery, Hold)>, StoreError> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let lent = match desk.take(places, room, left).await {
                Some(lent) => lent,
                None => self.borrow_elsewhere(desk, (places, room), left).await?,
            };
            if !lent.is_empty() || Instant::now() + LOOKS >= end {
                return Ok(lent);
            }
            sleep(LOOKS).await;
        }
    }

    async fn borrow_elsewhere(
        &self,
        desk: &Desk,
        (places, room): (usize, usize),
        wait: Duration,
    ) -> Result<Vec<(Delivery, Hold)>, StoreError> {
        let owner = self.context.store.owner(&owner_of(&self.context.id())).await?;
        let Some(owner) = owner.filter(|owner| owner != desk.address()) else {
            return Ok(Vec::new());
        };
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let question = Question::Fetch { places, room, wait_ms };
        let holds: Option<Option<Vec<Hold>>> = self.ask(&owner, &question, wait + ANSWERS_IN).await?;
        Ok(stream::iter(holds.flatten().unwrap_or_default())
            .map(|hold| self.read(hold))
            .buffered(READS)
            .filter_map(|read| async { read })
            .collect()
            .await)
    }

    /// Reads what was lent elsewhere; what can't be read now is given back.
    async fn read(&self, hold: Hold) -> Option<(Delivery, Hold)> {
        let lent = hold.lent.as_ref()?;
        let read = async {
            let (context, settler) = (&self.context, self.settler().await?);
            let held = match &lent.redrive {
                Some(redrive) => redriven(context, settler, redrive, Some(Vec::new())).await?,
                None => match context.store.taken_before(hold.position, &hold.reply).await? {
                    Some(message) => admit_here(context, settler, message).await,
                    None => None,
                },
            };
            Ok::<_, StoreError>(held)
        };
        let read = read.await;
        if let Ok(Some(held)) = read {
            let delivery = Delivery {
                attempt: hold.attempt,
                ..held.delivery
            };
            return Some((delivery, hold));
        }
        debug!(subscription = %self.context.name(), position = %hold.position, error = ?read.err(), "it is given back unread");
        if let Err(error) = self.tell(lent, &Verdict::Released).await {
            debug!(subscription = %self.context.name(), ?error, "it comes again when its hold is over");
        }
        None
    }

    /// Settles what was lent.
    pub(super) async fn settle_lent(&self, hold: Hold, lent: &Lent, verdict: Verdict) -> Result<Settled, Unsettled> {
        let failed = |e| unsettled(&hold, e);
        match self.tell(lent, &verdict).await.map_err(failed)? {
            Some(Answer::Taken) => Ok(Settled::Taken),
            Some(Answer::Held(until)) => Ok(Settled::Held(Hold { until, ..hold })),
            Some(Answer::NotTaken) => Err(not_taken(&hold)),
            Some(Answer::Over) => self.settle_late(&hold, lent, &verdict).await,
            None => self.settle_alone(&hold, lent, verdict).await,
        }
    }

    /// Its hold is over: the same was said before and its answer was lost, or it may be in other hands.
    async fn settle_late(&self, hold: &Hold, lent: &Lent, verdict: &Verdict) -> Result<Settled, Unsettled> {
        let failed = |e| unsettled(hold, e);
        let store = &self.context.store;
        let taken = match (verdict, &lent.redrive) {
            (Verdict::Handled, Some(redrive)) => !store.is_asked(redrive).await.map_err(failed)?,
            // Taken however late it comes: the event was handled.
            (Verdict::Handled, None) => store
                .settle(&hold.reply, AckKind::Ack)
                .await
                .map(|()| true)
                .map_err(failed)?,
            (Verdict::Rejected(_), None) => {
                let settler = self.settler().await.map_err(failed)?;
                let noted = settler.attempts_so_far(hold.position).await.map_err(failed)?;
                noted.last().is_some_and(|a| a.attempt >= hold.attempt)
            }
            _ => false,
        };
        if taken { Ok(Settled::Taken) } else { Err(over(hold)) }
    }

    /// Its owner is gone, and the next one waits until all that the last one lent has come back to the store. While the
    /// subscription is paused there is no next one.
    async fn settle_alone(&self, hold: &Hold, lent: &Lent, verdict: Verdict) -> Result<Settled, Unsettled> {
        let paused = self.context.registered.paused;
        if let Some(redrive) = &lent.redrive {
            return self.settle_letter_alone(hold, redrive, verdict, paused).await;
        }
        let settled = match verdict {
            Verdict::StillWorking if paused => return self.extend(hold.clone()).await.map(Settled::Held),
            // A hold is not extended which the next owner waits for.
            Verdict::StillWorking => return Err(lender_gone(hold)),
            Verdict::Handled => self.handled(hold).await,
            Verdict::Released => self.release(hold).await,
            Verdict::Rejected(rejection) => self.rejected(hold, rejection).await,
        };
        settled.map(|()| Settled::Taken)
    }

    /// The same of a redriven letter: its request stays until it is handled, or an owner gives it again.
    async fn settle_letter_alone(
        &self,
        hold: &Hold,
        redrive: &Redrive,
        verdict: Verdict,
        paused: bool,
    ) -> Result<Settled, Unsettled> {
        let answer = match verdict {
            Verdict::Handled => Ok(()),
            Verdict::Rejected(rejection) if paused => Err(rejection),
            Verdict::Released => return Ok(Settled::Taken),
            Verdict::StillWorking if paused => {
                let until = self
                    .context
                    .store
                    .now()
                    .saturating_add(nanos(self.context.store.policy().ack_wait));
                return Ok(Settled::Held(Hold { until, ..hold.clone() }));
            }
            Verdict::Rejected(_) | Verdict::StillWorking => return Err(lender_gone(hold)),
        };
        match self.settle_letter(hold, redrive, answer).await? {
            Some(Next::Stuck(_) | Next::Unreached(_)) => Err(not_taken(hold)),
            _ => Ok(Settled::Taken),
        }
    }

    /// Says something of what was lent; `None` when the instance that lent it is gone.
    async fn tell(&self, lent: &Lent, verdict: &Verdict) -> Result<Option<Answer>, StoreError> {
        if let Some(desk) = self.desk.as_ref().filter(|desk| desk.address() == lent.desk) {
            return Ok(match desk.is_open() {
                true => Some(desk.say(lent.number, verdict.clone()).await),
                false => None,
            });
        }
        let question = Question::Settle {
            number: lent.number,
            verdict: verdict.clone(),
        };
        self.ask(&lent.desk, &question, ANSWERS_IN).await
    }

    /// Asks another instance; `None` when it is gone.
    async fn ask<T: DeserializeOwned>(
        &self,
        desk: &str,
        question: &Question,
        within: Duration,
    ) -> Result<Option<T>, StoreError> {
        let asks = async {
            let question = serde_json::to_vec(question)?;
            let request = async_nats::Request::new()
                .payload(question.into())
                .timeout(Some(within));
            match self.context.store.nats().send_request(desk.to_owned(), request).await {
                Ok(answer) => Ok::<_, async_nats::Error>(Some(serde_json::from_slice(&answer.payload)?)),
                Err(e) if e.kind() == RequestErrorKind::NoResponders => Ok(None),
                Err(e) => Err(e.into()),
            }
        };
        asks.await
            .map_err(StoreError::when("reach the instance that owns the order"))
    }
}
