//! The backend that is a bus elsewhere: an edge's. The bus has the last word. Traces go along.

mod fetching;
mod publishing;
mod subscriptions;

use std::collections::BTreeMap;
use std::sync::Arc;

use fanout_plan::authority::{self, Identity, TokenHash};
use fanout_plan::link::Grant;
use fanout_plan::subscription::{MadeBy, Subscription};
use fanout_plan::{Code, Problem};
use fanout_transport::{CallContext, Caller};

use super::backend::{Authority, Owned, Rights};
use super::guard::Interface;
use crate::edge::{Edge, Served, View};
use crate::link::LinkKey;
use crate::view::{LinkOutcome, link_grant, link_lists_links};

impl Authority for Edge {
    type View = View;

    fn view(&self) -> Arc<View> {
        self.view()
    }
}

impl Rights for View {
    type Owned = Served;

    /// An edge has no policy, and is called on its lattice alone.
    fn name_of(&self, identities: &[Identity]) -> String {
        authority::stranger(identities)
    }

    fn knows_token(&self, _: &TokenHash) -> bool {
        false
    }

    fn links(&self) -> &BTreeMap<LinkKey, LinkOutcome> {
        &self.links
    }

    fn grant(&self, caller: &Caller, _: Interface) -> Result<&Grant, Problem> {
        link_grant(&self.links, &caller.component, &caller.link)
    }

    fn may_list_links(&self, caller: &Caller) -> Result<bool, Problem> {
        link_lists_links(&self.links, &caller.component, &caller.link)
    }

    fn owned(&self, caller: &Caller, name: &str) -> Result<&Served, Problem> {
        let component = &caller.component;
        let found = name.parse().ok().and_then(|name| self.served.get(&name));
        if let Some(served) = found.filter(|s| s.component == *component) {
            return Ok(served);
        }
        if !self.is_whole {
            return Err(Problem::new(
                Code::BusNotReady,
                "this edge is still reading which subscriptions its components have: try again",
            ));
        }
        Err(Problem::new(
            Code::UnknownSubscription,
            authority::unsubscribed(component, name),
        ))
    }
}

impl Owned for Served {
    fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    fn made_by(&self) -> MadeBy {
        self.made_by
    }
}

/// A call to the bus on behalf of a caller: within the edge's own deadline, in the caller's trace.
fn onward(caller: &Caller) -> CallContext {
    CallContext {
        traceparent: caller.traceparent.clone(),
        tracestate: caller.tracestate.clone(),
        ..CallContext::default()
    }
}
