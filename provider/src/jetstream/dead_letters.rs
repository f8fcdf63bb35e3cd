//! Dead letters: events that a subscriber will not handle, whole and with the reason of each attempt. Written, read and
//! taken away here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::Stream;
use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
use fanout_plan::retry::FailedAttempt;
use fanout_plan::subscription::Registered;
use fanout_plan::{Attributes, LetterId, LogPosition, SubscriptionId, SubscriptionName, TenantId, Timestamp, letter};
use futures::TryStreamExt as _;
use serde::Serialize;

use super::headers::{header_bytes, text};
use super::listing::Listing;
use super::observe::moment;
use super::publisher::stated;
use super::read::{from_headers, shown};
use super::refusal::found;
use super::registry::Registry;
use super::retries::NOTE;
use super::tail::LogEvent;
use super::{Store, StoreError};

/// Of a dead letter: when the event was published.
pub(crate) const PUBLISHED: &str = "fanout-dead-published";
/// Why the last attempt was refused.
const REASON: &str = "fanout-dead-reason";
/// What became of each attempt.
const ATTEMPTS: &str = "fanout-dead-attempts";
/// What of the message did not fit into the letter: another client filled it to the brim.
const LEFT_OUT: &str = "fanout-dead-left-out";
/// The event's id, where the letter does not hold all of the event.
pub(super) const ID: &str = "fanout-dead-id";
/// The numbers of the letters whose place it took, oldest first: the event was redriven, and refused again.
const PREDECESSORS: &str = "fanout-dead-predecessors";
/// The most of them that a letter names; those before are forgotten. They fit in what an event leaves free.
const MOST_PREDECESSORS: usize = 16;

/// How long finding the letter that took another's place may take.
const FIND_WITHIN: Duration = Duration::from_secs(30);

/// What is asked of the store.
const LIST: &str = "list dead letters";
const READ: &str = "read a dead letter";

/// An event that becomes a dead letter.
pub(crate) struct NewDeadLetter<'a> {
    pub(crate) of: &'a SubscriptionId,
    pub(crate) tenant: &'a TenantId,
    pub(crate) at: LogPosition,
    /// The stored message's own headers: the event's attributes.
    pub(crate) headers: Option<&'a HeaderMap>,
    pub(crate) payload: Bytes,
    pub(crate) attempts: &'a [FailedAttempt],
    /// When the event was published, nanoseconds since the Unix epoch.
    pub(crate) published_at: Timestamp,
    /// The letter whose place it takes: the event was redriven, and refused again.
    pub(crate) replaces: Option<u64>,
}

impl NewDeadLetter<'_> {
    /// About how many bytes it takes: the event's, and what is written beside it.
    pub(crate) fn bytes(&self) -> u64 {
        (self.headers.map_or(0, header_bytes) + self.payload.len() + letter::RESERVED) as u64
    }
}

/// A dead letter as the store holds it.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetter {
    /// Its number, which `show` and `discard` take.
    pub number: u64,
    /// Of which subscription, whose event, and where that stands in the log.
    #[serde(flatten)]
    pub id: LetterId,
    /// The letters whose place it took, oldest first: the event was redriven, and refused again.
    pub predecessors: Vec<u64>,
    /// The subscription has ended: the letter is delivered to nobody any more.
    pub orphaned: bool,
    /// Every attribute of the event as it came, under its `ce-` name.
    pub attributes: BTreeMap<String, String>,
    /// What became of each attempt.
    pub attempts: Vec<FailedAttempt>,
    /// When the letter was stored, RFC 3339.
    pub at: String,
    /// The event's payload.
    #[serde(skip)]
    pub payload: Vec<u8>,
    /// The event, if the letter holds one that is whole.
    #[serde(skip)]
    pub(super) event: Option<Attributes>,
    /// A part of the event is not in it.
    #[serde(skip)]
    pub(super) is_cut: bool,
    /// What stands beside it about who published it: [`Store::publisher_of_letter`] judges.
    #[serde(skip)]
    pub(super) publisher: Option<String>,
}

/// The dead letter of an event at one subscription.
#[derive(Clone, Debug)]
pub(crate) struct LetterOf {
    pub(crate) number: u64,
    pub(crate) attempts: Vec<FailedAttempt>,
    /// When it was asked that it is given to its subscription again, which has not come about yet.
    pub(crate) redrive_requested_at: Option<Timestamp>,
}

impl Store {
    pub(super) async fn letters(&self) -> Result<Stream<()>, StoreError> {
        self.stream(self.names.dead_letters()).await
    }

