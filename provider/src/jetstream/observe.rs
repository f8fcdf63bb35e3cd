//! Reads what the store holds for a bus, in the planner's words.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::jetstream::consumer;
use async_nats::jetstream::stream::{self, Compression, DiscardPolicy, RetentionPolicy, StorageType};
use fanout_plan::in_force::InForce;
use fanout_plan::partition::{Binding, Keeps, Partition, Slot};
use fanout_plan::planner::{LogState, MirrorState, Observed};
use fanout_plan::policy::{Storage, WhenFull};
use fanout_plan::subscription::Registered;
use fanout_plan::topology::{BucketSpec, ConsumerSpec, MirrorSpec, Side, StreamSpec};
use fanout_plan::unregistered::Made;
use fanout_plan::{Code, ConsumerName, Problem, SubjectTemplate, SubscriptionName, Timestamp};
use futures::{StreamExt as _, TryStreamExt as _};
use tracing::warn;

use super::apply::{
    BOUNDS, GENERATION, LET_GO, LOG, MADE_AT, MADE_BY, PLACE, POLICY, RETIRED_AT, REVISION, SLOT, SUBJECT, bounds,
};
use super::consumer::consumer_spec;
use super::floors::settled_to;
use super::migrate::MIGRATION;
use super::refusal::{cut, there};
use super::registry::Registry;
use super::{Store, StoreError};

/// Reads of streams under way at once.
const READS: usize = 16;

/// How often a stream is observed again that seems to be another log, and how long it is given in between.
const OBSERVED_AGAIN: usize = 3;
const FOLLOWS: Duration = Duration::from_millis(300);

/// A consumer's name and what the bus wants of it, what it says of itself, and up to which offset its events are settled.
type Found = (ConsumerName, ConsumerSpec, Made, u64);

