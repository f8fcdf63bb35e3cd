//! Sets events aside that a subscriber will not handle, whole and with the reason of each attempt.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use fanout_plan::retry::{FailedAttempt, attempts_within};
use fanout_plan::{BusNames, Position, SubscriptionId, TenantId, timestamp};

use super::headers::text;
use super::retries::{NOTE, header_bytes, header_room};
use super::{Store, StoreError};

/// The dead letters of one bus.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetters {
    js: Arc<jetstream::Context>,
    names: Arc<BusNames>,
}

/// An event that is set aside.
pub(crate) struct DeadLetter<'a> {
    pub(crate) of: &'a SubscriptionId,
    pub(crate) tenant: &'a TenantId,
    pub(crate) position: Position,
    /// The stored message's own headers: the event's attributes.
    pub(crate) headers: Option<&'a HeaderMap>,
    pub(crate) payload: Bytes,
    pub(crate) attempts: &'a [FailedAttempt],
    /// When the event was published, nanoseconds since the Unix epoch.
    pub(crate) published_at: i64,
    /// Whether it takes the place of an earlier one: the event was redriven, and refused again.
    pub(crate) replaces: bool,
}

/// Of a dead letter: when the event was published.
pub(crate) const PUBLISHED: &str = "fanout-dead-published";

impl Store {
    /// The bus's dead letters.
    pub(crate) fn dead_letters(&self) -> DeadLetters {
        DeadLetters {
            js: Arc::clone(&self.js),
            names: Arc::clone(&self.names),
        }
    }
}

impl DeadLetters {
    /// Stores a dead letter. There is one for a subscription and position, however often this is called: a crash
    /// between this and the settling of the event stores no second one.
    pub(crate) async fn store(&self, letter: DeadLetter<'_>) -> Result<(), StoreError> {
        let action = format!("store a dead letter of subscription {}", letter.of.name);
        let mut headers = HeaderMap::new();
        for (name, values) in letter.headers.iter().flat_map(|h| h.iter()) {
            // The server's own headers (`Nats-…`) would be read as instructions.
            let lower = name.to_string().to_ascii_lowercase();
            if !lower.starts_with("nats-") && !lower.starts_with("fanout-dead-") && lower != NOTE {
                for value in values {
                    headers.append(name.clone(), value.clone());
                }
            }
        }
        let reason = letter.attempts.last().map_or("", |a| a.reason.as_str());
        headers.insert("fanout-dead-subscription", letter.of.name.as_str());
        headers.insert("fanout-dead-position", letter.position.to_string());
        headers.insert("fanout-dead-reason", text(reason));
        headers.insert(PUBLISHED, timestamp::to_rfc3339(letter.published_at));
        // Who asked for many attempts, with much to say of each, gets a dead letter all the same.
        let taken = header_bytes(&headers) + 128;
        let room = header_room(taken, letter.payload.len(), self.js.client().max_payload());
        let kept = attempts_within(letter.attempts, room);
        let attempts = serde_json::to_string(&kept).map_err(StoreError::when(&action))?;
        headers.insert("fanout-dead-attempts", text(&attempts));
        let subject = self.names.dead_letter(letter.of, letter.tenant, letter.position);
        let mut message = PublishMessage::build().payload(letter.payload).headers(headers);
        if !letter.replaces {
            message = message.expected_last_subject_sequence(0);
        }
        let stored = match self.js.send_publish(subject, message).await {
            Ok(ack) => ack.await,
            Err(e) => Err(e),
        };
        match stored {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == PublishErrorKind::WrongLastSequence => Ok(()),
            Err(e) => Err(StoreError::when(action)(e)),
        }
    }
}
