//! What the store must hold for a bus: a pure function of its policy, its partitions and its subscriptions.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::in_force::InForce;
use crate::isolation::Reader;
use crate::partition::{Keeps, Layout, Partition};
use crate::policy::{Durability, Journaled, Shape, Storage, WhenFull};
use crate::subscription::{Need, Progress, Registered, Start};
use crate::{ConsumerName, Policy, Timestamp};

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
    /// How many messages; 0 for no limit.
    pub max_messages: u64,
    /// Whether an operator gave it one of these bounds by hand. It stays, unless the policy names the bound.
    pub by_hand: bool,
    /// What it does when full.
    pub when_full: WhenFull,
    /// Copies.
    pub replicas: u8,
    /// Where.
    pub storage: Storage,
    /// Whether it is compressed.
    pub compressed: bool,
    /// For how long a repeated message id is recognised.
    pub dedupe_window: Duration,
    /// Where each stored message is announced, as a subject prefix.
    pub announce_prefix: Option<String>,
    /// What it takes off the front of a subject before it stores a message.
    pub strips: Option<String>,
    /// For a stream of the log, which part of it.
    pub partition: Option<Partition>,
    /// Whether it takes many messages as one, whole or not at all.
    pub atomic: bool,
    /// For a stream that holds no events and no dead letters, what it is for.
    pub side: Option<Side>,
    /// On the stream of dead letters, of which each bus has one: the policy that the bus was brought to.
    pub policy: Option<InForce>,
    /// What it mirrors; the numbers of messages are those that they have there.
    pub mirror: Option<MirrorSpec>,
    /// Whether it mirrors a place that was taken out of the policy with nothing lost by it, or with what was lost accepted: the place
    /// is not asked for any more.
    pub let_go: bool,
    /// For a stream of the log, when the server made it, as it is said beside it, nanoseconds since the Unix epoch; 0 where
    /// that is not known yet.
    pub made_at: Timestamp,
}

/// The stream of the same name that a stream mirrors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorSpec {
    /// How requests to its JetStream are addressed.
    pub api: String,
    /// What is mirrored of it, sorted; empty for all.
    pub subjects: Vec<String>,
}

/// What the store keeps for a bus besides events and dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Events that are not due yet, one message each.
    Scheduled,
    /// Which of them are published or cancelled, for a day, as many as there is place for.
    Marks,
    /// Counters of the bytes stored for each tenant.
    Usage,
    /// Refused events until their next attempt, one message each.
    Retries,
    /// What is written down of deliveries, many in a message.
    Journal,
}

/// For how long it is known what became of a scheduled event.
pub const MARK_AGE: Duration = Duration::from_secs(86_400);

/// For how long a lease is remembered that nobody writes again. Its owner does so every few seconds, and no lease has a
/// longer term.
pub const LEASES_AGE: Duration = Duration::from_secs(3_600);

/// A lease takes less than 400 bytes; a subscription has two at most.
const LEASES_BYTES: u64 = 4 << 20;

impl StreamSpec {
    /// How long a message stays.
    pub fn keeps(&self) -> Keeps {
        match (&self.partition, self.side) {
            (Some(p), _) => p.keeps,
            // What is settled goes; a retry belongs to one subscription.
            (None, Some(Side::Retries)) => Keeps::WorkQueue,
            (None, _) => Keeps::Log,
        }
    }
}

/// A key-value bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSpec {
    /// Its name.
    pub name: String,
    /// How long an entry is kept; zero for ever.
    pub max_age: Duration,
    /// How much; 0 for no limit.
    pub max_bytes: u64,
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
    Time(Timestamp),
    /// With the first message that is stored once it exists.
    New,
}

/// A durable pull consumer of a partition with explicit acknowledgement and without a limit on deliveries: attempts are
/// counted by Fanout, since the server also counts deliveries that never reached a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerSpec {
    /// The partition that it reads.
    pub partition: u32,
    /// Its name: the subscription's.
    pub name: ConsumerName,
    /// What it is given.
    pub filter_subjects: Vec<String>,
    /// Where it began.
    pub start: ConsumerStart,
    /// After how long an unsettled message is delivered again.
    pub ack_wait: Duration,
    /// How many may be unsettled.
    pub max_ack_pending: u32,
    /// Its subscription, on the consumer of the newest partition that it reads: read again from there should the registry lose
    /// it. What others say of it is older, and stays.
    pub entry: Option<Box<Registered>>,
}

impl ConsumerSpec {
    /// What is wanted of a consumer that is there: where it began is history, and what it says of its subscription stays where
    /// nothing else is known.
    #[must_use]
    pub fn of_one_that_is_there(&self, have: &Self) -> Self {
        Self {
            start: have.start,
            entry: self.entry.clone().or_else(|| have.entry.clone()),
            ..self.clone()
        }
    }
}

/// Everything the store holds for a bus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Streams by name.
    pub streams: BTreeMap<String, StreamSpec>,
    /// Buckets by name.
    pub buckets: BTreeMap<String, BucketSpec>,
    /// Consumers of the log by partition and name.
    pub consumers: BTreeMap<(u32, ConsumerName), ConsumerSpec>,
}

