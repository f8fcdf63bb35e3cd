//! One bus's part of a JetStream account.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::{self, context::ContextBuilder, kv, stream};
use bytes::Bytes;
use fanout_plan::by_partition::ByPartition;
use fanout_plan::isolation::Reader;
use fanout_plan::partition::{Layout, Partition};
use fanout_plan::policy::Shape;
use fanout_plan::subscription::{Registered, Start, Subscription};
use fanout_plan::{
    BusNames, Code, LogPosition, Policy, Position, Problem, Round, SubjectTemplate, SubscriptionId, SubscriptionName,
    Timestamp, letter,
};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::letter_share::LetterCounts;
use super::observe::moment;
use super::publish::Together;
use super::refusal::found;
use super::secret::SharedSecret;
use super::time::StoreTime;

/// How long any request to the store's API may take.
pub(super) const API_DEADLINE: Duration = Duration::from_secs(5);

/// Bytes that a request takes of the server's `max_payload` beyond what is counted.
const OVERHEAD: usize = 1 << 10;

/// Bytes that an event's message takes of it beyond what is counted: its separators, and what is written beside the event
/// when it is refused, or becomes a dead letter.
const EVENT_OVERHEAD: usize = letter::RESERVED + OVERHEAD;

/// The store of one bus. Cheap to clone: every publish has one in hand.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) js: Arc<jetstream::Context>,
    /// The same for events: it waits for an answer as long as the policy says.
    pub(super) publishing: Arc<jetstream::Context>,
    pub(super) names: Arc<BusNames>,
    pub(super) policy: Arc<Policy>,
    pub(super) layout: Arc<Layout>,
    /// The bus was brought to the policy by this instance.
    in_force: bool,
    /// Told when an event finds its place gone: the topology was changed.
    pub(super) moved: Arc<Notify>,
    pub(super) together: Arc<Together>,
    pub(super) time: Arc<StoreTime>,
    /// With which it is written who published an event.
    pub(super) secret: SharedSecret,
    pub(super) letter_counts: Arc<LetterCounts>,
}

/// Why the store could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A request failed or timed out; it can be tried again.
    #[error("the store did not {action}")]
    Unavailable {
        /// What was asked of it.
        action: String,
        /// The client's error.
        #[source]
        source: async_nats::Error,
    },
    /// Another instance changed the same thing at the same time; observe again and plan anew.
    #[error("{what} was changed by another instance at the same time")]
    Raced {
        /// The subscription or the stream.
        what: String,
    },
    /// The store was killed and forgot that it delivered this: it does so once more.
    #[error("the store forgot that it delivered the event")]
    Forgotten,
    /// NATS is there, and no JetStream answers.
    #[error("{0}")]
    NoJetStream(Problem),
    /// The store holds something that Fanout can't work with.
    #[error("the store can't take this bus: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Problem>),
}

impl StoreError {
    /// For `map_err`: what was asked when it failed.
    pub(crate) fn when<E: Into<async_nats::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Unavailable {
            action,
            source: source.into(),
        }
    }
}

impl Store {
    /// The store of a bus. Makes no request.
    pub fn new(nats: async_nats::Client, policy: Policy) -> Self {
        // An answer to a publish is awaited for `timeout`; `ack_timeout` bounds only how long one that nobody awaits any
        // more keeps its place among those in flight (async-nats 0.51).
        let context = |timeout| {
            let context = ContextBuilder::new()
                .api_prefix(policy.jetstream.subject())
                .timeout(timeout)
                .ack_timeout(policy.publish.deadline)
                .max_ack_inflight(policy.publish.max_in_flight as usize)
                .build(nats.clone());
            Arc::new(context)
        };
        Self {
            js: context(API_DEADLINE),
            publishing: context(policy.publish.deadline),
            names: Arc::new(policy.names()),
            policy: Arc::new(policy),
            layout: Arc::default(),
            in_force: false,
            moved: Arc::default(),
            together: Arc::default(),
            time: Arc::default(),
            secret: SharedSecret::default(),
            letter_counts: Arc::default(),
        }
    }

    /// The same, notifying `moved` when an event finds its place gone.
    #[must_use]
    pub(crate) fn notifying(self, moved: &Arc<Notify>) -> Self {
        Self {
            moved: Arc::clone(moved),
            ..self
        }
    }

    /// The same, under a new policy of the bus that this instance has served already.
    #[must_use]
    pub(crate) fn after(self, last: Option<&Self>) -> Self {
        match last {
            Some(last) if last.names.registry() == self.names.registry() => Self {
                secret: last.secret.clone(),
                time: Arc::clone(&last.time),
                ..self
            },
            _ => self,
        }
    }

    /// The store does not hold what it should: it is to be reconciled.
    pub(crate) fn is_amiss(&self) {
        self.moved.notify_one();
    }