impl Store {
    /// Reads the bus's streams, buckets, consumers and registry. What is there and can't be read, or was not made by Fanout,
    /// is part of what is observed.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn observe(&self) -> Result<Observed, StoreError> {
        self.observe_knowing(&BTreeMap::new(), &BTreeSet::new()).await
    }

    /// The same, with the subscriptions that are known: those that the store has lost are told from those that were ended. Of
    /// those that are `unwritten` it is not said: the registry never had them.
    ///
    /// # Errors
    /// As [`Store::observe`].
    pub(crate) async fn observe_knowing(
        &self,
        known: &BTreeMap<SubscriptionName, Registered>,
        unwritten: &BTreeSet<SubscriptionName>,
    ) -> Result<Observed, StoreError> {
        let mut observed = Observed {
            account: self.account().await?,
            ..Observed::default()
        };
        for info in self.streams_of_the_account(&mut observed).await? {
            if let Some(said) = info.config.metadata.get(MIGRATION) {
                return Err(self.is_on_its_way(said));
            }
            let name = info.config.name.clone();
            let number = self.names.partition_of(&name);
            let partition = number.map(|n| partition(n, &info.config));
            if !info.config.metadata.contains_key(MADE_BY) || partition == Some(None) {
                let problem = Problem::new(
                    Code::ForeignTopology,
                    format!(
                        "stream {name} exists and was not made by Fanout: remove or rename it, or use another bus name"
                    ),
                );
                if let Some(number) = number {
                    observed.unread.insert(number, problem.clone());
                }
                observed.in_the_way.push(problem);
                continue;
            }
            match number {
                Some(number) => drop(observed.logs.insert(number, log_state(&info))),
                None if name == self.names.dead_letters() => observed.dead_letters = log_state(&info),
                None => {}
            }
            observed
                .topology
                .streams
                .insert(name, stream_spec(&info.config, partition.flatten()));
        }
        for name in self.buckets() {
            if let Some(info) = self.stream_info(&format!("KV_{name}")).await? {
                if name == self.names.registry() {
                    observed.registry_bytes = info.state.bytes;
                }
                let spec = bucket_spec(name.clone(), &info.config);
                observed.topology.buckets.insert(name, spec);
            }
        }
        let consumers: Vec<_> = futures::stream::iter(observed.logs.keys().copied())
            .map(|partition| async move { (partition, self.observe_consumers(partition).await) })
            .buffer_unordered(READS)
            .collect()
            .await;
        for (partition, found) in consumers {
            self.note_consumers(partition, found, &mut observed).await?;
        }
        if observed.topology.buckets.contains_key(&self.names.registry()) {
            let registry = self.registry().await?;
            Registry {
                entries: observed.registry,
                unreadable: observed.unreadable,
                ended: observed.ended,
            } = registry;
        }
        observed.find_missing(known);
        observed.find_unregistered();
        for name in observed.lost.keys().filter(|name| !unwritten.contains(*name)) {
            warn!(code = %Code::RegistrationLost, "subscription {name}: the registry has lost it, and nobody ended it: it is remembered again");
        }
        self.observe_elsewhere(&mut observed).await;
        self.observe_left_out(&mut observed).await;
        self.read_floors(&mut observed).await?;
        self.observe_again(&mut observed).await?;
        Ok(observed)
    }

    /// Takes in the consumers of one partition. One that can't be read is no reason not to read the others.
    async fn note_consumers(
        &self,
        partition: u32,
        found: Result<(Vec<Found>, Vec<ConsumerName>), StoreError>,
        observed: &mut Observed,
    ) -> Result<(), StoreError> {
        match found {
            Ok((mine, foreign)) => {
                for (name, spec, made, settled) in mine {
                    let key = (partition, name);
                    observed.made.insert(key.clone(), made);
                    observed.settled.insert(key.clone(), settled);
                    observed.topology.consumers.insert(key, spec);
                }
                let foreign = foreign.into_iter().map(|name| (partition, name));
                observed.foreign_consumers.extend(foreign);
                Ok(())
            }
            // The store is away.
            Err(e) if !self.is_connected() => Err(e),
            // Somebody, or another instance, took the stream away after it was listed.
            Err(_) if matches!(self.stream_info(&self.names.partition(partition)).await, Ok(None)) => {
                self.take_out(partition, observed);
                Ok(())
            }
            Err(e) => {
                let problem = unread(&format!("consumers of {}", self.names.partition(partition)), &e);
                observed.unread.insert(partition, problem);
                Ok(())
            }
        }
    }

    /// Takes a part of the log out of what is observed: its stream is gone.
    fn take_out(&self, partition: u32, observed: &mut Observed) {
        observed.logs.remove(&partition);
        observed.topology.streams.remove(&self.names.partition(partition));
        observed.topology.consumers.retain(|(of, _), _| *of != partition);
    }

    fn buckets(&self) -> [String; 3] {
        [self.names.registry(), self.names.attempts(), self.names.leases()]
    }

    /// The streams of the bus's log and what belongs to it; of all others the subjects are noted. The server lists an
    /// account's streams a page at a time.
    pub(super) async fn streams_of_the_account(
        &self,
        observed: &mut Observed,
    ) -> Result<Vec<stream::Info>, StoreError> {
        let dead = self.names.dead_letters();
        let (scheduled, marks) = (self.names.scheduled_stream(), self.names.marks());
        let (usage, retries) = (self.names.usage(), self.names.retries());
        let journal = self.names.journal();
        let buckets = self.buckets().map(|name| format!("KV_{name}"));
        let (mut found, mut others) = (Vec::new(), BTreeMap::new());
        let mut all = self.js.streams();
        while let Some(info) = all.try_next().await.map_err(StoreError::when("list its streams"))? {
            let name = &info.config.name;
            let beside = [&dead, &scheduled, &marks, &usage, &retries, &journal].contains(&name);
            if beside || self.names.partition_of(name).is_some() {
                found.push(info);
            } else if !buckets.contains(name) {
                others.insert(info.config.name, info.config.subjects);
            }
        }
        // A list leaves out what has no leader at the moment, and the list of names does not (nats-server 2.15.1): what is
        // there, or was before, is asked for by its name.
        let names = self.js.stream_names().try_collect::<Vec<_>>().await;
        let names = names.map_err(StoreError::when("list its streams"))?;
        let mut numbers: BTreeSet<u32> = names.iter().filter_map(|name| self.names.partition_of(name)).collect();
        numbers.extend(self.layout.partitions.keys());
        for number in &numbers {
            let name = self.names.partition(*number);
            if found.iter().any(|info| info.config.name == name) {
                continue;
            }
            match self.stream_info(&name).await {
                Ok(info) => found.extend(info),
                Err(e) if !self.is_connected() => return Err(e),
                Err(e) => {
                    let problem = unread(&format!("stream {name}"), &e);
                    observed.unread.insert(*number, problem.clone());
                    observed.in_the_way.push(problem);
                }
            }
        }
        observed.others = others;
        Ok(found)
    }

    /// Reads the state of those streams again that something remembers more of than they hold: it may have been noted after they
    /// were read, and a copy that leads just now may have to follow first.
    async fn observe_again(&self, observed: &mut Observed) -> Result<(), StoreError> {
        for _ in 0..OBSERVED_AGAIN {
            let others = observed.other_logs();
            if others.is_empty() {
                return Ok(());
            }
            for number in others {
                match self.stream_info(&self.names.partition(number)).await? {
                    Some(info) => drop(observed.logs.insert(number, log_state(&info))),
                    None => self.take_out(number, observed),
                }
            }
            if !observed.other_logs().is_empty() {
                tokio::time::sleep(FOLLOWS).await;
            }
        }
        Ok(())
    }

    pub(super) async fn stream_info(&self, name: &str) -> Result<Option<stream::Info>, StoreError> {
        let stream = self.js.get_stream(name).await;
        let stream = there(stream, format!("describe stream {name}"))?;
        Ok(stream.map(|stream| stream.cached_info().clone()))
    }

    /// A partition's consumers: those that Fanout made, and the names of others.
    async fn observe_consumers(&self, partition: u32) -> Result<(Vec<Found>, Vec<ConsumerName>), StoreError> {
        let consumers: Vec<consumer::Info> = self
            .log(partition)
            .await?
            .consumers()
            .try_collect()
            .await
            .map_err(StoreError::when("list the log's consumers"))?;
        let (mine, foreign): (Vec<_>, Vec<_>) = consumers
            .into_iter()
            .partition(|c| c.config.metadata.contains_key(MADE_BY));
        let found = |c: consumer::Info| {
            let spec = consumer_spec(partition, &c.name, &c.config);
            let made = Made {
                at: moment(c.created),
                entry: spec.entry.clone(),
            };
            let settled_to = settled_to(&c);
            (c.name.into(), spec, made, settled_to)
        };
        Ok((
            mine.into_iter().map(found).collect(),
            foreign.into_iter().map(|c| c.name.into()).collect(),
        ))
    }
}

