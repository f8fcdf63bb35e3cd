//! Several instances of one bus, on a model of the store: each observes in two looks, plans, and takes its steps one by one,
//! with those of others between any two of them; each crashes anywhere. Meanwhile links change, components subscribe and
//! unsubscribe, tenants are placed, and the policy is given anew. Whatever the order, they end in the same topology: the
//! one that a single instance makes of what is remembered, where nothing came in between.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::{BTreeMap, BTreeSet};

use fanout_plan::TenantId;
use fanout_plan::planner::Wanted;
use fanout_plan::subscription::MadeBy;
use fanout_plan::topology::ConsumerSpec;
use proptest::prelude::*;

use crate::store::Store;
use crate::subjects::passes;
use crate::world::{Instance, NAMES, PATTERNS, SHAPES, TENANTS, World, policy, wanted};

mod store;
#[path = "../subjects/mod.rs"]
mod subjects;
mod world;

#[derive(Clone, Debug)]
enum Action {
    Look(usize),
    Plan(usize),
    Steps(usize, usize),
    Crash(usize),
    Link(usize, u32, bool),
    Call(usize, usize),
    End(usize),
    Place(usize, usize),
    Policy(usize),
    Publish(usize, usize, bool),
}

fn action() -> impl Strategy<Value = Action> {
    let instance = 0..3_usize;
    prop_oneof![
        4 => instance.clone().prop_map(Action::Look),
        6 => instance.clone().prop_map(Action::Plan),
        10 => (instance.clone(), 1..6_usize).prop_map(|(i, n)| Action::Steps(i, n)),
        2 => (instance.clone(), Just(40_usize)).prop_map(|(i, n)| Action::Steps(i, n)),
        1 => instance.clone().prop_map(Action::Crash),
        2 => (0..NAMES.len(), 1..4_u32, any::<bool>()).prop_map(|(w, c, there)| Action::Link(w, c, there)),
        2 => (instance.clone(), 0..NAMES.len()).prop_map(|(i, w)| Action::Call(i, w)),
        1 => (0..NAMES.len()).prop_map(Action::End),
        1 => (instance, 0..TENANTS.len()).prop_map(|(i, t)| Action::Place(i, t)),
        1 => (0..SHAPES.len()).prop_map(Action::Policy),
        2 => (0..TENANTS.len(), 0..PATTERNS.len(), any::<bool>()).prop_map(|(t, p, called)| Action::Publish(t, p, called)),
    ]
}

