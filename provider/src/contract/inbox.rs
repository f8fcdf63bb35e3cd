//! `inbox`: deliveries for those who fetch them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanout_plan::link::Grant;
use fanout_plan::subscription::{Reach, Subscription};
use fanout_plan::{Code, Problem, authority};
use fanout_transport::{Caller, Shape};
use fanout_wit::bus::exports::fanout::bus::inbox::Handler;
use fanout_wit::types::{
    self as wit, FetchedDeliveries, InboxError, LeasedDelivery, SettleError, Settlement, SettlementOutcome, Verdict,
};
use tokio::time::timeout;

use super::backend::{Authority, Backend, Owned as _, OwnedBy, Rights as _};
use super::convert::problem;
use super::errors::{inbox_refusal, settle_problem, settle_refusal};
use super::exports::Exports;
use super::guard::{Interface, again, granted, may, of_each, once};
use super::sending::Receiving;
use super::shapes::SETTLEMENTS;
use crate::inbox::{DEFAULT_BYTES, FetchLimits, MAX_BYTES, MAX_DELIVERIES, MAX_WAITING, Seal, Waits};

/// How long a fetch waits for permits for its result, at most twice: once of its own wait, and once beyond, where it stays below
/// the transport's deadline.
const RESERVED_WITHIN: Duration = Duration::from_millis(1_500);

/// The deliveries of one fetch.
pub(super) struct Fetched<L> {
    /// Each with the trace context that it was published in.
    pub(super) deliveries: Vec<(wit::Delivery, Option<String>, L)>,
    pub(super) lease: Duration,
    pub(super) caught_up: Option<wit::CatchUp>,
    /// It would have waited if fewer fetches of the subscription did.
    pub(super) crowded: bool,
}

impl<L> Fetched<L> {
    /// Whether the subscription has an end and reached it.
    pub(super) fn is_over(&self) -> bool {
        self.caught_up.as_ref().is_some_and(|caught_up| caught_up.finished)
    }

    /// Whether it is worth no wait for more.
    pub(super) fn answers(&self) -> bool {
        !self.deliveries.is_empty() || self.crowded || self.is_over()
    }
}

/// What came of a settlement.
pub(super) enum Outcome<L> {
    Settled,
    Extended(L),
}

impl<L: Send> Outcome<L> {
    /// What a caller is told: the token of a lease that goes on is for it alone.
    pub(super) fn sealed<B: Fetch<Lease = L>>(
        self,
        seal: &Seal,
        caller: &Caller,
    ) -> Result<SettlementOutcome, SettleError> {
        match self {
            Self::Settled => Ok(SettlementOutcome::Settled),
            Self::Extended(lease) => {
                let token = B::token(seal, caller, lease);
                token.map(SettlementOutcome::Extended).map_err(settle_refusal)
            }
        }
    }
}

/// What is asked of a backend.
pub(super) trait Fetch: Authority {
    /// What a token stands for.
    type Lease: Send;

    /// The longest that a fetch waits.
    const LONGEST_WAIT: Duration;
    /// Fetches of one caller that wait at once, and those of all.
    const WAITING: (usize, usize);

    /// What makes and reads tokens; all instances have the same.
    fn seal(&self) -> impl Future<Output = Result<Arc<Seal>, Problem>> + Send;

    /// The token of a lease, for its fetcher alone.
    fn token(seal: &Seal, caller: &Caller, lease: Self::Lease) -> Result<Bytes, Problem>;

    /// What a token stands for; `None` when the caller was not given it.
    fn lease(seal: &Seal, caller: &Caller, token: &Bytes) -> Option<Self::Lease>;

    /// Leases deliveries of a subscription that the caller may fetch.
    fn fetch(
        &self,
        caller: &Caller,
        owned: &OwnedBy<Self>,
        limits: FetchLimits,
    ) -> impl Future<Output = Result<Fetched<Self::Lease>, InboxError>> + Send;

    /// One outcome for each, in order.
    fn settle(
        &self,
        caller: &Caller,
        leases: Vec<(Self::Lease, Verdict)>,
    ) -> impl Future<Output = Vec<Result<Outcome<Self::Lease>, SettleError>>> + Send;
}

/// The parameters of its functions.
pub(super) fn shape(func: &str) -> Option<&'static Shape> {
    Some(match func {
        "fetch" => &Shape::Fields(&[
            Shape::Bytes,
            Shape::Number,
            Shape::Option(&Shape::Number),
            Shape::Number,
        ]),
        "settle" => &SETTLEMENTS,
        _ => return None,
    })
}

