//! Several instances of one bus, on a model of the store: each observes in two looks, plans, and takes its steps one by one,
//! with those of others between any two of them; each crashes anywhere. Meanwhile links change, components subscribe and
//! unsubscribe, tenants are placed, and the policy is given anew. Whatever the order, they end in the same topology: the
//! one that a single instance makes of what is remembered, where nothing came in between.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fanout_plan::partition::{Keeps, Partition};
use fanout_plan::planner::{Asked, LogState, Observed, Wanted, plan_around};
use fanout_plan::remembered::remembered;
use fanout_plan::step::{Failures, Step};
use fanout_plan::subscription::{MadeBy, Need, Reach, Registered, Subscription};
use fanout_plan::topology::{ConsumerSpec, StreamSpec};
use fanout_plan::unregistered::{Made, Tombstone};
use fanout_plan::{Code, Filter, Incarnation, Policy, Problem, Settings, SubscriptionName, TenantId, Timestamp};
use proptest::prelude::*;

use crate::subjects::{meet, passes};

mod subjects;

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
const SHAPES: [&str; 5] = ["shared", "sharded(2)", "sharded(3)", "per-tenant", "work-queue"];
const PATTERNS: [&str; 3] = ["invoice.*", "charge.*", "refund.*"];
const NAMES: [&str; 3] = ["invoicing", "charging", "refunding"];
/// Plans of every instance until none has a step left, at most.
const ROUNDS: usize = 12;

/// A policy, which wins over those with a lower number.
fn policy(shape: usize, revision: usize) -> Policy {
    let settings: Settings = [
        ("bus", "payments"),
        ("subject", "payments.{tenant}.{event-type}"),
        ("topology", SHAPES[shape]),
        ("revision", &(revision + 1).to_string()),
    ]
    .iter()
    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
    .collect();
    Policy::from_settings("policy", &settings).unwrap()
}

/// A subscription that is asked for: each has types of its own, so that a work queue takes all of them.
fn wanted(which: usize, made_by: MadeBy, concurrency: u32) -> Wanted {
    let called = made_by == MadeBy::Call;
    let name = if called {
        format!("{}-called", NAMES[which])
    } else {
        NAMES[which].to_owned()
    };
    let pattern = if called {
        format!("called.{}", PATTERNS[which])
    } else {
        PATTERNS[which].to_owned()
    };
    Wanted {
        subscription: Subscription {
            name: name.parse().unwrap(),
            need: Need::Durable,
            filter: Filter::new(vec![], vec![pattern.parse().unwrap()]),
            reach: Reach::Handler,
            batch_size: 1,
            concurrency,
            tell_caught_up: false,
            scope: fanout_plan::place::Scope::Everywhere,
        },
        component: name,
        link: "default".to_owned(),
        made_by,
    }
}

/// Whether some subject passes one of these and one of those.
fn meet_any(these: &[String], those: &[String]) -> bool {
    these.iter().any(|a| those.iter().any(|b| meet(a, b)))
}

/// Why the store did not take a step.
enum NotTaken {
    /// Another instance was faster: the plan is made anew.
    Raced,
    /// The step fails, and what needs it.
    Failed(String),
}

/// The store, as instances see it.
#[derive(Clone, Debug, Default)]
struct Store {
    held: Observed,
}

impl Store {
    fn number(s: &StreamSpec) -> Option<u32> {
        s.partition.as_ref().map(|p| p.number)
    }

    fn free(&self, s: &StreamSpec) -> Result<(), NotTaken> {
        let others = self.held.topology.streams.values().filter(|o| o.name != s.name);
        let mut others = others.filter(|o| meet_any(&o.subjects, &s.subjects));
        match others.next() {
            Some(other) => Err(NotTaken::Failed(format!("10065: {} meets {}", s.name, other.name))),
            None => Ok(()),
        }
    }

    fn stream_of(&self, c: &ConsumerSpec) -> Result<&StreamSpec, NotTaken> {
        let mut streams = self.held.topology.streams.values();
        let stream = streams.find(|s| Self::number(s) == Some(c.partition));
        stream.ok_or_else(|| NotTaken::Failed(format!("10059: no partition {}", c.partition)))
    }

