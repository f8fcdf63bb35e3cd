//! What the bus is at this moment, for those who call it: read without waiting, replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fanout_plan::authority::{self, NamedCaller};
use fanout_plan::link::Grant;
use fanout_plan::step::Part;
use fanout_plan::subscription::{Need, Registered};
use fanout_plan::{Attributes, Code, PlaceName, Policy, Problem, SubscriptionId, SubscriptionName, TenantId};
use tokio_util::sync::CancellationToken;

use crate::delivery::Health;
use crate::inbox::Inbox;
use crate::jetstream::Store;
use crate::link::LinkKey;

/// What came of a link.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkOutcome {
    /// For a caller's link that was accepted.
    pub(crate) grant: Option<Grant>,
    /// The subscription that it declares.
    pub(crate) subscription: Option<SubscriptionName>,
    /// Why it is not in force; empty when it is.
    pub(crate) problems: Vec<Problem>,
    /// Whether it includes `status`, by which a component lists its links, refused ones too.
    pub(crate) lists_links: bool,
}

/// The bus at one moment.
#[derive(Clone, Default)]
pub(crate) struct View {
    /// The newest legal policy. Who may do what is its word from the moment at which it is given, whatever the store says.
    pub(crate) policy: Option<Arc<Policy>>,
    /// Present once a policy is in force.
    pub(crate) store: Option<Store>,
    /// Why the policy last given is not in force; empty when it is.
    pub(crate) policy_problems: Vec<Problem>,
    /// What can't be verified of what the policy promises.
    pub(crate) notices: Vec<Problem>,
    /// Why nothing is published, if so.
    pub(crate) nothing_is_published: Option<Problem>,
    /// A part of the log that was not read since this instance began: nothing is published either.
    pub(crate) unknown_partition: Option<Problem>,
    pub(crate) links: BTreeMap<LinkKey, LinkOutcome>,
    pub(crate) registry: BTreeMap<SubscriptionName, Registered>,
    /// What is so between the places, and has to be known.
    pub(crate) between_places: Vec<Problem>,
    /// The subscriptions that were at this place, and the place at which each is since.
    pub(crate) moved: BTreeMap<SubscriptionId, PlaceName>,
    /// Remembered subscriptions to which nothing is delivered, and why.
    pub(crate) detached: BTreeMap<SubscriptionName, Problem>,
    /// What the store does not hold as it should, and why: of subscriptions, it is their state.
    pub(crate) failed: BTreeMap<Part, Problem>,
    /// Subscriptions of which the store holds nothing, so that nothing can be delivered.
    pub(crate) unmade: BTreeSet<SubscriptionName>,
    /// Subscriptions that the registry does not have yet: what it never had it has not lost.
    pub(crate) unwritten: BTreeSet<SubscriptionName>,
    pub(crate) health: BTreeMap<SubscriptionName, Arc<Health>>,
    /// Subscriptions that are fetched.
    pub(crate) inboxes: BTreeMap<SubscriptionName, Arc<Inbox>>,
    /// Cancelled when deliveries are over that a subscription had before.
    pub(crate) ending: BTreeMap<SubscriptionName, CancellationToken>,
}

impl View {
    /// What a caller may do through its link.
    ///
    /// # Errors
    /// When it has no such link, or that link was refused. The `source-id` of an invocation is the lattice's word, so
    /// this is as strong as the lattice's own credentials.
    pub(crate) fn grant(&self, component: &str, link: &str) -> Result<&Grant, Problem> {
        match self.named(component)? {
            Some(named) => Ok(&named.subscribing),
            None => link_grant(&self.links, component, link),
        }
    }

    /// The same for publishing, which the policy's callers are allowed by themselves.
    ///
    /// # Errors
    /// As [`View::grant`].
    pub(crate) fn publish_grant(&self, component: &str, link: &str) -> Result<&Grant, Problem> {
        match self.named(component)? {
            Some(named) => Ok(&named.publishing),
            None => link_grant(&self.links, component, link),
        }
    }

    /// Whether a caller may list its links.
    ///
    /// # Errors
    /// When it has no such link, or the policy does not know it.
    pub(crate) fn may_list_links(&self, component: &str, link: &str) -> Result<bool, Problem> {
        if self.store.is_none() && authority::is_given(component) {
            // Without a policy it is not known who it is, and no link is told to it.
            return Ok(true);
        }
        match self.named(component)? {
            Some(named) => Ok(named.status),
            None => link_lists_links(&self.links, component, link),
        }
    }

    /// Whether a caller may read the metrics, which are everybody's.
    ///
    /// # Errors
    /// When the policy does not know it, or does not grant them to it.
    pub(crate) fn may_read_metrics(&self, component: &str) -> Result<(), Problem> {
        if self.store.is_none() && self.policy.is_none() && authority::is_given(component) {
            // Without a policy there is nothing of anybody's in them.
            return Ok(());
        }
        match self.named(component)? {
            Some(named) if named.metrics => Ok(()),
            _ => Err(Problem::new(
                Code::InterfaceNotLinked,
                format!(
                    "{} may not read the metrics, which name the subscriptions and tenants of all: set {} to true for who collects them",
                    authority::named(component),
                    authority::setting(component, "metrics")
                ),
            )),
        }
    }

