//! `inbox`: deliveries for those who fetch them.

use std::sync::Arc;
use std::time::Duration;

use fanout_plan::authority;
use fanout_plan::link::Grant;
use fanout_plan::subscription::{Progress, Reach, Registered};
use fanout_plan::{Code, Problem, SubscriptionId};
use fanout_transport::Caller;
use futures::{StreamExt as _, stream};

use super::convert::{self, problem};
use super::guard::{again, of_each, once};
use super::serve::Exports;
use crate::inbox::{self, Ask, Hold, Inbox, Seal, Unsettled, Verdict, Waiting, Waits};
use crate::view::View;
use fanout_wit::bus::exports::fanout::bus::inbox::Handler;
use fanout_wit::types::{
    CatchUp, FetchedDeliveries, InboxError, LeasedDelivery, SettleError, Settlement, SettlementOutcome,
    Verdict as WitVerdict,
};

/// Settlements of one call that are under way at once.
const AT_ONCE: usize = 64;

impl Handler<Caller> for Exports {
    async fn fetch(
        &self,
        caller: Caller,
        subscription: String,
        max_deliveries: u32,
        max_bytes: Option<u64>,
        wait_ms: u32,
    ) -> anyhow::Result<Result<FetchedDeliveries, InboxError>> {
        let ask = Ask {
            most: max_deliveries,
            max_bytes,
            wait: Duration::from_millis(wait_ms.into()),
        };
        Ok(self.fetch_for(&caller, &subscription, ask).await.map_err(refusal))
    }

    async fn settle(
        &self,
        caller: Caller,
        settlements: Vec<Settlement>,
    ) -> anyhow::Result<Vec<Result<SettlementOutcome, SettleError>>> {
        let seal = match self.seal().await {
            Ok(seal) => seal,
            Err(p) => {
                let refused = |said_before| SettleError::Unavailable(problem(again(&p, said_before)));
                return Ok(of_each(settlements.len(), refused));
            }
        };
        let (caller, seal) = (&caller, &seal);
        let mut settled: Vec<_> = stream::iter(settlements)
            .map(|s| async move { self.settle_one(caller, seal, s).await })
            .buffered(AT_ONCE)
            .collect()
            .await;
        once(&mut settled, settle_problem);
        Ok(settled)
    }
}

impl Exports {
    async fn fetch_for(&self, caller: &Caller, subscription: &str, ask: Ask) -> Result<FetchedDeliveries, Problem> {
        let view = self.bus.view();
        let (registered, inbox) = find(&view, caller, Which::Named(subscription))?;
        let Some(inbox) = inbox else {
            return Ok(FetchedDeliveries {
                deliveries: Vec::new(),
                lease_ms: 0,
                caught_up: inbox::caught_up(registered).map(caught_up),
            });
        };
        let seal = self.seal().await?;
        let (waits, ask) = wait_aside(&self.waiting, caller, ask);
        let crowded = waits.is_none();
        let fetched = inbox.fetch(registered, ask).await;
        let fetched = fetched.map_err(|e| inbox::unavailable_to(&registered.subscription.name, e))?;
        if (crowded || fetched.crowded) && fetched.deliveries.is_empty() {
            return Err(too_many_fetches(&self.waiting, caller, subscription));
        }
        let mut deliveries = Vec::with_capacity(fetched.deliveries.len());
        for (delivery, hold) in fetched.deliveries {
            deliveries.push(LeasedDelivery {
                token: token(&seal, caller, &hold)?,
                traceparent: delivery.traceparent.clone(),
                delivery: convert::delivery(delivery),
            });
        }
        Ok(FetchedDeliveries {
            deliveries,
            lease_ms: u64::try_from(fetched.hold.as_millis()).unwrap_or(u64::MAX),
            caught_up: fetched.caught_up.map(caught_up),
        })
    }

    async fn settle_one(
        &self,
        caller: &Caller,
        seal: &Seal,
        settlement: Settlement,
    ) -> Result<SettlementOutcome, SettleError> {
        let Some(hold) = seal.open(&caller.component, &settlement.token) else {
            return Err(SettleError::InvalidToken(problem(Problem::new(
                Code::InvalidToken,
                format!(
                    "component {} was given no such token: settle with the one that came with the delivery",
                    caller.component
                ),
            ))));
        };
        let view = self.bus.view();
        let (_, inbox) = find(&view, caller, Which::Exactly(&hold.of)).map_err(settle_refusal)?;
        let verdict = match settlement.verdict {
            WitVerdict::Handled => Verdict::Handled,
            WitVerdict::Rejected(r) => Verdict::Rejected(convert::rejection(r)),
            WitVerdict::StillWorking => Verdict::StillWorking,
            WitVerdict::Released => Verdict::Released,
        };
        let Some(inbox) = inbox else {
            // A backfill is finished once all of its events are settled.
            return Ok(SettlementOutcome::Settled);
        };
        match inbox::settle(inbox, hold, verdict).await {
            Ok(inbox::Settled::Taken) => Ok(SettlementOutcome::Settled),
            Ok(inbox::Settled::Held(hold)) => token(seal, caller, &hold)
                .map(SettlementOutcome::Extended)
                .map_err(settle_refusal),
            Err(Unsettled::LeaseExpired(p)) => Err(SettleError::LeaseExpired(problem(p))),
            Err(Unsettled::Unavailable(p)) => Err(SettleError::Unavailable(problem(p))),
        }
    }

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
}

fn token(seal: &Seal, caller: &Caller, hold: &Hold) -> Result<bytes::Bytes, Problem> {
    seal.seal(&caller.component, hold)
        .map_err(|e| Problem::new(Code::BusNotReady, e.to_string()))
}

