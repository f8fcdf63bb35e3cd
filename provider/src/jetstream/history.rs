//! What the store holds of one event: where it stands, and what became of it at a subscription.

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::message::StreamMessage;
use bytes::Bytes;
use fanout_plan::fate::{Evidence, Fate, Stored, fate};
use fanout_plan::isolation::Reader;
use fanout_plan::retry::FailedAttempt;
use fanout_plan::subscription::Registered;
use fanout_plan::{Filter, LogPosition, Position, Round, TenantId, Timestamp};
use serde::Serialize;

use super::listing::Listing;
use super::observe::moment;
use super::publisher::stated;
use super::read::{event, shown};
use super::retries::Waiting;
use super::tail::LogEvent;
use super::{Store, StoreError};

/// The most events of one id that are read: an id is known for `dedupe.window`, and may be used again after it.
pub const MOST_OF_ONE_ID: usize = 16;
/// After how many events of the log progress is reported.
const PROGRESS_EVERY: u64 = 50_000;

const READ: &str = "read an event by its id";

/// Where the store keeps an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// The partition of the log.
    pub partition: u32,
    /// Its stream.
    pub stream: String,
    /// How many servers have a copy of it.
    pub copies: usize,
    /// How many of those have all of it.
    pub up_to_date: usize,
}

/// What became of an event at one subscription.
#[derive(Clone, Debug)]
pub struct AtSubscription {
    /// The state.
    pub fate: Fate,
    /// The attempts that failed and are not over.
    pub attempts: Vec<FailedAttempt>,
    /// When the next attempt is due, nanoseconds since the Unix epoch.
    pub due: Option<Timestamp>,
}

