//! Sets events aside that a subscriber will not handle, whole and with the reason of each attempt.

use std::sync::Arc;

use async_nats::jetstream;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
use fanout_plan::retry::FailedAttempt;
use fanout_plan::{BusNames, LogPosition, SubscriptionId, TenantId, letter, timestamp};

use super::headers::{header_bytes, text};
use super::retries::NOTE;
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
    pub(crate) at: LogPosition,
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
/// Why the last attempt was refused.
const REASON: &str = "fanout-dead-reason";
/// What became of each attempt.
const ATTEMPTS: &str = "fanout-dead-attempts";
/// What of the message did not fit into the letter: another client filled it to the brim.
const LEFT_OUT: &str = "fanout-dead-left-out";
/// The event's id, where the letter does not hold all of the event.
const ID: &str = "fanout-dead-id";

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
        headers.insert("fanout-dead-subscription", letter.of.name.as_str());
        headers.insert("fanout-dead-position", letter.at.position.to_string());
        headers.insert(PUBLISHED, timestamp::to_rfc3339(letter.published_at));
        let own = header_bytes(&headers) + header_names(&[REASON, ATTEMPTS, LEFT_OUT]);
        let event = of_the_event(letter.headers);
        let pairs: Vec<_> = event.iter().map(|(name, value)| (&**name, value.as_str())).collect();
        let fitted = letter::fit(
            &pairs,
            letter.payload.len(),
            own,
            letter.attempts,
            self.js.client().max_payload(),
        );
        for i in &fitted.headers {
            let (name, value) = &event[*i];
            // Without an id it is no event: what is left of one is not redriven as if it were all.
            match fitted.is_whole || !name.eq_ignore_ascii_case("ce-id") {
                true => headers.append(&**name, (*value).clone()),
                false => headers.append(ID, (*value).clone()),
            }
        }
        if let Some(left_out) = &fitted.left_out {
            headers.insert(LEFT_OUT, text(left_out));
        }
        headers.insert(REASON, text(&fitted.reason));
        let attempts = serde_json::to_string(&fitted.attempts).map_err(StoreError::when(&action))?;
        headers.insert(ATTEMPTS, text(&attempts));
        let payload = letter.payload.slice(..fitted.payload);
        let subject = self.names.dead_letter(letter.of, letter.tenant, letter.at);
        let mut message = PublishMessage::build().payload(payload).headers(headers);
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

/// The headers that a dead letter keeps of an event's message.
fn of_the_event(headers: Option<&HeaderMap>) -> Vec<(String, HeaderValue)> {
    let mut kept = Vec::new();
    for (name, values) in headers.iter().flat_map(|h| h.iter()) {
        let lower = name.to_string().to_ascii_lowercase();
        // The server's own headers (`Nats-…`) would be read as instructions.
        if !lower.starts_with("nats-") && !lower.starts_with("fanout-dead-") && lower != NOTE {
            kept.extend(values.iter().map(|value| (name.to_string(), value.clone())));
        }
    }
    kept
}

/// What headers of these names take without a value.
fn header_names(names: &[&str]) -> usize {
    names.iter().map(|name| name.len() + 4).sum()
}
