//! Reads what the store holds for a bus, in the planner's words.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{self, DeliverPolicy};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use fanout_plan::planner::Observed;
use fanout_plan::policy::{Storage, WhenFull};
use fanout_plan::topology::{BucketSpec, ConsumerSpec, ConsumerStart, StreamSpec};
use fanout_plan::{Code, Problem};
use futures::TryStreamExt as _;

use super::apply::MADE_BY;
use super::{Store, StoreError};

impl Store {
    /// Reads the bus's streams, buckets, consumers and registry.
    ///
    /// # Errors
    /// When the store can't be read, or holds something under the bus's names that Fanout did not make.
    pub async fn observe(&self) -> Result<Observed, StoreError> {
        let mut observed = Observed::default();
        let mut foreign = Vec::new();
        let (log, dead) = (self.names.log(), self.names.dead_letters());
        for name in [&log, &dead] {
            let Some(info) = self.stream_info(name).await? else {
                continue;
            };
            if !info.config.metadata.contains_key(MADE_BY) || info.config.retention != RetentionPolicy::Limits {
                foreign.push(Problem::new(
                    Code::ForeignTopology,
                    format!(
                        "stream {name} exists and was not made by Fanout: remove or rename it, or use another bus name"
                    ),
                ));
                continue;
            }
            if *name == log {
                observed.head = info.state.last_sequence;
                observed.topology.consumers = self.observe_consumers().await?;
            }
            observed
                .topology
                .streams
                .insert(name.clone(), stream_spec(&info.config));
        }
        for name in [self.names.registry(), self.names.attempts()] {
            if let Some(info) = self.stream_info(&format!("KV_{name}")).await? {
                observed.topology.buckets.insert(
                    name.clone(),
                    BucketSpec {
                        name,
                        max_age: info.config.max_age,
                        replicas: replicas(info.config.num_replicas),
                        storage: storage(info.config.storage),
                    },
                );
            }
        }
        if !foreign.is_empty() {
            return Err(StoreError::Refused(foreign));
        }
        if observed.topology.buckets.contains_key(&self.names.registry()) {
            observed.registry = self.registry().await?;
        }
        Ok(observed)
    }

    async fn stream_info(&self, name: &str) -> Result<Option<stream::Info>, StoreError> {
        match self.js.get_stream(name).await {
            Ok(stream) => Ok(Some(stream.cached_info().clone())),
            Err(e) => match e.kind() {
                GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
                _ => Err(StoreError::when(format!("describe stream {name}"))(e)),
            },
        }
    }

    async fn observe_consumers(&self) -> Result<BTreeMap<String, ConsumerSpec>, StoreError> {
        let consumers: Vec<consumer::Info> = self
            .log()
            .await?
            .consumers()
            .try_collect()
            .await
            .map_err(StoreError::when("list the log's consumers"))?;
        Ok(consumers
            .iter()
            .filter(|c| c.config.metadata.contains_key(MADE_BY))
            .map(|c| (c.name.clone(), consumer_spec(&c.name, &c.config)))
            .collect())
    }
}

fn stream_spec(c: &stream::Config) -> StreamSpec {
    StreamSpec {
        name: c.name.clone(),
        subjects: c.subjects.clone(),
        max_age: c.max_age,
        max_bytes: u64::try_from(c.max_bytes).unwrap_or(0),
        when_full: match c.discard {
            DiscardPolicy::New => WhenFull::Refuse,
            DiscardPolicy::Old => WhenFull::DropOldest,
        },
        replicas: replicas(c.num_replicas),
        storage: storage(c.storage),
        dedupe_window: c.duplicate_window,
        announce_prefix: c
            .republish
            .as_ref()
            .map(|r| r.destination.trim_end_matches('>').to_owned()),
    }
}

fn consumer_spec(name: &str, c: &consumer::Config) -> ConsumerSpec {
    let mut filter_subjects = c.filter_subjects.clone();
    if !c.filter_subject.is_empty() {
        filter_subjects.push(c.filter_subject.clone());
    }
    filter_subjects.sort();
    ConsumerSpec {
        name: name.to_owned(),
        filter_subjects,
        start: match c.deliver_policy {
            DeliverPolicy::ByStartSequence { start_sequence } => ConsumerStart::Offset(start_sequence),
            DeliverPolicy::ByStartTime { start_time } => {
                ConsumerStart::Time(i64::try_from(start_time.unix_timestamp_nanos()).unwrap_or(i64::MAX))
            }
            _ => ConsumerStart::First,
        },
        ack_wait: if c.ack_wait.is_zero() {
            Duration::from_secs(30)
        } else {
            c.ack_wait
        },
        max_ack_pending: u32::try_from(c.max_ack_pending).unwrap_or(u32::MAX),
    }
}

fn replicas(n: usize) -> u8 {
    u8::try_from(n.max(1)).unwrap_or(u8::MAX)
}

fn storage(s: StorageType) -> Storage {
    match s {
        StorageType::File => Storage::File,
        StorageType::Memory => Storage::Memory,
    }
}
