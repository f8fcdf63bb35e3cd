//! Reads the log apart from every subscription: for a person, and for live tails over HTTP.
//!
//! A reader of a partition is a consumer without acknowledgements, which the server forgets soon after nobody pulls. What it
//! gives is counted by its own numbers, so that a message lost on the way, or a consumer that is gone, is noticed: the
//! reader begins anew behind the last event that it gave. async-nats's ordered consumer (0.51) does the same, but begins
//! with the first event of the log where it had given none yet.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use bytes::Bytes;
use fanout_plan::by_partition::ByPartition;
use fanout_plan::pattern::{Pattern, View};
use fanout_plan::subscription::Start;
use fanout_plan::{Attributes, Code, EventType, Filter, Position, Problem, SubjectTemplate, TenantId, Timestamp};
use futures::StreamExt as _;

use super::observe::moment;
use super::publisher::stated;
use super::read::{event, shown};
use super::{Store, StoreError};
use crate::backoff::Backoff;
use crate::matching;

/// How long the server remembers a reader that is gone, or that waits for those of other partitions.
const READER_AGE: Duration = Duration::from_secs(30);
/// Bytes that a reader has asked for and that are not given yet, or one event.
const AHEAD_BYTES: u64 = 1 << 20;
/// The most events that a reader asks for at once.
const AHEAD_EVENTS: u64 = 64;

/// An event of the log.
#[derive(Clone, Debug)]
pub struct LogEvent {
    /// Where it stands.
    pub position: Position,
    /// When it was stored, nanoseconds since the Unix epoch.
    pub published_at: Timestamp,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its type.
    pub event_type: EventType,
    /// Every attribute as it came, under its `ce-` name.
    pub attributes: BTreeMap<String, String>,
    /// The same as an event; absent for what is none.
    pub event: Option<Attributes>,
    /// Its payload.
    pub payload: Bytes,
    /// What stands beside it about who published it, whoever wrote that: [`Store::publisher_of`] judges.
    pub(super) publisher: Option<String>,
}

/// What is read of a log.
#[derive(Clone, Debug)]
pub enum Read {
    /// The next event.
    Event(Box<LogEvent>),
    /// Positions whose events expired before they were read. Some of them may have been wanted.
    Expired {
        /// The first.
        first: Position,
        /// The last.
        last: Position,
    },
}

/// Where a tail begins.
#[derive(Clone, Debug)]
pub enum TailFrom {
    /// With what is stored from now on.
    Now,
    /// There.
    Start(Start),
    /// Behind these offsets, each of its partition; with the first event of a partition that has none.
    Behind(ByPartition),
}

/// Why a log can't be read on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TailError {
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The position from which it is to be read means nothing on this bus.
    #[error("{0}")]
    Refused(Problem),
    /// The log ends before the place from which it is to be read: it is another log, or was put back.
    #[error("position {asked} is not in the log, whose partition {} ends at {last}: give one at or before that, or a time", asked.partition)]
    Unknown {
        /// The place.
        asked: Position,
        /// The last offset of its partition.
        last: u64,
    },
}

/// A log that is read from a place on, and on: what is stored in the order of its times, also of several partitions; what
/// comes later as it comes. Nothing is missing, and nothing comes twice.
pub struct Tail {
    store: Store,
    readers: Vec<Reader>,
}

/// One partition's events, and the first of them that is not given yet.
struct Reader {
    template: SubjectTemplate,
    partition: u32,
    filter: Filter,
    pattern: Option<Pattern>,
    consumer: Option<PullConsumer>,
    messages: Option<pull::Stream>,
    /// The number of the last message of this consumer.
    number: u64,
    /// Everything up to this offset was given, or is not wanted.
    given: u64,
    /// Everything up to this offset was read.
    read: u64,
    next: Option<LogEvent>,
    /// The log holds more for it than was read.
    is_behind: bool,
    expired: Option<(u64, u64)>,
    unknown: Option<TailError>,
    backoff: Backoff,
}

