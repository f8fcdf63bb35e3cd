//! What carries out the contract's functions: the bus that this provider keeps ([`super::local`]), or one elsewhere for
//! which it stands ([`super::remote`]).
//!
//! Before a backend is asked for anything its caller is known, the caller's link allows it, and what the caller gave is
//! parsed and within bounds. A backend answers with what only it knows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanout_plan::authority::Identity;
use fanout_plan::limits::Limits;
use fanout_plan::link::Grant;
use fanout_plan::subscription::{MadeBy, Subscription};
use fanout_plan::{Attributes, Problem, TenantId};
use fanout_transport::Caller;
use fanout_wit::types as wit;
use fanout_wit::types::{
    Cancellation, InboxError, PublishError, Receipt, Scheduled, SettleError, SubscribeError, Verdict,
};

use super::guard::Interface;
use crate::bus::Amendment;
use crate::inbox::{Ask, Seal};
use crate::link::LinkKey;
use crate::view::LinkOutcome;

/// A backend, shared by all calls.
pub(super) trait Backend: Publish + Subscribe + Fetch {}

impl<B: Publish + Subscribe + Fetch> Backend for B {}

/// Who may call what.
pub(super) trait Authority: Clone + Send + Sync + 'static {
    type View: Rights;

    /// Its rights at this moment.
    fn view(&self) -> Arc<Self::View>;
}

/// What callers may do, at one moment.
pub(super) trait Rights: Send + Sync {
    /// A caller's subscription.
    type Owned: Owned;

    /// The one name of whoever proves these identities and is not on the lattice.
    fn name_of(&self, identities: &[Identity]) -> String;

    /// What came of every link.
    fn links(&self) -> &BTreeMap<LinkKey, LinkOutcome>;

    /// What a caller may do through its link, which need not include the interface.
    ///
    /// # Errors
    /// When the caller has no such link, or that link was refused.
    fn grant(&self, caller: &Caller, interface: Interface) -> Result<&Grant, Problem>;

    /// Whether a caller may ask how its links are doing.
    ///
    /// # Errors
    /// When the caller has no such link.
    fn asks(&self, caller: &Caller) -> Result<bool, Problem>;

    /// A subscription of the caller's, by the name that the caller knows it by.
    ///
    /// # Errors
    /// When the caller has none of that name, or subscriptions are not known yet.
    fn owned(&self, caller: &Caller, name: &str) -> Result<&Self::Owned, Problem>;
}

/// A subscription, as far as the contract has to know it.
pub(super) trait Owned: Clone + Send + Sync {
    fn subscription(&self) -> &Subscription;

    fn made_by(&self) -> MadeBy;
}

/// A caller's subscription, at a backend.
pub(super) type OwnedBy<B> = <<B as Authority>::View as Rights>::Owned;

/// An event that its caller may publish.
pub(super) struct Permitted {
    pub(super) attributes: Attributes,
    pub(super) data: Bytes,
}

/// An event that its caller may name.
pub(super) struct Named<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) source: &'a str,
    pub(super) id: &'a str,
}

/// `publisher`.
pub(super) trait Publish: Authority {
    /// The source of what a component publishes without one.
    fn own_source(component: &str) -> String;

    fn publish(&self, caller: &Caller, event: Permitted) -> impl Future<Output = Result<Receipt, PublishError>> + Send;

    /// One result for each event, in order.
    fn publish_many(
        &self,
        caller: &Caller,
        events: Vec<Permitted>,
    ) -> impl Future<Output = Vec<Result<Receipt, PublishError>>> + Send;

    fn publish_together(
        &self,
        caller: &Caller,
        events: Vec<Permitted>,
    ) -> impl Future<Output = Result<Vec<Receipt>, PublishError>> + Send;

    /// Keeps an event until `due`, nanoseconds since the Unix epoch.
    fn schedule(
        &self,
        caller: &Caller,
        event: Permitted,
        due: i64,
    ) -> impl Future<Output = Result<Scheduled, PublishError>> + Send;

    /// Cancels an event of a tenant and a source that `grant` allows; its type only a backend knows.
    fn cancel(
        &self,
        caller: &Caller,
        grant: &Grant,
        event: Named<'_>,
    ) -> impl Future<Output = Result<Cancellation, PublishError>> + Send;
}

/// What subscriptions take that say nothing else, and how long their lists may be.
pub(super) struct Terms {
    pub(super) batch_size: u32,
    pub(super) concurrency: u32,
    /// Absent where another bus bounds them.
    pub(super) limits: Option<Limits>,
}

/// `subscriber`.
pub(super) trait Subscribe: Authority {
    /// # Errors
    /// When there is no policy in force.
    fn terms(&self) -> Result<Terms, Problem>;

    fn subscribe(
        &self,
        caller: &Caller,
        asked: Subscription,
    ) -> impl Future<Output = Result<wit::Subscription, SubscribeError>> + Send;

    /// Ends a subscription that was made by a call.
    fn unsubscribe(
        &self,
        caller: &Caller,
        owned: &OwnedBy<Self>,
    ) -> impl Future<Output = Result<(), SubscribeError>> + Send;

    fn amend(
        &self,
        caller: &Caller,
        owned: &OwnedBy<Self>,
        change: Amendment,
    ) -> impl Future<Output = Result<wit::Subscription, SubscribeError>> + Send;

    /// The caller's subscriptions, by name.
    fn subscriptions(
        &self,
        caller: &Caller,
    ) -> impl Future<Output = Result<Vec<wit::Subscription>, SubscribeError>> + Send;
}

/// The deliveries of one fetch.
pub(super) struct Fetched<L> {
    /// Each with the trace context that it was published in.
    pub(super) deliveries: Vec<(wit::Delivery, Option<String>, L)>,
    pub(super) lease: Duration,
    pub(super) caught_up: Option<wit::CatchUp>,
    /// It would have waited if fewer fetches of the subscription did.
    pub(super) crowded: bool,
}

/// What came of a settlement.
pub(super) enum Outcome<L> {
    Settled,
    Extended(L),
}

/// `inbox`.
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
        ask: Ask,
    ) -> impl Future<Output = Result<Fetched<Self::Lease>, InboxError>> + Send;

    /// One outcome for each, in order.
    fn settle(
        &self,
        caller: &Caller,
        leases: Vec<(Self::Lease, Verdict)>,
    ) -> impl Future<Output = Vec<Result<Outcome<Self::Lease>, SettleError>>> + Send;
}
