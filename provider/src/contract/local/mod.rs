//! The backend that is the bus which this provider keeps.

mod fetching;
mod instances;
mod publishing;
mod scheduling;
mod subscriptions;
mod together;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use fanout_plan::authority::{self, Identity, TokenHash};
use fanout_plan::link::Grant;
use fanout_plan::subscription::{MadeBy, Registered, Subscription};
use fanout_plan::{Code, Policy, Problem};
use fanout_transport::{Caller, Error, Lattice};

use super::backend::{Authority, Owned, Rights};
use super::guard::Interface;
use crate::bus::Bus;
use crate::inbox::Seal;
use crate::link::LinkKey;
use crate::view::{LinkOutcome, View};

/// What seals, and the secret that it is made of.
type KeptSeal = (Bytes, Arc<Seal>);

/// A bus that is kept here.
#[derive(Clone)]
pub(super) struct Local {
    bus: Bus,
    /// What seals the inbox's tokens, and what instances say to each other.
    seal: Arc<Mutex<Option<KeptSeal>>>,
    /// When the secret was last read again because instances did not take each other's requests.
    secret_read_again: Arc<Mutex<Option<Instant>>>,
    /// Over which the bus's other instances are reached.
    instances: Lattice,
}

impl Local {
    pub(super) async fn new(bus: Bus) -> Result<Self, Error> {
        Ok(Self {
            instances: instances::connect(bus.lattice()).await?,
            bus,
            seal: Arc::default(),
            secret_read_again: Arc::default(),
        })
    }
}

impl Authority for Local {
    type View = View;

    fn view(&self) -> Arc<View> {
        self.bus.view()
    }
}

impl Rights for View {
    type Owned = Registered;

    fn name_of(&self, identities: &[Identity]) -> String {
        match &self.policy {
            Some(policy) => policy.callers.id_of(identities),
            None => authority::stranger(identities),
        }
    }

    fn knows_token(&self, token: &TokenHash) -> bool {
        let policy = self.policy.as_ref();
        policy.is_some_and(|policy| policy.callers.knows_token(token))
    }

    fn policy(&self) -> Option<&Policy> {
        self.policy.as_deref()
    }

    fn links(&self) -> &BTreeMap<LinkKey, LinkOutcome> {
        &self.links
    }

    fn grant(&self, caller: &Caller, interface: Interface) -> Result<&Grant, Problem> {
        let (component, link) = (&caller.component, &caller.link);
        match interface {
            Interface::Publisher => self.publish_grant(component, link),
            _ => self.grant(component, link),
        }
    }

    fn may_list_links(&self, caller: &Caller) -> Result<bool, Problem> {
        self.may_list_links(&caller.component, &caller.link)
    }

    fn owned(&self, caller: &Caller, name: &str) -> Result<&Registered, Problem> {
        // Until there is a store, the subscriptions are not known either.
        self.store()?;
        let found = self.subscription_of(&caller.component, name);
        found.ok_or_else(|| unknown(self, caller, name))
    }
}

impl Owned for Registered {
    fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    fn made_by(&self) -> MadeBy {
        self.made_by
    }
}

/// Why a caller has no subscription of a name.
fn unknown(view: &View, caller: &Caller, name: &str) -> Problem {
    // What keeps the bus from having a log has kept the subscription from being made: a retry can help. A problem of one
    // part of the policy is nobody else's.
    let has_no_log = view.store.as_ref().is_none_or(|s| s.layout().newest().is_none());
    if let Some(problem) = view.policy_problems.first().filter(|_| has_no_log) {
        return Problem::new(Code::BusNotReady, format!("the bus has no policy in force: {problem}"));
    }
    Problem::new(
        Code::UnknownSubscription,
        authority::unsubscribed(&caller.component, name),
    )
}