    /// The policy's caller that has this id; `None` for a component.
    fn named(&self, id: &str) -> Result<Option<&NamedCaller>, Problem> {
        if !authority::is_given(id) {
            return Ok(None);
        }
        let not_ready = || {
            Problem::new(
                Code::BusNotReady,
                "the bus has no policy in force: it is still being set up",
            )
        };
        let callers = match (&self.policy, &self.store) {
            (Some(policy), _) => &policy.callers,
            (None, Some(store)) => &store.policy().callers,
            (None, None) => return Err(self.store().err().unwrap_or_else(not_ready)),
        };
        let gone = || {
            let message = format!("{} is no longer in the policy", authority::describe(id, ""));
            Problem::new(Code::UnknownCaller, message)
        };
        match authority::refusal(id) {
            Some(problem) => Err(problem),
            None => callers.by_id(id).map(Some).ok_or_else(gone),
        }
    }

    /// A caller's subscription, by the name that it calls it by.
    pub(crate) fn subscription_of(&self, component: &str, name: &str) -> Option<&Registered> {
        let name: SubscriptionName = name.parse().ok()?;
        let own = name.of_caller(component);
        [name, own]
            .iter()
            .filter_map(|name| self.registry.get(name))
            .find(|r| r.component == component)
    }

    /// The same, if it still is the one that something was given out by: a name may have been used again since.
    ///
    /// # Errors
    /// When another has the name now.
    pub(crate) fn subscription_with(
        &self,
        component: &str,
        id: &SubscriptionId,
    ) -> Result<Option<&Registered>, Problem> {
        let own = id.name.of_caller(component);
        let mut mine = [&id.name, &own]
            .into_iter()
            .filter_map(|name| self.registry.get(name))
            .filter(|r| r.component == component)
            .peekable();
        if mine.peek().is_none() {
            return Ok(None);
        }
        let found = mine.find(|r| r.id() == *id);
        found.map(Some).ok_or_else(|| {
            Problem::new(
                Code::SubscriptionEnded,
                format!(
                    "subscription {}: what this token stands for was given out by an earlier subscription of this name, which has ended: there is nothing left to settle; fetch again",
                    id.name.plain()
                ),
            )
        })
    }

    /// Whether deliveries that a subscription had before are not over yet.
    pub(crate) fn is_ending(&self, name: &SubscriptionName) -> bool {
        self.ending.get(name).is_some_and(|ended| !ended.is_cancelled())
    }

    /// Why the store holds nothing, or not all, of a subscription.
    pub(crate) fn stuck(&self, name: &SubscriptionName) -> Option<&Problem> {
        self.failed.get(&Part::Subscription(name.clone()))
    }

    /// Whether the bus serves a tenant.
    pub(crate) fn serves(&self, tenant: &TenantId) -> bool {
        self.policy.as_ref().is_none_or(|p| p.serves(tenant))
            && self.store.as_ref().is_none_or(|s| s.policy().serves(tenant))
    }

    /// Why nothing new is taken at this place, if so.
    pub(crate) fn place_is_retired(&self) -> Option<Problem> {
        let given = self.policy.as_deref();
        let policy = given.or_else(|| self.store.as_ref().map(Store::policy))?;
        policy.places.as_ref()?.retired_here()
    }

    /// The store of the policy in force.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn store(&self) -> Result<&Store, Problem> {
        self.store.as_ref().ok_or_else(|| {
            let why: Vec<_> = self.policy_problems.iter().map(ToString::to_string).collect();
            let why = if why.is_empty() {
                "it is still being set up".to_owned()
            } else {
                why.join("; ")
            };
            Problem::new(Code::BusNotReady, format!("the bus has no policy in force: {why}"))
        })
    }

    /// How many durable subscriptions an event is for, by its tenant and its type.
    pub(crate) fn durable_matches(&self, attributes: &Attributes) -> u32 {
        let count = self
            .registry
            .values()
            .filter(|r| {
                r.subscription.need == Need::Durable
                    && r.subscription
                        .filter
                        .may_match(attributes.tenant(), attributes.event_type())
            })
            .count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

/// What a component may do through its link.
///
/// # Errors
/// When it has no such link, or that link was refused.
pub(crate) fn link_grant<'a>(
    links: &'a BTreeMap<LinkKey, LinkOutcome>,
    component: &str,
    link: &str,
) -> Result<&'a Grant, Problem> {
    let (key, outcome) = link_of(links, component, link)?;
    outcome.grant.as_ref().ok_or_else(|| {
        let why: Vec<_> = outcome.problems.iter().map(ToString::to_string).collect();
        Problem::new(
            Code::LinkRefused,
            format!("{} was refused: {}", key.describe(), why.join("; ")),
        )
    })
}

/// Whether a component's link includes `status`.
///
/// # Errors
/// When it has no such link.
pub(crate) fn link_lists_links(
    links: &BTreeMap<LinkKey, LinkOutcome>,
    component: &str,
    link: &str,
) -> Result<bool, Problem> {
    Ok(link_of(links, component, link)?.1.lists_links)
}

fn link_of<'a>(
    links: &'a BTreeMap<LinkKey, LinkOutcome>,
    component: &str,
    link: &str,
) -> Result<(LinkKey, &'a LinkOutcome), Problem> {
    let key = LinkKey {
        component: component.to_owned(),
        name: link.to_owned(),
        role: crate::link::Role::Caller,
    };
    let outcome = links.get(&key).ok_or_else(|| {
        Problem::new(
            Code::NotLinked,
            format!("component {component} has no link {link} to this bus: add one to the manifest, with `namespace: fanout` and `package: bus`"),
        )
    })?;
    Ok((key, outcome))
}
