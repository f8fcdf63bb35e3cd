//! Tenants are isolated and together again while instances that have not heard of it go on: every event is handled.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::{BTreeMap, BTreeSet};

use fanout_plan::by_partition::ByPartition;
use fanout_plan::isolation::Reader;
use fanout_plan::partition::Partition;
use fanout_plan::planner::{Asked, Observed, Wanted, plan};
use fanout_plan::subscription::{MadeBy, Need, Reach, Registered, Subscription};
use fanout_plan::{ConsumerName, Filter, Policy, Position, Settings, TenantId, Timestamp};
use proptest::prelude::*;

const TENANTS: [&str; 3] = ["loud", "lo.uder=%", "quiet"];

/// A bus of one partition with one durable subscription, as it is remembered before anything was stored.
fn start() -> (Partition, Registered) {
    let settings: Settings = [("bus", "b"), ("subject", "p.{tenant}.{event-type}")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into_iter()
        .collect();
    let policy = Policy::from_settings("policy", &settings).unwrap();
    let wanted = [Wanted {
        subscription: Subscription {
            name: "invoicing".parse().unwrap(),
            need: Need::Durable,
            filter: Filter::all(),
            reach: Reach::Handler,
            batch_size: 1,
            concurrency: 1,
            tell_caught_up: false,
            scope: fanout_plan::place::Scope::Everywhere,
        },
        component: "c".into(),
        link: "default".into(),
        made_by: MadeBy::Link,
    }];
    let asked = Asked {
        wanted: &wanted,
        ..Asked::default()
    };
    let plan = plan(&policy, asked, &Observed::default(), Timestamp::from_nanoseconds(1)).unwrap();
    let partition = plan.layout.partitions.into_values().next().unwrap();
    (partition, plan.registry.into_values().next().unwrap())
}

/// The store: the log, what is remembered, and how far each consumer has delivered it and all of that was settled.
struct Store {
    partition: Partition,
    log: Vec<TenantId>,
    now: Registered,
    consumers: BTreeMap<ConsumerName, u64>,
}

impl Store {
    fn next(&self, registered: &Registered, reader: &Reader) -> Option<u64> {
        let filter = registered.filter_of(reader, &self.partition)?;
        let given = *self.consumers.get(&registered.consumer_of(reader))?;
        let offsets = given + 1..=self.log.len() as u64;
        offsets
            .into_iter()
            .find(|o| filter.allows_tenant(&self.log[*o as usize - 1]))
    }

    /// The next plan: the consumers of what is remembered now, and no others.
    fn plan(&mut self) {
        let begin = |reader: &Reader| match (&reader.tenant, &self.now.rejoined) {
            (Some(_), _) => self.now.isolated_from(reader).unwrap() - 1,
            (None, Some(joined)) => joined.after.of(reader.partition),
            (None, None) => 0,
        };
        self.consumers = self
            .now
            .readers(&self.partition)
            .map(|reader| {
                let name = self.now.consumer_of(&reader);
                let given = self.consumers.get(&name).copied();
                (name, given.unwrap_or_else(|| begin(&reader)))
            })
            .collect();
    }

    /// An instance that remembers `seen` takes the next event of a consumer.
    fn give(&mut self, seen: &Registered, reader: &Reader, handled: &mut BTreeSet<u64>) -> bool {
        let Some(offset) = self.next(seen, reader) else {
            return false;
        };
        self.consumers.insert(seen.consumer_of(reader), offset);
        let position = Position::new(reader.partition, offset);
        let passed_over = reader.tenant.is_none() && seen.is_isolated_at(&self.log[offset as usize - 1], position);
        if !passed_over {
            handled.insert(offset);
        }
        true
    }

    /// An instance that remembers `seen` finds that nothing waits and joins all again.
    fn join(&mut self, seen: &Registered) {
        let own = Reader {
            partition: self.partition.number,
            tenant: None,
        };
        let settled = self.consumers.get(&seen.consumer_of(&own)).copied();
        let idle = seen
            .readers(&self.partition)
            .all(|r| self.consumers.contains_key(&seen.consumer_of(&r)) && self.next(seen, &r).is_none());
        if let (Some(settled), true, true) = (settled, idle, *seen == self.now) {
            let after: ByPartition = [(own.partition, settled)].into_iter().collect();
            self.now = self.now.rejoin(after);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Publish(usize),
    /// By which instance, and by which of the consumers that it knows of.
    Give(usize, usize),
    Hear(usize),
    Plan,
    Isolate(usize, usize),
    Join(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..TENANTS.len()).prop_map(Act::Publish),
        8 => (0..2usize, 0..3usize).prop_map(|(i, r)| Act::Give(i, r)),
        2 => (0..2usize).prop_map(Act::Hear),
        2 => Just(Act::Plan),
        1 => (0..2usize, 0..2usize).prop_map(|(i, t)| Act::Isolate(i, t)),
        1 => (0..2usize).prop_map(Act::Join),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_event_is_handled(acts in proptest::collection::vec(act(), 0..120)) {
        let (partition, registered) = start();
        let mut store = Store { partition, log: Vec::new(), now: registered.clone(), consumers: BTreeMap::new() };
        store.plan();
        // What each of two instances has heard.
        let mut seen = [registered.clone(), registered];
        let mut handled = BTreeSet::new();
        for act in acts {
            match act {
                Act::Publish(t) => store.log.push(TENANTS[t].parse().unwrap()),
                Act::Give(i, r) => {
                    let reader = seen[i].readers(&store.partition).nth(r);
                    if let Some(reader) = reader {
                        store.give(&seen[i], &reader, &mut handled);
                    }
                }
                Act::Hear(i) => seen[i] = store.now.clone(),
                Act::Plan => store.plan(),
                Act::Isolate(i, t) => {
                    let given = store.consumers.get(&seen[i].consumer_name()).copied();
                    if let (Some(given), true) = (given, seen[i] == store.now) {
                        let tenant = TENANTS[t].parse().unwrap();
                        store.now = store.now.isolate(&[tenant], store.partition.number, given + 1);
                    }
                }
                Act::Join(i) => store.join(&seen[i]),
            }
        }
        store.plan();
        let now = store.now.clone();
        for reader in now.readers(&store.partition).collect::<Vec<_>>() {
            while store.give(&now, &reader, &mut handled) {}
        }
        let all: BTreeSet<u64> = (1..=store.log.len() as u64).collect();
        prop_assert_eq!(handled, all);
    }
}