/// By how much a caller's clock may be ahead of the store's.
const AHEAD: Duration = Duration::from_secs(30);

impl Store {
    /// Begins to read the log.
    ///
    /// # Errors
    /// When the store can't be read, or the place is not in this log: another's position, or a time that has not come.
    pub async fn tail(&self, filter: &Filter, from: TailFrom) -> Result<Tail, TailError> {
        if let TailFrom::Start(Start::Time(from)) = from
            && from > self.now() + AHEAD
        {
            let message = format!(
                "time {from} has not come yet, it is {} at the store: give a time that has, or none for what is stored from now on",
                self.now()
            );
            return Err(TailError::Refused(Problem::new(Code::UnknownPosition, message)));
        }
        if let TailFrom::Start(Start::Position(asked)) = from {
            let read = self.layout.touching(filter);
            self.layout.orders(read, asked).map_err(TailError::Refused)?;
        }
        let mut readers = Vec::new();
        for partition in self.layout.touching(filter) {
            let Some(narrowed) = partition.slot.narrow(filter) else {
                continue;
            };
            let number = partition.number;
            let start = match &from {
                // What lies in an older partition lies before the position, and what lies in a newer one after it, as for a
                // subscription.
                TailFrom::Start(Start::Position(p)) if number < p.partition => &TailFrom::Now,
                TailFrom::Start(Start::Position(p)) if number > p.partition => &TailFrom::Start(Start::First),
                from => from,
            };
            let mut reader = Reader {
                template: partition.template.clone(),
                partition: number,
                filter: narrowed,
                pattern: filter.pattern().cloned(),
                consumer: None,
                messages: None,
                number: 0,
                given: 0,
                read: 0,
                next: None,
                is_behind: false,
                expired: None,
                unknown: None,
                backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            };
            reader.begin(self, start).await?;
            readers.push(reader);
        }
        Ok(Tail {
            store: self.clone(),
            readers,
        })
    }
}

impl Tail {
    /// Reads on; waits where all that is stored was read, and for a store that is away. `None` where the filter touches no
    /// partition, so that nothing ever comes. It can be cancelled: nothing is lost.
    ///
    /// # Errors
    /// When the log turns out to be another. It can't be read on.
    pub async fn next(&mut self) -> Option<Result<Read, TailError>> {
        if self.readers.is_empty() {
            return None;
        }
        loop {
            if let Some(read) = self.pending().await {
                return Some(read);
            }
            let store = &self.store;
            let reading = self.readers.iter_mut().map(|reader| Box::pin(reader.read(store)));
            futures::future::select_all(reading).await;
        }
    }

    /// Reads what is stored; `None` once all of it was given. [`Tail::given`] is then where the log ended, also where nothing
    /// of it was wanted.
    ///
    /// # Errors
    /// As [`Tail::next`].
    pub async fn stored(&mut self) -> Option<Result<Read, TailError>> {
        loop {
            if let Some(read) = self.pending().await {
                return Some(read);
            }
            let mut is_all = true;
            for reader in &mut self.readers {
                is_all &= reader.is_at_the_end(&self.store).await;
            }
            if is_all {
                return None;
            }
        }
    }

    /// What was read and is not given, or is known to be there.
    async fn pending(&mut self) -> Option<Result<Read, TailError>> {
        for reader in &mut self.readers {
            // A reader that begins anew is waited for: were it cancelled for each event of another, it never would.
            while reader.next.is_none() && !reader.has_news() && (reader.is_behind || reader.messages.is_none()) {
                reader.read(&self.store).await;
            }
            if let Some(news) = reader.news() {
                return Some(news);
            }
        }
        let waiting = self.readers.iter_mut().filter(|reader| reader.next.is_some());
        let first = waiting.min_by_key(|reader| reader.next.as_ref().map(|e| (e.published_at, e.position)));
        first
            .and_then(Reader::take)
            .map(|event| Ok(Read::Event(Box::new(event))))
    }