impl<B: Backend> Handler<Caller> for Exports<B> {
    async fn fetch(
        &self,
        caller: Caller,
        subscription: String,
        max_deliveries: u32,
        max_bytes: Option<u64>,
        wait_ms: u32,
    ) -> anyhow::Result<Result<FetchedDeliveries, InboxError>> {
        let limits = FetchLimits {
            most: max_deliveries,
            max_bytes,
            wait: Duration::from_millis(wait_ms.into()).min(B::LONGEST_WAIT),
        };
        let receiving = Receiving::fetch(&self.backend, &caller, &subscription);
        let fetched = match within_bounds(&subscription, max_deliveries) {
            Ok(()) => self.fetch_for(&caller, &subscription, limits).await,
            Err(refused) => Err(InboxError::InvalidRequest(problem(refused))),
        };
        receiving.fetched(&fetched);
        Ok(fetched)
    }

    async fn settle(
        &self,
        caller: Caller,
        settlements: Vec<Settlement>,
    ) -> anyhow::Result<Vec<Result<SettlementOutcome, SettleError>>> {
        let seal = match may(&*self.backend.view(), &caller, Interface::Inbox) {
            Ok(()) => self.backend.seal().await,
            Err(p) => Err(p),
        };
        let receiving = Receiving::settle(&self.backend, &caller, settlements.len());
        let settled = match seal {
            Ok(seal) => self.settle_for(&caller, &seal, settlements).await,
            Err(p) => of_each(settlements.len(), |said_before| settle_refusal(again(&p, said_before))),
        };
        receiving.settled(&settled);
        Ok(settled)
    }
}

impl<B: Backend> Exports<B> {
    async fn fetch_for(
        &self,
        caller: &Caller,
        name: &str,
        limits: FetchLimits,
    ) -> Result<FetchedDeliveries, InboxError> {
        let owned = self.fetchable(caller, name).map_err(inbox_refusal)?;
        let seal = self.backend.seal().await.map_err(inbox_refusal)?;
        let (waits, limits) = self.waits(caller, limits);
        let fetched = self.fetch_what_fits(caller, &owned, limits).await?;
        if (waits.is_none() || fetched.crowded) && fetched.deliveries.is_empty() && !fetched.is_over() {
            return Err(inbox_refusal(too_many_fetches(caller, name, self.waiting.of_one())));
        }
        leased::<B>(&seal, caller, fetched).map_err(inbox_refusal)
    }

    /// Fetches what is there; where nothing is, waits for the first delivery and fetches what is there beside it. Before
    /// anything is fetched, the caller's share of results has permits for it: a caller that does not read its answers has
    /// no more of them made. A fetch that waits holds none, and is worth one delivery.
    async fn fetch_what_fits(
        &self,
        caller: &Caller,
        owned: &OwnedBy<B>,
        limits: FetchLimits,
    ) -> Result<Fetched<B::Lease>, InboxError> {
        let bytes = limits.max_bytes.unwrap_or(DEFAULT_BYTES).min(MAX_BYTES);
        let end = Instant::now() + limits.wait;
        let at_once = FetchLimits {
            wait: Duration::ZERO,
            ..limits
        };
        if !reserve(bytes).await {
            return Err(inbox_refusal(unread_answers(caller, owned.subscription())));
        }
        let fetched = self.backend.fetch(caller, owned, at_once).await?;
        if !fetched.deliveries.is_empty() || fetched.is_over() || limits.wait.is_zero() {
            return Ok(fetched);
        }
        fanout_transport::release_result();
        let first = FetchLimits {
            most: 1,
            wait: end.saturating_duration_since(Instant::now()),
            ..limits
        };
        let mut fetched = self.backend.fetch(caller, owned, first).await?;
        let taken: usize = fetched
            .deliveries
            .iter()
            .map(|(delivery, ..)| delivery.event.data.len())
            .sum();
        let bytes_left = bytes.saturating_sub(taken as u64);
        if fetched.deliveries.is_empty() || limits.most <= 1 || bytes_left == 0 {
            return Ok(fetched);
        }
        let since = Instant::now();
        if reserve(bytes).await {
            let beside = FetchLimits {
                most: limits.most - 1,
                max_bytes: Some(bytes_left),
                ..at_once
            };
            // What is in hand is delivered, whatever comes of the rest.
            if let Ok(more) = self.backend.fetch(caller, owned, beside).await {
                fetched.deliveries.extend(more.deliveries);
                fetched.caught_up = more.caught_up;
            }
        }
        fetched.lease = fetched.lease.saturating_sub(since.elapsed());
        Ok(fetched)
    }

    /// A subscription of the caller's that the caller may fetch now.
    fn fetchable(&self, caller: &Caller, name: &str) -> Result<OwnedBy<B>, Problem> {
        let view = self.backend.view();
        let grant = granted(&*view, caller, Interface::Inbox)?;
        let owned = view.owned(caller, name)?;
        may_fetch(grant, caller, owned.subscription())?;
        Ok(owned.clone())
    }

