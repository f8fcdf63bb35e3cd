//! Dead letters that are redriven to a subscription that is fetched.
//!
//! A letter is given out by its tenant's turn ([`Turn`]), which the store lends as it lends events of the log: what is said
//! of the hold is said of the turn. The letter stays until its fetcher has handled the event, or refused it for good and
//! a new letter is stored; then the turn goes on to the tenant's next.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, AckKind};
use fanout_plan::retry::Rejection;
use futures::{FutureExt as _, StreamExt as _};
use tracing::debug;

use super::settle::{not_taken, unsettled};
use super::token::Redriven;
use super::{Hold, Inbox, Unsettled};
use crate::delivery::{Context, Delivery, Next, Settler, redriven};
use crate::jetstream::{Redrive, StoreError, Turn};

/// How often turns are made for requests that nobody was heard to make.
const LOOK: Duration = Duration::from_secs(30);
/// Requests come in numbers: one look serves those that are made in this time.
const TOGETHER: Duration = Duration::from_millis(50);
/// How long a turn waits when the store does not answer.
const STORE_WAIT: Duration = Duration::from_secs(1);
/// Requests of a tenant that are looked at in one go for one whose letter is still there.
const TRIES: usize = 100;

/// Sees to it until stopped that each tenant with requests has its turn. All instances do so, and make one.
pub(crate) async fn make_turns(context: Arc<Context>) {
    while !context.stop.is_cancelled() {
        let result = tokio::select! {
            () = context.stop.cancelled() => return,
            result = make_as_heard(&context) => result,
        };
        if let Err(error) = result {
            debug!(subscription = %context.name(), ?error, "redriven dead letters wait for the store");
        }
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = tokio::time::sleep(STORE_WAIT) => {}
        }
    }
}

async fn make_as_heard(context: &Context) -> Result<(), StoreError> {
    let mut heard = context.store.hear_redrives(&context.id()).await?;
    loop {
        context.store.make_turns(&context.id()).await?;
        tokio::select! {
            message = heard.next() => if message.is_none() { return Ok(()) },
            () = tokio::time::sleep(LOOK) => {}
        }
        tokio::time::sleep(TOGETHER).await;
        while let Some(Some(_)) = heard.next().now_or_never() {}
    }
}

impl Inbox {
    /// The letter whose turn it is, if it fits what there is `room` for; else the turn is given back.
    pub(super) async fn redriven(
        &self,
        settler: &Settler,
        turn: Turn,
        message: &jetstream::Message,
        (until, room): (i64, Option<usize>),
    ) -> Option<(Delivery, Hold)> {
        let reply = message.reply.as_ref()?.to_string();
        let wait = match self.letter_of(settler, &turn, &reply).await {
            Ok(Some((delivery, _))) if room.is_some_and(|room| delivery.data.len() > room) => None,
            Ok(Some((delivery, redrive))) => {
                let hold = Hold {
                    redriven: Some(Redriven {
                        turn,
                        request: redrive.request,
                        log: redrive.log,
                    }),
                    ..self.hold(&delivery, reply, until)
                };
                return Some((delivery, hold));
            }
            Ok(None) => return None,
            Err(error) => {
                debug!(subscription = %self.context.name(), ?error, "a redriven dead letter waits for the store");
                Some(STORE_WAIT)
            }
        };
        self.put_off(&reply, wait).await;
        None
    }

    async fn letter_of(
        &self,
        settler: &Settler,
        turn: &Turn,
        reply: &str,
    ) -> Result<Option<(Delivery, Redrive)>, StoreError> {
        let context = &self.context;
        for _ in 0..TRIES {
            let Some(redrive) = context.store.first_redrive(&context.id(), &turn.tenant).await? else {
                break;
            };
            if let Some(held) = redriven(context, settler, &redrive, None).await? {
                return Ok(Some((held.delivery, redrive)));
            }
        }
        context.store.pass_turn(&context.id(), turn, reply).await?;
        Ok(None)
    }

    /// Settles a redriven dead letter.
    pub(super) async fn settle_redriven(
        &self,
        hold: &Hold,
        by: &Redriven,
        answer: Result<(), Rejection>,
    ) -> Result<(), Unsettled> {
        let redrive = Redrive {
            request: by.request,
            of: hold.of.clone(),
            tenant: by.turn.tenant.clone(),
            position: hold.position,
            log: by.log,
        };
        match self.settle_letter(hold, &redrive, answer).await? {
            None => {}
            Some(Next::Gone | Next::Waits) => self.pass(hold, &by.turn).await,
            Some(Next::Again(delay)) => self.put_off(&hold.reply, Some(delay)).await,
            Some(Next::Stuck(wait) | Next::Unreached(wait)) => {
                self.put_off(&hold.reply, Some(wait)).await;
                return Err(not_taken(hold));
            }
        }
        Ok(())
    }

    /// What comes of a letter next; `None` where its settlement came before.
    pub(super) async fn settle_letter(
        &self,
        hold: &Hold,
        redrive: &Redrive,
        answer: Result<(), Rejection>,
    ) -> Result<Option<Next>, Unsettled> {
        let failed = |e| unsettled(hold, e);
        let context = &self.context;
        if !context.store.is_asked(redrive).await.map_err(failed)? {
            // The same settlement came before and its answer was lost, or another hold's came first.
            return Ok(None);
        }
        let settler = self.settler().await.map_err(failed)?;
        let Some(mut held) = redriven(context, settler, redrive, None).await.map_err(failed)? else {
            return Ok(Some(Next::Gone));
        };
        if answer.is_err() && held.delivery.attempt > hold.attempt {
            // This refusal is noted already.
            return Ok(None);
        }
        Ok(Some(settler.settle(&mut held, answer).await))
    }

    /// Passes the turn on, unless the store has already given it to another.
    async fn pass(&self, hold: &Hold, turn: &Turn) {
        if self.context.store.now() >= hold.until {
            return;
        }
        let store = &self.context.store;
        if let Err(error) = store.pass_turn(&hold.of, turn, &hold.reply).await {
            debug!(subscription = %hold.of.name, ?error, "a tenant's turn goes on when its hold is over");
        }
    }

    async fn put_off(&self, reply: &str, wait: Option<Duration>) {
        let again = AckKind::Nak(wait.filter(|d| !d.is_zero()));
        if let Err(error) = self.context.store.settle(reply, again).await {
            debug!(subscription = %self.context.name(), ?error, "a tenant's turn comes again when its hold is over");
        }
    }
}