    /// The same with what is known of its partitions.
    #[must_use]
    pub fn with_layout(&self, layout: Layout) -> Self {
        Self {
            layout: if *self.layout == layout {
                Arc::clone(&self.layout)
            } else {
                Arc::new(layout)
            },
            ..self.clone()
        }
    }

    /// A position of the log that its partition is now.
    pub(crate) fn in_its_log(&self, position: Position) -> LogPosition {
        LogPosition {
            log: self.layout.log_of(position.partition),
            position,
        }
    }

    /// The same, once the bus was brought to its policy.
    #[must_use]
    pub(crate) fn brought(self) -> Self {
        Self { in_force: true, ..self }
    }

    /// Whether the bus was brought to its policy by this instance.
    pub(crate) fn is_in_force(&self) -> bool {
        self.in_force
    }

    /// Its partitions, as of the last plan.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether the server takes messages as large as the policy's events.
    ///
    /// # Errors
    /// Names both limits.
    pub fn fits_the_server(&self) -> Result<(), Problem> {
        self.server_is_new_enough()?;
        let (asked, server) = (self.policy.max_event_bytes, self.nats().max_payload());
        if asked <= (server as u64).saturating_sub(EVENT_OVERHEAD as u64) {
            return Ok(());
        }
        Err(Problem::new(
            Code::ConflictingSettings,
            format!(
                "`event.max-bytes` ({asked} bytes) does not fit the server's `max_payload` ({server} bytes, {EVENT_OVERHEAD} of them for what is written beside an event): lower the one or raise the other"
            ),
        ))
    }

    /// Bytes that the server takes in one request.
    pub fn max_request(&self) -> u64 {
        (self.nats().max_payload() as u64).saturating_sub(OVERHEAD as u64)
    }

    /// Whether the server is new enough for the policy.
    ///
    /// # Errors
    /// Names the first setting that it is too old for.
    pub fn server_is_new_enough(&self) -> Result<(), Problem> {
        let Some(setting) = self.policy.needs_nats_2_12() else {
            return Ok(());
        };
        if self.nats().is_server_compatible(2, 12, 0) {
            return Ok(());
        }
        Err(Problem::new(
            Code::ServerTooOld,
            format!(
                "{setting} needs nats-server 2.12 or newer, and this is {}: upgrade it, or leave the setting out",
                self.nats().server_info().version
            ),
        ))
    }

