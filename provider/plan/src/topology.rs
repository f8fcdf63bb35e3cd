//! What the store must hold for a bus: a pure function of its policy and its subscriptions.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Policy;
use crate::policy::{Storage, WhenFull};
use crate::subscription::{Need, Progress, Registered, Start};

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// Its name.
    pub name: String,
    /// What it stores.
    pub subjects: Vec<String>,
    /// How long.
    pub max_age: Duration,
    /// How much; 0 for no limit.
    pub max_bytes: u64,
    /// What it does when full.
    pub when_full: WhenFull,
    /// Copies.
    pub replicas: u8,
    /// Where.
    pub storage: Storage,
    /// For how long a repeated message id is recognised.
    pub dedupe_window: Duration,
    /// Where each stored message is announced, as a subject prefix.
    pub announce_prefix: Option<String>,
}

/// A key-value bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSpec {
    /// Its name.
    pub name: String,
    /// How long an entry is kept; zero for ever.
    pub max_age: Duration,
    /// Copies.
    pub replicas: u8,
    /// Where.
    pub storage: Storage,
}

/// Where a consumer begins; it can't change once the consumer exists (nats-server 2.15, error 10012).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerStart {
    /// With the first message.
    First,
    /// With this sequence.
    Offset(u64),
    /// With the first message at or after this time, nanoseconds since the Unix epoch.
    Time(i64),
}

/// A durable pull consumer of the log with explicit acknowledgement and without a limit on deliveries: attempts are
/// counted by Fanout, since the server also counts deliveries that never reached a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerSpec {
    /// Its name: the subscription's.
    pub name: String,
    /// What it is given.
    pub filter_subjects: Vec<String>,
    /// Where it began.
    pub start: ConsumerStart,
    /// After how long an unsettled message is given out again.
    pub ack_wait: Duration,
    /// How many may be unsettled.
    pub max_ack_pending: u32,
}

/// Everything the store holds for a bus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Streams by name.
    pub streams: BTreeMap<String, StreamSpec>,
    /// Buckets by name.
    pub buckets: BTreeMap<String, BucketSpec>,
    /// Consumers of the log by name.
    pub consumers: BTreeMap<String, ConsumerSpec>,
}

/// Compiles a policy and the remembered subscriptions.
pub fn topology<'a>(policy: &Policy, subscriptions: impl Iterator<Item = &'a Registered>) -> Topology {
    let names = policy.names();
    let bucket = |name: String, max_age| BucketSpec {
        name,
        max_age,
        replicas: policy.replicas,
        storage: policy.storage,
    };
    let log = StreamSpec {
        name: names.log(),
        subjects: vec![policy.subject.all()],
        max_age: policy.max_age,
        max_bytes: policy.max_bytes,
        when_full: policy.when_full,
        replicas: policy.replicas,
        storage: policy.storage,
        dedupe_window: policy.dedupe_window,
        announce_prefix: Some(names.live_prefix()),
    };
    let dead_letters = StreamSpec {
        name: names.dead_letters(),
        subjects: vec![names.dead_letter_subjects()],
        max_age: policy.dead_letter_max_age,
        max_bytes: 0,
        when_full: WhenFull::Refuse,
        replicas: policy.replicas,
        storage: policy.storage,
        // A dead letter's subject is its identity; ids need no memory.
        dedupe_window: Duration::from_secs(120).min(policy.dead_letter_max_age),
        announce_prefix: None,
    };
    Topology {
        streams: [log, dead_letters].into_iter().map(|s| (s.name.clone(), s)).collect(),
        buckets: [
            bucket(names.registry(), Duration::ZERO),
            // The reasons of an event's attempts are needed for as long as the event can be delivered.
            bucket(names.attempts(), policy.max_age),
        ]
        .into_iter()
        .map(|b| (b.name.clone(), b))
        .collect(),
        consumers: subscriptions
            .filter_map(|s| consumer(policy, s))
            .map(|c| (c.name.clone(), c))
            .collect(),
    }
}

/// The consumer behind a subscription, if it needs one.
fn consumer(policy: &Policy, registered: &Registered) -> Option<ConsumerSpec> {
    if registered.progress == Progress::Finished {
        return None;
    }
    let subscription = &registered.subscription;
    let start = match subscription.need {
        Need::Queue => return None,
        // Not "new": if the consumer has to be made again, events since the subscription was made must come.
        Need::Durable => ConsumerStart::Offset(registered.head + 1),
        Need::Backfill {
            start: Start::First, ..
        } => ConsumerStart::First,
        Need::Backfill {
            start: Start::Time(t), ..
        } => ConsumerStart::Time(t),
        Need::Backfill {
            start: Start::Position(p),
            ..
        } => ConsumerStart::Offset(p.offset),
    };
    Some(ConsumerSpec {
        name: subscription.name.to_string(),
        filter_subjects: subscription.filter.subject_filters(&policy.subject),
        start,
        ack_wait: policy.ack_wait,
        max_ack_pending: subscription.max_unsettled(),
    })
}