/// What could not be read, as the state of what depends on it.
fn unread(what: &str, error: &StoreError) -> Problem {
    let source = std::error::Error::source(error).map(|s| format!(": {}", cut(&s.to_string())));
    Problem::new(
        Code::StoreUnavailable,
        format!(
            "{what} can't be read now: {}{}",
            cut(&error.to_string()),
            source.unwrap_or_default()
        ),
    )
}

pub(super) fn log_state(info: &stream::Info) -> LogState {
    LogState {
        head: info.state.last_sequence,
        messages: info.state.messages,
        bytes: info.state.bytes,
        oldest: info.state.first_sequence,
        oldest_at: moment(info.state.first_timestamp),
        head_at: moment(info.state.last_timestamp),
        made_at: moment(info.created),
        mirror: info.mirror.as_ref().map(|m| MirrorState {
            lag: m.lag,
            heard_ago: m.active,
        }),
    }
}

pub(super) fn moment(at: async_nats::datetime::DateTime) -> Timestamp {
    Timestamp::saturating(at.unix_timestamp_nanos())
}

/// Which part of the log a stream is; `None` if it is none that Fanout makes.
pub(super) fn partition(number: u32, c: &stream::Config) -> Option<Partition> {
    let mark = |name: &str| c.metadata.get(name);
    let template = match mark(SUBJECT) {
        Some(template) => template.parse().ok()?,
        None => SubjectTemplate::from_all(c.subjects.first()?)?,
    };
    let retired_at = mark(RETIRED_AT).and_then(|at| at.parse().ok());
    Some(Partition {
        number,
        generation: mark(GENERATION).map_or(Some(0), |g| g.parse().ok())?,
        slot: mark(SLOT).map_or(Some(Slot::Whole), |s| s.parse().ok())?,
        keeps: match c.retention {
            RetentionPolicy::Limits => Keeps::Log,
            RetentionPolicy::WorkQueue => Keeps::WorkQueue,
            RetentionPolicy::Interest => return None,
        },
        template,
        binding: match retired_at {
            Some(at) => Binding::Retired(at),
            None if c.mirror.is_some() => Binding::Mirror,
            None if c.subjects.iter().any(|s| !s.starts_with("fanout.part.")) => Binding::Plain,
            None => Binding::Internal,
        },
        log: mark(LOG).and_then(|log| log.parse().ok()).unwrap_or_default(),
        place: mark(PLACE).and_then(|place| place.parse().ok()),
    })
}