    /// Takes a step as the store's client and the server do. `now` is the server's time.
    fn apply(&mut self, step: &Step, now: Timestamp) -> Result<(), NotTaken> {
        match step.clone() {
            Step::CreateStream(s) => {
                if let Some(have) = self.held.topology.streams.get(&s.name) {
                    // What the server says of itself is no part of a configuration.
                    let same = StreamSpec {
                        made_at: have.made_at,
                        ..s.clone()
                    } == *have;
                    return if same { Ok(()) } else { Err(NotTaken::Raced) };
                }
                let tenants = s
                    .partition
                    .as_ref()
                    .is_some_and(|p| matches!(p.slot, fanout_plan::partition::Slot::Tenant(_)));
                self.free(&s).map_err(|e| if tenants { NotTaken::Raced } else { e })?;
                let made_at = Self::number(&s).map_or(s.made_at, |number| {
                    let log = LogState {
                        made_at: now,
                        ..LogState::default()
                    };
                    self.held.logs.insert(number, log);
                    now
                });
                self.held
                    .topology
                    .streams
                    .insert(s.name.clone(), StreamSpec { made_at, ..s });
            }
            Step::UpdateStream(s) | Step::RetireStream(s) | Step::BindStream(s) => {
                let Some(have) = self.held.topology.streams.get(&s.name) else {
                    return Err(NotTaken::Failed(format!("10059: no stream {}", s.name)));
                };
                if have.keeps() != s.keeps() {
                    return Err(NotTaken::Failed(format!("10052: {} changes what it keeps", s.name)));
                }
                self.free(&s)?;
                let made_at = match s.made_at {
                    Timestamp::EPOCH if s.partition.is_some() => have.made_at,
                    known => known,
                };
                self.held
                    .topology
                    .streams
                    .insert(s.name.clone(), StreamSpec { made_at, ..s });
            }
            Step::DeleteStream(name) => {
                let Some(gone) = self.held.topology.streams.remove(&name) else {
                    return Ok(());
                };
                let Some(number) = Self::number(&gone) else {
                    return Ok(());
                };
                assert!(
                    gone.partition.is_some_and(|p| p.is_retired()),
                    "{name} takes events, and is deleted"
                );
                assert_eq!(
                    self.held.logs[&number].messages, 0,
                    "{name} holds events, and is deleted"
                );
                self.held.logs.remove(&number);
                let gone: Vec<_> = self
                    .held
                    .topology
                    .consumers
                    .keys()
                    .filter(|(p, _)| *p == number)
                    .cloned()
                    .collect();
                for key in gone {
                    self.forget_consumer(&key);
                }
            }
            Step::CreateBucket(b) | Step::UpdateBucket(b) => {
                self.held.topology.buckets.insert(b.name.clone(), b);
            }
            Step::Remember(r) => {
                let name = r.subscription.name.clone();
                let found = self.held.registry.get(&name).cloned();
                let ended = if found.is_none() {
                    self.held.ended.get(&name).copied()
                } else {
                    None
                };
                let written = remembered(&r, found, ended).ok_or(NotTaken::Raced)?;
                self.held.ended.remove(&name);
                self.held.registry.insert(name, written);
            }
            Step::Forget(name) => self.end(&name, now),
            Step::CreateConsumer(c) => {
                let stream = self.stream_of(&c)?;
                if stream.keeps() == Keeps::WorkQueue {
                    let mut others = self.held.topology.consumers.values();
                    let is_in_the_way = |o: &&ConsumerSpec| {
                        o.partition == c.partition
                            && o.name != c.name
                            && meet_any(&o.filter_subjects, &c.filter_subjects)
                    };
                    if others.any(|o| is_in_the_way(&o)) {
                        return Err(NotTaken::Failed("10100: a filter is another's".to_owned()));
                    }
                }
                let key = (c.partition, c.name.clone());
                if let Some(have) = self.held.topology.consumers.get(&key) {
                    if have.start != c.start {
                        return Err(NotTaken::Failed("10012: where it begins can't be changed".to_owned()));
                    }
                } else {
                    self.held.made.insert(
                        key.clone(),
                        Made {
                            at: now,
                            entry: c.entry.clone(),
                        },
                    );
                }
                self.held.topology.consumers.insert(key, c);
            }
            Step::UpdateConsumer(c) => {
                let key = (c.partition, c.name.clone());
                let Some(have) = self.held.topology.consumers.get(&key) else {
                    return Err(NotTaken::Failed("10149: there is no such consumer".to_owned()));
                };
                let c = ConsumerSpec { start: have.start, ..c };
                if let Some(made) = self.held.made.get_mut(&key) {
                    made.entry.clone_from(&c.entry);
                }
                self.held.topology.consumers.insert(key, c);
            }
            Step::DeleteConsumer { partition, name } => self.forget_consumer(&(partition, name)),
        }
        Ok(())
    }

