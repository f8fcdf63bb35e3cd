//! Remembers how far each consumer's events are settled, beside the failed attempts: an entry may go once it is as old as
//! the retention, since every event that it speaks of has expired by then.

use std::collections::BTreeMap;

use async_nats::jetstream::consumer::{self, DeliverPolicy};
use async_nats::jetstream::kv;
use fanout_plan::floor::Floor;
use fanout_plan::planner::{LogState, Observed};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;
use tracing::debug;

use super::last::subject_of;
use super::observe::log_state;
use super::store::API_DEADLINE;
use super::{Store, StoreError};

/// Reads of entries under way at once.
const READS: usize = 16;

impl Store {
    /// Reads what is remembered of the consumers of the remembered subscriptions; where that is too much for one answer, of
    /// those that are not there.
    pub(super) async fn read_floors(&self, observed: &mut Observed) -> Result<(), StoreError> {
        if !observed.topology.buckets.contains_key(&self.names.attempts()) {
            return Ok(());
        }
        let layout = observed.topology.layout();
        let known = observed.registry.values().chain(observed.lost.values());
        let consumers: Vec<_> = known
            .flat_map(|r| layout.partitions.values().map(move |p| (r, p)))
            .filter(|(r, p)| r.subscription.reads(p))
            .flat_map(|(r, p)| r.readers(p).map(|reader| (p.number, r.consumer_of(&reader))))
            .collect();
        if consumers.is_empty() {
            return Ok(());
        }
        if let Some(mut all) = self.every_floor().await? {
            let found = consumers.into_iter().filter_map(|(partition, consumer)| {
                let floor = all.remove(&key(partition, &consumer))?;
                Some(((partition, consumer), floor))
            });
            observed.floors = found.collect();
            return Ok(());
        }
        let missing = consumers
            .into_iter()
            .filter(|key| !observed.topology.consumers.contains_key(key));
        let bucket = &self.bucket(&self.names.attempts()).await?;
        observed.floors = futures::stream::iter(missing)
            .map(|(partition, consumer)| async move {
                let floor = read(bucket, partition, &consumer).await?;
                Ok::<_, StoreError>(floor.map(|floor| ((partition, consumer), floor)))
            })
            .buffer_unordered(READS)
            .try_filter_map(|found| std::future::ready(Ok(found)))
            .try_collect()
            .await?;
        Ok(())
    }

    /// All that are remembered, by key; `None` where they are too many for one answer.
    pub(super) async fn every_floor(&self) -> Result<Option<BTreeMap<String, Floor>>, StoreError> {
        let bucket = self.names.attempts();
        let prefix = format!("$KV.{bucket}.");
        let filter = format!("{prefix}*.{FLOOR}.*");
        let stream = format!("KV_{bucket}");
        let all = timeout(API_DEADLINE, self.last_of(&stream, &filter))
            .await
            .map_err(StoreError::when("list the floors of consumers"))?
            .map_err(StoreError::when("list the floors of consumers"))?;
        let Some(all) = all else { return Ok(None) };
        let read = |message: &async_nats::Message| {
            let key = subject_of(message).ok()?.strip_prefix(&prefix)?.to_owned();
            Some((key, serde_json::from_slice(&message.payload).ok()?))
        };
        Ok(Some(all.iter().filter_map(read).collect()))
    }

    /// What is remembered of a consumer.
    pub(crate) async fn floor(&self, partition: u32, consumer: &str) -> Result<Option<Floor>, StoreError> {
        let bucket = self.bucket(&self.names.attempts()).await?;
        read(&bucket, partition, consumer).await
    }

    /// Remembers how far a consumer has come.
    pub(crate) async fn note_floor(&self, partition: u32, consumer: &str, floor: Floor) -> Result<(), StoreError> {
        let value = serde_json::to_vec(&floor).map_err(StoreError::when("write the floor of a consumer"))?;
        let bucket = self.bucket(&self.names.attempts()).await?;
        let written = bucket.put(key(partition, consumer), value.into()).await;
        written.map_err(StoreError::when("write the floor of a consumer"))?;
        Ok(())
    }

    /// Forgets it: the consumer was removed, because its subscription ended or reads otherwise.
    pub(crate) async fn forget_floor(&self, partition: u32, consumer: &str) {
        let bucket = self.names.attempts();
        let subject = format!("$KV.{bucket}.{}", key(partition, consumer));
        let forgets = async {
            let stream = self.js.get_stream_no_info(format!("KV_{bucket}")).await?;
            // Not with a mark, as the bucket would: nobody watches these.
            stream.purge().filter(subject).await?;
            Ok::<_, async_nats::Error>(())
        };
        if let Err(error) = forgets.await {
            debug!(consumer, %error, "the floor of a removed consumer was not deleted; it is deleted later");
        }
    }

    /// Up to where everything that a consumer gives is settled, and the last that it delivered; `None` if there is no such
    /// consumer.
    pub(crate) async fn settled_and_delivered(
        &self,
        partition: u32,
        consumer: &str,
    ) -> Result<Option<(u64, u64)>, StoreError> {
        let info = self.log(partition).await?.consumer_info(consumer).await;
        let action = format!("read the state of consumer {consumer}");
        let info = self.unless_removed(info, (partition, consumer), action).await?;
        Ok(info.map(|info| (settled_to(&info), info.delivered.stream_sequence)))
    }

    /// What a partition of the log holds now.
    pub(crate) async fn log_state(&self, partition: u32) -> Result<LogState, StoreError> {
        let log = self.log(partition).await?;
        let info = log.get_info().await.map_err(StoreError::when("read the log's state"))?;
        Ok(log_state(&info))
    }
}

/// The offset up to which every event of a consumer is settled. A replicated consumer reports 0 until the first of its events
/// is settled (nats-server 2.15), wherever the consumer began; of one that began with what was new and has delivered
/// since, the beginning is in its floor alone.
pub(crate) fn settled_to(info: &consumer::Info) -> u64 {
    let begins_after = match info.config.deliver_policy {
        DeliverPolicy::ByStartSequence { start_sequence } => start_sequence.saturating_sub(1),
        _ if info.delivered.consumer_sequence == 0 => info.delivered.stream_sequence,
        _ => 0,
    };
    info.ack_floor.stream_sequence.max(begins_after)
}

async fn read(bucket: &kv::Store, partition: u32, consumer: &str) -> Result<Option<Floor>, StoreError> {
    let found = bucket.get(key(partition, consumer)).await;
    let found = found.map_err(StoreError::when("read the floor of a consumer"))?;
    Ok(found.and_then(|value| serde_json::from_slice(&value).ok()))
}

/// What such an entry's key has between the consumer and the partition; failed attempts have a number there.
const FLOOR: &str = "floor";

/// A key holds no percent sign, and what a consumer's name has them in holds no `=`.
fn key(partition: u32, consumer: &str) -> String {
    format!("{}.{FLOOR}.{partition}", consumer.replace('%', "="))
}

/// The partition and the consumer, as the key writes it, of a floor's key.
pub(super) fn read_key(key: &str) -> Option<(u32, String)> {
    let (consumer, partition) = key.split_once(&format!(".{FLOOR}."))?;
    Some((partition.parse().ok()?, consumer.to_owned()))
}
