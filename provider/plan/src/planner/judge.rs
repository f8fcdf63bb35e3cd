//! Whether what is wanted can be had, and as what it is remembered.

use std::collections::{BTreeMap, BTreeSet};

use super::{Asked, Observed, Wanted, registry_share, rivals};
use crate::by_partition::ByPartition;
use crate::partition::Layout;
use crate::place::Places;
use crate::policy::Shape;
use crate::subscription::{MadeBy, Need, Progress, Registered, Subscription};
use crate::{Code, Incarnation, Policy, Problem, SubscriptionName, Timestamp, declared, named_position, out_of_reach};

/// What came of everything that is wanted.
#[derive(Default)]
pub(super) struct Judged {
    pub(super) refused: BTreeMap<usize, Problem>,
    pub(super) names: BTreeMap<usize, SubscriptionName>,
    /// The names under which others go on that had the name of one that was declared.
    pub(super) moved: BTreeSet<SubscriptionName>,
}

/// Takes what is wanted into the registry, or refuses it.
pub(super) fn judge_all(
    policy: &Policy,
    asked: Asked<'_>,
    of_another: bool,
    registry: &mut BTreeMap<SubscriptionName, Registered>,
    layout: &Layout,
    observed: &Observed,
    now: Timestamp,
) -> Judged {
    let mut judged = Judged::default();
    let mut seen = BTreeSet::new();
    let declared = if of_another {
        Vec::new()
    } else {
        declared(policy, asked.wanted, registry)
    };
    let mut all: Vec<_> = asked.wanted.iter().chain(&declared).enumerate().collect();
    // What the operator declares has its name first.
    all.sort_by_key(|(_, want)| want.made_by == MadeBy::Call);
    all.retain(|(i, want)| {
        let is_first = want.made_by == MadeBy::Call || seen.insert(remembered_as(registry, want));
        if !is_first {
            let name = &want.subscription.name;
            let problem = Problem::new(
                Code::SubscriptionConflict,
                format!("subscription {name} is declared by two links: give one of them another name"),
            );
            judged.refused.insert(*i, problem);
        }
        is_first
    });
    // A subscription that is refused for a filter of another is judged again: the other may let go of that filter below.
    loop {
        let tried = all.len();
        all.retain(|(i, want)| {
            let name = remembered_as(registry, want);
            match judge(policy, asked, registry, layout, observed, &name, want, now) {
                Ok(mut next) => {
                    if let Some(have) = registry.get(&name).filter(|_| of_another) {
                        // Sizes that nobody asked for are the other policy's.
                        next.registered.subscription.batch_size = have.subscription.batch_size;
                        next.registered.subscription.concurrency = have.subscription.concurrency;
                    }
                    if let Some(moved) = next.moved {
                        let aside = moved.subscription.name.clone();
                        judged.moved.insert(aside.clone());
                        registry.entry(aside).or_insert(moved);
                    }
                    judged.refused.remove(i);
                    judged.names.insert(*i, name.clone());
                    registry.insert(name, next.registered);
                    false
                }
                Err(problem) => {
                    let may_be_had_later = problem.code == Code::ConflictingSettings;
                    judged.refused.insert(*i, problem);
                    may_be_had_later
                }
            }
        });
        if all.is_empty() || all.len() == tried {
            break;
        }
    }
    judged
}

/// The name under which what is wanted is remembered, or would be: that of its caller's own, if it has one.
fn remembered_as(registry: &BTreeMap<SubscriptionName, Registered>, want: &Wanted) -> SubscriptionName {
    let name = &want.subscription.name;
    if want.made_by == MadeBy::Call {
        let own = name.of_caller(&want.component);
        if registry.contains_key(&own) {
            return own;
        }
    }
    name.clone()
}

/// What the policy itself declares and no link asks for.
fn declared(policy: &Policy, wanted: &[Wanted], registry: &BTreeMap<SubscriptionName, Registered>) -> Vec<Wanted> {
    policy
        .subscriptions
        .iter()
        .filter(|(name, declared)| {
            let have = registry.get(*name);
            match have {
                Some(have) if have.has_moved() => false,
                // One that was handed over stays here, whatever `at` says.
                Some(have) => declared.is_here || have.stay > 0,
                None => declared.is_here,
            }
        })
        .filter(|(name, _)| {
            wanted
                .iter()
                .all(|w| w.made_by != MadeBy::Link || w.subscription.name != **name)
        })
        .map(|(name, declared)| Wanted {
            subscription: declared.subscription(name, policy),
            component: declared.component.clone().unwrap_or_default(),
            link: String::new(),
            made_by: MadeBy::Policy,
        })
        .collect()
}

