//! Changes of a bus's topology on a model of the store: events are published between any two steps, an instance crashes
//! after any of them, and whatever happens each event is in one place from which each subscription that wants it reads.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::BTreeMap;
use std::time::Duration;

use fanout_plan::partition::{Keeps, Layout};
use fanout_plan::planner::{Asked, LogState, Observed, Wanted, plan};
use fanout_plan::step::Step;
use fanout_plan::subscription::{MadeBy, Need, Reach, Subscription};
use fanout_plan::topology::ConsumerStart;
use fanout_plan::{Filter, Policy, Position, Settings, TenantId, Timestamp};
use proptest::prelude::*;

use crate::subjects::{meet, passes};

mod subjects;

const TEMPLATES: [&str; 3] = [
    "payments.{tenant}.webhook.{event-type}",
    "billing.{tenant}.{event-type}",
    "payments.{tenant}.{event-type}",
];
const TENANTS: [&str; 5] = ["acme", "globex", "initech", "hooli", "umbrella"];
const TYPES: [&str; 3] = ["invoice.paid", "invoice.sent", "charge.made"];

fn policy(shape: &str, template: usize, more: &[(&str, &str)]) -> Policy {
    let settings: Settings = [
        ("bus", "payments"),
        ("subject", TEMPLATES[template]),
        ("topology", shape),
    ]
    .iter()
    .chain(more)
    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
    .collect();
    Policy::from_settings("policy", &settings).unwrap()
}

fn wanted() -> Vec<Wanted> {
    [("invoicing", "invoice.*"), ("charging", "charge.*")]
        .map(|(name, pattern)| Wanted {
            subscription: Subscription {
                name: name.parse().unwrap(),
                need: Need::Durable,
                filter: Filter::new(vec![], vec![pattern.parse().unwrap()]),
                reach: Reach::Handler,
                batch_size: 1,
                concurrency: 4,
                tell_caught_up: false,
                scope: fanout_plan::place::Scope::Everywhere,
            },
            component: name.into(),
            link: "default".into(),
            made_by: MadeBy::Link,
        })
        .into()
}

/// An event as a stream stored it.
#[derive(Clone, Debug)]
struct Stored {
    subject: String,
    event: usize,
}

/// The store, as far as the planner and a publisher see it.
#[derive(Clone, Debug, Default)]
struct Store {
    held: Observed,
    logs: BTreeMap<u32, Vec<Stored>>,
    refused: usize,
}

impl Store {
    fn apply(&mut self, step: &Step) {
        let topology = &mut self.held.topology;
        match step.clone() {
            Step::CreateStream(s) => {
                for other in topology.streams.values() {
                    for (a, b) in s
                        .subjects
                        .iter()
                        .flat_map(|a| other.subjects.iter().map(move |b| (a, b)))
                    {
                        assert!(!meet(a, b), "10065: {} on {a} meets {} on {b}", s.name, other.name);
                    }
                }
                if let Some(p) = &s.partition {
                    self.held.logs.insert(p.number, LogState::default());
                }
                topology.streams.insert(s.name.clone(), s);
            }
            Step::UpdateStream(s) | Step::RetireStream(s) | Step::BindStream(s) => {
                for other in topology.streams.values().filter(|o| o.name != s.name) {
                    for (a, b) in s
                        .subjects
                        .iter()
                        .flat_map(|a| other.subjects.iter().map(move |b| (a, b)))
                    {
                        assert!(!meet(a, b), "10065: {} on {a} meets {} on {b}", s.name, other.name);
                    }
                }
                assert_eq!(topology.streams[&s.name].keeps(), s.keeps(), "the server forbids it");
                topology.streams.insert(s.name.clone(), s);
            }
            Step::DeleteStream(name) => {
                let number = topology.streams[&name].partition.as_ref().unwrap().number;
                assert_eq!(self.held.logs[&number].messages, 0, "only an empty stream goes");
                topology.streams.remove(&name);
                topology.consumers.retain(|(p, _), _| *p != number);
                self.held.logs.remove(&number);
            }
            Step::CreateBucket(b) | Step::UpdateBucket(b) => drop(topology.buckets.insert(b.name.clone(), b)),
            Step::Remember(r) => drop(self.held.registry.insert(r.subscription.name.clone(), *r)),
            Step::Forget(name) => drop(self.held.registry.remove(&name)),
            Step::CreateConsumer(c) | Step::UpdateConsumer(c) => {
                let stream = topology
                    .streams
                    .values()
                    .find(|s| s.partition.as_ref().is_some_and(|p| p.number == c.partition));
                if stream.unwrap().keeps() == Keeps::WorkQueue {
                    assert_eq!(c.start, ConsumerStart::First, "10101");
                    for other in topology
                        .consumers
                        .values()
                        .filter(|o| o.partition == c.partition && o.name != c.name)
                    {
                        for (a, b) in c
                            .filter_subjects
                            .iter()
                            .flat_map(|a| other.filter_subjects.iter().map(move |b| (a, b)))
                        {
                            assert!(!meet(a, b), "10100: {a} meets {b}");
                        }
                    }
                }
                topology.consumers.insert((c.partition, c.name.clone()), c);
            }
            Step::DeleteConsumer { partition, name } => drop(topology.consumers.remove(&(partition, name))),
        }
    }

