//! Events that have an order: which instance serves their fetches, and what becomes of what an owner dispatched.

use std::time::Duration;

use tokio::time::sleep;

use super::settle::{not_taken, over, owner_gone, unsettled};
use super::{Inbox, Settled, Unsettled};
use crate::delivery::{DeliveryHandle, Dispatched, SettleReply, Verdict};
use crate::jetstream::{StoreError, order_of};

/// The wait before the owner is read again.
pub(crate) const READ_OWNER_EVERY: Duration = Duration::from_millis(100);
/// How long an owner may be silent before it is read whether it is the owner still. Most answer sooner, and it is never read.
const SILENCE: Duration = Duration::from_millis(500);

/// Which instance serves the fetches of a subscription.
pub(crate) enum ServedBy {
    /// Any: it has no order, or is paused.
    Any,
    /// This one, as the owner of its order.
    Owner,
    /// The owner, which has this address.
    OwnerAt(String),
    /// None yet: an instance is about to become the owner.
    Nobody,
}

impl Inbox {
    /// Which instance serves its fetches at this moment.
    pub(crate) async fn served_by(&self) -> Result<ServedBy, StoreError> {
        let Some(order) = self.order.as_ref().filter(|_| self.context.registered.delivers()) else {
            return Ok(ServedBy::Any);
        };
        if order.is_open() {
            return Ok(ServedBy::Owner);
        }
        let owner = self.context.store.owner(&order_of(&self.context.id())).await?;
        let another = owner.filter(|owner| owner != order.address());
        Ok(another.map_or(ServedBy::Nobody, ServedBy::OwnerAt))
    }

    /// Waits until another instance owns its order than one which did not answer for a while. One that is frozen answers nothing,
    /// and keeps its connection.
    pub(crate) async fn succeeded(&self, owner: &str, after: Duration) {
        sleep(after + SILENCE).await;
        while !self.has_another_owner(owner).await {
            sleep(READ_OWNER_EVERY).await;
        }
    }

    /// The same for what that instance dispatched; where nobody comes to own the order, as while the subscription is paused, until
    /// the lease is over.
    pub(crate) async fn leased_by_nobody(&self, owner: &str, handle: &DeliveryHandle) {
        sleep(SILENCE).await;
        while !self.lease_is_over(handle) && !self.has_another_owner(owner).await {
            sleep(READ_OWNER_EVERY).await;
        }
    }

    async fn has_another_owner(&self, than: &str) -> bool {
        match self.served_by().await {
            Ok(ServedBy::Owner) => true,
            Ok(ServedBy::OwnerAt(owner)) => owner != than,
            // It may be the owner still, and be slow.
            Ok(ServedBy::Nobody | ServedBy::Any) | Err(_) => false,
        }
    }

    /// Whether this instance is the owner of its order.
    pub(crate) fn is_owner(&self) -> bool {
        self.order.as_ref().is_some_and(|order| order.is_open())
    }

    /// The other instance that dispatched a delivery.
    pub(crate) fn dispatched_by<'a>(&self, handle: &'a DeliveryHandle) -> Option<&'a str> {
        let owner = handle.dispatched.as_ref().map(|dispatched| dispatched.owner.as_str())?;
        let own = self.order.as_ref().map(|order| order.address());
        (Some(owner) != own).then_some(owner)
    }

    /// Settles what an owner dispatched.
    pub(super) async fn settle_dispatched(
        &self,
        handle: DeliveryHandle,
        dispatched: &Dispatched,
        verdict: Verdict,
    ) -> Result<Settled, Unsettled> {
        let reply = match &self.order {
            Some(order) => order.settle(dispatched, verdict.clone()).await,
            None => None,
        };
        match reply {
            Some(SettleReply::Taken) => Ok(Settled::Taken),
            Some(SettleReply::Leased(lease_until)) => Ok(Settled::Leased(DeliveryHandle { lease_until, ..handle })),
            Some(SettleReply::NotTaken(full)) => Err(not_taken(&handle, full)),
            Some(SettleReply::Over) => self.settle_late(&handle, &verdict).await,
            None => self.settle_alone(handle, verdict).await,
        }
    }

    /// Its lease is over: the same verdict came before and its answer was lost, or it may be in other hands.
    async fn settle_late(&self, handle: &DeliveryHandle, verdict: &Verdict) -> Result<Settled, Unsettled> {
        let failed = |e| unsettled(handle, e);
        let store = &self.context.store;
        let taken = match (verdict, &handle.redrive) {
            (Verdict::Handled, Some(redrive)) => !store.is_asked(redrive).await.map_err(failed)?,
            // Taken however late it comes: the event was handled.
            (Verdict::Handled, None) => {
                let settler = self.settler().await.map_err(failed)?;
                settler.acknowledge_lease(handle).await.map_err(failed)?;
                // Whoever had it before or after may still refuse it, and that would count.
                settler.forget(handle.position).await;
                self.note_handled(handle);
                true
            }
            // Its owner learns of it when it dispatches the event once more.
            (Verdict::Rejected(rejection), None) => {
                return self.rejected_late(handle, rejection).await.map(|()| Settled::Taken);
            }
            _ => false,
        };
        if taken { Ok(Settled::Taken) } else { Err(over(handle)) }
    }

    /// Its owner is gone, and the next one waits until all that the last one dispatched has come back to the store. While the
    /// subscription is paused there is no next one.
    async fn settle_alone(&self, handle: DeliveryHandle, verdict: Verdict) -> Result<Settled, Unsettled> {
        let is_waited_for = self.context.registered.delivers();
        match verdict {
            // A lease is not renewed which the next owner waits for.
            Verdict::StillWorking if is_waited_for => Err(owner_gone(&handle)),
            // It delivers a redriven letter again, whose request stays until the letter is handled.
            Verdict::Rejected(_) if is_waited_for && handle.redrive.is_some() => Err(owner_gone(&handle)),
            verdict => self.settle_leased(handle, verdict).await,
        }
    }
}
