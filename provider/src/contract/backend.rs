//! What carries out the contract's functions: the bus that this provider keeps ([`super::local`]), or one elsewhere for
//! which it stands ([`super::remote`]).
//!
//! Before a backend is asked for anything its caller is known, the caller's link allows it, and what the caller gave is
//! parsed and within bounds. A backend answers with what only it knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanout_plan::authority::{Identity, TokenHash};
use fanout_plan::link::Grant;
use fanout_plan::subscription::{MadeBy, Subscription};
use fanout_plan::{Policy, Problem};
use fanout_transport::Caller;

use super::guard::Interface;
use super::inbox::Fetch;
use super::publisher::Publish;
use super::subscriber::Subscribe;
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

    /// Whether a token is that of a caller.
    fn knows_token(&self, token: &TokenHash) -> bool;

    /// The policy, where the bus is kept here.
    fn policy(&self) -> Option<&Policy> {
        None
    }

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
    fn may_list_links(&self, caller: &Caller) -> Result<bool, Problem>;

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