/// A subscription that a caller means.
#[derive(Clone, Copy)]
enum Which<'a> {
    /// The one that has this name now.
    Named(&'a str),
    /// This one, and no other that has its name now.
    Exactly(&'a SubscriptionId),
}

/// A subscription of the caller's that it may fetch now; without an inbox once it is finished.
fn find<'a>(view: &'a View, caller: &Caller, which: Which<'_>) -> Result<(&'a Registered, Option<&'a Inbox>), Problem> {
    let grant = grant(view, caller)?;
    // Until then, the subscriptions are not known either.
    let store = view.store()?;
    let (name, found) = match which {
        Which::Named(name) => (name, view.subscription_of(&caller.component, name)),
        Which::Exactly(id) => (id.name.plain(), view.subscription_with(&caller.component, id)?),
    };
    let registered = found.ok_or_else(|| {
        // What keeps the bus from having a log has kept the subscription from being made: a retry can help. A problem of one
        // part of the policy is nobody else's.
        if let Some(problem) = view
            .policy_problems
            .first()
            .filter(|_| store.layout().newest().is_none())
        {
            return Problem::new(Code::BusNotReady, format!("the bus has no policy in force: {problem}"));
        }
        Problem::new(
            Code::UnknownSubscription,
            format!(
                "component {} has no subscription {name:?}: declare it in a link, or subscribe to it",
                caller.component
            ),
        )
    })?;
    let subscription = &registered.subscription;
    if subscription.reach != Reach::Inbox {
        return Err(Problem::new(
            Code::NotAnInbox,
            format!("subscription {name} is given to a handler: make it with the reach `inbox` to fetch it"),
        ));
    }
    if !grant.allows.covers(&subscription.filter) {
        return Err(Problem::new(
            Code::TenantNotPermitted,
            format!(
                "{} does not allow every tenant and event type of subscription {name}: widen its `tenants` and `event-types`, or narrow the subscription",
                authority::describe(&caller.component, &caller.link)
            ),
        ));
    }
    if registered.progress == Progress::Finished {
        return Ok((registered, None));
    }
    match view.inboxes.get(&subscription.name) {
        Some(inbox) => Ok((registered, Some(&**inbox))),
        None => Err(view.detached.get(&subscription.name).cloned().unwrap_or_else(|| {
            Problem::new(
                Code::BusNotReady,
                format!("subscription {name} is not being served yet: try again"),
            )
        })),
    }
}

/// Has a fetch wait in its caller's share, where it holds nothing of the transport. Without a place there it does not
/// wait.
pub(super) fn wait_aside(waiting: &Waiting, caller: &Caller, mut ask: Ask) -> (Option<Waits>, Ask) {
    let waits = waiting.enter(&caller.component);
    match &waits {
        Some(_) if ask.wait.is_zero() => {}
        Some(_) => fanout_transport::wait_aside(),
        None => ask.wait = Duration::ZERO,
    }
    (waits, ask)
}

/// Why a fetch is not waited for.
pub(super) fn too_many_fetches(waiting: &Waiting, caller: &Caller, subscription: &str) -> Problem {
    Problem::new(
        Code::TooManyFetches,
        format!(
            "subscription {subscription}: too many fetches of {} wait already ({} of one caller may, and {} of one subscription), and nothing is there now: try again once one of them was answered, or take more with each",
            authority::describe(&caller.component, &caller.link),
            waiting.of_one(),
            inbox::MAX_WAITING
        ),
    )
}

fn caught_up(c: inbox::CaughtUp) -> CatchUp {
    CatchUp {
        replayed: c.replayed,
        finished: c.finished,
    }
}

fn grant<'a>(view: &'a View, caller: &Caller) -> Result<&'a Grant, Problem> {
    let grant = view.grant(&caller.component, &caller.link)?;
    if grant.inbox {
        return Ok(grant);
    }
    Err(Problem::new(
        Code::InterfaceNotLinked,
        format!(
            "{} does not include `inbox`: add it to its interfaces",
            authority::describe(&caller.component, &caller.link)
        ),
    ))
}

pub(super) fn refusal(p: Problem) -> InboxError {
    match p.code {
        Code::NotLinked
        | Code::LinkRefused
        | Code::InterfaceNotLinked
        | Code::TenantNotPermitted
        | Code::EventTypeNotPermitted
        | Code::UnknownCaller
        | Code::SubscriberUnlinked => InboxError::NotPermitted(problem(p)),
        Code::UnknownSubscription => InboxError::UnknownSubscription(problem(p)),
        Code::NotAnInbox => InboxError::InvalidRequest(problem(p)),
        _ => InboxError::Unavailable(problem(p)),
    }
}

/// What an error says, where it is said of many alike.
pub(super) fn settle_problem(e: &mut SettleError) -> &mut fanout_wit::types::Problem {
    match e {
        SettleError::InvalidToken(p)
        | SettleError::LeaseExpired(p)
        | SettleError::NotPermitted(p)
        | SettleError::Unavailable(p) => p,
    }
}

pub(super) fn settle_refusal(p: Problem) -> SettleError {
    if p.code == Code::SubscriptionEnded {
        return SettleError::InvalidToken(problem(p));
    }
    match refusal(p) {
        InboxError::NotPermitted(p) => SettleError::NotPermitted(p),
        InboxError::UnknownSubscription(p) | InboxError::InvalidRequest(p) => SettleError::InvalidToken(p),
        InboxError::Unavailable(p) => SettleError::Unavailable(p),
    }
}