    /// Has a fetch wait in its caller's share, where it holds nothing of the transport. Without a place there it does not
    /// wait.
    fn waits(&self, caller: &Caller, mut limits: FetchLimits) -> (Option<Waits>, FetchLimits) {
        let waits = self.waiting.enter(&caller.component);
        match &waits {
            Some(_) if limits.wait.is_zero() => {}
            Some(_) => fanout_transport::wait_without_permits(),
            None => limits.wait = Duration::ZERO,
        }
        (waits, limits)
    }

    async fn settle_for(
        &self,
        caller: &Caller,
        seal: &Seal,
        settlements: Vec<Settlement>,
    ) -> Vec<Result<SettlementOutcome, SettleError>> {
        let mut leases = Vec::with_capacity(settlements.len());
        let mut is_known = Vec::with_capacity(settlements.len());
        for settlement in settlements {
            let lease = B::lease(seal, caller, &settlement.token);
            is_known.push(lease.is_some());
            leases.extend(lease.map(|lease| (lease, settlement.verdict)));
        }
        let mut outcomes = match leases.is_empty() {
            true => Vec::new().into_iter(),
            false => self.backend.settle(caller, leases).await.into_iter(),
        };
        let outcome = |is_known: bool| {
            if !is_known {
                return Err(settle_refusal(unknown_token(caller)));
            }
            match outcomes.next() {
                Some(outcome) => outcome.and_then(|outcome| outcome.sealed::<B>(seal, caller)),
                None => Err(SettleError::Unavailable(problem(Problem::new(
                    Code::BusNotReady,
                    "the bus gave fewer answers than there were settlements: settle it again",
                )))),
            }
        };
        let mut settled: Vec<_> = is_known.into_iter().map(outcome).collect();
        once(&mut settled, settle_problem);
        settled
    }
}

/// Whether a fetch asks for as many deliveries as it may.
fn within_bounds(subscription: &str, max_deliveries: u32) -> Result<(), Problem> {
    if (1..=MAX_DELIVERIES).contains(&(max_deliveries as usize)) {
        return Ok(());
    }
    Err(Problem::new(
        Code::InvalidSetting,
        format!(
            "subscription {subscription}: a fetch takes 1 to {MAX_DELIVERIES} deliveries, and not {max_deliveries}: nothing was leased"
        ),
    ))
}

/// What a caller is given: the token of each lease is for it alone.
pub(super) fn leased<B: Fetch>(
    seal: &Seal,
    caller: &Caller,
    fetched: Fetched<B::Lease>,
) -> Result<FetchedDeliveries, Problem> {
    let deliveries = fetched.deliveries.into_iter().map(|(delivery, traceparent, lease)| {
        Ok(LeasedDelivery {
            delivery,
            token: B::token(seal, caller, lease)?,
            traceparent,
        })
    });
    Ok(FetchedDeliveries {
        deliveries: deliveries.collect::<Result<_, _>>()?,
        lease_ms: u64::try_from(fetched.lease.as_millis()).unwrap_or(u64::MAX),
        caught_up: fetched.caught_up,
    })
}

/// Why a fetch neither waits nor brings anything.
pub(super) fn too_many_fetches(caller: &Caller, subscription: &str, of_one: usize) -> Problem {
    Problem::new(
        Code::TooManyFetches,
        format!(
            "subscription {subscription}: too many fetches of {} wait already ({of_one} of one caller may, and {MAX_WAITING} of one subscription), and nothing is there now: try again once one of them was answered, or take more with each",
            authority::describe(&caller.component, &caller.link),
        ),
    )
}

/// Takes the permits for a result; false when the caller's earlier results have them all for too long.
pub(super) async fn reserve(bytes: u64) -> bool {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    timeout(RESERVED_WITHIN, fanout_transport::reserve_result(bytes))
        .await
        .is_ok()
}

pub(super) fn unread_answers(caller: &Caller, subscription: &Subscription) -> Problem {
    Problem::new(
        Code::TooManyFetches,
        format!(
            "subscription {}: answers that {} has not read take all the bytes that one caller's may: read them, or fetch less at once",
            subscription.name.plain(),
            authority::describe(&caller.component, &caller.link)
        ),
    )
}

/// Whether a caller's link, which includes `inbox`, allows it to fetch a subscription.
pub(super) fn may_fetch(grant: &Grant, caller: &Caller, subscription: &Subscription) -> Result<(), Problem> {
    let name = subscription.name.plain();
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
                "{} does not allow every tenant and event type of subscription {name}: widen {} and {}, or narrow the subscription",
                authority::describe(&caller.component, &caller.link),
                authority::setting(&caller.component, "subscribe.tenants"),
                authority::setting(&caller.component, "subscribe.event-types")
            ),
        ));
    }
    Ok(())
}

fn unknown_token(caller: &Caller) -> Problem {
    Problem::new(
        Code::InvalidToken,
        format!(
            "{} was given no such token: settle with the one that came with the delivery",
            authority::describe(&caller.component, &caller.link)
        ),
    )
}
