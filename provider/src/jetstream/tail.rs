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

/// How long the server remembers a reader that is gone.
const READER_AGE: Duration = Duration::from_secs(60);

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

impl Store {
    /// The log from a place on, or from now on, and on. Events that are none (another client wrote them) are left out.
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
            let reader = self
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
            let messages = reader.messages().await.map_err(StoreError::when("read the log"))?;
            let (template, number) = (partition.template.clone(), partition.number);
            readers.push(messages.filter_map(move |message| {
                let event = match message {
                    Err(e) => Some(Err(StoreError::when("go on reading the log")(e))),
                    Ok(message) => template
                        .parse_subject(&message.subject)
                        .filter(|(tenant, event_type)| narrowed.matches(tenant, event_type))
                        .and_then(|(tenant, event_type)| read(message, &template, number, tenant, event_type))
                        .map(Ok),
                };
                std::future::ready(event)
            }));
        }
        Ok(futures::stream::select_all(readers.into_iter().map(Box::pin)))
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