impl Topology {
    /// The partitions of its log.
    pub fn layout(&self) -> Layout {
        Layout {
            partitions: self
                .streams
                .values()
                .filter_map(|s| s.partition.clone())
                .map(|p| (p.number, p))
                .collect(),
        }
    }
}

/// The bucket of leases, in memory: a lease is a write, and a store whose disk is full takes none. A lease that a restart
/// loses is written anew by its owner.
pub fn leases(policy: &Policy) -> BucketSpec {
    BucketSpec {
        name: policy.names().leases(),
        max_age: LEASES_AGE,
        max_bytes: LEASES_BYTES,
        replicas: policy.retention.replicas,
        storage: Storage::Memory,
    }
}

/// Compiles a policy, the partitions that it has led to, and the remembered subscriptions.
pub fn topology<'a>(policy: &Policy, layout: &Layout, subscriptions: impl Iterator<Item = &'a Registered>) -> Topology {
    let names = policy.names();
    let bucket = |name: String, max_age, max_bytes| BucketSpec {
        name,
        max_age,
        max_bytes,
        replicas: policy.retention.replicas,
        storage: policy.retention.storage,
    };
    let dead_letters = StreamSpec {
        name: names.dead_letters(),
        subjects: vec![names.dead_letter_subjects()],
        max_age: policy.dead_letter_max_age,
        max_bytes: policy.sizes.dead_letters,
        max_messages: policy.sizes.dead_letter_events,
        by_hand: false,
        when_full: WhenFull::Refuse,
        replicas: policy.retention.replicas,
        storage: policy.retention.storage,
        compressed: policy.retention.compressed,
        // A dead letter's subject is its identity; ids need no memory.
        dedupe_window: Duration::from_secs(120).min(policy.dead_letter_max_age),
        announce_prefix: None,
        strips: None,
        partition: None,
        atomic: false,
        side: None,
        policy: Some(policy.in_force.clone()),
        mirror: None,
        let_go: false,
        made_at: Timestamp::EPOCH,
    };
    let side = |side, name, subjects, max_age| StreamSpec {
        name,
        subjects: vec![subjects],
        max_age,
        side: Some(side),
        // Counters, marks and the journal never refuse: the oldest go.
        when_full: match side {
            Side::Scheduled | Side::Retries => WhenFull::Refuse,
            Side::Usage | Side::Marks | Side::Journal => WhenFull::DropOldest,
        },
        max_bytes: match side {
            Side::Scheduled => policy.sizes.scheduled,
            Side::Marks => policy.sizes.marks,
            Side::Usage => policy.sizes.counters,
            Side::Retries => policy.retries.max_bytes,
            Side::Journal => policy.journal.max_bytes,
        },
        max_messages: match side {
            Side::Scheduled => policy.sizes.scheduled_events,
            Side::Marks | Side::Usage | Side::Retries | Side::Journal => 0,
        },
        dedupe_window: Duration::from_secs(120).min(if max_age.is_zero() { Duration::MAX } else { max_age }),
        policy: None,
        ..dead_letters.clone()
    };
    let scheduled = side(
        Side::Scheduled,
        names.scheduled_stream(),
        names.scheduled_subjects(),
        Duration::ZERO,
    );
    // Apart from the events: when these are as many as there is place for, one can be published or cancelled all the same.
    let marks = side(Side::Marks, names.marks(), names.mark_subjects(), MARK_AGE);
    // An event waits for as long as its subscription is paused; the log's retention does not reach it here.
    let retries = side(Side::Retries, names.retries(), names.retry_subjects(), Duration::ZERO);
    let counters = policy.quotas.bounds_bytes().then(|| {
        // A counter is needed until the last event that it counts has expired, and is changed last when that is stored.
        let age = policy.retention.max_age + policy.retention.max_age / 8;
        side(Side::Usage, names.usage(), names.usage_subjects(), age)
    });
    let journal = (policy.journal.deliveries != Journaled::Off).then(|| {
        let (name, subjects) = (names.journal(), names.journal_subjects());
        side(Side::Journal, name, subjects, policy.journal.max_age)
    });
    Topology {
        streams: layout
            .partitions
            .values()
            .map(|p| log(policy, p))
            .chain([dead_letters, scheduled, marks, retries])
            .chain(counters)
            .chain(journal)
            .map(|s| (s.name.clone(), s))
            .collect(),
        buckets: [
            bucket(names.registry(), Duration::ZERO, policy.sizes.registry),
            // The reasons of an event's attempts are needed for as long as the event can be delivered.
            bucket(names.attempts(), policy.retention.max_age, policy.sizes.attempts),
            leases(policy),
        ]
        .into_iter()
        .map(|b| (b.name.clone(), b))
        .collect(),
        consumers: subscriptions
            .flat_map(|s| layout.partitions.values().flat_map(move |p| consumers(policy, p, s)))
            .map(|c| ((c.partition, c.name.clone()), c))
            .collect(),
    }
}