    /// Whether both are for the same policy, and not only for an equal one.
    pub(crate) fn is_of_same_policy(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.policy, &other.policy)
    }

    /// The names of what the bus is made of.
    pub(crate) fn names(&self) -> &BusNames {
        &self.names
    }

    /// The policy it was made for.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Its connection.
    pub(crate) fn nats(&self) -> async_nats::Client {
        self.js.client()
    }

    /// A message of one of its streams, which can be settled.
    pub(crate) fn settleable(&self, message: async_nats::Message) -> jetstream::Message {
        jetstream::Message {
            message,
            context: (*self.js).clone(),
        }
    }

    pub(super) async fn bucket(&self, name: &str) -> Result<kv::Store, StoreError> {
        self.js
            .get_key_value(name)
            .await
            .map_err(StoreError::when(format!("open bucket {name}")))
    }

    /// A stream, without a request for what it holds.
    pub(super) async fn stream(&self, name: String) -> Result<stream::Stream<()>, StoreError> {
        let stream = self.js.get_stream_no_info(&name).await;
        stream.map_err(StoreError::when(format!("open {name}")))
    }

    pub(super) async fn log(&self, partition: u32) -> Result<stream::Stream<()>, StoreError> {
        self.stream(self.names.partition(partition)).await
    }

    /// The last message of a subject, from the stream's leader: a copy may not know of the last change yet.
    pub(super) async fn last_message(
        &self,
        stream: String,
        subject: &str,
    ) -> Result<Option<StreamMessage>, StoreError> {
        let stream = self.stream(stream).await?;
        let last = stream.get_last_raw_message_by_subject(subject).await;
        found(last, format!("read {subject}"))
    }

    /// The subjects under which new events are announced. Before a tenant has the first partition, they are those that
    /// it will have: who listens must do so before the first event.
    pub(crate) fn announced(&self) -> Vec<&SubjectTemplate> {
        let templates = self.layout.templates();
        if templates.is_empty() {
            return vec![&self.policy.subject];
        }
        templates
    }

    /// The subjects under which a partition's events are stored.
    pub(crate) fn template(&self, partition: u32) -> &SubjectTemplate {
        self.layout
            .partitions
            .get(&partition)
            .map_or(&self.policy.subject, |p| &p.template)
    }

    /// The partition whose stream this is.
    pub(crate) fn partition_of(&self, stream: &str) -> Option<u32> {
        self.names.partition_of(stream)
    }

    /// The partitions in which a subscription's events are.
    pub(crate) fn partitions_of<'a>(&'a self, subscription: &'a Subscription) -> impl Iterator<Item = &'a Partition> {
        self.layout.partitions.values().filter(|p| subscription.reads(p))
    }

    /// A subscription's consumers, those of isolated tenants included.
    pub fn readers_of<'a>(&'a self, registered: &'a Registered) -> impl Iterator<Item = (&'a Partition, Reader)> {
        self.partitions_of(&registered.subscription)
            .flat_map(|partition| registered.readers(partition).map(move |reader| (partition, reader)))
    }

    /// A consumer of a subscription; `None` where it needs none.
    pub(crate) async fn consumer(
        &self,
        registered: &Registered,
        partition: &Partition,
        reader: &Reader,
    ) -> Result<Option<PullConsumer>, StoreError> {
        let name = registered.consumer_of(reader);
        let stream = self.names.partition(partition.number);
        let consumer = self.js.get_consumer_from_stream(&name, &stream).await;
        let action = format!("open consumer {name} of {stream}");
        if partition.is_retired() {
            return self.unless_removed(consumer, (partition.number, &name), action).await;
        }
        consumer.map(Some).map_err(StoreError::when(action))
    }

    /// Each partition's last offset.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn heads(&self) -> Result<ByPartition, StoreError> {
        let mut heads = Vec::new();
        for number in self.layout.partitions.keys() {
            let log = self.log(*number).await?;
            let info = log.get_info().await.map_err(StoreError::when("read the log's state"))?;
            heads.push((*number, info.state.last_sequence));
        }
        Ok(heads.into_iter().collect())
    }

    /// Puts a subscription back to a place, and returns it as it is then; `None` if there is none of that name, or it is
    /// not `of`, where that is said. Its consumer follows with the next plan. `skip` lets it pass over events that it has not handled.
    ///
    /// # Errors
    /// When that can't be, or would pass over events, or the store can't be changed.
    pub async fn rewind(
        &self,
        name: &SubscriptionName,
        of: Option<&SubscriptionId>,
        to: Start,
        skip: bool,
    ) -> Result<Option<Registered>, StoreError> {
        if self.policy.shape == Shape::WorkQueue {
            return Err(StoreError::Refused(vec![Problem::new(
                Code::NothingToRewind,
                format!(
                    "subscription {name}: with `topology` = `work-queue` the log keeps nothing that was handled: use another topology"
                ),
            )]));
        }
        let registered = self.registered(name).await?;
        let registered = registered.filter(|r| of.is_none_or(|of| r.id() == *of));
        // Of one that is at another place there is nothing here to compare with.
        if let Some(problem) = registered.as_ref().and_then(Registered::withheld_problem) {
            return Err(StoreError::Refused(vec![problem]));
        }
        let heads = self.heads().await?;
        if let Some(registered) = registered {
            // What can't be is not to be skipped to either.
            let rewound = registered.rewind(to, &heads, self.layout());
            rewound.map_err(|problem| StoreError::Refused(vec![problem]))?;
            if !skip {
                self.passes_over_nothing(&registered, to).await?;
            }
        }
        let mut before = None;
        let rewound = self.amend(name, of, |have| {
            before = Some(have.clone());
            have.rewind(to, &heads, self.layout())
        });
        let rewound = rewound.await?;
        if let (Some(before), Some(rewound)) = (before, &rewound) {
            if let Err(error) = self.carry_losses(&before, rewound).await {
                warn!(subscription = %name, %error, "its loss is not reported any more: a log line with retention-gap reported it");
            }
            // It comes again from the log, or is passed over. What is not let go here is when deliveries begin.
            if let Err(error) = self.forget_retries(&before.id().name, Round::of(&before)).await {
                debug!(subscription = %name, %error, "retries of an ended subscription were not deleted; they are deleted later");
            }
        }
        Ok(rewound)
    }

    /// The payload of an event of the log; `None` when it has expired.
    pub(crate) async fn payload(&self, position: Position) -> Result<Option<Bytes>, StoreError> {
        let Some(message) = self.event(position).await? else {
            return Ok(None);
        };
        let (mut headers, mut payload) = (Some(message.headers), message.payload);
        // It was an event when it was delivered first; what is none is given as it is.
        drop(super::read::event(
            self.template(position.partition),
            &message.subject,
            &mut headers,
            &mut payload,
        ));
        Ok(Some(payload))
    }

    /// When an event of the log was published, nanoseconds since the Unix epoch; `None` when it has expired.
    pub(super) async fn published_at(&self, position: Position) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.event(position).await?.map(|message| moment(message.time)))
    }

    pub(super) async fn event(&self, position: Position) -> Result<Option<StreamMessage>, StoreError> {
        let log = self.log(position.partition).await?;
        found(
            log.get_raw_message(position.offset).await,
            format!("read event {position}"),
        )
    }
}