    fn forget_consumer(&mut self, key: &(u32, fanout_plan::ConsumerName)) {
        self.held.topology.consumers.remove(key);
        self.held.made.remove(key);
    }

    /// Ends a subscription: a tombstone stands for it.
    fn end(&mut self, name: &SubscriptionName, now: Timestamp) {
        if let Some(ended) = self.held.registry.remove(name) {
            let tombstone = Tombstone {
                incarnation: Some(ended.incarnation),
                at: now,
            };
            self.held.ended.insert(name.clone(), tombstone);
        }
    }

    /// Stores an event of a tenant and a type on the partition that takes it now, if there is one.
    fn publish(&mut self, tenant: &str, event_type: &str) -> Option<(u32, u64, String)> {
        let (number, subject) = {
            let layout = self.held.topology.layout();
            let partition = layout.publish_to(&tenant.parse().unwrap())?;
            let subject = partition
                .template
                .subject(&tenant.parse().unwrap(), &event_type.parse().unwrap());
            (partition.number, subject)
        };
        let log = self.held.logs.get_mut(&number)?;
        log.head += 1;
        log.messages += 1;
        log.oldest_at = Timestamp::from_nanoseconds(1);
        Some((number, log.head, subject))
    }

    /// What there is, without what depends on when it was made: partitions that take events, and their consumers.
    fn shape(&self) -> Shape {
        let layout = self.held.topology.layout();
        let takes = |number: u32| layout.partitions.get(&number).filter(|p| !p.is_retired());
        let part = |p: &Partition| format!("{} {} {:?}", p.slot, p.template, p.keeps);
        let streams = self.held.topology.streams.values();
        let side = streams.filter(|s| s.partition.is_none()).map(|s| {
            // The policy's number is said by one of them.
            format!(
                "{:?}",
                StreamSpec {
                    policy: None,
                    ..s.clone()
                }
            )
        });
        let consumers = self.held.topology.consumers.values().filter_map(|c| {
            let p = takes(c.partition)?;
            let subscription = c.name.subscription()?;
            Some(format!(
                "{subscription} on {}: {:?} {} {:?}",
                part(p),
                c.filter_subjects,
                c.max_ack_pending,
                c.ack_wait
            ))
        });
        Shape {
            partitions: layout
                .partitions
                .values()
                .filter(|p| !p.is_retired())
                .map(part)
                .collect(),
            side: side.collect(),
            buckets: self.held.topology.buckets.values().map(|b| format!("{b:?}")).collect(),
            consumers: consumers.collect(),
            registry: self
                .held
                .registry
                .values()
                .map(|r| (r.subscription.clone(), r.made_by))
                .map(|r| format!("{r:?}"))
                .collect(),
        }
    }
}

/// What two stores have in common that serve the same in the same way.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    partitions: BTreeSet<String>,
    side: BTreeSet<String>,
    buckets: BTreeSet<String>,
    consumers: Vec<String>,
    registry: BTreeSet<String>,
}