    /// Stores a dead letter. There is one for a subscription and position, however often this is called: a crash
    /// between this and the settling of the event stores no second one.
    pub(crate) async fn store_dead_letter(&self, letter: NewDeadLetter<'_>) -> Result<(), StoreError> {
        let action = format!("store a dead letter of subscription {}", letter.of.name);
        let mut headers = HeaderMap::new();
        headers.insert("fanout-dead-subscription", letter.of.name.as_str());
        headers.insert("fanout-dead-position", letter.at.position.to_string());
        headers.insert(PUBLISHED, letter.published_at.to_string());
        if let Some(number) = letter.replaces {
            headers.insert(PREDECESSORS, joined(&followed(letter.headers, number)));
        }
        let own = header_bytes(&headers) + header_names(&[REASON, ATTEMPTS, LEFT_OUT]);
        let event = of_the_event(letter.headers);
        let pairs: Vec<_> = event.iter().map(|(name, value)| (&**name, value.as_str())).collect();
        let fitted = letter::fit(
            &pairs,
            letter.payload.len(),
            own,
            letter.attempts,
            self.nats().max_payload(),
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
        let message = PublishMessage::build().payload(payload).headers(headers);
        let stored = if letter.replaces.is_some() {
            match self.js.send_publish(subject, message).await {
                Ok(ack) => ack.await.map(drop),
                Err(e) => Err(e),
            }
        } else {
            self.swap(subject, message, 0).await.map(drop)
        };
        stored.map_err(StoreError::when(action))
    }

    /// Dead letters, oldest first; of one subscription, of one tenant, or of all. At most `limit`.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn dead_letters(
        &self,
        subscription: Option<&SubscriptionName>,
        tenant: Option<&TenantId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let stream = self.letters().await?;
        let subjects: Vec<String> = stream
            .info_with_subjects(self.names.dead_letter_filter(subscription, tenant))
            .await
            .map_err(StoreError::when(LIST))?
            .map_ok(|(subject, _)| subject)
            // Requests to redrive lie beside the letters.
            .try_filter(|subject| std::future::ready(self.names.letter_of(subject).is_some()))
            .try_collect()
            .await
            .map_err(StoreError::when(LIST))?;
        let living = self.living().await?;
        let mut letters = Vec::new();
        // Each subject holds one message: there is one dead letter for a subscription and position.
        for subject in subjects {
            let message = found(stream.get_last_raw_message_by_subject(&subject).await, READ)?;
            letters.extend(message.and_then(|message| self.letter(&living, message)));
        }
        letters.sort_by_key(|letter| letter.number);
        letters.truncate(limit);
        Ok(letters)
    }

    /// The dead letter of an event of the log at a subscription, without the event.
    pub(crate) async fn letter_of(
        &self,
        registered: &Registered,
        event: &LogEvent,
    ) -> Result<Option<LetterOf>, StoreError> {
        let (of, at) = (registered.id(), self.in_its_log(event.position));
        let letters = self.names.dead_letters();
        let subject = self.names.dead_letter(&of, &event.tenant, at);
        let Some(message) = self.last_message(letters, &subject).await? else {
            return Ok(None);
        };
        Ok(Some(LetterOf {
            number: message.sequence,
            attempts: attempts_in(Some(&message.headers)),
            redrive_requested_at: self.redrive_requested_at(&of, &event.tenant, at).await?,
        }))
    }

