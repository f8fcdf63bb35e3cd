//! From what is wanted and what is observed to the steps between: the one path for start-up, a new, changed or deleted
//! link, a component's call and a reconnect.

use std::collections::{BTreeMap, BTreeSet};

use crate::account::{self, Account};
use crate::by_partition::ByPartition;
use crate::partition::{Keeps, Layout, Partition};
use crate::policy::Shape;
use crate::step::{self, Step};
use crate::subscription::{MadeBy, Need, Progress, Registered, Subscription};
use crate::topology::{self, Topology};
use crate::{Code, Policy, Problem, SubscriptionName, TenantId, declared, layout, loss, places};

/// A subscription that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What.
    pub subscription: Subscription,
    /// For whom.
    pub component: String,
    /// Through which link.
    pub link: String,
    /// How it is asked for.
    pub made_by: MadeBy,
}

/// What a stream holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last offset; 0 when nothing was ever stored.
    pub head: u64,
    /// Events that it holds.
    pub messages: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// When the oldest was stored, nanoseconds since the Unix epoch.
    pub oldest_at: i64,
}

/// What the store holds for a bus now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Streams, buckets and those consumers that Fanout made.
    pub topology: Topology,
    /// The remembered subscriptions.
    pub registry: BTreeMap<SubscriptionName, Registered>,
    /// Each partition of the log.
    pub logs: BTreeMap<u32, LogState>,
    /// The dead letters.
    pub dead_letters: LogState,
    /// The account's other streams, and the subjects that each holds.
    pub others: BTreeMap<String, Vec<String>>,
    /// What the account may have; `None` where it is not known.
    pub account: Option<Account>,
}

impl Observed {
    /// Each partition's last offset.
    pub fn heads(&self) -> ByPartition {
        self.logs
            .iter()
            .map(|(partition, log)| (*partition, log.head))
            .collect()
    }
}

/// What to do, and what comes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are to be taken.
    pub steps: Vec<Step>,
    /// The subscriptions as they will be remembered.
    pub registry: BTreeMap<SubscriptionName, Registered>,
    /// The partitions as they will be.
    pub layout: Layout,
    /// What was wanted and can't be had, by its place among the wanted.
    pub refused: BTreeMap<usize, Problem>,
}

/// What is asked of a bus besides its policy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// The subscriptions that links and components ask for.
    pub wanted: &'a [Wanted],
    /// A tenant that must have a place in the log now.
    pub tenant: Option<&'a TenantId>,
    /// The partitions stay as they are, although the policy asks for others.
    pub keep_partitions: bool,
}

/// Plans. `now` is in nanoseconds since the Unix epoch.
///
/// # Errors
/// Every reason for which the bus as a whole can't be brought to its policy. Refused subscriptions are no such reason:
/// they are part of the plan.
pub fn plan(policy: &Policy, asked: Asked<'_>, observed: &Observed, now: i64) -> Result<Plan, Vec<Problem>> {
    let have = observed.topology.layout();
    let tenants = asked.tenant.into_iter().cloned().collect();
    let mut layout = if asked.keep_partitions {
        have.clone()
    } else {
        layout::next(policy, &have, &tenants, now).map_err(|p| vec![p])?
    };
    // The last one stays, so that no number is given twice.
    let last = layout.partitions.keys().max().copied();
    layout
        .partitions
        .retain(|number, _| Some(*number) == last || !is_over(have.partitions.get(number), observed, now));

    let mut registry = observed.registry.clone();
    for registered in registry.values_mut() {
        // A partition that is not there any more, or was made again after someone had deleted it, begins anew.
        registered
            .head
            .0
            .retain(|number, _| have.partitions.contains_key(number));
    }
    let mut forget = Vec::new();
    registry.retain(|name, r| {
        let over = r.made_by == MadeBy::Policy
            && !policy.subscriptions.contains_key(name)
            && policy.allows_loss(&format!("subscriptions.{name}"));
        if over {
            forget.push(Step::Forget(name.clone()));
        }
        !over
    });
    let mut refused = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let declared = declared(policy, asked.wanted);
    for (i, want) in asked.wanted.iter().chain(&declared).enumerate() {
        let name = &want.subscription.name;
        let judged = if seen.insert(name.clone()) {
            judge(policy, &registry, &layout, observed, want, now)
        } else {
            Err(Problem::new(
                Code::SubscriptionConflict,
                format!("subscription {name} is declared by two links: give one of them another name"),
            ))
        };
        match judged {
            Ok(next) => drop(registry.insert(name.clone(), next)),
            Err(problem) => drop(refused.insert(i, problem)),
        }
    }
    for registered in registry.values_mut() {
        // What goes with this plan is forgotten with it.
        registered
            .head
            .0
            .retain(|number, _| layout.partitions.contains_key(number));
    }
    let mut problems = Vec::new();
    if policy.shape == Shape::WorkQueue {
        problems = no_work_queue(&registry);
    }
    let remember = registry
        .iter()
        .filter(|(name, r)| observed.registry.get(*name) != Some(*r))
        .map(|(_, r)| Step::Remember(Box::new(r.clone())));
    let mut desired = reached(policy, &layout, &registry, observed);
    if asked.keep_partitions {
        // Their limits are those of the policy that they were made for.
        desired.streams.extend(observed.topology.streams.clone());
    }
    problems.extend(loss::check(policy, observed, &desired, now));
    let diff = match step::diff(&observed.topology, &desired) {
        Ok(diff) => diff,
        Err(more) => {
            problems.splice(0..0, more);
            step::Diff::default()
        }
    };
    let stores = [diff.stores.as_slice(), diff.turn.as_slice()].concat();
    problems.extend(account::check(policy, observed, &stores));
    if !problems.is_empty() {
        return Err(problems);
    }
    // A subscription is remembered before its consumer is made: after a crash in between, the consumer is made again;
    // the other way round it would be an orphan that another instance deletes.
    let steps = diff
        .stores
        .into_iter()
        .chain(forget)
        .chain(remember)
        .chain(diff.consumers)
        .chain(diff.turn)
        .collect();
    Ok(Plan {
        steps,
        registry,
        layout,
        refused,
    })
}

