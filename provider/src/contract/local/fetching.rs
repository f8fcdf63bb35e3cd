//! Deliveries of the bus for those who fetch them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanout_plan::subscription::{Progress, Registered};
use fanout_plan::{Code, Problem};
use fanout_transport::Caller;
use fanout_wit::types::{CatchUp, FetchedDeliveries, InboxError, SettleError, Verdict as WitVerdict};
use futures::{StreamExt as _, stream};
use tokio::time::sleep;

use super::instances::ANSWERS_IN;
use super::{Local, unknown};
use crate::contract::convert::{self, problem};
use crate::contract::errors::{inbox_refusal, settle_refusal};
use crate::contract::guard::{Interface, granted};
use crate::contract::inbox::{Fetch, Fetched, Outcome, may_fetch};
use crate::delivery::{DeliveryHandle, Verdict};
use crate::inbox::{self, FetchLimits, Inbox, READ_OWNER_EVERY, Seal, ServedBy, Unsettled};
use crate::jetstream::{Store, StoreError};
use crate::view::View;

/// Settlements of one call that are under way at once.
const AT_ONCE: usize = 64;

/// How long a fetch waits at another instance, before the owner is looked up again.
const WAITS_ELSEWHERE: Duration = Duration::from_secs(2);
/// How long a fetch may take beyond its wait, whatever the owner does: less than the transport's deadline leaves.
const ENDS_IN: Duration = Duration::from_millis(1_500);

/// What a token stands for.
pub(in crate::contract) enum Lease {
    /// Leased by this instance, or read from a token.
    Handle(DeliveryHandle),
    /// A token, sealed for its fetcher by the instance that leased it.
    Sealed(Bytes),
}

impl Fetch for Local {
    type Lease = Lease;

    const LONGEST_WAIT: Duration = inbox::MAX_WAIT;
    const WAITING: (usize, usize) = (inbox::WAITING_OF_ONE, inbox::WAITING_OF_ALL);

    async fn seal(&self) -> Result<Arc<Seal>, Problem> {
        self.seal_of(self.bus.view().store()?).await
    }

    fn token(seal: &Seal, caller: &Caller, lease: Lease) -> Result<Bytes, Problem> {
        match lease {
            Lease::Handle(handle) => {
                let token = seal.seal(&caller.component, &handle);
                token.map_err(|e| Problem::new(Code::BusNotReady, e.to_string()))
            }
            Lease::Sealed(token) => Ok(token),
        }
    }

    fn lease(seal: &Seal, caller: &Caller, token: &Bytes) -> Option<Lease> {
        seal.open(&caller.component, token).map(Lease::Handle)
    }

    /// Where the subscription has an order, its owner serves the fetch, whichever instance that comes to be meanwhile.
    async fn fetch(
        &self,
        caller: &Caller,
        owned: &Registered,
        limits: FetchLimits,
    ) -> Result<Fetched<Lease>, InboxError> {
        if let Some(problem) = owned.withheld_problem() {
            return Err(inbox_refusal(problem));
        }
        let end = Instant::now() + limits.wait;
        loop {
            let view = self.bus.view();
            let nothing = || Fetched {
                deliveries: Vec::new(),
                lease: Duration::ZERO,
                caught_up: inbox::caught_up(owned).map(caught_up),
                crowded: false,
            };
            let Some(inbox) = serving(&view, owned).map_err(inbox_refusal)? else {
                return Ok(nothing());
            };
            let left = FetchLimits {
                wait: end.saturating_duration_since(Instant::now()),
                ..limits
            };
            let served_by = inbox.served_by().await;
            let fetched = match served_by.map_err(|e| unavailable(owned, e))? {
                ServedBy::Any => return self.fetch_here((owned, inbox), left).await,
                ServedBy::Owner => Some(self.fetch_here((owned, inbox), left).await?),
                ServedBy::OwnerAt(owner) => {
                    // The status that this instance gives says that somebody waits.
                    let waits = inbox.waits();
                    let wait = waits
                        .as_ref()
                        .map_or(Duration::ZERO, |_| left.wait.min(WAITS_ELSEWHERE));
                    let crowded = waits.is_none() && !left.wait.is_zero();
                    let within = match left.wait.is_zero() {
                        true => ANSWERS_IN,
                        false => (wait + ANSWERS_IN).min(left.wait + ENDS_IN),
                    };
                    let request = (owned.id(), FetchLimits { wait, ..left });
                    let fetched = tokio::select! {
                        fetched = self.fetch_at(&owner, caller, request, within) => fetched?,
                        () = inbox.succeeded(&owner, wait) => None,
                    };
                    fetched.map(|fetched| passed_on(fetched, crowded))
                }
                ServedBy::Nobody => None,
            };
            let is_last = Instant::now() + READ_OWNER_EVERY >= end || inbox.is_over();
            match fetched {
                Some(fetched) if is_last || fetched.answers() => return Ok(fetched),
                None if is_last => return Ok(nothing()),
                Some(_) => {}
                None => sleep(READ_OWNER_EVERY).await,
            }
        }
    }

