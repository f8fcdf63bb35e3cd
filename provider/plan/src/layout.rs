//! From the partitions that are there to those that a policy asks for.

use std::collections::BTreeSet;

use crate::partition::{Binding, Keeps, Layout, Partition, Slot};
use crate::place::{PARTITIONS, Place, Places};
use crate::policy::Shape;
use crate::{Code, Incarnation, Policy, Problem, TenantId, Timestamp};

/// The most tenants with a stream of their own. Measured on nats-server 2.15: 5,000 streams publish at 0.23 of the rate
/// of one and take five seconds to start, 1,000 publish at a third.
pub const MAX_TENANT_PARTITIONS: usize = 1_000;

/// The layout that a policy asks for, reached from `have`. `tenants` are those that must have a place now. Applying a
/// policy to its own result changes nothing.
///
/// # Errors
/// When tenants would need more streams than are sensible.
pub fn next(policy: &Policy, have: &Layout, tenants: &BTreeSet<TenantId>, now: Timestamp) -> Result<Layout, Problem> {
    belongs_here(policy, have)?;
    let mut next = have.clone();
    let generation = match have.newest() {
        Some(newest) if fits(policy, have) => newest,
        Some(newest) => newest + 1,
        None => 0,
    };
    let mut slots = slots(policy, tenants);
    if policy.shape == Shape::PerTenant {
        // A tenant that has events has a place, whether or not it is asked for now.
        let known = have.own().filter_map(|p| match &p.slot {
            Slot::Tenant(tenant) => Some(tenant.clone()),
            Slot::Whole | Slot::Shard { .. } => None,
        });
        for tenant in known {
            let slot = Slot::Tenant(tenant);
            if !slots.contains(&slot) {
                slots.push(slot);
            }
        }
        if slots.len() > MAX_TENANT_PARTITIONS {
            return Err(Problem::new(
                Code::TooManyPartitions,
                format!(
                    "`topology` = `per-tenant` would need {} streams on bus {}: at most {MAX_TENANT_PARTITIONS} are made; use `sharded(n)`, or list fewer in `tenants.allowed`",
                    slots.len(),
                    policy.bus
                ),
            ));
        }
    }
    let numbers = policy.places.as_ref().and_then(Places::own).map(Place::partitions);
    let first = numbers.as_ref().map_or(0, |numbers| numbers.start);
    let mut number = have.own().map(|p| p.number + 1).max().unwrap_or(first);
    for slot in slots {
        let there = next.own().any(|p| p.generation == generation && p.slot == slot);
        if there {
            continue;
        }
        if numbers.as_ref().is_some_and(|numbers| !numbers.contains(&number)) {
            return Err(Problem::new(
                Code::TooManyPartitions,
                format!(
                    "bus {} has used up the {PARTITIONS} partition numbers of its place: use another bus name",
                    policy.bus
                ),
            ));
        }
        let mut partition = Partition {
            number,
            generation,
            slot,
            keeps: keeps(policy),
            template: policy.subject.clone(),
            binding: Binding::Internal,
            log: Incarnation::default(),
            place: policy.places.as_ref().map(|places| places.here.clone()),
        };
        partition.binding = partition.settled_binding();
        next.partitions.insert(number, partition);
        number += 1;
    }
    for p in next.partitions.values_mut().filter(|p| !p.is_mirror()) {
        if p.generation < generation && !p.is_retired() {
            p.binding = Binding::Retired(now);
        } else if p.generation == generation {
            p.binding = p.settled_binding();
        }
    }
    Ok(next)
}

/// Whether the log is that of this place: each of its positions is to mean one event wherever it is read.
fn belongs_here(policy: &Policy, have: &Layout) -> Result<(), Problem> {
    let conflict = |why: String| {
        let bus = &policy.bus;
        Err(Problem::new(Code::PlaceConflict, format!("bus {bus}: {why}")))
    };
    let Some(places) = &policy.places else {
        return match have.partitions.values().find_map(|p| p.place.as_ref()) {
            Some(place) => conflict(format!(
                "this store is place {place}'s, and the policy has no places: give this instance the policy that has them"
            )),
            None => Ok(()),
        };
    };
    let numbers = places.own().map(Place::partitions).unwrap_or_default();
    for p in have.own() {
        if let Some(other) = p.place.as_ref().filter(|place| **place != places.here) {
            return conflict(format!(
                "this store is place {other}'s, and this instance says that it is at {}: correct its `place`, or `places.{}.jetstream.domain`",
                places.here, places.here
            ));
        }
        if !numbers.contains(&p.number) {
            return conflict(format!(
                "its log has partition {}, which is a number of the place with `number` = {}: give place {} that number, so that positions stay what they were",
                p.number,
                p.number / PARTITIONS,
                places.here
            ));
        }
    }
    Ok(())
}

/// Whether the newest partitions are those that a policy asks for; if not, its plan is a change of the topology.
pub fn fits(policy: &Policy, have: &Layout) -> bool {
    have.newest().is_some_and(|newest| {
        have.own()
            .filter(|p| p.generation == newest)
            .all(|p| !p.is_retired() && is_of(policy, p))
    })
}

/// Whether a partition is one that the policy would make.
fn is_of(policy: &Policy, p: &Partition) -> bool {
    let shape = match (&policy.shape, &p.slot) {
        (Shape::Shared | Shape::WorkQueue, Slot::Whole) => true,
        (Shape::Sharded(n), Slot::Shard { of, .. }) => n == of,
        (Shape::PerTenant, Slot::Tenant(_)) => true,
        _ => false,
    };
    let here = policy.places.as_ref().map(|places| &places.here);
    shape && p.place.as_ref() == here && p.keeps == keeps(policy) && p.template == policy.subject
}

fn keeps(policy: &Policy) -> Keeps {
    match policy.shape {
        Shape::WorkQueue => Keeps::WorkQueue,
        Shape::Shared | Shape::Sharded(_) | Shape::PerTenant => Keeps::Log,
    }
}

fn slots(policy: &Policy, tenants: &BTreeSet<TenantId>) -> Vec<Slot> {
    match policy.shape {
        Shape::Shared | Shape::WorkQueue => vec![Slot::Whole],
        Shape::Sharded(of) => (0..of).map(|index| Slot::Shard { index, of }).collect(),
        Shape::PerTenant => {
            let all: BTreeSet<_> = policy.tenants.iter().chain(tenants).collect();
            all.into_iter().cloned().map(Slot::Tenant).collect()
        }
    }
}
