//! Refused events that wait for their next attempt: one message each, in a stream of their own.
//!
//! A message that is nak'ed with a delay goes on counting against its consumer's `max_ack_pending` (nats-server
//! 2.15), so a refused event that waited at the log's consumer would hold up others. It is stored here first, and only
//! then acknowledged there: a crash in between delivers it once more, and then its copy is found.
//!
//! A consumer without a limit delivers the copies to one instance at a time. What is not due is nak'ed with the time
//! that is left. What is settled is gone, since the stream is a work queue; what is refused again replaces its message,
//! and names the one that it replaces.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use fanout_plan::limits::CallersShare;
use fanout_plan::retry::{FailedAttempt, attempts_within};
use fanout_plan::subscription::{MadeBy, Registered};
use fanout_plan::{Attributes, BusNames, LogPosition, Position, Round, SubscriptionName, Timestamp, letter};
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};

use super::headers::header_bytes;
use super::publish::{Outgoing, Unstored, unstored};
use super::publisher::Beside;
use super::refusal::{found, there, unless};
use super::registry::Registry;
use super::{Store, StoreError};

/// What Fanout knows of an event that waits, beside the event itself.
pub(super) const NOTE: &str = "fanout-retry";

/// How long the server remembers the consumer of a subscription's retries when nobody takes from it. The next one begins
/// with all of them: when each is due stands in its message.
const UNUSED_AGE: Duration = Duration::from_secs(3_600);

/// What is asked of the store.
const LIST: &str = "list the events that wait for a retry";
const FIND: &str = "find an event that waits for a retry";
const READ: &str = "read an event that waits for a retry";

/// Where refused events of one round of a subscription wait.
#[derive(Clone, Debug)]
pub(crate) struct Retries {
    store: Store,
    subscription: SubscriptionName,
    round: Round,
    /// Its caller made it: then the last part of the store is not for it.
    is_callers: bool,
}

/// A refused event, as it is stored.
pub(crate) struct Refused<'a> {
    pub(crate) at: LogPosition,
    pub(crate) attributes: &'a Attributes,
    pub(crate) beside: Beside<'a>,
    pub(crate) data: Bytes,
    /// Nanoseconds since the Unix epoch.
    pub(crate) published_at: Timestamp,
    pub(crate) attempts: &'a [FailedAttempt],
    /// When its next attempt is due, nanoseconds since the Unix epoch.
    pub(crate) due: Timestamp,
    /// The message that it replaces: it was refused before.
    pub(crate) replaces: Option<u64>,
}

/// What stands in the note of an event that waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) tenant: String,
    /// Nanoseconds since the Unix epoch, as the others.
    pub(crate) due: Timestamp,
    #[serde(rename = "published")]
    pub(crate) published_at: Timestamp,
    /// As many as the headers have room for.
    pub(crate) attempts: Vec<FailedAttempt>,
}

/// An event that waits, as its message notes it.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) position: Position,
    pub(crate) note: Note,
}

impl Waiting {
    /// `None` for a message that Fanout did not write.
    pub(crate) fn read(names: &BusNames, subject: &str, headers: Option<&HeaderMap>) -> Option<Self> {
        let (_, at) = names.retry_of(subject)?;
        let note = serde_json::from_str(headers?.get(NOTE)?.as_str()).ok()?;
        Some(Self {
            position: at.position,
            note,
        })
    }
}

impl Retries {
    /// Stores a refused event. That of a position is there once, however often this is called; one that another instance
    /// has replaced or settled meanwhile stays as that left it.
    pub(crate) async fn store(&self, refused: Refused<'_>) -> Result<(), Unstored> {
        let event = Outgoing::new(refused.attributes, refused.beside, refused.data);
        let (mut headers, data) = event.into_parts();
        let mut note = Note {
            tenant: refused.attributes.tenant().to_string(),
            due: refused.due,
            published_at: refused.published_at,
            attempts: Vec::new(),
        };
        // With some to spare for the numbers that the store is told.
        let taken = header_bytes(&headers) + NOTE.len() + text(&note).len() + 256;
        let limit = self.store.nats().max_payload();
        let room = letter::headers_left(taken, data.len(), limit);
        if room == 0 {
            // Another client of the bus's subjects filled a message to the brim.
            let size = taken + data.len();
            return Err(Unstored::TooLarge { size, limit });
        }
        note.attempts = attempts_within(refused.attempts, room);
        headers.insert(NOTE, super::headers::text(&text(&note)));
        let message = PublishMessage::build()
            .headers(headers)
            .payload(data)
            .expected_stream(self.store.names.retries());
        let subject = self.subject(refused.at);
        let stored = self
            .store
            .swap(subject, message, refused.replaces.unwrap_or_default())
            .await;
        stored.map(drop).map_err(unstored)
    }

    /// Whether the store leaves place for so many bytes more of this subscription. What callers made leaves the last quarter to
    /// those that the policy and links declare. A store that does not say how full it is does not refuse either.
    pub(crate) async fn has_place(&self, bytes: usize) -> bool {
        if !self.is_callers {
            return true;
        }
        let info = match self.store.retry_stream().await {
            Ok(stream) => stream.get_info().await.ok(),
            Err(_) => None,
        };
        info.is_none_or(|info| {
            let share = CallersShare::of(u64::try_from(info.config.max_bytes).unwrap_or(0));
            info.state.bytes.saturating_add(bytes as u64) <= share.all
        })
    }

