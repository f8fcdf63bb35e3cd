//! Deliveries of the bus for those who fetch them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanout_plan::subscription::{Progress, Registered};
use fanout_plan::{Code, Problem};
use fanout_transport::Caller;
use fanout_wit::types::{CatchUp, InboxError, SettleError, Verdict as WitVerdict};
use futures::{StreamExt as _, stream};

use super::{Local, unknown};
use crate::contract::convert::{self, problem};
use crate::contract::errors::{inbox_refusal, settle_refusal};
use crate::contract::guard::{Interface, granted};
use crate::contract::inbox::{Fetch, Fetched, Outcome, may_fetch};
use crate::inbox::{self, Ask, DeliveryHandle, Inbox, Seal, Unsettled, Verdict};
use crate::view::View;

/// Settlements of one call that are under way at once.
const AT_ONCE: usize = 64;

impl Fetch for Local {
    type Lease = DeliveryHandle;

    const LONGEST_WAIT: Duration = inbox::MAX_WAIT;
    const WAITING: (usize, usize) = (inbox::WAITING_OF_ONE, inbox::WAITING_OF_ALL);

    async fn seal(&self) -> Result<Arc<Seal>, Problem> {
        let view = self.bus.view();
        let store = view.store()?;
        let bus = &store.policy().bus;
        let mut kept = self.seal.lock().await;
        if let Some((of, seal)) = &*kept
            && of == bus
        {
            return Ok(Arc::clone(seal));
        }
        let seal = Arc::new(inbox::seal(store).await?);
        *kept = Some((bus.clone(), Arc::clone(&seal)));
        Ok(seal)
    }

    fn token(seal: &Seal, caller: &Caller, lease: DeliveryHandle) -> Result<Bytes, Problem> {
        let token = seal.seal(&caller.component, &lease);
        token.map_err(|e| Problem::new(Code::BusNotReady, e.to_string()))
    }

    fn lease(seal: &Seal, caller: &Caller, token: &Bytes) -> Option<DeliveryHandle> {
        seal.open(&caller.component, token)
    }

    async fn fetch(&self, _: &Caller, owned: &Registered, ask: Ask) -> Result<Fetched<DeliveryHandle>, InboxError> {
        let view = self.bus.view();
        let Some(inbox) = serving(&view, owned).map_err(inbox_refusal)? else {
            return Ok(Fetched {
                deliveries: Vec::new(),
                lease: Duration::ZERO,
                caught_up: inbox::caught_up(owned).map(caught_up),
                crowded: false,
            });
        };
        let fetched = inbox.fetch(owned, ask).await;
        let fetched = fetched.map_err(|e| inbox_refusal(inbox::unavailable_to(&owned.subscription.name, e)))?;
        let leased = fetched.deliveries.into_iter().map(|(mut delivery, lease)| {
            let traceparent = delivery.traceparent.take();
            (convert::delivery(delivery), traceparent, lease)
        });
        Ok(Fetched {
            deliveries: leased.collect(),
            lease: fetched.lease,
            caught_up: fetched.caught_up.map(caught_up),
            crowded: fetched.crowded,
        })
    }

    async fn settle(
        &self,
        caller: &Caller,
        leases: Vec<(DeliveryHandle, WitVerdict)>,
    ) -> Vec<Result<Outcome<DeliveryHandle>, SettleError>> {
        stream::iter(leases)
            .map(|(lease, verdict)| self.settle_one(caller, lease, verdict))
            .buffered(AT_ONCE)
            .collect()
            .await
    }
}

impl Local {
    async fn settle_one(
        &self,
        caller: &Caller,
        lease: DeliveryHandle,
        verdict: WitVerdict,
    ) -> Result<Outcome<DeliveryHandle>, SettleError> {
        let view = self.bus.view();
        let Some(inbox) = leased_from(&view, caller, &lease).map_err(settle_refusal)? else {
            // A backfill is finished once all of its events are settled.
            return Ok(Outcome::Settled);
        };
        let verdict = match verdict {
            WitVerdict::Handled => Verdict::Handled,
            WitVerdict::Rejected(r) => Verdict::Rejected(convert::rejection(r)),
            WitVerdict::StillWorking => Verdict::StillWorking,
            WitVerdict::Released => Verdict::Released,
        };
        match inbox::settle(inbox, lease, verdict).await {
            Ok(inbox::Settled::Taken) => Ok(Outcome::Settled),
            Ok(inbox::Settled::Leased(lease)) => Ok(Outcome::Extended(lease)),
            Err(Unsettled::LeaseExpired(p)) => Err(SettleError::LeaseExpired(problem(p))),
            Err(Unsettled::Unavailable(p)) => Err(SettleError::Unavailable(problem(p))),
        }
    }
}

/// The inbox of the very subscription that a lease is of, if the caller may still fetch it.
fn leased_from<'a>(view: &'a View, caller: &Caller, lease: &DeliveryHandle) -> Result<Option<&'a Inbox>, Problem> {
    let grant = granted(view, caller, Interface::Inbox)?;
    view.store()?;
    let found = view.subscription_with(&caller.component, &lease.of)?;
    let registered = found.ok_or_else(|| unknown(view, caller, lease.of.name.plain()))?;
    may_fetch(grant, caller, &registered.subscription)?;
    serving(view, registered)
}

/// What a subscription's deliveries come from; `None` once it is finished.
fn serving<'a>(view: &'a View, registered: &Registered) -> Result<Option<&'a Inbox>, Problem> {
    if registered.progress == Progress::Finished {
        return Ok(None);
    }
    let name = &registered.subscription.name;
    match view.inboxes.get(name) {
        Some(inbox) => Ok(Some(&**inbox)),
        None => Err(view.detached.get(name).cloned().unwrap_or_else(|| {
            Problem::new(
                Code::BusNotReady,
                format!("subscription {} is not being served yet: try again", name.plain()),
            )
        })),
    }
}

fn caught_up(c: inbox::CaughtUp) -> CatchUp {
    CatchUp {
        replayed: c.replayed,
        finished: c.finished,
    }
}
