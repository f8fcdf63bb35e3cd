//! Takes the planner's steps.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::{
    self, Compression, DiscardPolicy, External, Republish, RetentionPolicy, Source, StorageType, SubjectTransform,
};
use async_nats::jetstream::{self, ErrorCode, kv};
use fanout_plan::Timestamp;
use fanout_plan::floor::Floor;
use fanout_plan::partition::{Binding, Keeps, Partition, Slot};
use fanout_plan::planner::Observed;
use fanout_plan::policy::{Storage, WhenFull};
use fanout_plan::step::{Failures, Part, Step};
use fanout_plan::topology::{BucketSpec, ConsumerStart, MirrorSpec, Side, StreamSpec};
use tracing::debug;

use super::floors::settled_to;
use super::observe::moment;
use super::refusal::{is_for_good, problem, there};
use super::{Store, StoreError};
use crate::telemetry::instruments::StoreOperation;
use crate::telemetry::{INSTRUMENTS, spans};

/// Marks what Fanout made, in the metadata of streams and consumers.
pub(super) const MADE_BY: &str = "fanout";

/// Which change of the topology made a partition.
pub(super) const GENERATION: &str = "fanout-generation";
/// The tenants whose events a partition holds.
pub(super) const SLOT: &str = "fanout-slot";
/// Under which template its events are stored.
pub(super) const SUBJECT: &str = "fanout-subject";
/// The bounds that a stream was given beside the log: others are an operator's, given by hand.
pub(super) const BOUNDS: &str = "fanout-bounds";
/// Which log a stream is, of those that have stood in its place.
pub(super) const LOG: &str = "fanout-log";
/// When the server made a stream of the log: one that is made again from the same configuration is another.
pub(super) const MADE_AT: &str = "fanout-made-at";
/// The subscription that a consumer serves.
pub(super) const ENTRY: &str = "fanout-subscription";
/// Which policy the bus was brought to, and its `revision`.
pub(super) const POLICY: &str = "fanout-policy";
pub(super) const REVISION: &str = "fanout-policy-revision";
/// The place where a partition's events are published.
pub(super) const PLACE: &str = "fanout-place";
/// That nothing is asked any more of the place that a stream mirrors.
pub(super) const LET_GO: &str = "fanout-let-go";
/// Since when a partition takes nothing new.
pub(super) const RETIRED_AT: &str = "fanout-retired-at";

/// How long after its deletion a bucket's key may still be seen by its watchers (nats-server 2.11).
const MARKER_AGE: Duration = Duration::from_secs(60);

/// Steps one after another that the store does not answer before it is taken to be away.
const UNANSWERED: usize = 3;

/// What came of a plan's steps.
#[derive(Debug, Default)]
pub struct CarriedOut {
    /// The steps that were taken, by their place in the plan.
    pub done: Vec<usize>,
    /// What could not be had.
    pub failures: Failures,
    /// The parts that the store refused for good, as opposed to those of which nothing is known.
    refused: std::collections::BTreeSet<Part>,
}

impl CarriedOut {
    /// Whether the store refused a part for good.
    pub fn is_refused(&self, part: &Part) -> bool {
        self.refused.contains(part)
    }
}

impl Store {
    /// Takes a plan's steps, and goes on past those that fail, but for what needs them. Tells `of` each that is taken.
    /// `races` says whether one that another instance was faster with ends it, so that the plan is made anew, or fails
    /// like any other.
    ///
    /// # Errors
    /// When the store is away, or another instance was faster. Some steps may have been taken.
    pub async fn carry_out(
        &self,
        steps: &[Step],
        failures: Failures,
        races: bool,
        mut of: impl FnMut(&Step),
    ) -> Result<CarriedOut, StoreError> {
        let mut taken = CarriedOut {
            failures,
            ..CarriedOut::default()
        };
        let mut unanswered = 0;
        for (i, step) in steps.iter().enumerate() {
            if !taken.failures.allow(step) {
                continue;
            }
            let (began, at) = (Instant::now(), SystemTime::now());
            let applied = self.apply(step).await;
            INSTRUMENTS.store(StoreOperation::Apply).since(began);
            spans::step(at, step, || applied.as_ref().err().map(|e| problem(step, e)));
            match applied {
                Ok(()) => {
                    unanswered = 0;
                    of(step);
                    taken.done.push(i);
                }
                Err(e @ StoreError::Raced { .. }) if races => return Err(e),
                Err(e) => {
                    let refused = is_for_good(step, &e);
                    let answered = e.is_refusal() || e.answer().is_some();
                    unanswered = if answered { 0 } else { unanswered + 1 };
                    if unanswered >= UNANSWERED || !self.is_connected() {
                        return Err(e);
                    }
                    if refused {
                        taken.refused.insert(step.part());
                    }
                    taken.failures.add(step, problem(step, &e));
                }
            }
        }
        Ok(taken)
    }