    /// Publishes as an instance does that last saw `layout`; what no stream takes is refused to its publisher.
    fn publish(&mut self, layout: &Layout, policy: &Policy, tenant: &str, event_type: &str, event: usize) {
        let tenant: TenantId = tenant.parse().unwrap();
        let Some(partition) = layout.publish_to(&tenant) else {
            self.refused += 1;
            return;
        };
        let own = partition.template.subject(&tenant, &event_type.parse().unwrap());
        let subject = partition.publish_subject(&policy.names(), &own);
        let takers: Vec<_> = self
            .held
            .topology
            .streams
            .values()
            .filter(|s| s.subjects.iter().any(|f| passes(f, &subject)))
            .cloned()
            .collect();
        assert!(takers.len() <= 1, "{subject} is stored {} times", takers.len());
        // A publisher names the stream that it means, and the server refuses another.
        let name = policy.names().partition(partition.number);
        let Some(taker) = takers.first().filter(|s| s.name == name) else {
            self.refused += 1;
            return;
        };
        let stored = taker
            .strips
            .as_ref()
            .and_then(|prefix| subject.strip_prefix(prefix.as_str()))
            .unwrap_or(&subject);
        assert_eq!(stored, own, "it is stored under its own subject");
        let number = partition.number;
        self.logs
            .entry(number)
            .or_default()
            .push(Stored { subject: own, event });
        let log = self.held.logs.get_mut(&number).unwrap();
        log.head += 1;
        log.messages += 1;
        log.oldest_at = Timestamp::from_nanoseconds(1);
    }

    /// Every stored event can be read by the one subscription that wants it, and by no other.
    fn nothing_is_out_of_reach(&self) {
        for (number, log) in &self.logs {
            for (i, stored) in log.iter().enumerate() {
                let offset = i as u64 + 1;
                let readers: Vec<_> = self
                    .held
                    .topology
                    .consumers
                    .values()
                    .filter(|c| c.partition == *number)
                    .filter(|c| c.filter_subjects.iter().any(|f| passes(f, &stored.subject)))
                    .filter(|c| match c.start {
                        ConsumerStart::First => true,
                        ConsumerStart::Offset(o) => offset >= o,
                        ConsumerStart::Time(_) | ConsumerStart::New => false,
                    })
                    .filter_map(|c| c.name.subscription())
                    .map(String::from)
                    .collect();
                let wants = if stored.subject.contains("invoice") {
                    "invoicing"
                } else {
                    "charging"
                };
                let place = Position::new(*number, offset);
                assert_eq!(
                    readers,
                    [wants],
                    "event {} on {} at {place}",
                    stored.event,
                    stored.subject
                );
            }
        }
    }

