//! What the store holds for a bus now.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::account::Account;
use crate::by_partition::ByPartition;
use crate::floor::Floor;
use crate::in_force::InForce;
use crate::partition::Partition;
use crate::subscription::Registered;
use crate::topology::Topology;
use crate::unregistered::{Made, Tombstone};
use crate::{ConsumerName, PlaceName, Problem, SubscriptionName, Timestamp};

/// What a stream holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last offset; 0 when nothing was ever stored.
    pub head: u64,
    /// Events that it holds.
    pub messages: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// Offset of the oldest event that it holds, or would hold next.
    pub oldest: u64,
    /// When the oldest was stored, nanoseconds since the Unix epoch.
    pub oldest_at: Timestamp,
    /// When the event at the last offset was stored, nanoseconds since the Unix epoch.
    pub head_at: Timestamp,
    /// When the stream was made, nanoseconds since the Unix epoch.
    pub made_at: Timestamp,
    /// Of a mirror, how far it is behind.
    pub mirror: Option<MirrorState>,
}

/// How far a mirror is behind what it mirrors, as its own server knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MirrorState {
    /// Events that it knew of and did not have.
    pub lag: u64,
    /// How long ago it heard of its origin; `None` where it never did.
    pub heard_ago: Option<Duration>,
}

/// What a place holds that the policy does not have any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// The subscriptions that are at it.
    pub subscriptions: BTreeSet<SubscriptionName>,
    /// Events of its partitions that this place keeps, and that are not mirrored here.
    pub not_mirrored: ByPartition,
    /// Events of its partitions that no place of the policy keeps.
    pub kept_nowhere: u64,
}

impl LeftOut {
    /// Whether nothing is lost with it.
    pub(crate) fn is_empty(&self) -> bool {
        self.subscriptions.is_empty() && self.not_mirrored.sum() == 0 && self.kept_nowhere == 0
    }
}

/// What the store holds for a bus now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Streams, buckets and those consumers that Fanout made.
    pub topology: Topology,
    /// The remembered subscriptions.
    pub registry: BTreeMap<SubscriptionName, Registered>,
    /// Each partition of the log.
    pub logs: BTreeMap<u32, LogState>,
    /// The dead letters.
    pub dead_letters: LogState,
    /// The account's other streams, and the subjects that each holds.
    pub others: BTreeMap<String, Vec<String>>,
    /// What the account may have; `None` where it is not known.
    pub account: Option<Account>,
    /// What is under the bus's names and is not the bus's, or could not be read: nothing of the topology is changed
    /// around it.
    pub in_the_way: Vec<Problem>,
    /// Partitions whose consumers, or which themselves, could not be read.
    pub unread: BTreeMap<u32, Problem>,
    /// Entries of the registry that can't be read: what belongs to them is left alone.
    pub unreadable: BTreeMap<SubscriptionName, Problem>,
    /// Consumers under the bus's names that Fanout did not make.
    pub foreign_consumers: BTreeSet<(u32, ConsumerName)>,
    /// Up to which offset each consumer's events are settled.
    pub settled: BTreeMap<(u32, ConsumerName), u64>,
    /// What is remembered of each consumer: where it goes on if it has to be made again.
    pub floors: BTreeMap<(u32, ConsumerName), Floor>,
    /// What each consumer says of itself.
    pub made: BTreeMap<(u32, ConsumerName), Made>,
    /// Bytes that the registry's bucket holds.
    pub registry_bytes: u64,
    /// Subscriptions that were ended.
    pub ended: BTreeMap<SubscriptionName, Tombstone>,
    /// Subscriptions that are known, are not in the registry, and were not ended: the store has lost them.
    pub lost: BTreeMap<SubscriptionName, Registered>,
    /// The own partitions of each other place, or why they can't be read now.
    pub elsewhere: BTreeMap<PlaceName, Result<Vec<Partition>, Problem>>,
    /// The subscriptions of each other place that could be read.
    pub registries: BTreeMap<PlaceName, BTreeMap<SubscriptionName, Registered>>,
    /// The policy that each other place that could be read was brought to.
    pub policies: BTreeMap<PlaceName, InForce>,
    /// By how much the clock of each other place that could be read is ahead of this place's, in nanoseconds.
    pub clocks: BTreeMap<PlaceName, i64>,
    /// What places hold that the policy does not have any more, and whose mirrors here are not let go; or why that can't be read.
    pub left_out: BTreeMap<PlaceName, Result<LeftOut, Problem>>,
    /// The subscriptions that each of the others had when it was read last.
    pub last_known: BTreeMap<PlaceName, BTreeSet<SubscriptionName>>,
}

impl Observed {
    /// Each partition's last offset.
    pub fn heads(&self) -> ByPartition {
        self.logs
            .iter()
            .map(|(partition, log)| (*partition, log.head))
            .collect()
    }

    /// Up to which offset everything of a subscription has been handled, in each partition that it reads.
    pub(super) fn handled_to(&self, registered: &Registered) -> ByPartition {
        let mut all: BTreeMap<u32, u64> = BTreeMap::new();
        for ((partition, consumer), to) in &self.settled {
            if registered.has_consumer(consumer) {
                let least = all.entry(*partition).or_insert(*to);
                *least = *to.min(least);
            }
        }
        ByPartition(all)
    }
}
