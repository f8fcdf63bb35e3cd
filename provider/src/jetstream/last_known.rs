//! Writes down what other places have: their durable and backfill subscriptions, and how far each has come. Should a place be
//! lost, its subscriptions go on at another by that ([`super::from_lost`]).
//!
//! It is read from the other place's own store, beside which floors are noted ([`crate::floors`]), and lies beside this place's
//! floors. An entry goes once it is as old as the retention: every event that it speaks of has expired by then.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::kv;
use fanout_plan::floor::Floor;
use fanout_plan::isolation::Reader;
use fanout_plan::last_known::LastKnown;
use fanout_plan::place::Place;
use fanout_plan::subscription::{Progress, Registered};
use fanout_plan::{ConsumerName, PlaceName, Position, Round, SubscriptionName, Timestamp};
use futures::{StreamExt as _, TryStreamExt as _};

use super::floors::read_key;
use super::last::subject_of;
use super::registry::Registry;
use super::{Store, StoreError};

/// Reads of entries under way at once.
const READS: usize = 16;

/// What such an entry's key has between the place and the subscription. It stands where floors have a word of their own, and
/// failed attempts a number.
const ELSEWHERE: &str = "elsewhere";

/// What this instance has written down of one other place.
#[derive(Default)]
pub(crate) struct Written(BTreeMap<SubscriptionName, LastKnown>);

/// What waits for a retry, by the name and the round that its subscription is known by.
type Waiting = BTreeMap<(SubscriptionName, Round), BTreeSet<Position>>;

impl Store {
    /// Reads what another place has, and writes down here what has changed, or all where `again` is said. Returns how many entries
    /// were read there.
    ///
    /// # Errors
    /// When either place can't be read or written.
    pub(crate) async fn note_elsewhere(
        &self,
        name: &PlaceName,
        place: &Place,
        written: &mut Written,
        again: bool,
    ) -> Result<usize, StoreError> {
        let there = self.at(name, place);
        let before = there.registry().await?;
        let all: Vec<_> = before.entries.values().filter(|r| is_to_be_known(r)).collect();
        let floors = there.floors_of(&all).await?;
        // Behind the floors: what is settled by then and waits for a retry is found here.
        let waiting = there.all_waiting().await?;
        let read = all.len() + floors.len() + waiting.values().map(BTreeSet::len).sum::<usize>();
        let Registry {
            entries, unreadable, ..
        } = there.registry().await?;
        let partitions: BTreeSet<u32> = floors.keys().map(|(partition, _)| *partition).collect();
        let none = BTreeSet::new();
        let bucket = self.bucket(&self.names.attempts()).await?;
        let mut known = BTreeSet::new();
        for registered in all {
            let subscription = &registered.subscription.name;
            known.insert(subscription.clone());
            // What was changed meanwhile may have begun anew, with other floors: it is written down with the next look.
            if !entries
                .get(subscription)
                .is_some_and(|now| reads_alike(registered, now))
            {
                continue;
            }
            let of_this_log = |partition: u32, consumer: &ConsumerName| -> Option<Floor> {
                let floor = floors.get(&(partition, key_part(consumer)))?;
                let here = self.layout.partitions.get(&partition);
                here.is_none_or(|here| here.log == floor.log).then_some(*floor)
            };
            let of = (registered.id().name, Round::of(registered));
            let waiting = waiting.get(&of).unwrap_or(&none);
            let now = LastKnown::of(registered, &partitions, of_this_log, waiting);
            if !again && written.0.get(subscription) == Some(&now) {
                continue;
            }
            let value = serde_json::to_vec(&now).map_err(StoreError::when(WRITE))?;
            let put = bucket.put(key(name, subscription), value.into()).await;
            put.map_err(StoreError::when(WRITE))?;
            written.0.insert(subscription.clone(), now);
        }
        let is_there = |subscription: &SubscriptionName| {
            // What can't be read there was not ended.
            known.contains(subscription) || unreadable.contains_key(subscription)
        };
        for gone in self
            .names_last_known_at(name)
            .await?
            .into_iter()
            .filter(|n| !is_there(n))
        {
            written.0.remove(&gone);
            self.forget_last_known(name, &gone).await?;
        }
        Ok(read)
    }

    /// The subscriptions that another place had when it was read last.
    pub(super) async fn names_last_known_at(
        &self,
        place: &PlaceName,
    ) -> Result<BTreeSet<SubscriptionName>, StoreError> {
        let bucket = self.names.attempts();
        let prefix = format!("$KV.{bucket}.{place}.{ELSEWHERE}.");
        let stream = self.stream(format!("KV_{bucket}")).await?;
        let subjects = stream.info_with_subjects(format!("{prefix}*")).await;
        let subjects = subjects.map_err(StoreError::when(READ))?;
        subjects
            .map_err(|e| StoreError::when(READ)(e))
            .try_filter_map(|(subject, _)| {
                let name = subject.strip_prefix(&prefix).and_then(|name| name.parse().ok());
                std::future::ready(Ok(name))
            })
            .try_collect()
            .await
    }