    /// One dead letter; `None` if there is none of that number.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn dead_letter(&self, number: u64) -> Result<Option<DeadLetter>, StoreError> {
        match found(self.letters().await?.get_raw_message(number).await, READ)? {
            Some(message) => Ok(self.letter(&self.living().await?, message)),
            None => Ok(None),
        }
    }

    /// The letter that took the place of one that is there no more; `None` if none did.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn successor(&self, number: u64) -> Result<Option<DeadLetter>, StoreError> {
        // What is read for may be taken away meanwhile, and then never comes.
        let found = tokio::time::timeout(FIND_WITHIN, self.find_successor(number)).await;
        found.unwrap_or_else(|e| Err(StoreError::when(LIST)(e)))
    }

    async fn find_successor(&self, number: u64) -> Result<Option<DeadLetter>, StoreError> {
        let config = pull::OrderedConfig {
            filter_subject: self.names.dead_letter_filter(None, None),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: number.saturating_add(1),
            },
            headers_only: true,
            ..pull::OrderedConfig::default()
        };
        let stream = self.letters().await?;
        let consumer = stream.create_consumer(config).await.map_err(StoreError::when(LIST))?;
        let Some(mut letters) = Listing::begin(&stream, consumer, LIST).await? else {
            return Ok(None);
        };
        while let Some(message) = letters.next().await? {
            if predecessors(message.headers.as_ref()).contains(&number) {
                let info = message.info().map_err(StoreError::when(LIST))?;
                return self.dead_letter(info.stream_sequence).await;
            }
        }
        Ok(None)
    }

    /// Takes a dead letter away for good. Returns whether there was one.
    ///
    /// # Errors
    /// When the store can't be changed.
    pub async fn discard(&self, number: u64) -> Result<bool, StoreError> {
        if self.dead_letter(number).await?.is_none() {
            return Ok(false);
        }
        let discarded = self.letters().await?.delete_message(number).await;
        discarded.map_err(StoreError::when("discard a dead letter"))
    }

    /// How many dead letters each subscription has, those that have ended included.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn dead_letter_counts(&self) -> Result<BTreeMap<SubscriptionId, u64>, StoreError> {
        let filter = self.names.dead_letter_filter(None, None);
        let subjects = self.letters().await?.info_with_subjects(filter).await;
        let mut subjects = subjects.map_err(StoreError::when(LIST))?;
        let mut counts = BTreeMap::new();
        while let Some((subject, count)) = subjects.try_next().await.map_err(StoreError::when(LIST))? {
            if let Some(letter) = self.names.letter_of(&subject) {
                *counts.entry(letter.of).or_default() += count as u64;
            }
        }
        Ok(counts)
    }

    /// The subscriptions that have not ended, as far as is known. One whose entry can't be read may be any of its name.
    async fn living(&self) -> Result<Living, StoreError> {
        let Registry {
            entries: registry,
            unreadable,
            ..
        } = self.registry().await?;
        Ok(Living {
            ids: registry.values().map(Registered::id).collect(),
            unreadable: unreadable.into_keys().collect(),
        })
    }

    fn letter(&self, living: &Living, message: StreamMessage) -> Option<DeadLetter> {
        let id = self.names.letter_of(&message.subject)?;
        let tenant = id.tenant.clone();
        Some(DeadLetter {
            number: message.sequence,
            predecessors: predecessors(Some(&message.headers)),
            orphaned: !living.ids.contains(&id.of) && !living.unreadable.contains(&id.of.name),
            id,
            attempts: attempts_in(Some(&message.headers)),
            attributes: shown(&message.headers),
            event: from_headers(&tenant, &message.headers).ok(),
            publisher: stated(Some(&message.headers)).map(str::to_owned),
            is_cut: message.headers.get(LEFT_OUT).is_some(),
            at: moment(message.time).to_string(),
            payload: message.payload.to_vec(),
        })
    }
}

struct Living {
    ids: BTreeSet<SubscriptionId>,
    unreadable: BTreeSet<SubscriptionName>,
}

/// What became of each attempt, by a letter's headers.
pub(super) fn attempts_in(headers: Option<&HeaderMap>) -> Vec<FailedAttempt> {
    let noted = headers.and_then(|headers| headers.get(ATTEMPTS));
    noted
        .and_then(|noted| serde_json::from_str(noted.as_str()).ok())
        .unwrap_or_default()
}

/// The letters whose place a letter took, by its headers.
fn predecessors(headers: Option<&HeaderMap>) -> Vec<u64> {
    let named = headers.and_then(|headers| headers.get(PREDECESSORS));
    let numbers = named.into_iter().flat_map(|named| named.as_str().split(' '));
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// The predecessors of the letter that takes the place of this one, which has these headers.
fn followed(headers: Option<&HeaderMap>, number: u64) -> Vec<u64> {
    let mut all = predecessors(headers);
    all.push(number);
    all.split_off(all.len().saturating_sub(MOST_PREDECESSORS))
}

fn joined(numbers: &[u64]) -> String {
    let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    numbers.join(" ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_names_those_whose_place_it_took_as_far_as_they_fit() {
        assert_eq!(followed(None, 2), [2]);
        let mut headers = HeaderMap::new();
        for number in 2..100 {
            headers.insert(PREDECESSORS, joined(&followed(Some(&headers), number)));
        }
        assert_eq!(predecessors(Some(&headers)), Vec::from_iter(84..100));
        // The longest that they can be leaves a letter its reason and its attempts: see `letter::RESERVED`.
        let longest = joined(&[u64::MAX; MOST_PREDECESSORS]);
        assert!(longest.len() + header_names(&[PREDECESSORS]) < 400, "{longest}");
    }
}
