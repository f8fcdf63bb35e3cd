//! What the store must hold in the end: what the policy and the subscriptions need, in the light of what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Observed;
use crate::account::Account;
use crate::floor::Floor;
use crate::partition::{Keeps, Layout, Partition};
use crate::subscription::{Progress, Registered};
use crate::topology::{self, StreamSpec, Topology};
use crate::{Code, Policy, Problem, SubscriptionName, Timestamp, account, entry, loss};

/// What the store must hold in the end.
pub(super) fn reached(
    policy: &Policy,
    layout: &Layout,
    registry: &BTreeMap<SubscriptionName, Registered>,
    observed: &Observed,
) -> Topology {
    let mut desired = topology::topology(policy, layout, registry.values());
    place_leases(policy, observed, &mut desired);
    for (name, have) in &observed.topology.streams {
        // Of a place that the policy does not have any more.
        if let Some(spec) = desired.streams.get_mut(name)
            && spec.mirror.is_none()
            && have.mirror.is_some()
        {
            spec.clone_from(have);
            // Once nothing is lost with it, its servers may be gone.
            if let Some(p) = &have.partition
                && let Some(place) = &p.place
            {
                spec.let_go = loss::may_go_without(policy, p.number, place, observed);
            }
        }
    }
    for spec in desired.streams.values_mut().filter(|s| s.partition.is_none()) {
        if let Some(have) = observed.topology.streams.get(&spec.name).filter(|have| have.by_hand) {
            keep_bounds(policy, have, spec);
        }
    }
    for spec in desired.streams.values_mut() {
        if let Some(p) = &spec.partition {
            spec.made_at = observed.logs.get(&p.number).map_or(Timestamp::EPOCH, |log| log.made_at);
        }
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
    begin_where_they_were(&mut desired, layout, observed);
    // Where a partition that was found retired has nothing for a subscription, it never will, and needs no consumer.
    let found = observed.topology.layout();
    desired.consumers.retain(|(number, _), c| {
        let retired = found.partitions.get(number).is_some_and(Partition::is_retired);
        let head = observed.logs.get(number).map_or(0, |log| log.head);
        !(retired && matches!(c.start, topology::ConsumerStart::Offset(o) if o > head))
    });
    for registered in registry.values() {
        let consumer = registered.consumer_name();
        let mut keys = layout.partitions.keys().rev().map(|number| (*number, consumer.clone()));
        if let Some(key) = keys.find(|key| desired.consumers.contains_key(key))
            && let Some(newest) = desired.consumers.get_mut(&key)
        {
            newest.entry = entry::with_consumer(registered);
        }
    }
    desired
}

/// Leases stay where they are; an account without memory for them has them where the rest is.
pub(crate) fn place_leases(policy: &Policy, observed: &Observed, desired: &mut Topology) {
    let name = policy.names().leases();
    let Some(leases) = desired.buckets.get_mut(&name) else {
        return;
    };
    let has_memory = |a: &Account| a.has_memory_for(leases.replicas, leases.max_bytes);
    leases.storage = match observed.topology.buckets.get(&name) {
        Some(have) => have.storage,
        None if observed.account.as_ref().is_none_or(has_memory) => leases.storage,
        None => policy.retention.storage,
    };
}

/// Leaves a stream the bounds that an operator gave it by hand, where the policy does not name them. No bound at all is
/// none of them.
fn keep_bounds(policy: &Policy, have: &StreamSpec, spec: &mut StreamSpec) {
    let asked = (spec.max_bytes, spec.max_messages);
    if have.max_bytes > 0 && !policy.names_bound(account::size_setting(spec)) {
        spec.max_bytes = have.max_bytes;
    }
    let is_named = account::count_setting(spec).is_some_and(|setting| policy.names_bound(setting));
    if have.max_messages > 0 && !is_named {
        spec.max_messages = have.max_messages;
    }
    spec.by_hand = asked != (spec.max_bytes, spec.max_messages);
}

/// Leaves what is there as it is: streams, buckets, and how long and how much consumers wait for. Only which log a stream is,
/// is still said.
pub(super) fn keep(desired: &mut Topology, others: &BTreeSet<u32>, layout: &Layout, observed: &Observed) {
    desired.streams.extend(observed.topology.streams.clone());
    desired.buckets.extend(observed.topology.buckets.clone());
    for spec in desired.streams.values_mut() {
        if let Some(p) = spec.partition.as_mut().filter(|p| others.contains(&p.number)) {
            p.log = layout.partitions.get(&p.number).map_or(p.log, |now| now.log);
            spec.made_at = observed.logs.get(&p.number).map_or(Timestamp::EPOCH, |log| log.made_at);
        }
    }
    for (key, c) in &mut desired.consumers {
        if let Some(have) = observed.topology.consumers.get(key) {
            (c.ack_wait, c.max_ack_pending) = (have.ack_wait, have.max_ack_pending);
        }
    }
}

/// Lets consumers that were there before, and have to be made again, begin where their events were settled to.
fn begin_where_they_were(desired: &mut Topology, layout: &Layout, observed: &Observed) {
    for (key, c) in &mut desired.consumers {
        // A work queue delivers what nobody has settled, from its first event on (10101).
        let partition = layout.partitions.get(&c.partition).filter(|p| p.keeps == Keeps::Log);
        let (Some(partition), Some(log)) = (partition, observed.logs.get(&c.partition)) else {
            continue;
        };
        // None at all says nothing of where it began.
        let says = |floor: &&Floor| floor.settled_to > 0 && floor.is_of(partition.log, log);
        let floor = observed.floors.get(key).filter(says);
        if let Some(floor) = floor.filter(|_| !observed.topology.consumers.contains_key(key)) {
            c.start = topology::ConsumerStart::Offset(floor.settled_to + 1);
        }
    }
}

/// Notes what those of a subscription's consumers had delivered that have to be made again, and begin before that.
pub(super) fn note_given(registered: &mut Registered, layout: &Layout, observed: &Observed) {
    let mut given = BTreeMap::new();
    if registered.progress == Progress::Finished {
        return;
    }
    for partition in layout.partitions.values() {
        let number = partition.number;
        let state = observed
            .logs
            .get(&number)
            .filter(|_| !observed.unread.contains_key(&number));
        let Some(state) = state else { continue };
        for reader in registered.readers(partition) {
            let key = (number, registered.consumer_of(&reader));
            let comes_again =
                |floor: &&Floor| floor.is_of(partition.log, state) && floor.delivered_to > floor.settled_to;
            let floor = observed.floors.get(&key).filter(comes_again);
            if let Some(floor) = floor.filter(|_| !observed.topology.consumers.contains_key(&key)) {
                let most = given.entry(number).or_insert(0);
                *most = floor.delivered_to.max(*most);
            }
        }
    }
    for (number, to) in given {
        let before = registered.delivered_before.0.entry(number).or_insert(0);
        *before = to.max(*before);
    }
}

/// Whether a partition has nothing more to give: it was found retired, so that nothing can come any more, and empty, and
/// it need not know repeats any more of what it held.
pub(super) fn is_over(found: Option<&Partition>, observed: &Observed, now: Timestamp) -> bool {
    let Some((partition, at)) = found.and_then(|p| Some((p, p.retired_at()?))) else {
        return false;
    };
    let stream = observed
        .topology
        .streams
        .values()
        .find(|s| s.partition.as_ref().is_some_and(|p| p.number == partition.number));
    let remembers = stream.map_or(Duration::ZERO, |s| s.dedupe_window);
    let log = observed.logs.get(&partition.number);
    log.is_some_and(|log| log.messages == 0 && (log.head == 0 || now.since(at) > remembers))
}

/// Takes out of what the store must hold what can't or must not be touched; says for which subscriptions that is.
pub(super) fn leave_alone(
    desired: &mut Topology,
    registry: &BTreeMap<SubscriptionName, Registered>,
    over: &BTreeSet<SubscriptionName>,
    observed: &Observed,
) -> BTreeMap<SubscriptionName, Problem> {
    let mut stuck = observed.unreadable.clone();
    desired.consumers.retain(|(partition, consumer), _| {
        let Some(name) = consumer.subscription().filter(|n| registry.contains_key(n)) else {
            return true;
        };
        if observed.foreign_consumers.contains(&(*partition, consumer.clone())) {
            let problem = Problem::new(
                Code::ForeignTopology,
                format!(
                    "subscription {name}: consumer {consumer} of partition {partition} exists and was not made by Fanout: remove it, or use another name"
                ),
            );
            stuck.entry(name).or_insert(problem);
            return false;
        }
        if let Some(unread) = observed.unread.get(partition) {
            stuck.entry(name).or_insert_with(|| unread.clone());
            return false;
        }
        true
    });
    // One goes by what the registry says of its subscription: that it has others now, or that it was ended.
    for (key, have) in &observed.topology.consumers {
        let goes = key.1.subscription().is_some_and(|name| {
            let ended = over.contains(&name) || observed.ended.contains_key(&name);
            !observed.unreadable.contains_key(&name) && (ended || registry.contains_key(&name))
        });
        if !goes {
            desired.consumers.insert(key.clone(), have.clone());
        }
    }
    stuck
}