pub(super) fn bucket_spec(name: String, c: &stream::Config) -> BucketSpec {
    BucketSpec {
        name,
        max_age: c.max_age,
        max_bytes: u64::try_from(c.max_bytes).unwrap_or(0),
        replicas: replicas(c.num_replicas),
        storage: storage(c.storage),
    }
}

pub(super) fn stream_spec(c: &stream::Config, partition: Option<Partition>) -> StreamSpec {
    // No bound is below zero; a stream of the log has none of messages.
    let max_bytes = u64::try_from(c.max_bytes).unwrap_or(0);
    let max_messages = u64::try_from(c.max_messages).unwrap_or(0);
    StreamSpec {
        name: c.name.clone(),
        subjects: c.subjects.clone(),
        max_age: c.max_age,
        max_bytes,
        max_messages,
        by_hand: partition.is_none()
            && c.metadata
                .get(BOUNDS)
                .is_some_and(|given| *given != bounds(max_bytes, max_messages)),
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
        compressed: matches!(c.compression, Some(Compression::S2)),
        strips: c
            .subject_transform
            .as_ref()
            .map(|t| t.source.trim_end_matches('>').to_owned()),
        atomic: c.allow_atomic_publish,
        side: match (c.allow_message_counter, c.allow_message_ttl) {
            (true, _) => Some(Side::Usage),
            (_, true) if partition.is_none() => Some(Side::Scheduled),
            _ if partition.is_none() && c.retention == RetentionPolicy::WorkQueue => Some(Side::Retries),
            // Of a mark there is one for a subject.
            _ if partition.is_none() && c.discard == DiscardPolicy::Old && c.max_messages_per_subject != 1 => {
                Some(Side::Journal)
            }
            _ if partition.is_none() && c.discard == DiscardPolicy::Old => Some(Side::Marks),
            _ => None,
        },
        policy: in_force(c),
        made_at: c
            .metadata
            .get(MADE_AT)
            .and_then(|at| at.parse().ok())
            .map_or(Timestamp::EPOCH, Timestamp::from_nanoseconds),
        mirror: c.mirror.as_ref().map(mirror_spec),
        let_go: c.metadata.contains_key(LET_GO),
        partition,
    }
}

/// The policy that the stream says its bus was brought to.
pub(super) fn in_force(c: &stream::Config) -> Option<InForce> {
    c.metadata.get(POLICY).map(|digest| InForce {
        digest: digest.clone(),
        revision: c.metadata.get(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0),
    })
}

fn mirror_spec(of: &stream::Source) -> MirrorSpec {
    let filters = of.subject_transforms.iter().map(|t| &t.source);
    let mut subjects: Vec<String> = filters.chain(&of.filter_subject).cloned().collect();
    subjects.sort();
    MirrorSpec {
        api: of.external.as_ref().map_or_else(String::new, |e| e.api_prefix.clone()),
        subjects,
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