    /// Whether the event of a position waits.
    pub(crate) async fn has(&self, at: LogPosition) -> Result<bool, StoreError> {
        let stream = self.store.retry_stream().await?;
        let waits = stream.get_last_raw_message_by_subject(&self.subject(at)).await;
        // Nothing waits in a stream that is gone.
        let absent = [ErrorCode::NO_MESSAGE_FOUND, ErrorCode::STREAM_NOT_FOUND];
        Ok(unless(waits, FIND, &absent)?.is_some())
    }

    fn subject(&self, at: LogPosition) -> String {
        self.store.names.retry(&self.subscription, self.round, at)
    }
}

fn text(note: &Note) -> String {
    serde_json::to_string(note).unwrap_or_default()
}

/// A refused event that waits for its next attempt, without the event itself.
#[derive(Clone, Debug)]
pub struct WaitingEvent {
    /// For which subscription.
    pub subscription: SubscriptionName,
    /// Where the event stands.
    pub position: Position,
    /// Whose it is.
    pub tenant: String,
    /// Its attempts, as many as there was room for.
    pub attempts: Vec<FailedAttempt>,
}

/// The most events that wait for a retry that are looked at one by one.
pub const MOST_LOOKED_AT: usize = 10_000;

impl Store {
    /// Refused events that wait for their next attempt, of all subscriptions that have had a name, or of any: the first
    /// [`MOST_LOOKED_AT`] that are found.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn waiting_events(&self, of: Option<&SubscriptionName>) -> Result<Vec<WaitingEvent>, StoreError> {
        let stream = self.retry_stream().await?;
        let filter = match of {
            Some(name) => self.names.retry_filter(name, None),
            None => self.names.retry_subjects(),
        };
        let mut listed = stream
            .info_with_subjects(filter)
            .await
            .map_err(StoreError::when(LIST))?;
        let mut subjects = Vec::new();
        while subjects.len() < MOST_LOOKED_AT
            && let Some((subject, _)) = listed.try_next().await.map_err(StoreError::when(LIST))?
        {
            subjects.push(subject);
        }
        let mut waiting = Vec::new();
        for subject in subjects {
            let message = found(stream.get_last_raw_message_by_subject(&subject).await, READ)?;
            let read = message.and_then(|m| Waiting::read(&self.names, &subject, Some(&m.headers)));
            if let (Some(read), Some(subscription)) = (read, self.names.retry_subscription_of(&subject)) {
                waiting.push(WaitingEvent {
                    subscription,
                    position: read.position,
                    tenant: read.note.tenant,
                    attempts: read.note.attempts,
                });
            }
        }
        Ok(waiting)
    }

    /// Where refused events of a subscription wait.
    pub(crate) fn retries(&self, registered: &Registered) -> Retries {
        Retries {
            store: self.clone(),
            subscription: registered.id().name,
            round: Round::of(registered),
            is_callers: registered.made_by == MadeBy::Call,
        }
    }

    pub(super) async fn retry_stream(&self) -> Result<Stream<()>, StoreError> {
        self.stream(self.names.retries()).await
    }

    pub(super) fn retries_of(&self, registered: &Registered) -> String {
        self.names
            .retry_filter(&registered.id().name, Some(Round::of(registered)))
    }

    /// Whether a message that was delivered is one of an event that waits.
    pub(crate) fn is_retry(&self, message: &jetstream::Message) -> bool {
        message.info().is_ok_and(|info| info.stream == self.names.retries())
    }

    /// Whether any event of a subscription waits.
    pub(crate) async fn has_retries(&self, registered: &Registered) -> Result<bool, StoreError> {
        let filter = self.retries_of(registered);
        let first = self
            .retry_stream()
            .await?
            .get_first_raw_message_by_subject(filter, 1)
            .await;
        Ok(found(first, FIND)?.is_some())
    }

    /// The consumer that delivers what waits, to one instance at a time.
    pub(crate) async fn retries_consumer(&self, registered: &Registered) -> Result<PullConsumer, StoreError> {
        let name = retries_consumer_name(registered);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            filter_subject: self.retries_of(registered),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.policy.delivery.ack_wait,
            max_deliver: -1,
            // Everything that waits counts; the stream's bytes bound it.
            max_ack_pending: -1,
            inactive_threshold: UNUSED_AGE,
            ..pull::Config::default()
        };
        let made = self.retry_stream().await?.create_consumer(config).await;
        made.map_err(StoreError::when(format!("make consumer {name} of the retries")))
    }

    /// The message of an event that waits; `None` once it was settled or replaced.
    pub(crate) async fn retry_message(
        &self,
        sequence: u64,
    ) -> Result<Option<jetstream::message::StreamMessage>, StoreError> {
        found(self.retry_stream().await?.get_raw_message(sequence).await, READ)
    }

    /// How many events of a subscription were refused and wait for their next attempt, or are at it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn waiting_for_retry(&self, registered: &Registered) -> Result<u64, StoreError> {
        let stream = self.retry_stream().await?;
        let info = stream.consumer_info(retries_consumer_name(registered)).await;
        Ok(match there(info, "count the events that wait for a retry")? {
            Some(info) => info.num_pending + info.num_ack_pending as u64,
            None => self.retries_by_position(registered).await?.values().map(|r| r.0).sum(),
        })
    }

    /// How many events wait in each partition, and the first of them.
    pub(crate) async fn retries_by_position(
        &self,
        registered: &Registered,
    ) -> Result<BTreeMap<u32, (u64, LogPosition)>, StoreError> {
        let mut waiting = BTreeMap::new();
        if !self.has_retries(registered).await? {
            return Ok(waiting);
        }
        let stream = self.retry_stream().await?;
        let mut subjects = stream
            .info_with_subjects(self.retries_of(registered))
            .await
            .map_err(StoreError::when(LIST))?;
        while let Some((subject, _)) = subjects.try_next().await.map_err(StoreError::when(LIST))? {
            let Some((_, at)) = self.names.retry_of(&subject) else {
                continue;
            };
            let (count, first) = waiting.entry(at.position.partition).or_insert((0, at));
            *count += 1;
            // Those of an earlier log come first.
            *first = at.min(*first);
        }
        Ok(waiting)
    }

    /// When the event of a position that waits was published.
    pub(super) async fn retry_published_at(
        &self,
        registered: &Registered,
        at: LogPosition,
    ) -> Result<Option<Timestamp>, StoreError> {
        let name = registered.id().name;
        let subject = self.names.retry(&name, Round::of(registered), at);
        let message = self.last_message(self.names.retries(), &subject).await?;
        let waiting = message.and_then(|m| Waiting::read(&self.names, &subject, Some(&m.headers)));
        Ok(waiting.map(|w| w.note.published_at))
    }

    /// Lets go what waits in one round of a subscription, and the consumer that delivers it: the server would keep that for
    /// an hour more, and has a thousand of them to give.
    pub(super) async fn forget_retries(&self, name: &SubscriptionName, round: Round) -> Result<(), StoreError> {
        let action = || format!("let go what waits for a retry at subscription {name}");
        let stream = self.retry_stream().await?;
        stream
            .purge()
            .filter(self.names.retry_filter(name, Some(round)))
            .await
            .map_err(StoreError::when(action()))?;
        let deleted = stream.delete_consumer(&consumer_name(name, round)).await;
        there(deleted, action()).map(drop)
    }

    /// Lets go what earlier rounds of a subscription left: an instance stored it that had not heard of the change.
    pub(crate) async fn sweep_retries(&self, registered: &Registered) -> Result<(), StoreError> {
        let name = &registered.id().name;
        let stream = self.retry_stream().await?;
        let all = self.names.retry_filter(name, None);
        if found(stream.get_first_raw_message_by_subject(all.clone(), 1).await, LIST)?.is_none() {
            return Ok(());
        }
        let mine = Round::of(registered);
        let (mut earlier, mut others) = (BTreeSet::new(), BTreeSet::new());
        let mut subjects = stream.info_with_subjects(all).await.map_err(StoreError::when(LIST))?;
        while let Some((subject, _)) = subjects.try_next().await.map_err(StoreError::when(LIST))? {
            match self.names.retry_of(&subject) {
                Some((round, _)) if round.made_at != mine.made_at => others.insert(round),
                // A later one is known to the registry before anything waits for it; this instance has yet to hear of it.
                Some((round, _)) if round < mine => earlier.insert(round),
                _ => continue,
            };
        }
        if !others.is_empty() {
            earlier.extend(self.ended_rounds(registered, others).await?);
        }
        for round in earlier {
            self.forget_retries(name, round).await?;
        }
        Ok(())
    }

    /// Those rounds that are of subscriptions that had the name of this one and have ended. One that was moved aside lives
    /// on, and so may one whose entry can't be read.
    async fn ended_rounds(
        &self,
        registered: &Registered,
        mut rounds: BTreeSet<Round>,
    ) -> Result<BTreeSet<Round>, StoreError> {
        let Registry {
            entries: registry,
            unreadable,
            ..
        } = self.registry().await?;
        let name = registered.id().name;
        let holder = registry.get(&registered.subscription.name);
        let is_unsure = unreadable.keys().any(|unread| unread.plain() == name.plain());
        if is_unsure || holder.is_none_or(|holder| holder.id() != registered.id()) {
            return Ok(BTreeSet::new());
        }
        let living: BTreeSet<Timestamp> = registry
            .values()
            .filter(|r| r.id().name == name)
            .map(|r| r.made_at)
            .collect();
        rounds.retain(|round| !living.contains(&round.made_at));
        Ok(rounds)
    }
}

pub(super) fn retries_consumer_name(registered: &Registered) -> String {
    consumer_name(&registered.id().name, Round::of(registered))
}

/// No subscription's name has an `=`.
fn consumer_name(name: &SubscriptionName, round: Round) -> String {
    format!("{name}={round}")
}