/// The stream of a partition.
fn log(policy: &Policy, partition: &Partition) -> StreamSpec {
    let names = policy.names();
    StreamSpec {
        name: names.partition(partition.number),
        subjects: partition.subjects(&names),
        max_age: policy.retention.max_age,
        max_bytes: match (policy.shape, &partition.slot) {
            // The bus's bytes, in equal parts: tenants fall to shards evenly enough.
            (_, crate::partition::Slot::Shard { of, .. }) => policy.retention.max_bytes.div_ceil(u64::from(*of)),
            (Shape::PerTenant, crate::partition::Slot::Tenant(tenant)) => {
                policy.quotas.of(tenant).max_bytes.unwrap_or(policy.retention.max_bytes)
            }
            _ => policy.retention.max_bytes,
        },
        max_messages: 0,
        by_hand: false,
        when_full: policy.retention.when_full,
        replicas: policy.retention.replicas,
        storage: policy.retention.storage,
        compressed: policy.retention.compressed,
        // Ids are checked, and what is new is announced, where it is published.
        dedupe_window: if partition.is_mirror() {
            Duration::ZERO
        } else {
            policy.ids_remembered()
        },
        announce_prefix: (!partition.is_mirror()).then(|| names.live_prefix()),
        strips: partition.strips(&names),
        partition: Some(partition.clone()),
        atomic: policy.durability == Durability::OnDisk && !partition.is_mirror(),
        side: None,
        policy: None,
        mirror: mirror(policy, partition),
        let_go: false,
        made_at: Timestamp::EPOCH,
    }
}

/// What the stream of a partition mirrors; `None` for one of this place, and of a place that the policy does not have.
fn mirror(policy: &Policy, partition: &Partition) -> Option<MirrorSpec> {
    let places = policy.places.as_ref().filter(|_| partition.is_mirror())?;
    let origin = places.all.get(partition.place.as_ref()?)?;
    let mut subjects = places.own()?.subjects_of(partition);
    subjects.sort();
    Some(MirrorSpec {
        api: origin.api().subject(),
        subjects,
    })
}

/// The consumers behind a subscription in one partition, if it needs any there.
fn consumers(policy: &Policy, partition: &Partition, registered: &Registered) -> Vec<ConsumerSpec> {
    if !registered.subscription.reads(partition) || registered.has_moved() {
        return Vec::new();
    }
    let of_reader = |reader: Reader| {
        Some(ConsumerSpec {
            partition: partition.number,
            name: registered.consumer_of(&reader),
            filter_subjects: registered
                .filter_of(&reader, partition)?
                .subject_filters(&partition.template),
            start: match reader.tenant {
                None => start(policy, partition, registered)?,
                Some(_) => ConsumerStart::Offset(registered.isolated_from(&reader)?),
            },
            ack_wait: policy.delivery.ack_wait,
            max_ack_pending: registered.subscription.max_unsettled_under(policy),
            entry: None,
        })
    };
    registered.readers(partition).filter_map(of_reader).collect()
}

/// Where a subscription's own consumer in a partition begins; `None` if it needs none there.
fn start(policy: &Policy, partition: &Partition, registered: &Registered) -> Option<ConsumerStart> {
    if registered.progress == Progress::Finished {
        return None;
    }
    let subscription = &registered.subscription;
    // What was in a work queue when it was retired is none of a later subscription's, whose filter may meet another's there
    // (10100).
    let later = |at| registered.made_at >= at;
    if partition.keeps == Keeps::WorkQueue && partition.retired_at().is_some_and(later) {
        return None;
    }
    if let Some(joined) = &registered.rejoined
        && joined.after.knows(partition.number)
    {
        return Some(ConsumerStart::Offset(joined.after.of(partition.number) + 1));
    }
    Some(match registered.needs_now() {
        Need::Queue if !subscription.keeps_a_place(policy) => return None,
        // A work queue delivers what nobody has settled, from its first event on (10101).
        Need::Queue if partition.keeps == Keeps::WorkQueue => ConsumerStart::First,
        // What came before the operator asked for this was delivered, or missed, by the rules of then.
        Need::Queue => ConsumerStart::New,
        // A work queue delivers what nobody has settled, from its first event on (10101).
        Need::Durable if partition.keeps == Keeps::WorkQueue => ConsumerStart::First,
        // Not "new": if the consumer has to be made again, events since the subscription was made must come.
        Need::Durable => ConsumerStart::Offset(registered.head.of(partition.number) + 1),
        Need::Backfill { .. } if partition.keeps == Keeps::WorkQueue => return None,
        Need::Backfill {
            start: Start::First, ..
        } => ConsumerStart::First,
        Need::Backfill {
            start: Start::Time(t), ..
        } => ConsumerStart::Time(t),
        // What lies in an older generation lies before the position, and what lies in a newer one after it.
        Need::Backfill {
            start: Start::Position(p),
            ..
        } => match partition.number.cmp(&p.partition) {
            std::cmp::Ordering::Less => return None,
            std::cmp::Ordering::Equal => ConsumerStart::Offset(p.offset),
            std::cmp::Ordering::Greater => ConsumerStart::First,
        },
    })
}