    async fn settle(
        &self,
        caller: &Caller,
        leases: Vec<(Lease, WitVerdict)>,
    ) -> Vec<Result<Outcome<Lease>, SettleError>> {
        let settled = in_turn(leases).into_iter().map(async |verdicts| {
            let mut settled = Vec::with_capacity(verdicts.len());
            for (i, lease, verdict) in verdicts {
                settled.push((i, self.settle_one(caller, lease, verdict).await));
            }
            settled
        });
        let settled: Vec<_> = stream::iter(settled).buffer_unordered(AT_ONCE).collect().await;
        let mut settled: Vec<_> = settled.into_iter().flatten().collect();
        settled.sort_unstable_by_key(|(i, _)| *i);
        settled.into_iter().map(|(_, outcome)| outcome).collect()
    }
}

impl Local {
    /// What seals the tokens and the requests of a bus.
    pub(super) async fn seal_of(&self, store: &Store) -> Result<Arc<Seal>, Problem> {
        Ok(self.seal_with(inbox::secret(store).await?))
    }

    /// What seals with a secret: the instances' may become another while they run.
    pub(super) fn seal_with(&self, secret: Bytes) -> Arc<Seal> {
        let mut kept = self.seal.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((of, seal)) if *of == secret => Arc::clone(seal),
            _ => {
                let seal = Arc::new(Seal::new(&secret));
                *kept = Some((secret, Arc::clone(&seal)));
                seal
            }
        }
    }

    /// Fetches at this instance.
    pub(super) async fn fetch_here(
        &self,
        (owned, inbox): (&Registered, &Inbox),
        limits: FetchLimits,
    ) -> Result<Fetched<Lease>, InboxError> {
        let fetched = inbox.fetch(owned, limits).await.map_err(|e| unavailable(owned, e))?;
        let leased = fetched.deliveries.into_iter().map(|(mut delivery, handle)| {
            let traceparent = delivery.traceparent.take();
            (convert::delivery(delivery), traceparent, Lease::Handle(handle))
        });
        Ok(Fetched {
            deliveries: leased.collect(),
            lease: fetched.lease,
            caught_up: fetched.caught_up.map(caught_up),
            crowded: fetched.crowded,
        })
    }

    async fn settle_one(
        &self,
        caller: &Caller,
        lease: Lease,
        verdict: WitVerdict,
    ) -> Result<Outcome<Lease>, SettleError> {
        let Lease::Handle(handle) = lease else {
            // None is made of a token that was read.
            let problem = Problem::new(
                Code::InvalidToken,
                "the token is another instance's answer, and no lease",
            );
            return Err(settle_refusal(problem));
        };
        let view = self.bus.view();
        let Some(inbox) = leased_from(&view, caller, &handle).map_err(settle_refusal)? else {
            // A backfill is finished once all of its events are settled.
            return Ok(Outcome::Settled);
        };
        let verdict = match verdict {
            WitVerdict::Handled => Verdict::Handled,
            WitVerdict::Rejected(r) => Verdict::Rejected(convert::rejection(r)),
            WitVerdict::StillWorking => Verdict::StillWorking,
            WitVerdict::Released => Verdict::Released,
        };
        if let Some(owner) = inbox.dispatched_by(&handle) {
            let settled = tokio::select! {
                settled = self.settle_at(owner, caller, (&handle, &verdict)) => settled?,
                () = inbox.leased_by_nobody(owner, &handle) => None,
            };
            if let Some(outcome) = settled {
                return Ok(outcome);
            }
        }
        settle_here(inbox, handle, verdict).await
    }
}

/// The verdicts of one call, each with its place there, by the delivery that they are on: those on one are for one after another,
/// wherever they are settled.
fn in_turn(leases: Vec<(Lease, WitVerdict)>) -> Vec<Vec<(usize, Lease, WitVerdict)>> {
    let mut first = Vec::with_capacity(leases.len());
    {
        let mut deliveries = HashMap::new();
        for (i, (lease, _)) in leases.iter().enumerate() {
            first.push(match lease {
                Lease::Handle(handle) => *deliveries.entry(handle.delivery()).or_insert(i),
                Lease::Sealed(_) => i,
            });
        }
    }
    let mut in_turn = BTreeMap::<usize, Vec<_>>::new();
    for (i, ((lease, verdict), first)) in leases.into_iter().zip(first).enumerate() {
        in_turn.entry(first).or_default().push((i, lease, verdict));
    }
    in_turn.into_values().collect()
}

/// Settles at this instance.
pub(super) async fn settle_here(
    inbox: &Inbox,
    handle: DeliveryHandle,
    verdict: Verdict,
) -> Result<Outcome<Lease>, SettleError> {
    match inbox::settle(inbox, handle, verdict).await {
        Ok(inbox::Settled::Taken) => Ok(Outcome::Settled),
        Ok(inbox::Settled::Leased(handle)) => Ok(Outcome::Extended(Lease::Handle(handle))),
        Err(Unsettled::LeaseExpired(p)) => Err(SettleError::LeaseExpired(problem(p))),
        Err(Unsettled::Unavailable(p)) => Err(SettleError::Unavailable(problem(p))),
    }
}

/// What another instance leased.
fn passed_on(fetched: FetchedDeliveries, crowded: bool) -> Fetched<Lease> {
    let leased = fetched.deliveries.into_iter();
    Fetched {
        deliveries: leased
            .map(|l| (l.delivery, l.traceparent, Lease::Sealed(l.token)))
            .collect(),
        lease: Duration::from_millis(fetched.lease_ms),
        caught_up: fetched.caught_up,
        crowded,
    }
}

fn unavailable(owned: &Registered, e: StoreError) -> InboxError {
    inbox_refusal(inbox::unavailable_to(&owned.subscription.name, e))
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
