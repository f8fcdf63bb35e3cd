//! Reads the log for a person, apart from every subscription.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use bytes::Bytes;
use fanout_plan::subscription::Start;
use fanout_plan::{EventType, Filter, Position, SubjectTemplate, TenantId};
use futures::{Stream, StreamExt as _};

use super::observe::nanoseconds;
use super::read::{event, shown};
use super::{Store, StoreError};

/// How long the server remembers a reader that is gone, or that waits for those of other partitions.
const READER_AGE: Duration = Duration::from_secs(600);

/// An event of the log.
#[derive(Clone, Debug)]
pub struct LogEvent {
    /// Where it stands.
    pub position: Position,
    /// When it was stored, nanoseconds since the Unix epoch.
    pub published_at: i64,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its type.
    pub event_type: EventType,
    /// Every attribute as it came, under its `ce-` name.
    pub attributes: BTreeMap<String, String>,
    /// Its payload.
    pub payload: Bytes,
}

/// One partition's events, and the first of them that is not given yet.
struct Reader {
    messages: pull::Stream,
    template: SubjectTemplate,
    partition: u32,
    filter: Filter,
    next: Option<LogEvent>,
    /// The log holds more for it than was read.
    is_behind: bool,
}

impl Reader {
    /// Reads one message. Events that are none (another client wrote them) are left out. `false` once nothing more comes.
    async fn read(&mut self) -> Result<bool, StoreError> {
        let Some(message) = self.messages.next().await else {
            self.is_behind = false;
            return Ok(false);
        };
        let message = match message {
            Ok(message) => message,
            // It waited for other partitions; a reader that is gone is told in other ways.
            Err(e) if e.kind() == pull::MessagesErrorKind::MissingHeartbeat => return Ok(true),
            Err(e) => return Err(StoreError::when("go on reading the log")(e)),
        };
        self.is_behind = message.info().is_ok_and(|info| info.pending > 0);
        let whose = self.template.parse_subject(&message.subject);
        self.next = whose
            .filter(|(tenant, event_type)| self.filter.matches(tenant, event_type))
            .and_then(|(tenant, event_type)| read(message, &self.template, self.partition, tenant, event_type));
        Ok(true)
    }
}

impl Store {
    /// The log from a place on, or from now on, and on: what is stored in the order of its times, also of several
    /// partitions; what comes later as it comes.
    ///
    /// # Errors
    /// When the store can't be read, or the place is not in this bus.
    pub async fn tail(
        &self,
        filter: &Filter,
        from: Option<Start>,
    ) -> Result<impl Stream<Item = Result<LogEvent, StoreError>>, StoreError> {
        let mut readers = Vec::new();
        for partition in self.layout.touching(filter) {
            let Some(narrowed) = partition.slot.narrow(filter) else {
                continue;
            };
            let deliver_policy = match from {
                None => DeliverPolicy::New,
                Some(Start::First) => DeliverPolicy::All,
                Some(Start::Position(p)) if p.partition == partition.number => DeliverPolicy::ByStartSequence {
                    start_sequence: p.offset,
                },
                Some(Start::Position(p)) if p.partition > partition.number => continue,
                Some(Start::Position(_)) => DeliverPolicy::All,
                Some(Start::Time(t)) => match async_nats::datetime::from_nanos(t.into()) {
                    Ok(start_time) => DeliverPolicy::ByStartTime { start_time },
                    Err(_) => DeliverPolicy::All,
                },
            };
            let consumer = self
                .log(partition.number)
                .await?
                .create_consumer(pull::Config {
                    filter_subjects: narrowed.subject_filters(&partition.template),
                    deliver_policy,
                    ack_policy: AckPolicy::None,
                    inactive_threshold: READER_AGE,
                    ..pull::Config::default()
                })
                .await
                .map_err(StoreError::when("read the log"))?;
            let messages = consumer.messages().await.map_err(StoreError::when("read the log"))?;
            readers.push(Reader {
                messages,
                template: partition.template.clone(),
                partition: partition.number,
                filter: narrowed,
                next: None,
                is_behind: consumer.cached_info().num_pending > 0,
            });
        }
        Ok(futures::stream::try_unfold(readers, |mut readers| async move {
            Ok(next(&mut readers).await?.map(|event| (event, readers)))
        }))
    }
}

/// The earliest event that is not given yet; waits for one where all that is stored was given.
async fn next(readers: &mut [Reader]) -> Result<Option<LogEvent>, StoreError> {
    loop {
        for reader in readers.iter_mut() {
            while reader.next.is_none() && reader.is_behind {
                reader.read().await?;
            }
        }
        let waiting = readers.iter_mut().filter(|reader| reader.next.is_some());
        if let Some(first) = waiting.min_by_key(|reader| reader.next.as_ref().map(|e| (e.published_at, e.position))) {
            return Ok(first.next.take());
        }
        if readers.is_empty() {
            return Ok(None);
        }
        let read = readers.iter_mut().map(|reader| Box::pin(reader.read()));
        if !futures::future::select_all(read).await.0? {
            return Ok(None);
        }
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
    let published_at = nanoseconds(info.published);
    let message = &mut message.message;
    // What is no event is shown as it is.
    drop(event(
        template,
        &message.subject,
        &mut message.headers,
        &mut message.payload,
    ));
    Some(LogEvent {
        position,
        published_at,
        tenant,
        event_type,
        attributes: message.headers.as_ref().map(shown).unwrap_or_default(),
        payload: message.payload.clone(),
    })
}
