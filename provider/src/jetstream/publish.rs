//! Stores events and says what came of each.

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use fanout_plan::{Attributes, Position, envelope};

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
        let subject = partition.template.subject(attributes.tenant(), attributes.event_type());
        let subject = partition.publish_subject(&self.names, &subject);
        let message = PublishMessage::build()
            .payload(data)
            .headers(headers)
            .message_id(envelope::message_id(attributes))
            .expected_stream(self.names.partition(partition.number));
        let ack = self.js.send_publish(subject, message).await.map_err(unstored)?;
        Ok(Sent {
            ack,
            partition: partition.number,
        })
    }
}

/// An event on its way into the log.
pub(crate) struct Sent {
    ack: PublishAckFuture,
    partition: u32,
}

impl Sent {
    /// Waits for the store, at most the policy's `publish.deadline`.
    pub(crate) async fn stored(self) -> Result<Stored, Unstored> {
        let ack = self.ack.await.map_err(unstored)?;
        Ok(Stored {
            position: Position {
                partition: self.partition,
                offset: ack.sequence,
            },
            duplicate: ack.duplicate,
        })
    }
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
    std::error::Error::source(e)
        .and_then(|source| source.downcast_ref::<jetstream::Error>())
        .is_some_and(|source| FULL.contains(&source.error_code()))
}