    /// Leaves nothing at the store. Without it the server forgets the readers a little later.
    pub async fn end(self) {
        for reader in self.readers {
            drop(reader.messages);
            if let Some(consumer) = reader.consumer
                && let Ok(log) = self.store.log(reader.partition).await
            {
                // One that is gone already is as good.
                log.delete_consumer(&consumer.cached_info().name).await.ok();
            }
        }
    }

    /// How far each partition was given: a tail that begins behind that goes on where this one stands.
    #[must_use]
    pub fn given(&self) -> ByPartition {
        self.readers
            .iter()
            .map(|reader| (reader.partition, reader.given))
            .collect()
    }
}

impl Reader {
    fn has_news(&self) -> bool {
        self.expired.is_some() || self.unknown.is_some()
    }

    /// What there is to say besides events.
    fn news(&mut self) -> Option<Result<Read, TailError>> {
        if let Some(error) = self.unknown.take() {
            return Some(Err(error));
        }
        let (first, last) = self.expired.take()?;
        let at = |offset| Position::new(self.partition, offset);
        Some(Ok(Read::Expired {
            first: at(first),
            last: at(last),
        }))
    }

    fn take(&mut self) -> Option<LogEvent> {
        let event = self.next.take()?;
        self.given = event.position.offset;
        Some(event)
    }

    /// Reads one message, or begins anew where the consumer is gone. Events that are none (another client wrote them
    /// elsewhere) are left out.
    async fn read(&mut self, store: &Store) {
        let Some(messages) = &mut self.messages else {
            return self.begin_again(store).await;
        };
        let message = match messages.next().await {
            Some(Ok(message)) => message,
            // It waited for other partitions or for its reader, or the server is away: it begins anew, and is sure of it.
            Some(Err(_)) | None => {
                self.messages = None;
                return;
            }
        };
        let Ok(info) = message.info() else { return };
        if info.consumer_sequence != self.number + 1 {
            self.messages = None;
            return;
        }
        self.backoff.reset();
        self.number = info.consumer_sequence;
        self.is_behind = info.pending > 0;
        self.read = info.stream_sequence;
        let whose = self.template.parse_subject(&message.subject);
        self.next = whose
            .filter(|(tenant, event_type)| self.filter.allows(tenant, event_type))
            .and_then(|(tenant, event_type)| read(message, &self.template, self.partition, tenant, event_type))
            .filter(|event| self.matches(event));
        if self.next.is_none() {
            self.given = self.read;
        }
    }