/// One instance.
#[derive(Clone, Debug, Default)]
struct Instance {
    /// The subscriptions of its last plan that it took to the end.
    known: BTreeMap<SubscriptionName, Registered>,
    /// Streams and consumers, of a look at the store.
    seen: Option<Observed>,
    steps: VecDeque<Step>,
    registry: BTreeMap<SubscriptionName, Registered>,
    failures: Failures,
    /// What its components called for, and has not been answered.
    calls: Vec<Wanted>,
    tenant: Option<TenantId>,
}

/// What is the same for all instances.
struct World {
    store: Store,
    policy: Policy,
    links: Vec<Wanted>,
    now: i64,
    /// Incarnations that the registry has had, of each name, and the newest that was ended.
    had: BTreeMap<SubscriptionName, Incarnation>,
    ended: BTreeMap<SubscriptionName, Incarnation>,
    /// Events, with the number of each subscription that was remembered and had a consumer at that time.
    events: Vec<(u32, u64, String)>,
}

impl World {
    fn time(&mut self) -> Timestamp {
        self.now += 1;
        Timestamp::from_nanoseconds(self.now)
    }

    /// Streams and consumers are read first, so that none is seen without its entry.
    fn look(&self, instance: &mut Instance) {
        let held = &self.store.held;
        instance.seen = Some(Observed {
            topology: held.topology.clone(),
            logs: held.logs.clone(),
            made: held.made.clone(),
            ..Observed::default()
        });
    }

    fn plan(&mut self, instance: &mut Instance) {
        let Some(mut observed) = instance.seen.take() else {
            return;
        };
        if observed.topology.buckets.contains_key(&self.policy.names().registry()) {
            observed.registry.clone_from(&self.store.held.registry);
            observed.ended.clone_from(&self.store.held.ended);
        }
        observed.find_missing(&instance.known);
        observed.find_unregistered();
        let wanted = [self.links.as_slice(), instance.calls.as_slice()].concat();
        let asked = Asked {
            wanted: &wanted,
            tenant: instance.tenant.as_ref(),
            ..Asked::default()
        };
        let now = self.time();
        let plan = plan_around(&self.policy, asked, &observed, now);
        instance.steps = plan.steps.into();
        instance.registry = plan.registry;
        instance.failures = Failures::default();
    }

    /// Takes the next step of an instance's plan; whether there is another.
    fn step(&mut self, instance: &mut Instance) -> bool {
        let Some(step) = instance.steps.pop_front() else {
            return false;
        };
        if instance.failures.allow(&step) {
            let now = self.time();
            match self.store.apply(&step, now) {
                Ok(()) => self.note(&step),
                Err(NotTaken::Raced) => {
                    instance.steps.clear();
                    return false;
                }
                Err(NotTaken::Failed(why)) => instance.failures.add(&step, Problem::new(Code::StoreUnavailable, why)),
            }
        }
        if instance.steps.is_empty() {
            // Its callers are answered.
            instance.calls.clear();
            instance.tenant = None;
            instance.known.clone_from(&instance.registry);
        }
        !instance.steps.is_empty()
    }

    fn note(&mut self, step: &Step) {
        if let Step::Remember(r) = step {
            let written = &self.store.held.registry[&r.subscription.name];
            self.had.insert(r.subscription.name.clone(), written.incarnation);
        }
    }

    fn end(&mut self, name: &SubscriptionName) {
        let now = self.time();
        if let Some(entry) = self.store.held.registry.get(name) {
            self.ended.insert(name.clone(), entry.incarnation);
        }
        self.store.end(name, now);
    }

    /// Every instance plans until none has anything left to do.
    fn settles(&mut self, instances: &mut [Instance]) -> Result<(), TestCaseError> {
        let mut left = Vec::new();
        for _ in 0..ROUNDS {
            left.clear();
            for instance in &mut *instances {
                self.look(instance);
                self.plan(instance);
                left.extend(instance.steps.iter().map(ToString::to_string));
                while self.step(instance) {}
                if instance.steps.is_empty() {
                    instance.known.clone_from(&instance.registry);
                }
            }
            if left.is_empty() {
                return Ok(());
            }
        }
        Err(TestCaseError::fail(format!(
            "after {ROUNDS} rounds there is still left: {left:#?}"
        )))
    }
}

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
