//! Instances of one bus, and what is the same for all of them.

use std::collections::{BTreeMap, VecDeque};

use fanout_plan::planner::{Asked, Observed, Wanted, plan_around};
use fanout_plan::step::{Failures, Step};
use fanout_plan::subscription::{MadeBy, Need, Reach, Registered, Subscription};
use fanout_plan::{Code, Filter, Incarnation, Policy, Problem, Settings, SubscriptionName, TenantId, Timestamp};
use proptest::prelude::*;

use crate::store::{NotTaken, Store};

pub(crate) const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
pub(crate) const SHAPES: [&str; 5] = ["shared", "sharded(2)", "sharded(3)", "per-tenant", "work-queue"];
pub(crate) const PATTERNS: [&str; 3] = ["invoice.*", "charge.*", "refund.*"];
pub(crate) const NAMES: [&str; 3] = ["invoicing", "charging", "refunding"];
/// Plans of every instance until none has a step left, at most.
pub(crate) const ROUNDS: usize = 12;

/// A policy, which wins over those with a lower number.
pub(crate) fn policy(shape: usize, revision: usize) -> Policy {
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
pub(crate) fn wanted(which: usize, made_by: MadeBy, concurrency: u32) -> Wanted {
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

/// One instance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Instance {
    /// The subscriptions of its last plan that it took to the end.
    pub(crate) known: BTreeMap<SubscriptionName, Registered>,
    /// Streams and consumers, of a look at the store.
    pub(crate) seen: Option<Observed>,
    pub(crate) steps: VecDeque<Step>,
    pub(crate) registry: BTreeMap<SubscriptionName, Registered>,
    pub(crate) failures: Failures,
    /// What its components called for, and has not been answered.
    pub(crate) calls: Vec<Wanted>,
    pub(crate) tenant: Option<TenantId>,
}

/// What is the same for all instances.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) policy: Policy,
    pub(crate) links: Vec<Wanted>,
    pub(crate) now: i64,
    /// Incarnations that the registry has had, of each name, and the newest that was ended.
    pub(crate) had: BTreeMap<SubscriptionName, Incarnation>,
    pub(crate) ended: BTreeMap<SubscriptionName, Incarnation>,
    /// Events, with the number of each subscription that was remembered and had a consumer at that time.
    pub(crate) events: Vec<(u32, u64, String)>,
}

impl World {
    pub(crate) fn time(&mut self) -> Timestamp {
        self.now += 1;
        Timestamp::from_nanoseconds(self.now)
    }

    /// Streams and consumers are read first, so that none is seen without its entry.
    pub(crate) fn look(&self, instance: &mut Instance) {
        let held = &self.store.held;
        instance.seen = Some(Observed {
            topology: held.topology.clone(),
            logs: held.logs.clone(),
            made: held.made.clone(),
            ..Observed::default()
        });
    }

    pub(crate) fn plan(&mut self, instance: &mut Instance) {
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
    pub(crate) fn step(&mut self, instance: &mut Instance) -> bool {
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

    pub(crate) fn note(&mut self, step: &Step) {
        if let Step::Remember(r) = step {
            let written = &self.store.held.registry[&r.subscription.name];
            self.had.insert(r.subscription.name.clone(), written.incarnation);
        }
    }

    pub(crate) fn end(&mut self, name: &SubscriptionName) {
        let now = self.time();
        if let Some(entry) = self.store.held.registry.get(name) {
            self.ended.insert(name.clone(), entry.incarnation);
        }
        self.store.end(name, now);
    }

    /// Every instance plans until none has anything left to do.
    pub(crate) fn settles(&mut self, instances: &mut [Instance]) -> Result<(), TestCaseError> {
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