    /// Takes back what was done of a plan for one part.
    ///
    /// # Errors
    /// When the store can't be changed: the next plan finishes what is left, one way or the other.
    pub async fn undo(&self, steps: &[Step], done: &[usize], part: &Part, before: &Observed) -> Result<(), StoreError> {
        for step in done.iter().rev().filter_map(|i| steps.get(*i)) {
            if step.part() == *part
                && let Some(undo) = step.undo(before)
            {
                self.apply(&undo).await?;
            }
        }
        Ok(())
    }

    pub(super) fn is_connected(&self) -> bool {
        self.js.client().connection_state() == async_nats::connection::State::Connected
    }

    /// Takes one step. Each is idempotent, so that a plan cut short is finished by the next.
    ///
    /// # Errors
    /// When the store refuses it or can't be reached, or another instance was faster.
    pub async fn apply(&self, step: &Step) -> Result<(), StoreError> {
        match step {
            // Two instances may make a partition of one number for two tenants at once: to one the server says that the
            // name is in use with another configuration (10058), or that another has its subjects (10065).
            Step::CreateStream(s) => {
                let made = self
                    .js
                    .create_stream(stream_config(s))
                    .await
                    .map_err(|e| match e.kind() {
                        CreateStreamErrorKind::JetStream(answer) if is_lost_race(s, &answer) => StoreError::Raced {
                            what: format!("stream {}", s.name),
                        },
                        _ => self.not_made(step)(e),
                    })?;
                if s.partition.is_some() {
                    let made_at = moment(made.cached_info().created);
                    let said = stream_config(&StreamSpec { made_at, ..s.clone() });
                    self.js.update_stream(said).await.map_err(self.not_made(step))?;
                }
            }
            Step::UpdateStream(s) | Step::RetireStream(s) | Step::BindStream(s) => {
                let made_at = match s.made_at {
                    // It was made after the plan was: what it says of that stays.
                    Timestamp::EPOCH if s.partition.is_some() => {
                        let info = self.stream_info(&s.name).await?;
                        info.map_or(Timestamp::EPOCH, |info| moment(info.created))
                    }
                    known => known,
                };
                let said = stream_config(&StreamSpec { made_at, ..s.clone() });
                self.js.update_stream(said).await.map_err(self.not_made(step))?;
            }
            Step::DeleteStream(name) => {
                // Another instance may have been faster, which is as good.
                there(self.js.delete_stream(name).await, step.to_string())?;
            }
            Step::CreateBucket(b) | Step::UpdateBucket(b) => {
                self.js
                    .create_or_update_key_value(bucket_config(b))
                    .await
                    .map_err(self.not_made(step))?;
            }
            Step::Remember(registered) => {
                self.remember(registered).await?;
                if registered.has_moved()
                    && let Err(error) = self.let_go(registered).await
                {
                    debug!(subscription = %registered.subscription.name, %error, "attempts and retries of a subscription that is at another place were not deleted; they are deleted later");
                }
            }
            Step::Forget(name) => self.forget(name, None).await?,
            Step::CreateConsumer(c) => {
                // Where it is already, whoever made it noted how far it had come.
                let Some(made) = self.make_consumer(c, &step.to_string()).await? else {
                    return Ok(());
                };
                if c.start == ConsumerStart::New {
                    // Made again, it must not begin with what is new then.
                    let state = self.log_state(c.partition).await?;
                    let log = self.layout.log_of(c.partition);
                    let begins_after = settled_to(&made);
                    let floor = Floor::of(log, &state, begins_after, begins_after);
                    self.note_floor(c.partition, &c.name, floor).await?;
                }
                self.note_replayed(&c.name, c.partition, made.num_pending).await?;
            }
            Step::UpdateConsumer(c) => {
                self.update_consumer(c, &step.to_string()).await?;
            }
            Step::DeleteConsumer { partition, name } => {
                let stream = self.names.partition(*partition);
                let deleted = self.js.delete_consumer_from_stream(name, stream).await;
                there(deleted, step.to_string())?;
                self.forget_floor(*partition, name).await;
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
        retention: match s.keeps() {
            Keeps::Log => RetentionPolicy::Limits,
            Keeps::WorkQueue => RetentionPolicy::WorkQueue,
        },
        compression: Some(if s.compressed {
            Compression::S2
        } else {
            Compression::None
        }),
        subject_transform: s.strips.as_ref().map(|prefix| SubjectTransform {
            source: format!("{prefix}>"),
            destination: ">".to_owned(),
        }),
        max_messages: match s.max_messages {
            0 => -1,
            n => i64::try_from(n).unwrap_or(i64::MAX),
        },
        max_messages_per_subject: match s.side {
            None | Some(Side::Journal) => -1,
            Some(Side::Scheduled | Side::Marks | Side::Usage | Side::Retries) => 1,
        },
        allow_message_ttl: s.side == Some(Side::Scheduled),
        allow_message_counter: s.side == Some(Side::Usage),
        allow_atomic_publish: s.atomic,
        allow_direct: true,
        mirror: s.mirror.as_ref().map(|m| mirror(&s.name, m)),
        metadata: marks_of(s),
        ..stream::Config::default()
    }
}

/// The stream of the same name behind another API. A transform from a subject to itself is a filter, and there may be several.
fn mirror(name: &str, of: &MirrorSpec) -> Source {
    let filter = |subject: &String| SubjectTransform {
        source: subject.clone(),
        destination: subject.clone(),
    };
    Source {
        name: name.to_owned(),
        external: Some(External {
            api_prefix: of.api.clone(),
            delivery_prefix: None,
        }),
        subject_transforms: of.subjects.iter().map(filter).collect(),
        ..Source::default()
    }
}

/// The marks of a stream beside the log.
fn beside(s: &StreamSpec) -> HashMap<String, String> {
    let bounds = if s.by_hand {
        "by hand".to_owned()
    } else {
        bounds(s.max_bytes, s.max_messages)
    };
    let mut marks = made_by();
    marks.insert(BOUNDS.to_owned(), bounds);
    marks
}

/// Bounds as a mark says them.
pub(super) fn bounds(max_bytes: u64, max_messages: u64) -> String {
    format!("{max_bytes} bytes, {max_messages} messages")
}

pub(super) fn bucket_config(b: &BucketSpec) -> kv::Config {
    kv::Config {
        bucket: b.name.clone(),
        history: 1,
        max_age: b.max_age,
        max_bytes: match b.max_bytes {
            0 => -1,
            n => i64::try_from(n).unwrap_or(i64::MAX),
        },
        num_replicas: b.replicas.into(),
        storage: storage(b.storage),
        limit_markers: Some(MARKER_AGE),
        ..kv::Config::default()
    }
}

pub(super) fn made_by() -> HashMap<String, String> {
    HashMap::from([(MADE_BY.to_owned(), env!("CARGO_PKG_VERSION").to_owned())])
}

/// What a stream says of itself.
fn marks_of(s: &StreamSpec) -> HashMap<String, String> {
    let mut marks = s.partition.as_ref().map_or_else(|| beside(s), |p| marks(p, s.made_at));
    if let Some(policy) = &s.policy {
        marks.insert(POLICY.to_owned(), policy.digest.clone());
        marks.insert(REVISION.to_owned(), policy.revision.to_string());
    }
    if s.let_go {
        marks.insert(LET_GO.to_owned(), "true".to_owned());
    }
    marks
}

/// What a stream says of its part of the log. The one partition of a bus that was never divided says only which log it is.
fn marks(partition: &Partition, made_at: Timestamp) -> HashMap<String, String> {
    let mut marks = made_by();
    if !partition.log.is_unsaid() {
        marks.insert(LOG.to_owned(), partition.log.to_string());
    }
    if made_at != Timestamp::EPOCH {
        marks.insert(MADE_AT.to_owned(), made_at.nanoseconds().to_string());
    }
    if !partition.is_undivided() {
        marks.insert(GENERATION.to_owned(), partition.generation.to_string());
        marks.insert(SLOT.to_owned(), partition.slot.to_string());
        marks.insert(SUBJECT.to_owned(), partition.template.to_string());
    }
    if let Some(place) = &partition.place {
        marks.insert(PLACE.to_owned(), place.to_string());
    }
    if let Binding::Retired(at) = partition.binding {
        marks.insert(RETIRED_AT.to_owned(), at.to_string());
    }
    marks
}

/// Whether the server's refusal means that another instance made something of the same kind first.
fn is_lost_race(s: &StreamSpec, answer: &jetstream::Error) -> bool {
    let tenants = matches!(
        s.partition,
        Some(Partition {
            slot: Slot::Tenant(_),
            ..
        })
    );
    answer.error_code() == ErrorCode::STREAM_NAME_EXIST
        || (tenants && answer.error_code() == ErrorCode::STREAM_SUBJECT_OVERLAP)
}

fn storage(s: Storage) -> StorageType {
    match s {
        Storage::File => StorageType::File,
        Storage::Memory => StorageType::Memory,
    }
}
