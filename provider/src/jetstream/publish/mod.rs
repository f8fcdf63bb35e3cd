//! Stores events and says what came of each.

mod repeated;
mod together;
mod unstored;

use std::sync::Arc;

use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use async_nats::{HeaderMap, HeaderName};
use bytes::Bytes;
use fanout_plan::policy::Durability;
use fanout_plan::{Attributes, Position, envelope, letter, publisher};
use tokio::sync::{Notify, oneshot};

use super::{Beside, Store, headers, read};
pub(super) use repeated::{TIMES_ANEW, id_after};
pub(super) use together::Together;
pub(super) use unstored::unstored;
pub(crate) use unstored::{Full, Unstored};

/// A stored event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) position: Position,
    pub(crate) duplicate: bool,
}

/// An event as the store takes it.
pub(crate) struct Outgoing {
    headers: HeaderMap,
    /// The id by which the store recognises a repeat.
    id: String,
    data: Bytes,
    /// What it takes of a quota.
    pub(crate) size: u64,
}

/// An event with its place in the log.
struct Placed {
    partition: u32,
    stream: String,
    subject: String,
    event: Outgoing,
}

/// What a stored message takes besides payload, header values and names: its subject, the separators of its headers,
/// and the store's own record (nats-server 2.15).
const MESSAGE_OVERHEAD: usize = 128;

/// How much of a subject's tenant and type that includes. Escaped, both can be many times as long.
const NAMES_INCLUDED: usize = 64;

/// What headers take besides names and values of attributes: separators, the trace context, the message's id; and who published it.
const HEADERS_OVERHEAD: usize = 512 + publisher::MAX_BYTES;

impl Outgoing {
    /// Writes an event down that was accepted before.
    pub(crate) fn new(attributes: &Attributes, beside: Beside<'_>, data: Bytes) -> Self {
        Self::measured(attributes, beside, data).0
    }

    /// Writes an event down that is to be accepted.
    ///
    /// # Errors
    /// When it is larger than the policy takes, or its attributes are: what is written beside it when it is refused, or
    /// becomes a dead letter, must fit too.
    pub(crate) fn within(
        max_bytes: u64,
        attributes: &Attributes,
        beside: Beside<'_>,
        data: Bytes,
    ) -> Result<Self, Unstored> {
        let (event, in_headers) = Self::measured(attributes, beside, data);
        let (size, limit) = (
            event.data.len() + in_headers,
            usize::try_from(max_bytes).unwrap_or(usize::MAX),
        );
        if size > limit {
            return Err(Unstored::TooLarge { size, limit });
        }
        let limit = letter::MAX_EVENT_HEADERS - HEADERS_OVERHEAD;
        if in_headers > limit {
            return Err(Unstored::AttributesTooLarge {
                size: in_headers,
                limit,
            });
        }
        Ok(event)
    }

    /// An event, and the bytes of its attributes as they are written.
    fn measured(attributes: &Attributes, beside: Beside<'_>, data: Bytes) -> (Self, usize) {
        let mut headers = HeaderMap::new();
        let in_headers = read::write(attributes, &mut headers);
        for (name, value) in [
            ("traceparent", beside.traceparent),
            (publisher::HEADER, beside.publisher),
        ] {
            if let Some(value) = value {
                headers.insert(HeaderName::from_static(name), headers::text(value));
            }
        }
        let names = attributes.tenant().token().len() + attributes.event_type().tokens().len();
        let size = data.len() + in_headers + MESSAGE_OVERHEAD + names.saturating_sub(NAMES_INCLUDED);
        let event = Self {
            headers,
            id: envelope::message_id(attributes),
            data,
            size: size as u64,
        };
        (event, in_headers)
    }

    /// Its headers and its payload.
    pub(super) fn into_parts(self) -> (HeaderMap, Bytes) {
        (self.headers, self.data)
    }
}

impl Placed {
    fn message(self) -> PublishMessage {
        PublishMessage::build()
            .payload(self.event.data)
            .headers(self.event.headers)
            .message_id(self.event.id)
            .expected_stream(self.stream)
    }
}

impl Store {
    /// Hands an event to the store; awaiting what is returned tells what came of it. Events handed over one after
    /// another are stored in that order.
    pub(crate) async fn send(&self, attributes: &Attributes, event: Outgoing) -> Result<Sent, Unstored> {
        let Some(partition) = self.layout.publish_to(attributes.tenant()) else {
            return Err(Unstored::NoPartition);
        };
        let subject = partition.template.subject(attributes.tenant(), attributes.event_type());
        let placed = Placed {
            partition: partition.number,
            stream: self.names.partition(partition.number),
            subject: partition.publish_subject(&self.names, &subject),
            event,
        };
        let before = self.stored_before(attributes.tenant(), &placed.event.id).await;
        if let Some(position) = before.map_err(unstored)? {
            return Ok(Sent::Before(position));
        }
        // Where each answer waits for the disk, what is published at once is stored at once. Where it does not, one
        // message an event is more than twice as fast (nats-server 2.15). The server's fast batches (2.14) would save it
        // most answers, but the few that remain say how many events are stored, and not where: a receipt does.
        if self.policy.durability == Durability::OnDisk {
            let answer = self.together.send(&self.publishing, placed).await?;
            let moved = Arc::clone(&self.moved);
            return Ok(Sent::Together { answer, moved });
        }
        let (subject, partition) = (placed.subject.clone(), placed.partition);
        let ack = self
            .publishing
            .send_publish(subject, placed.message())
            .await
            .map_err(unstored)?;
        let moved = Arc::clone(&self.moved);
        Ok(Sent::Alone { ack, partition, moved })
    }
}

/// An event on its way into the log.
pub(crate) enum Sent {
    /// By itself.
    Alone {
        ack: PublishAckFuture,
        partition: u32,
        moved: Arc<Notify>,
    },
    /// With others.
    Together {
        answer: oneshot::Receiver<Result<Stored, Unstored>>,
        moved: Arc<Notify>,
    },
    /// It was stored before the topology changed.
    Before(Position),
}

impl Sent {
    /// Waits for the store, at most the policy's `publish.deadline`.
    pub(crate) async fn stored(self) -> Result<Stored, Unstored> {
        let (stored, moved) = match self {
            Self::Alone { ack, partition, moved } => {
                let stored = ack.await.map_err(unstored).map(|ack| Stored {
                    position: Position::new(partition, ack.sequence),
                    duplicate: ack.duplicate,
                });
                (stored, moved)
            }
            Self::Together { answer, moved } => (answer.await.unwrap_or(Err(Unstored::Stopped)), moved),
            Self::Before(position) => {
                return Ok(Stored {
                    position,
                    duplicate: true,
                });
            }
        };
        if stored.as_ref().is_err_and(Unstored::has_moved) {
            moved.notify_one();
        }
        stored
    }
}
