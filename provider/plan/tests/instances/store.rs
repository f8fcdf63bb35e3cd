//! A model of the store, as instances see it.

use std::collections::BTreeSet;

use fanout_plan::partition::{Keeps, Partition};
use fanout_plan::planner::{LogState, Observed};
use fanout_plan::remembered::remembered;
use fanout_plan::step::Step;
use fanout_plan::topology::{ConsumerSpec, StreamSpec};
use fanout_plan::unregistered::{Made, Tombstone};
use fanout_plan::{SubscriptionName, Timestamp};

use crate::subjects::meet;

/// Whether some subject passes one of these and one of those.
pub(crate) fn meet_any(these: &[String], those: &[String]) -> bool {
    these.iter().any(|a| those.iter().any(|b| meet(a, b)))
}

/// Why the store did not take a step.
pub(crate) enum NotTaken {
    /// Another instance was faster: the plan is made anew.
    Raced,
    /// The step fails, and what needs it.
    Failed(String),
}

/// The store, as instances see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    pub(crate) held: Observed,
}

impl Store {
    pub(crate) fn number(s: &StreamSpec) -> Option<u32> {
        s.partition.as_ref().map(|p| p.number)
    }

    pub(crate) fn free(&self, s: &StreamSpec) -> Result<(), NotTaken> {
        let others = self.held.topology.streams.values().filter(|o| o.name != s.name);
        let mut others = others.filter(|o| meet_any(&o.subjects, &s.subjects));
        match others.next() {
            Some(other) => Err(NotTaken::Failed(format!("10065: {} meets {}", s.name, other.name))),
            None => Ok(()),
        }
    }

    pub(crate) fn stream_of(&self, c: &ConsumerSpec) -> Result<&StreamSpec, NotTaken> {
        let mut streams = self.held.topology.streams.values();
        let stream = streams.find(|s| Self::number(s) == Some(c.partition));
        stream.ok_or_else(|| NotTaken::Failed(format!("10059: no partition {}", c.partition)))
    }

    /// Takes a step as the store's client and the server do. `now` is the server's time.
    pub(crate) fn apply(&mut self, step: &Step, now: Timestamp) -> Result<(), NotTaken> {
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
                    self.held.ended.get(&name).cloned()
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

    pub(crate) fn forget_consumer(&mut self, key: &(u32, fanout_plan::ConsumerName)) {
        self.held.topology.consumers.remove(key);
        self.held.made.remove(key);
    }

    /// Ends a subscription: a tombstone stands for it.
    pub(crate) fn end(&mut self, name: &SubscriptionName, now: Timestamp) {
        if let Some(ended) = self.held.registry.remove(name) {
            let tombstone = Tombstone {
                incarnation: Some(ended.incarnation),
                at: now,
                caller: None,
            };
            self.held.ended.insert(name.clone(), tombstone);
        }
    }

    /// Stores an event of a tenant and a type on the partition that takes it now, if there is one.
    pub(crate) fn publish(&mut self, tenant: &str, event_type: &str) -> Option<(u32, u64, String)> {
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
    pub(crate) fn shape(&self) -> Shape {
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
pub(crate) struct Shape {
    pub(crate) partitions: BTreeSet<String>,
    pub(crate) side: BTreeSet<String>,
    pub(crate) buckets: BTreeSet<String>,
    pub(crate) consumers: Vec<String>,
    pub(crate) registry: BTreeSet<String>,
}