/// Why remembered subscriptions can't live on a work queue.
fn no_work_queue(registry: &BTreeMap<SubscriptionName, Registered>) -> Vec<Problem> {
    let going_on = || {
        registry
            .values()
            .filter(|r| r.progress != Progress::Finished)
            .map(|r| &r.subscription)
    };
    let backfills = going_on()
        .filter(|s| matches!(s.need, Need::Backfill { .. }))
        .map(|s| declared::no_backfill(&s.name));
    let crossing = declared::crossing(going_on().map(|s| (&s.name, &s.need, &s.filter)));
    backfills.chain(crossing).collect()
}

/// What the store would hold for a policy once its plan is applied, and nothing else is asked of it.
///
/// # Errors
/// As [`plan`].
pub fn desired(policy: &Policy, observed: &Observed) -> Result<Topology, Vec<Problem>> {
    let plan = plan(policy, Asked::default(), observed, 0)?;
    Ok(reached(policy, &plan.layout, &plan.registry, observed))
}

/// What the store must hold in the end.
fn reached(
    policy: &Policy,
    layout: &Layout,
    registry: &BTreeMap<SubscriptionName, Registered>,
    observed: &Observed,
) -> Topology {
    let mut desired = topology::topology(policy, layout, registry.values());
    for spec in desired.streams.values_mut() {
        let retired = spec.partition.as_ref().is_some_and(Partition::is_retired);
        if let Some(have) = observed.topology.streams.get(&spec.name).filter(|_| retired) {
            // What a retired stream holds was stored under the earlier policy: it keeps that one's limits.
            spec.max_age = spec.max_age.max(have.max_age);
            spec.max_bytes = have.max_bytes;
            spec.storage = have.storage;
        }
    }
    // A retired work queue goes on with the filters that it had: new ones may meet (10100), and what it holds was stored
    // under the old ones.
    for (key, c) in &mut desired.consumers {
        let partition = layout.partitions.get(&c.partition);
        if partition.is_some_and(|p| p.is_retired() && p.keeps == Keeps::WorkQueue)
            && let Some(have) = observed.topology.consumers.get(key)
        {
            c.filter_subjects = have.filter_subjects.clone();
        }
    }
    // Where a partition that was found retired has nothing for a subscription, it never will, and needs no consumer.
    let found = observed.topology.layout();
    desired.consumers.retain(|(number, _), c| {
        let retired = found.partitions.get(number).is_some_and(Partition::is_retired);
        let head = observed.logs.get(number).map_or(0, |log| log.head);
        !(retired && matches!(c.start, topology::ConsumerStart::Offset(o) if o > head))
    });
    desired
}

/// Whether a partition has nothing more to give: it was found retired, so that nothing can come any more, and empty, and
/// it need not know repeats any more of what it held.
fn is_over(found: Option<&Partition>, observed: &Observed, now: i64) -> bool {
    let Some((partition, at)) = found.and_then(|p| Some((p, p.retired_at()?))) else {
        return false;
    };
    let stream = observed
        .topology
        .streams
        .values()
        .find(|s| s.partition.as_ref().is_some_and(|p| p.number == partition.number));
    let remembers = stream.map_or(0, |s| i64::try_from(s.dedupe_window.as_nanos()).unwrap_or(i64::MAX));
    let log = observed.logs.get(&partition.number);
    log.is_some_and(|log| log.messages == 0 && (log.head == 0 || now.saturating_sub(at) > remembers))
}

/// What the policy itself declares and no link asks for.
fn declared(policy: &Policy, wanted: &[Wanted]) -> Vec<Wanted> {
    policy
        .subscriptions
        .iter()
        .filter(|(name, _)| wanted.iter().all(|w| w.subscription.name != **name))
        .map(|(name, declared)| Wanted {
            subscription: declared.subscription(name, policy),
            component: declared.component.clone().unwrap_or_default(),
            link: String::new(),
            made_by: MadeBy::Policy,
        })
        .collect()
}

/// The subscription as it will be remembered.
fn judge(
    policy: &Policy,
    registry: &BTreeMap<SubscriptionName, Registered>,
    layout: &Layout,
    observed: &Observed,
    want: &Wanted,
    now: i64,
) -> Result<Registered, Problem> {
    let name = &want.subscription.name;
    let next = match registry.get(name) {
        None => {
            places::check(&want.subscription, layout, observed)?;
            Registered {
                subscription: want.subscription.clone(),
                component: want.component.clone(),
                link: want.link.clone(),
                made_by: want.made_by,
                made_at: now,
                head: observed.heads(),
                replayed: ByPartition::default(),
                progress: Progress::Replaying,
                paused: false,
                rewound: None,
                apart: BTreeMap::new(),
                joined: None,
            }
        }
        Some(have) => {
            have.can_become(&want.subscription, &want.component, want.made_by)?;
            have.with_what_is_asked(want)
        }
    };
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
                return Err(declared::meets(name, &other.name));
            }
        }
    }
    Ok(next)
}

#[cfg(test)]
mod tests;