impl Store {
    /// The event of a position; `None` when the log does not hold it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn event_at(&self, position: Position) -> Result<Option<LogEvent>, StoreError> {
        if !self.layout().partitions.contains_key(&position.partition) {
            return Ok(None);
        }
        Ok(self
            .event(position)
            .await?
            .and_then(|message| self.log_event(position, message)))
    }

    /// Where the events of a partition are kept.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn kept(&self, partition: u32) -> Result<Kept, StoreError> {
        let stream = self.names.partition(partition);
        let log = self.js.get_stream(&stream).await;
        let log = log.map_err(StoreError::when(format!("say who has copies of {stream}")))?;
        // A server that is in no cluster says nothing of copies: it has the only one.
        let cluster = log.cached_info().cluster.as_ref();
        let cluster = cluster.filter(|cluster| cluster.leader.is_some() || !cluster.replicas.is_empty());
        let (copies, up_to_date) = cluster.map_or((1, 1), |cluster| {
            let current = cluster.replicas.iter().filter(|peer| peer.current && !peer.offline);
            (
                1 + cluster.replicas.len(),
                usize::from(cluster.leader.is_some()) + current.count(),
            )
        });
        Ok(Kept {
            partition,
            stream,
            copies,
            up_to_date,
        })
    }

    /// The events of a tenant with this id, of one source, or of all: the first [`MOST_OF_ONE_ID`] that are found, oldest first. It reads the headers of
    /// all of the tenant's events, and calls `progress` with their number now and then.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn events_of(
        &self,
        tenant: &TenantId,
        id: &str,
        source: Option<&str>,
        mut progress: impl FnMut(u64),
    ) -> Result<Vec<LogEvent>, StoreError> {
        let filter = Filter::new(vec![tenant.clone()], Vec::new());
        let (mut found, mut seen) = (Vec::new(), 0);
        for partition in self.layout().touching(&filter) {
            let Some(narrowed) = partition.slot.narrow(&filter) else {
                continue;
            };
            let config = pull::OrderedConfig {
                filter_subjects: narrowed.subject_filters(&partition.template),
                deliver_policy: DeliverPolicy::All,
                headers_only: true,
                ..pull::OrderedConfig::default()
            };
            let log = self.log(partition.number).await?;
            let consumer = log.create_consumer(config).await.map_err(StoreError::when(READ))?;
            let Some(mut events) = Listing::begin(&log, consumer, READ).await? else {
                continue;
            };
            while let Some(message) = events.next().await? {
                let info = message.info().map_err(StoreError::when(READ))?;
                seen += 1;
                if seen % PROGRESS_EVERY == 0 {
                    progress(seen);
                }
                let position = Position::new(partition.number, info.stream_sequence);
                // In structured mode the id is in the payload.
                let may_be = message.headers.as_ref().map(shown).unwrap_or_default();
                if may_be.get("ce-id").is_none_or(|of| of == id) {
                    let whole = self.event_at(position).await?;
                    found.extend(whole.filter(|event| {
                        let is = |name, value| event.attributes.get(name).is_some_and(|of| of == value);
                        is("ce-id", id) && source.is_none_or(|source| is("ce-source", source))
                    }));
                }
                if found.len() >= MOST_OF_ONE_ID {
                    break;
                }
            }
        }
        found.sort_by_key(|event: &LogEvent| (event.published_at, event.position));
        Ok(found)
    }

    /// What became of an event of the log at a subscription. `letter` is the number of its dead letter there.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn event_at_subscription(
        &self,
        registered: &Registered,
        event: &LogEvent,
        letter: Option<u64>,
    ) -> Result<AtSubscription, StoreError> {
        let keeps_a_place = registered.subscription.keeps_a_place(self.policy());
        let waiting = match keeps_a_place {
            true => self.waiting(registered, event.position).await?,
            false => None,
        };
        let consumer = match keeps_a_place {
            true => self.settled_and_delivered_at(registered, event).await?,
            false => None,
        };
        let stored = Stored {
            position: event.position,
            mirrored_from: self.layout().mirrored_from(event.position.partition),
            published_at: event.published_at,
            tenant: &event.tenant,
            event_type: &event.event_type,
            event: event.event.as_ref().map(|attributes| (attributes, &*event.payload)),
        };
        let evidence = Evidence {
            consumer,
            waits_for_retry: waiting.is_some(),
            letter,
            keeps_a_place,
        };
        let due = waiting.as_ref().map(|waiting| waiting.note.due);
        let attempts = match waiting {
            Some(waiting) => waiting.note.attempts,
            None => self.attempts().await?.of(registered.round(), event.position).await?,
        };
        Ok(AtSubscription {
            fate: fate(registered, stored, evidence),
            attempts,
            due,
        })
    }

    async fn settled_and_delivered_at(
        &self,
        registered: &Registered,
        event: &LogEvent,
    ) -> Result<Option<(u64, u64)>, StoreError> {
        let partition = event.position.partition;
        let is_isolated = registered.is_isolated_at(&event.tenant, event.position);
        let reader = Reader {
            partition,
            tenant: is_isolated.then(|| event.tenant.clone()),
        };
        self.settled_and_delivered(partition, &registered.consumer_of(&reader))
            .await
    }

    /// The note of an event that waits for its next attempt.
    async fn waiting(&self, registered: &Registered, position: Position) -> Result<Option<Waiting>, StoreError> {
        let at: LogPosition = self.in_its_log(position);
        let subject = self.names().retry(&registered.id().name, Round::of(registered), at);
        let message = self.last_message(self.names().retries(), &subject).await?;
        Ok(message.and_then(|m| Waiting::read(self.names(), &subject, Some(&m.headers))))
    }

    fn log_event(&self, position: Position, message: StreamMessage) -> Option<LogEvent> {
        let template = self.template(position.partition);
        let (tenant, event_type) = template.parse_subject(&message.subject)?;
        let published_at = moment(message.time);
        let (mut headers, mut payload): (_, Bytes) = (Some(message.headers), message.payload);
        // What is no event is shown as it is.
        let event = event(template, &message.subject, &mut headers, &mut payload);
        Some(LogEvent {
            position,
            published_at,
            tenant,
            event_type,
            attributes: headers.as_ref().map(shown).unwrap_or_default(),
            event: event.ok(),
            payload,
            publisher: stated(headers.as_ref()).map(str::to_owned),
        })
    }
}
