//! Dead letters that are redriven to a subscription that is fetched.
//!
//! A letter is delivered under its tenant's lease ([`RedriveLease`]), which the store delivers as it delivers events of the
//! log: what settles the handle settles the lease. The letter stays until its fetcher has handled the event, or refused it
//! for good and a new letter is stored; then the lease passes to the tenant's next letter.

use std::time::Duration;

use fanout_plan::Timestamp;
use fanout_plan::retry::Rejection;
use tracing::debug;

use super::settle::{not_taken, unsettled};
use super::{Inbox, Unsettled};
use crate::delivery::{Delivery, DeliveryHandle, DeliveryState, Leased, Settler, redriven, settle_fetched};
use crate::jetstream::{Message, Redrive, RedriveLease, StoreError};

/// How long a lease waits when the store does not answer.
const STORE_WAIT: Duration = Duration::from_secs(1);
/// Requests of a tenant that are read in one go for one whose letter is still there.
const TRIES: usize = 100;

impl Inbox {
    /// The letter under a lease, if it `fits`; else the lease is nak'ed.
    pub(super) async fn redriven(
        &self,
        settler: &Settler,
        lease: RedriveLease,
        message: &Message,
        (lease_until, fits): (Timestamp, impl Fn(&Delivery) -> bool + Send),
    ) -> Option<Leased> {
        let reply = message.reply.as_ref()?.to_string();
        let wait = match self.letter_of(settler, &lease, &reply).await {
            Ok(Some((delivery, _))) if !fits(&delivery) => None,
            Ok(Some((delivery, redrive))) => {
                let handle = DeliveryHandle {
                    redrive: Some(redrive),
                    redrive_lease: Some(lease.number),
                    ..self.handle(&delivery, reply, lease_until)
                };
                return Some((delivery, handle));
            }
            Ok(None) => return None,
            Err(error) => {
                debug!(subscription = %self.context.name(), ?error, "a redriven dead letter waits for the store");
                Some(STORE_WAIT)
            }
        };
        self.put_off(settler, &reply, wait).await;
        None
    }

    async fn letter_of(
        &self,
        settler: &Settler,
        lease: &RedriveLease,
        reply: &str,
    ) -> Result<Option<(Delivery, Redrive)>, StoreError> {
        let context = &self.context;
        for _ in 0..TRIES {
            let Some(redrive) = context.store.first_redrive(&context.id(), &lease.tenant).await? else {
                break;
            };
            if let Some(event) = redriven(context, settler, &redrive, None).await? {
                return Ok(Some((event.delivery, redrive)));
            }
        }
        context.store.pass_redrive_lease(&context.id(), lease, reply).await?;
        Ok(None)
    }

    /// Settles a redriven dead letter.
    pub(super) async fn settle_redriven(
        &self,
        handle: &DeliveryHandle,
        redrive: &Redrive,
        answer: Result<(), Rejection>,
    ) -> Result<(), Unsettled> {
        let failed = |e| unsettled(handle, e);
        let context = &self.context;
        if let Some(problem) = context.registered.withheld_problem() {
            // It goes along with its request, and would come again where it goes.
            return Err(Unsettled::Unavailable(problem));
        }
        if !context.store.is_asked(redrive).await.map_err(failed)? {
            // The same settlement came before and its answer was lost, or that of another handle came first.
            return Ok(());
        }
        let settler = self.settler().await.map_err(failed)?;
        let mut waits_for = None;
        let state = match redriven(context, settler, redrive, None).await.map_err(failed)? {
            None => DeliveryState::Settled,
            // This refusal is noted already.
            Some(event) if answer.is_err() && event.delivery.attempt > handle.attempt => return Ok(()),
            Some(mut event) => {
                let state = settle_fetched(context, settler, &mut event, answer).await;
                waits_for = event.waits_for;
                state
            }
        };
        match state.again_after() {
            None => self.pass(handle, redrive).await,
            delay => self.put_off(settler, &handle.reply, delay).await,
        }
        match state {
            DeliveryState::StoreUnavailable(_) | DeliveryState::SubscriberUnavailable(_) => {
                Err(not_taken(handle, waits_for))
            }
            _ => Ok(()),
        }
    }

    /// Passes the lease on, unless the store has already delivered it to another.
    async fn pass(&self, handle: &DeliveryHandle, redrive: &Redrive) {
        let store = &self.context.store;
        let Some(number) = handle.redrive_lease.filter(|_| store.now() < handle.lease_until) else {
            return;
        };
        let tenant = redrive.tenant.clone();
        let lease = RedriveLease { tenant, number };
        if let Err(error) = store.pass_redrive_lease(&handle.of, &lease, &handle.reply).await {
            debug!(subscription = %handle.of.name, ?error, "a tenant's redrive lease passes when its time is over");
        }
    }

    /// Has the store deliver a lease again.
    async fn put_off(&self, settler: &Settler, reply: &str, delay: Option<Duration>) {
        if let Err(error) = settler.release_lease(reply, delay.unwrap_or_default()).await {
            debug!(subscription = %self.context.name(), ?error, "a tenant's redrive lease was not released; it ends by itself");
        }
    }
}
