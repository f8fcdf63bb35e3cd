//! Stores events and says what came of each.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use fanout_plan::{Attributes, Position, envelope};
use tokio::sync::Notify;

use super::Store;

/// A stored event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) position: Position,
    pub(crate) duplicate: bool,
}

/// Why an event was not stored, or may not have been.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unstored {
    #[error("it is {size} bytes with its attributes, and at most {limit} are taken")]
    TooLarge { size: usize, limit: usize },
    #[error("its tenant has no place in the log yet")]
    NoPartition,
    #[error("the log is full")]
    Full(#[source] PublishError),
    #[error("the log can't be reached or refused it")]
    Unavailable(#[source] PublishError),
    #[error("the log did not answer in time")]
    Unknown(#[source] PublishError),
}

impl Store {
    /// Hands an event to the store; awaiting what is returned tells what came of it. Events handed over one after
    /// another are stored in that order.
    pub(crate) async fn send(
        &self,
        attributes: &Attributes,
        traceparent: Option<&str>,
        data: Bytes,
    ) -> Result<Sent, Unstored> {
        let mut headers = HeaderMap::new();
        let mut size = data.len();
        for (name, value) in envelope::to_headers(attributes) {
            size += name.len() + value.len();
            headers.insert(name, value);
        }
        let limit = usize::try_from(self.policy.max_event_bytes).unwrap_or(usize::MAX);
        if size > limit {
            return Err(Unstored::TooLarge { size, limit });
        }
        if let Some(traceparent) = traceparent {
            headers.insert("traceparent", traceparent);
        }
        let Some(partition) = self.layout.publish_to(attributes.tenant()) else {
            return Err(Unstored::NoPartition);
        };
        let id = envelope::message_id(attributes);
        let before = self.stored_before(attributes.tenant(), &id).await;
        if let Some(position) = before.map_err(unstored)? {
            return Ok(Sent::Before(position));
        }
        let subject = partition.template.subject(attributes.tenant(), attributes.event_type());
        let subject = partition.publish_subject(&self.names, &subject);
        let message = PublishMessage::build()
            .payload(data)
            .headers(headers)
            .message_id(id)
            .expected_stream(self.names.partition(partition.number));
        let ack = self.js.send_publish(subject, message).await.map_err(unstored)?;
        Ok(Sent::Underway {
            ack,
            partition: partition.number,
            moved: Arc::clone(&self.moved),
        })
    }
}

/// An event on its way into the log.
pub(crate) enum Sent {
    /// The store has been handed it.
    Underway {
        ack: PublishAckFuture,
        partition: u32,
        moved: Arc<Notify>,
    },
    /// It was stored before the topology changed.
    Before(Position),
}

impl Sent {
    /// Waits for the store, at most the policy's `publish.deadline`.
    pub(crate) async fn stored(self) -> Result<Stored, Unstored> {
        let (ack, partition, moved) = match self {
            Self::Before(position) => {
                return Ok(Stored {
                    position,
                    duplicate: true,
                });
            }
            Self::Underway { ack, partition, moved } => (ack, partition, moved),
        };
        let ack = ack.await.map_err(|e| {
            if has_moved(&e) {
                moved.notify_one();
            }
            unstored(e)
        })?;
        Ok(Stored {
            position: Position {
                partition,
                offset: ack.sequence,
            },
            duplicate: ack.duplicate,
        })
    }
}

/// Whether the event's place is not there any more: nothing listens on its subject, or another stream does.
fn has_moved(e: &PublishError) -> bool {
    e.kind() == PublishErrorKind::StreamNotFound || error_code(e) == Some(ErrorCode::STREAM_NOT_MATCH)
}

fn error_code(e: &PublishError) -> Option<ErrorCode> {
    let source = std::error::Error::source(e)?;
    Some(source.downcast_ref::<jetstream::Error>()?.error_code())
}

fn unstored(e: PublishError) -> Unstored {
    match e.kind() {
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => Unstored::Unknown(e),
        PublishErrorKind::Other if is_full(&e) => Unstored::Full(e),
        _ => Unstored::Unavailable(e),
    }
}

/// What nats-server 2.15 answers when a stream's `max_bytes`, the account's storage or the disk is used up.
fn is_full(e: &PublishError) -> bool {
    const FULL: [ErrorCode; 6] = [
        ErrorCode::STREAM_STORE_FAILED,
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::MEMORY_RESOURCES_EXCEEDED,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED,
    ];
    error_code(e).is_some_and(|code| FULL.contains(&code))
}