/// The one store that a single instance makes of what is remembered.
fn alone(world: &World, tenants: &[TenantId]) -> Result<Store, TestCaseError> {
    let mut single = World {
        store: Store::default(),
        policy: world.policy.clone(),
        links: world.links.clone(),
        now: 1_000_000,
        had: BTreeMap::new(),
        ended: BTreeMap::new(),
        events: Vec::new(),
    };
    // What is remembered and linked no more goes on; so does what was called for.
    for entry in world.store.held.registry.values() {
        if !single
            .links
            .iter()
            .any(|l| l.subscription.name == entry.subscription.name)
        {
            single.links.push(Wanted {
                subscription: entry.subscription.clone(),
                component: entry.component.clone(),
                link: entry.link.clone(),
                made_by: entry.made_by,
            });
        }
    }
    let mut instances = [Instance::default()];
    single.settles(&mut instances)?;
    for tenant in tenants {
        instances[0].tenant = Some(tenant.clone());
        single.settles(&mut instances)?;
    }
    Ok(single.store)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_order_all_end_in_the_same_topology(
        first in 0..SHAPES.len(),
        count in 1..4_usize,
        actions in prop::collection::vec(action(), 0..80),
    ) {
        let mut world = World {
            store: Store::default(),
            policy: policy(first, 0),
            links: vec![wanted(0, MadeBy::Link, 1)],
            now: 0,
            had: BTreeMap::new(),
            ended: BTreeMap::new(),
            events: Vec::new(),
        };
        let mut instances = vec![Instance::default(); count];
        let mut placed = BTreeSet::new();
        for (revision, action) in actions.into_iter().enumerate() {
            match action {
                Action::Look(i) => world.look(&mut instances[i % count]),
                Action::Plan(i) => {
                    let instance = &mut instances[i % count];
                    // Without a look before, it looks now.
                    if instance.seen.is_none() {
                        world.look(instance);
                    }
                    world.plan(instance);
                }
                Action::Steps(i, n) => {
                    let instance = &mut instances[i % count];
                    for _ in 0..n {
                        if !world.step(instance) {
                            break;
                        }
                    }
                }
                Action::Crash(i) => instances[i % count] = Instance::default(),
                Action::Link(which, concurrency, there) => {
                    let link = wanted(which, MadeBy::Link, concurrency);
                    world.links.retain(|l| l.subscription.name != link.subscription.name);
                    if there {
                        world.links.push(link);
                    }
                }
                Action::Call(i, which) => {
                    let call = wanted(which, MadeBy::Call, 1);
                    let calls = &mut instances[i % count].calls;
                    calls.retain(|c| c.subscription.name != call.subscription.name);
                    calls.push(call);
                }
                Action::End(which) => world.end(&wanted(which, MadeBy::Call, 1).subscription.name),
                Action::Place(i, which) => {
                    let tenant: TenantId = TENANTS[which].parse().unwrap();
                    placed.insert(which);
                    instances[i % count].tenant = Some(tenant);
                }
                Action::Policy(shape) => world.policy = policy(shape, revision + 1),
                Action::Publish(tenant, pattern, called) => {
                    let event_type = PATTERNS[pattern].replace('*', "made");
                    let event_type = if called { format!("called.{event_type}") } else { event_type };
                    let stored = world.store.publish(TENANTS[tenant], &event_type);
                    world.events.extend(stored);
                }
            }
        }

        // Callers that were not answered ask again or give up; each tenant that was placed is to have its place.
        for instance in &mut instances {
            instance.calls.clear();
        }
        world.settles(&mut instances)?;
        let tenants: Vec<TenantId> = placed.iter().map(|t| TENANTS[*t].parse().unwrap()).collect();
        for tenant in &tenants {
            instances[0].tenant = Some(tenant.clone());
            world.settles(&mut instances)?;
        }

        let links = world.links.iter();
        for link in links {
            let entry = world.store.held.registry.get(&link.subscription.name);
            prop_assert_eq!(entry.map(|e| &e.subscription), Some(&link.subscription), "a link has its subscription");
        }
        for (name, incarnation) in &world.had {
            let is_ended = world.ended.get(name).is_some_and(|ended| incarnation <= ended);
            let is_there = world.store.held.registry.contains_key(name);
            prop_assert!(is_there || is_ended, "{} was remembered, and not ended", name);
        }
        for name in world.ended.keys().filter(|name| !world.store.held.registry.contains_key(name)) {
            let left = world.store.held.topology.consumers.keys().filter(|(_, c)| c.subscription().as_ref() == Some(name));
            prop_assert_eq!(left.count(), 0, "{} was ended, and has a consumer", name);
        }
        // Tenants that have partitions of their own beside those that were placed stay where they are.
        if !matches!(world.policy.shape, fanout_plan::policy::Shape::PerTenant) || tenants.len() == TENANTS.len() {
            let single = alone(&world, &tenants)?;
            let (mut theirs, mut its) = (world.store.shape(), single.shape());
            theirs.consumers.sort();
            its.consumers.sort();
            prop_assert_eq!(theirs, its);
        }
        for (partition, offset, subject) in &world.events {
            let reads = |c: &&ConsumerSpec| c.partition == *partition && c.filter_subjects.iter().any(|f| passes(f, subject));
            let readers = world.store.held.topology.consumers.values().filter(reads);
            let subscriptions: BTreeSet<_> = readers.clone().filter_map(|c| c.name.subscription()).collect();
            prop_assert_eq!(readers.count(), subscriptions.len(), "{} at {}/{} is read once", subject, partition, offset);
        }
    }
}