    /// What is no event matches no pattern.
    fn matches(&self, read: &LogEvent) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| {
            let event = read.event.as_ref();
            event.is_some_and(|event| {
                let view = View {
                    event: event.raw(),
                    data: &read.payload,
                };
                matching::matches_now(pattern.steps(read.payload.len()), || pattern.matches(view))
            })
        })
    }

    /// Whether all that is stored was read. Then everything up to the log's end was given, or is not wanted.
    async fn is_at_the_end(&mut self, store: &Store) -> bool {
        let read = async {
            let end = store.log(self.partition).await?.get_info().await;
            // First where the log ends: what is stored meanwhile is behind that.
            let end = end.map_err(StoreError::when("read the log"))?.state.last_sequence;
            let consumer = self.consumer.as_ref().ok_or(StoreError::Forgotten)?;
            let info = consumer.get_info().await.map_err(StoreError::when("read the log"))?;
            let is_all = info.num_pending == 0 && info.delivered.consumer_sequence == self.number;
            Ok::<_, StoreError>(is_all.then_some(end))
        };
        match read.await {
            Ok(Some(end)) => {
                self.read = self.read.max(end);
                self.given = self.read;
                return true;
            }
            Ok(None) => self.is_behind = true,
            Err(_) => {
                self.messages = None;
                tokio::time::sleep(self.backoff.next()).await;
            }
        }
        false
    }

    async fn begin_again(&mut self, store: &Store) {
        // What is read and not given is given first.
        let behind = TailFrom::Behind([(self.partition, self.read)].into_iter().collect());
        let given = self.given;
        match self.begin(store, &behind).await {
            Ok(()) if self.next.is_some() => self.given = given,
            Ok(()) => {}
            Err(error @ TailError::Unknown { .. }) => self.unknown = Some(error),
            Err(_) => tokio::time::sleep(self.backoff.next()).await,
        }
    }

    async fn begin(&mut self, store: &Store, from: &TailFrom) -> Result<(), TailError> {
        let log = store.log(self.partition).await?;
        let state = log.get_info().await.map_err(StoreError::when("read the log"))?.state;
        let behind = match from {
            TailFrom::Now => Some(state.last_sequence),
            TailFrom::Behind(offsets) => Some(offsets.of(self.partition)),
            TailFrom::Start(Start::Position(p)) => Some(p.offset.saturating_sub(1)),
            TailFrom::Start(_) => None,
        };
        if let Some(behind) = behind {
            if behind > state.last_sequence {
                return Err(TailError::Unknown {
                    asked: match from {
                        TailFrom::Start(Start::Position(p)) => *p,
                        _ => Position::new(self.partition, behind),
                    },
                    last: state.last_sequence,
                });
            }
            // Of a partition that was not there before, nothing was to be read that expired.
            let was_there = !matches!(from, TailFrom::Behind(offsets) if !offsets.knows(self.partition));
            if was_there && behind + 1 < state.first_sequence {
                self.expired = Some((behind + 1, state.first_sequence - 1));
            }
        }
        let deliver_policy = match (behind, from) {
            (Some(behind), _) => DeliverPolicy::ByStartSequence {
                start_sequence: behind + 1,
            },
            (None, TailFrom::Start(Start::Time(t))) => match async_nats::datetime::from_nanos(t.nanoseconds().into()) {
                Ok(start_time) => DeliverPolicy::ByStartTime { start_time },
                Err(_) => DeliverPolicy::All,
            },
            (None, _) => DeliverPolicy::All,
        };
        let consumer = log.create_consumer(pull::Config {
            filter_subjects: self.filter.subject_filters(&self.template),
            deliver_policy,
            ack_policy: AckPolicy::None,
            inactive_threshold: READER_AGE,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        });
        let consumer = consumer.await.map_err(StoreError::when("read the log"))?;
        let info = consumer.cached_info();
        self.is_behind = info.num_pending > 0;
        // Where a time is, the server has found out.
        let begins = behind.unwrap_or(info.delivered.stream_sequence);
        self.read = begins.max(self.expired.map_or(0, |(_, last)| last));
        self.given = self.read;
        self.number = 0;
        let ahead = (AHEAD_BYTES / store.policy().max_event_bytes.max(1)).clamp(1, AHEAD_EVENTS);
        let messages = consumer
            .stream()
            .max_messages_per_batch(usize::try_from(ahead).unwrap_or(1))
            .messages();
        self.messages = Some(messages.await.map_err(StoreError::when("read the log"))?);
        self.consumer = Some(consumer);
        Ok(())
    }
}

fn read(
    mut message: async_nats::jetstream::Message,
    template: &SubjectTemplate,
    partition: u32,
    tenant: TenantId,
    event_type: EventType,
) -> Option<LogEvent> {
    let info = message.info().ok()?;
    let position = Position::new(partition, info.stream_sequence);
    let published_at = moment(info.published);
    let message = &mut message.message;
    // What is no event is shown as it is.
    let event = event(template, &message.subject, &mut message.headers, &mut message.payload);
    Some(LogEvent {
        position,
        published_at,
        tenant,
        event_type,
        attributes: message.headers.as_ref().map(shown).unwrap_or_default(),
        event: event.ok(),
        payload: message.payload.clone(),
        publisher: stated(message.headers.as_ref()).map(str::to_owned),
    })
}
