//! From the partitions that are there to those that a policy asks for.

use std::collections::BTreeSet;

use crate::partition::{Binding, Keeps, Layout, Partition, Slot};
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
    let mut next = have.clone();
    let generation = match have.newest() {
        Some(newest) if fits(policy, have) => newest,
        Some(newest) => newest + 1,
        None => 0,
    };
    let mut slots = slots(policy, tenants);
    if policy.shape == Shape::PerTenant {
        // A tenant that has events has a place, whether or not it is asked for now.
        let known = have.partitions.values().filter_map(|p| match &p.slot {
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
    let mut number = have.partitions.keys().max().map_or(0, |n| n + 1);
    for slot in slots {
        let there = next
            .partitions
            .values()
            .any(|p| p.generation == generation && p.slot == slot);
        if there {
            continue;
        }
        let mut partition = Partition {
            number,
            generation,
            slot,
            keeps: keeps(policy),
            template: policy.subject.clone(),
            binding: Binding::Internal,
            log: Incarnation::default(),
        };
        partition.binding = partition.settled_binding();
        next.partitions.insert(number, partition);
        number += 1;
    }
    for p in next.partitions.values_mut() {
        if p.generation < generation && !p.is_retired() {
            p.binding = Binding::Retired(now);
        } else if p.generation == generation {
            p.binding = p.settled_binding();
        }
    }
    Ok(next)
}

/// Whether the newest partitions are those that a policy asks for; if not, its plan is a change of the topology.
pub fn fits(policy: &Policy, have: &Layout) -> bool {
    have.newest().is_some_and(|newest| {
        have.partitions
            .values()
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
    shape && p.keeps == keeps(policy) && p.template == policy.subject
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