/// A subscription as it will be remembered.
struct Next {
    registered: Registered,
    /// The one that had its name until now, and goes on under another.
    moved: Option<Registered>,
}

#[allow(
    clippy::too_many_arguments,
    reason = "a judgement of one, in the light of all that is known"
)]
fn judge(
    policy: &Policy,
    asked: Asked<'_>,
    registry: &BTreeMap<SubscriptionName, Registered>,
    layout: &Layout,
    observed: &Observed,
    name: &SubscriptionName,
    want: &Wanted,
    now: Timestamp,
) -> Result<Next, Problem> {
    if let Some(unreadable) = observed.unreadable.get(name) {
        return Err(unreadable.clone());
    }
    let have = registry.get(name);
    rivals::refuse(policy, want, (name, have), observed)?;
    let subscription = Subscription {
        name: name.clone(),
        ..want.subscription.clone()
    };
    if have.is_none_or(|have| have.subscription.filter != subscription.filter) {
        let widest = layout.partitions.values().map(|p| &p.template).chain([&policy.subject]);
        let widest = widest.max_by_key(|t| t.all().len()).unwrap_or(&policy.subject);
        policy
            .limits
            .filter(name, &subscription.filter, widest, asked.max_payload)?;
        let check = match want.made_by {
            MadeBy::Call => out_of_reach::check_call,
            MadeBy::Link | MadeBy::Policy => out_of_reach::check,
        };
        check(policy, name, &subscription.filter, &want.component)?;
    }
    let new = || Registered {
        subscription: subscription.clone(),
        component: want.component.clone(),
        link: want.link.clone(),
        made_by: want.made_by,
        made_at: now,
        // Later than whatever had the name before, and was ended.
        incarnation: match observed.ended.get(name).and_then(|ended| ended.incarnation) {
            Some(ended) => Incarnation::new(now).after(ended),
            None => Incarnation::new(now),
        },
        made_as: None,
        head: observed.heads(),
        replayed: ByPartition::default(),
        delivered_before: ByPartition::default(),
        progress: Progress::Replaying,
        paused: false,
        rewound: None,
        isolated: BTreeMap::new(),
        rejoined: None,
        withheld: None,
        handed: None,
        stay: 0,
    };
    let next = match have {
        None => {
            if let Some(problem) = policy.places.as_ref().and_then(Places::retired_here)
                && subscription.is_at_one_place()
            {
                return Err(problem);
            }
            if want.made_by == MadeBy::Call {
                policy
                    .limits
                    .one_more(&subscription, &want.component, registry.values())?;
            }
            named_position::check(&subscription, layout, observed)?;
            Next {
                registered: new(),
                moved: None,
            }
        }
        Some(have) if have.yields_to(&subscription, &want.component, want.made_by) => {
            named_position::check(&subscription, layout, observed)?;
            let new = new();
            Next {
                registered: Registered {
                    incarnation: new.incarnation.after(have.incarnation),
                    ..new
                },
                moved: Some(have.moved_aside(observed.handled_to(have))),
            }
        }
        Some(have) => {
            have.can_become(&want.subscription, &want.component, want.made_by)?;
            Next {
                registered: have.with_what_is_asked(want),
                moved: None,
            }
        }
    };
    if want.made_by == MadeBy::Call {
        registry_share::check(policy, registry, observed, have, &next.registered)?;
    }
    if policy.shape == Shape::WorkQueue {
        if matches!(want.subscription.need, Need::Backfill { .. }) {
            return Err(declared::no_backfill(name));
        }
        let others = registry
            .values()
            .map(|r| &r.subscription)
            .filter(|s| s.name != *name && s.need == Need::Durable);
        for other in others {
            if want.subscription.need == Need::Durable && other.filter.may_meet(&want.subscription.filter) {
                return Err(if want.made_by == MadeBy::Call {
                    declared::meets_another(name)
                } else {
                    declared::meets(name, &other.name)
                });
            }
        }
    }
    Ok(next)
}
