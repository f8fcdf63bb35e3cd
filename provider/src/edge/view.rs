//! The edge at one moment, for those who call it: what its links allow, and which subscriptions its components have.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanout_client::component::{Doing, State};
use fanout_plan::link::{Grant, declared_at_a_bus_elsewhere};
use fanout_plan::subscription::{MadeBy, Subscription};
use fanout_plan::{Code, Policy, Problem, SubscriptionName};
use fanout_wit::types as wit;

use super::memory::Called;
use crate::link::{Link, LinkKey, Links, Role};
use crate::view::{LinkOutcome, link_grant};

/// A subscription of a component at this edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) subscription: Subscription,
    pub(crate) component: String,
    pub(crate) made_by: MadeBy,
}

/// The edge at one moment.
#[derive(Default)]
pub(crate) struct View {
    /// Whether all is known that components subscribed to by calls.
    pub(crate) is_whole: bool,
    pub(crate) links: BTreeMap<LinkKey, LinkOutcome>,
    pub(crate) served: BTreeMap<SubscriptionName, Served>,
    /// Of those, the ones that nothing is delivered to, and why.
    pub(crate) detached: BTreeMap<SubscriptionName, Problem>,
    /// How the deliveries of the others are doing.
    pub(crate) states: BTreeMap<SubscriptionName, Arc<State>>,
}

impl View {
    /// What the links and the calls ask for.
    pub(super) fn read(links: &Links, defaults: &Policy, called: &BTreeMap<SubscriptionName, Called>) -> Self {
        let mut view = Self::default();
        for (key, link) in links.iter() {
            let mut outcome = LinkOutcome {
                lists_links: link.interfaces.iter().any(|i| i == "status"),
                ..LinkOutcome::default()
            };
            match read_one(key, link, defaults) {
                Ok(Read::Grant(grant)) => outcome.grant = Some(grant),
                Ok(Read::Declared(served)) => {
                    let name = served.subscription.name.clone();
                    if let Some(problem) = view.conflict(&served, called) {
                        outcome.problems.push(problem);
                    } else {
                        outcome.subscription = Some(name.clone());
                        view.served.insert(name, served);
                    }
                }
                Err(problems) => outcome.problems = problems,
            }
            view.links.insert(key.clone(), outcome);
        }
        for (name, called) in called {
            // Of one component, what its link declares goes before what it asked for itself.
            if view.served.contains_key(name) {
                continue;
            }
            if let Some(problem) = view.why_detached(called) {
                view.detached.insert(name.clone(), problem);
            }
            let served = Served {
                subscription: called.subscription.clone(),
                component: called.component.clone(),
                made_by: MadeBy::Call,
            };
            view.served.insert(name.clone(), served);
        }
        view
    }

    fn conflict(&self, served: &Served, called: &BTreeMap<SubscriptionName, Called>) -> Option<Problem> {
        let name = &served.subscription.name;
        let why = if self.served.contains_key(name) {
            "is declared by two links: give one of them another name".to_owned()
        } else {
            let theirs = called.get(name).filter(|c| c.component != served.component)?;
            format!(
                "was made by a call of component {}: give the link's another name, or let that component end its own",
                theirs.component
            )
        };
        Some(Problem::new(
            Code::SubscriptionConflict,
            format!("subscription {name} {why}"),
        ))
    }

    /// Why nothing is delivered to a subscription that was made by a call, if so.
    fn why_detached(&self, called: &Called) -> Option<Problem> {
        let link = &called.link;
        let why = match link_grant(&self.links, &called.component, link) {
            Ok(grant) if !grant.subscribe => format!("link {link} no longer includes `subscriber`"),
            Ok(grant) if !grant.allows.covers(&called.subscription.filter) => {
                format!("link {link} no longer allows all of its tenants and event types")
            }
            Ok(_) => return None,
            Err(problem) => problem.message,
        };
        Some(Problem::new(
            Code::SubscriberUnlinked,
            format!(
                "subscription {} of component {}: {why}; its events wait at the bus for as long as they are retained",
                called.subscription.name, called.component
            ),
        ))
    }

    /// What a subscription's deliveries wait for here, if they do. `unreached` is why the bus is not reached.
    pub(crate) fn waiting(&self, name: &SubscriptionName, unreached: Option<&wit::Problem>) -> Option<wit::Problem> {
        if let Some(problem) = self.detached.get(name) {
            return Some(wit::Problem {
                code: problem.code.to_string(),
                message: problem.message.clone(),
            });
        }
        let Doing::Waiting(problem) = self.states.get(name)?.doing() else {
            return None;
        };
        if problem.code == Code::SubscriberUnreachable.as_str() || unreached.is_some() {
            return Some(problem);
        }
        let named = format!("subscription {name}: ");
        let why = problem.message.strip_prefix(&named).unwrap_or(&problem.message);
        Some(wit::Problem {
            code: Code::UpstreamRefused.to_string(),
            message: format!(
                "{named}the bus does not give it to this edge: {why} [{}]; its events wait there",
                problem.code
            ),
        })
    }
}

enum Read {
    Grant(Grant),
    Declared(Served),
}

fn read_one(key: &LinkKey, link: &Link, defaults: &Policy) -> Result<Read, Vec<Problem>> {
    let owner = key.describe();
    if key.role == Role::Caller {
        return Grant::from_settings(&owner, &link.interfaces, &link.settings).map(Read::Grant);
    }
    let subscription = declared_at_a_bus_elsewhere(&owner, &key.component, &link.interfaces, &link.settings, defaults)?;
    Ok(Read::Declared(Served {
        subscription,
        component: key.component.clone(),
        made_by: MadeBy::Link,
    }))
}