    /// What is written down here of one subscription at another place, and when that was.
    pub(super) async fn known_elsewhere(
        &self,
        place: &PlaceName,
        subscription: &SubscriptionName,
    ) -> Result<Option<(LastKnown, Timestamp)>, StoreError> {
        let bucket = self.bucket(&self.names.attempts()).await?;
        let entry = bucket.entry(key(place, subscription)).await;
        let entry = entry.map_err(StoreError::when(READ))?;
        Ok(entry
            .filter(|entry| entry.operation == kv::Operation::Put)
            .and_then(|entry| {
                let known = serde_json::from_slice(&entry.value).ok()?;
                Some((known, super::observe::moment(entry.created)))
            }))
    }

    async fn forget_last_known(&self, place: &PlaceName, subscription: &SubscriptionName) -> Result<(), StoreError> {
        let bucket = self.names.attempts();
        let stream = self.stream(format!("KV_{bucket}")).await?;
        let subject = format!("$KV.{bucket}.{}", key(place, subscription));
        let purged = stream.purge().filter(subject).await;
        purged.map(drop).map_err(StoreError::when(WRITE))
    }

    /// The floors of some subscriptions' consumers, by partition and consumer as keys write it; in one request where they fit into
    /// one answer.
    async fn floors_of(&self, all: &[&Registered]) -> Result<BTreeMap<(u32, String), Floor>, StoreError> {
        if let Some(every) = self.every_floor().await? {
            let read = every
                .into_iter()
                .filter_map(|(key, floor)| Some((read_key(&key)?, floor)));
            return Ok(read.collect());
        }
        let consumers = all.iter().flat_map(|registered| {
            let tenants = registered.isolated.keys().cloned().map(Some);
            [None].into_iter().chain(tenants).map(|tenant| {
                // A consumer has one name in all partitions.
                registered.consumer_of(&Reader { partition: 0, tenant })
            })
        });
        let consumers: Vec<ConsumerName> = consumers.collect();
        let bucket = self.names.attempts();
        let (stream, prefix) = (format!("KV_{bucket}"), format!("$KV.{bucket}."));
        let (stream, prefix) = (&stream, &prefix);
        futures::stream::iter(consumers)
            .map(|consumer| async move {
                let filter = format!("{prefix}{}.floor.*", key_part(&consumer));
                let found = self.last_of(stream, &filter).await;
                let found = found.map_err(StoreError::when(READ))?.unwrap_or_default();
                let read = found.iter().filter_map(|message| {
                    let key = subject_of(message).ok()?.strip_prefix(prefix.as_str())?;
                    Some((read_key(key)?, serde_json::from_slice(&message.payload).ok()?))
                });
                Ok::<Vec<_>, StoreError>(read.collect())
            })
            .buffer_unordered(READS)
            .try_fold(BTreeMap::new(), |mut all, found| {
                all.extend(found);
                std::future::ready(Ok(all))
            })
            .await
    }

    /// The positions of every event that waits for a retry.
    async fn all_waiting(&self) -> Result<Waiting, StoreError> {
        let stream = self.stream(self.names.retries()).await?;
        let subjects = stream.info_with_subjects(self.names.retry_subjects()).await;
        let mut subjects = subjects.map_err(StoreError::when(READ))?;
        let mut waiting = Waiting::new();
        while let Some((subject, _)) = subjects.try_next().await.map_err(StoreError::when(READ))? {
            let name = self.names.retry_subscription_of(&subject);
            if let (Some(name), Some((round, at))) = (name, self.names.retry_of(&subject)) {
                waiting.entry((name, round)).or_default().insert(at.position);
            }
        }
        Ok(waiting)
    }
}

const READ: &str = "read what is known of another place";
const WRITE: &str = "write down what is known of another place";

/// Whether a subscription is one that could go on elsewhere.
fn is_to_be_known(registered: &Registered) -> bool {
    registered.is_at_one_place()
        && registered.progress != Progress::Finished
        && !registered.has_moved()
        && !stands_aside(registered)
}

/// Whether another place's stands for it.
fn stands_aside(registered: &Registered) -> bool {
    matches!(registered.withheld, Some(fanout_plan::withheld::Withheld::StandsAt(_)))
}

/// Whether floors of one are floors of the other.
fn reads_alike(one: &Registered, other: &Registered) -> bool {
    one.id() == other.id()
        && one.rewound == other.rewound
        && one.rejoined == other.rejoined
        && one.isolated == other.isolated
        && one.withheld == other.withheld
}

/// A consumer as keys write it.
fn key_part(consumer: &str) -> String {
    consumer.replace('%', "=")
}

/// Names of places and of subscriptions are of the characters that keys take.
fn key(place: &PlaceName, subscription: &SubscriptionName) -> String {
    format!("{place}.{ELSEWHERE}.{subscription}")
}
