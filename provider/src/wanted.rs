//! What the links ask for, and which remembered subscriptions they leave without deliveries.

use std::collections::BTreeSet;

use fanout_plan::link::{Grant, declared_subscription};
use fanout_plan::planner::Wanted;
use fanout_plan::subscription::{MadeBy, Reach, Registered};
use fanout_plan::{Code, Problem, SubscriptionName};

use crate::jetstream::Store;
use crate::link::{Link, LinkKey, Links, Role};
use crate::view::{LinkOutcome, View};

/// The link that a subscription was declared in.
pub(crate) fn key_of(wanted: &Wanted) -> LinkKey {
    LinkKey {
        component: wanted.component.clone(),
        name: wanted.link.clone(),
        role: Role::Subscriber,
    }
}

/// Brings what components may do into the view: their links as they are now, and no others.
pub(crate) fn read_grants(links: &Links, view: &mut View) {
    view.links
        .retain(|key, _| key.role != Role::Caller || links.get(key).is_some());
    for (key, link) in links.iter().filter(|(key, _)| key.role == Role::Caller) {
        view.links.insert(key.clone(), granted(key, link));
    }
}

/// What came of a caller's link.
fn granted(key: &LinkKey, link: &Link) -> LinkOutcome {
    let mut outcome = unread(link);
    let owner = key.describe();
    match not_ours(&owner, link) {
        Some(problem) => outcome.problems.push(problem),
        None => match Grant::from_settings(&owner, &link.interfaces, &link.settings) {
            Ok(grant) => outcome.grant = Some(grant),
            Err(problems) => outcome.problems = problems,
        },
    }
    outcome
}

/// What a link came to that is not read yet.
fn unread(link: &Link) -> LinkOutcome {
    LinkOutcome {
        lists_links: link.interfaces.iter().any(|i| i == "status"),
        ..LinkOutcome::default()
    }
}

fn not_ours(owner: &str, link: &Link) -> Option<Problem> {
    (link.package != "fanout:bus").then(|| {
        Problem::new(
            Code::ConflictingSettings,
            format!(
                "{owner} is for package {}: this provider serves `fanout:bus`",
                link.package
            ),
        )
    })
}

/// Reads every link into the view; returns the subscriptions that they declare.
pub(crate) fn read_links(links: &Links, store: Option<&Store>, view: &mut View) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for (key, link) in links.iter() {
        if key.role == Role::Caller {
            view.links.insert(key.clone(), granted(key, link));
            continue;
        }
        let mut outcome = unread(link);
        let owner = key.describe();
        if let Some(problem) = not_ours(&owner, link) {
            outcome.problems.push(problem);
        } else if let Some(store) = store {
            match declared_subscription(&owner, &key.component, &link.interfaces, &link.settings, store.policy()) {
                Ok(subscription) => {
                    outcome.subscription = Some(subscription.name.clone());
                    wanted.push(Wanted {
                        subscription,
                        component: key.component.clone(),
                        link: key.name.clone(),
                        made_by: MadeBy::Link,
                    });
                }
                Err(problems) => outcome.problems = problems,
            }
        } else {
            outcome.problems.push(Problem::new(
                Code::BusNotReady,
                format!("{owner} waits: the bus has no policy in force"),
            ));
        }
        view.links.insert(key.clone(), outcome);
    }
    wanted
}

/// Why nothing is delivered to a remembered subscription, if so.
pub(crate) fn detached(registered: &Registered, declared: &BTreeSet<SubscriptionName>, view: &View) -> Option<Problem> {
    let name = &registered.subscription.name;
    let waits = "its events wait in the log for as long as they are retained";
    match registered.made_by {
        MadeBy::Link if declared.contains(name) => None,
        MadeBy::Link => Some(Problem::new(
            Code::SubscriberUnlinked,
            format!(
                "subscription {name} was declared by a link to component {} that is gone: {waits}",
                registered.component
            ),
        )),
        // Whoever it is declared for fetches it.
        MadeBy::Policy if registered.subscription.reach == Reach::Inbox => None,
        MadeBy::Policy => Some(Problem::new(
            Code::SubscriberUnlinked,
            format!(
                "subscription {name} is declared in the policy and waits for its subscriber: link a component to it; {waits}"
            ),
        )),
        MadeBy::Call => {
            let why = match view.grant(&registered.component, &registered.link) {
                Ok(grant) if !grant.subscribe => format!("link {} no longer includes `subscriber`", registered.link),
                Ok(grant) if !grant.allows.covers(&registered.subscription.filter) => {
                    format!(
                        "link {} no longer allows all of its tenants and event types",
                        registered.link
                    )
                }
                Ok(_) => return None,
                Err(problem) => problem.message,
            };
            Some(Problem::new(
                Code::SubscriberUnlinked,
                format!(
                    "subscription {name} of component {}: {why}; {waits}",
                    registered.component
                ),
            ))
        }
    }
}
