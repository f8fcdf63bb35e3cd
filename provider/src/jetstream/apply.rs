//! Takes the planner's steps.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{self, DiscardPolicy, Republish, StorageType};
use fanout_plan::policy::{Storage, WhenFull};
use fanout_plan::step::Step;
use fanout_plan::topology::{BucketSpec, ConsumerSpec, ConsumerStart, StreamSpec};

use super::{Store, StoreError};

/// Marks what Fanout made, in the metadata of streams and consumers.
pub(super) const MADE_BY: &str = "fanout";

/// How long after its deletion a bucket's key may still be seen by its watchers (nats-server 2.11).
const MARKER_AGE: Duration = Duration::from_secs(60);

impl Store {
    /// Takes one step. Each is idempotent, so that a plan cut short is finished by the next.
    ///
    /// # Errors
    /// When the store refuses it or can't be reached, or another instance was faster.
    pub async fn apply(&self, step: &Step) -> Result<(), StoreError> {
        match step {
            Step::CreateStream(s) | Step::UpdateStream(s) => {
                self.js
                    .create_or_update_stream(stream_config(s))
                    .await
                    .map_err(StoreError::when(step.to_string()))?;
            }
            Step::CreateBucket(b) | Step::UpdateBucket(b) => {
                self.js
                    .create_or_update_key_value(bucket_config(b))
                    .await
                    .map_err(StoreError::when(step.to_string()))?;
            }
            Step::Remember(registered) => self.remember(registered).await?,
            Step::CreateConsumer(c) => {
                let made = self
                    .js
                    .create_consumer_on_stream(consumer_config(c), self.names.log())
                    .await
                    .map_err(StoreError::when(step.to_string()))?;
                self.note_replayed(&c.name, made.cached_info().num_pending).await?;
            }
            Step::UpdateConsumer(c) => {
                self.js
                    .update_consumer_on_stream(consumer_config(c), self.names.log())
                    .await
                    .map_err(StoreError::when(step.to_string()))?;
            }
            Step::DeleteConsumer(name) => {
                // Another instance may have been faster, which is as good.
                if let Err(e) = self.js.delete_consumer_from_stream(name, self.names.log()).await
                    && !e.to_string().contains("not found")
                {
                    return Err(StoreError::when(step.to_string())(e));
                }
            }
        }
        Ok(())
    }
}

fn stream_config(s: &StreamSpec) -> stream::Config {
    stream::Config {
        name: s.name.clone(),
        subjects: s.subjects.clone(),
        max_age: s.max_age,
        max_bytes: match s.max_bytes {
            0 => -1,
            n => i64::try_from(n).unwrap_or(i64::MAX),
        },
        discard: match s.when_full {
            WhenFull::Refuse => DiscardPolicy::New,
            WhenFull::DropOldest => DiscardPolicy::Old,
        },
        num_replicas: s.replicas.into(),
        storage: storage(s.storage),
        duplicate_window: s.dedupe_window,
        republish: s.announce_prefix.as_ref().map(|prefix| Republish {
            source: ">".into(),
            destination: format!("{prefix}>"),
            headers_only: false,
        }),
        allow_direct: true,
        metadata: made_by(),
        ..stream::Config::default()
    }
}

fn bucket_config(b: &BucketSpec) -> kv::Config {
    kv::Config {
        bucket: b.name.clone(),
        history: 1,
        max_age: b.max_age,
        num_replicas: b.replicas.into(),
        storage: storage(b.storage),
        limit_markers: Some(MARKER_AGE),
        ..kv::Config::default()
    }
}

fn consumer_config(c: &ConsumerSpec) -> pull::Config {
    pull::Config {
        durable_name: Some(c.name.clone()),
        deliver_policy: match c.start {
            ConsumerStart::First => DeliverPolicy::All,
            ConsumerStart::Offset(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
            ConsumerStart::Time(t) => match async_nats::datetime::from_nanos(t.into()) {
                Ok(start_time) => DeliverPolicy::ByStartTime { start_time },
                Err(_) => DeliverPolicy::All,
            },
        },
        ack_policy: AckPolicy::Explicit,
        ack_wait: c.ack_wait,
        max_deliver: -1,
        filter_subjects: c.filter_subjects.clone(),
        max_ack_pending: c.max_ack_pending.into(),
        metadata: made_by(),
        ..pull::Config::default()
    }
}

fn made_by() -> HashMap<String, String> {
    HashMap::from([(MADE_BY.to_owned(), env!("CARGO_PKG_VERSION").to_owned())])
}

fn storage(s: Storage) -> StorageType {
    match s {
        Storage::File => StorageType::File,
        Storage::Memory => StorageType::Memory,
    }
}