    /// What is retired has been read and has expired.
    fn expire(&mut self) {
        for (number, p) in &self.held.topology.layout().partitions {
            if p.is_retired() {
                self.logs.remove(number);
                if let Some(log) = self.held.logs.get_mut(number) {
                    log.messages = 0;
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Change {
    shape: &'static str,
    template: usize,
    /// After how many steps of each try the instance crashes; the last try gets to the end.
    crashes: Vec<usize>,
    /// What is published, and after how many steps in all; whether by an instance that has not seen them.
    traffic: Vec<(usize, usize, usize, bool)>,
    expires: bool,
}

fn change() -> impl Strategy<Value = Change> {
    (
        prop::sample::select(vec!["shared", "sharded(2)", "sharded(3)", "per-tenant", "work-queue"]),
        0..TEMPLATES.len(),
        prop::collection::vec(0usize..20, 0..3),
        prop::collection::vec((0usize..30, 0..TENANTS.len(), 0..TYPES.len(), any::<bool>()), 0..12),
        any::<bool>(),
    )
        .prop_map(|(shape, template, crashes, traffic, expires)| Change {
            shape,
            template,
            crashes,
            traffic,
            expires,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_cut_short_is_finished_and_nothing_is_lost(changes in prop::collection::vec(change(), 1..5)) {
        let wanted = wanted();
        let mut store = Store::default();
        let mut events = 0;
        let mut now = Timestamp::from_nanoseconds(10);
        for change in &changes {
            let policy = policy(change.shape, change.template, &[]);
            let stale = store.held.topology.layout();
            let mut taken = 0;
            let tries = change.crashes.iter().copied().map(Some).chain([None]);
            let mut before = stale.clone();
            // The subscriptions exist before the first event does.
            if store.held.registry.is_empty() {
                for step in plan(&policy, Asked { wanted: &wanted, ..Asked::default() }, &store.held, now).unwrap().steps {
                    store.apply(&step);
                }
                before = store.held.topology.layout();
            }
            for limit in tries {
                now = now + Duration::from_nanos(1);
                let steps = plan(&policy, Asked { wanted: &wanted, ..Asked::default() }, &store.held, now).unwrap().steps;
                for step in steps.iter().take(limit.unwrap_or(usize::MAX)) {
                    store.apply(step);
                    taken += 1;
                    for (_, tenant, event_type, late) in change.traffic.iter().filter(|t| t.0 == taken) {
                        let fresh = store.held.topology.layout();
                        let layout = if *late { &before } else { &fresh };
                        events += 1;
                        store.publish(layout, &policy, TENANTS[*tenant], TYPES[*event_type], events);
                    }
                }
            }
            store.nothing_is_out_of_reach();
            // What was retired and holds nothing goes with the next plan.
            let next = plan(&policy, Asked { wanted: &wanted, ..Asked::default() }, &store.held, now + Duration::from_nanos(1)).unwrap();
            for step in &next.steps {
                let goes = matches!(step, Step::DeleteStream(_) | Step::DeleteConsumer { .. } | Step::Remember(_) | Step::UpdateConsumer(_));
                prop_assert!(goes, "{}", step);
                store.apply(step);
            }
            let again = plan(&policy, Asked { wanted: &wanted, ..Asked::default() }, &store.held, now + Duration::from_nanos(1)).unwrap();
            prop_assert_eq!(again.steps, vec![], "once applied nothing is left to do");
            // Each tenant can publish, at the latest when it is given a place.
            let publishing = if change.traffic.len() % 3 == 0 { 0 } else { TENANTS.len() };
            for tenant in TENANTS.into_iter().take(publishing) {
                let tenant_id: TenantId = tenant.parse().unwrap();
                let asked = Asked { wanted: &wanted, tenant: Some(&tenant_id), ..Asked::default() };
                let placed = plan(&policy, asked, &store.held, now + Duration::from_nanos(2)).unwrap();
                for step in &placed.steps {
                    store.apply(step);
                }
                let refused = store.refused;
                events += 1;
                store.publish(&placed.layout, &policy, tenant, TYPES[0], events);
                prop_assert_eq!(store.refused, refused, "{} can publish", tenant);
                prop_assert_eq!(&placed.layout, &store.held.topology.layout());
            }
            store.nothing_is_out_of_reach();
            if change.expires {
                store.expire();
                now = now + Duration::from_nanos(3);
                // As long as an id of theirs may be repeated, they stay.
                let early = plan(&policy, Asked { wanted: &wanted, ..Asked::default() }, &store.held, now).unwrap();
                for step in &early.steps {
                    let Step::DeleteStream(name) = step else { continue };
                    let number = store.held.topology.streams[name].partition.as_ref().unwrap().number;
                    prop_assert_eq!(store.held.logs[&number].head, 0, "{} forgets ids", step);
                }
                now = now + policy.ids_remembered();
                let over = plan(&policy, Asked { wanted: &wanted, ..Asked::default() }, &store.held, now).unwrap();
                for step in &over.steps {
                    prop_assert!(matches!(step, Step::DeleteStream(_) | Step::DeleteConsumer { .. } | Step::Remember(_) | Step::UpdateConsumer(_)), "{}", step);
                    store.apply(step);
                }
                let layout = store.held.topology.layout();
                let last = layout.partitions.keys().max();
                prop_assert!(layout.partitions.values().all(|p| !p.is_retired() || Some(&p.number) == last));
            }
        }
    }
}
