//! Who published an event, as it stands beside the event's message ([`fanout_plan::publisher`]): written with the secret that
//! the bus's instances share, and believed only if it was.
//!
//! It is written when the bus takes an event, and goes along wherever the event goes: among those that are scheduled, those that wait
//! for a retry, and the dead letters. Subscribers are not given it.

use std::time::Duration;

use async_nats::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use fanout_plan::place::Place;
use fanout_plan::publisher::{self, PublishedBy, Publisher, Stated};
use fanout_plan::{Attributes, PlaceName, Position, publisher::HEADER};
use ring::{hkdf, hmac};
use tokio::time::timeout;

use super::elsewhere::ANSWERS_WITHIN;
use super::{DeadLetter, LogEvent, Store};

/// Bytes of a tag: half of what HMAC-SHA256 gives, which is more than anybody guesses.
const TAG_BYTES: usize = 16;

/// What is made of the shared secret for this, and for nothing else.
const PURPOSE: &[u8] = b"fanout publisher";

/// Bytes of a key's name.
const NAME_BYTES: usize = 6;

/// A key, and the name by which it is known which one made a tag: a registry that was made again has another secret.
pub(super) struct Key {
    key: hmac::Key,
    name: String,
}

/// What goes beside an event besides its attributes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Beside<'a> {
    /// The trace that it was published in.
    pub(crate) traceparent: Option<&'a str>,
    /// Who published it, as it was written once.
    pub(crate) publisher: Option<&'a str>,
}

/// What stands beside an event about who published it, whoever wrote it.
pub(crate) fn stated(headers: Option<&HeaderMap>) -> Option<&str> {
    let value = headers?.get(HEADER)?.as_str();
    // What is longer than any that is written is nobody's word, and is not carried along.
    Stated::split(value).map(|_| value)
}

impl Store {
    /// Whether it can be written who publishes an event.
    pub(crate) fn knows_publishers(&self) -> bool {
        self.secret.get().is_some()
    }

    /// What is written beside an event about who publishes it; `None` while the secret is not read.
    pub(crate) fn state_publisher(&self, publisher: &Publisher, event: &Attributes, data: &[u8]) -> Option<String> {
        let line = publisher.line();
        let known = self.secret.get()?;
        let key = &known.key;
        let tag = key.tag(&line, event, data);
        let tag = URL_SAFE_NO_PAD.encode(&tag.as_ref()[..TAG_BYTES]);
        Some(publisher::with_tag(&line, &key.name, &tag))
    }

    /// Who published an event of the log. Of one that another place took it is read there, for no longer than `within`, and a second.
    pub async fn publisher_of(&self, event: &LogEvent, within: Duration) -> PublishedBy {
        let of = (event.event.as_ref(), &*event.payload);
        self.judge(event.publisher.as_deref(), event.position, of, within).await
    }

    /// Who published the event of a dead letter. Of one that another place took it is read there, for no longer than a second.
    pub async fn publisher_of_letter(&self, letter: &DeadLetter) -> PublishedBy {
        if letter.is_cut && letter.publisher.is_some() {
            return unverified("the letter lacks a part of the event");
        }
        let of = (letter.event.as_ref(), &*letter.payload);
        self.judge(letter.publisher.as_deref(), letter.id.position, of, ANSWERS_WITHIN)
            .await
    }

    async fn judge(
        &self,
        stated: Option<&str>,
        at: Position,
        event: (Option<&Attributes>, &[u8]),
        within: Duration,
    ) -> PublishedBy {
        let Some(stated) = stated.and_then(Stated::split) else {
            return PublishedBy::Unknown;
        };
        let places = self.policy.places.as_ref();
        let mirrored_from = self.layout().mirrored_from(at.partition);
        // What the log has no partition of any more, its number tells.
        if let Some(name) = mirrored_from.or_else(|| places?.other_of(at.partition)) {
            let there = places.and_then(|places| places.all.get(name));
            return match self.secret_at(name, there, within.min(ANSWERS_WITHIN)).await {
                Some(secret) => Key::of(&secret).judge(stated, event),
                None => unverified(format!(
                    "place {name} took the event and vouches for its publisher, and can't be asked from here now: ask there, or again"
                )),
            };
        }
        let known = match self.secret.get() {
            Some(known) => known,
            None => match self.kept_secret().await {
                Ok(Some(secret)) => self.secret.set(secret),
                Ok(None) => return unverified("the secret that the bus's instances share is not there"),
                Err(error) => return unverified(format!("{error}: try again")),
            },
        };
        known.key.judge(stated, event)
    }

    /// The secret of another place's instances; `None` where it can't be read. It is kept nowhere: they may have another by the next time.
    async fn secret_at(&self, name: &PlaceName, place: Option<&Place>, within: Duration) -> Option<Bytes> {
        let there = self.at(name, place?);
        timeout(within, there.kept_secret()).await.ok()?.ok()?
    }
}

fn unverified(reason: impl Into<String>) -> PublishedBy {
    PublishedBy::Unverified { reason: reason.into() }
}

impl Key {
    pub(super) fn of(secret: &[u8]) -> Self {
        let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret);
        let purpose = [PURPOSE];
        let key = match prk.expand(&purpose, hmac::HMAC_SHA256) {
            Ok(okm) => hmac::Key::from(okm),
            Err(_) => unreachable!("HKDF gives as much as one key takes"),
        };
        let name = hmac::sign(&key, b"its name");
        Self {
            name: URL_SAFE_NO_PAD.encode(&name.as_ref()[..NAME_BYTES]),
            key,
        }
    }

    /// Whether what stands beside an event was written with this key, and for this event.
    fn judge(&self, stated: Stated<'_>, (event, data): (Option<&Attributes>, &[u8])) -> PublishedBy {
        if self.name != stated.key {
            return unverified("it was written with another secret than the bus has now");
        }
        let is_ours = event.is_some_and(|event| self.is_tag(stated, event, data));
        match Publisher::read(stated.line).filter(|_| is_ours) {
            Some(publisher) => PublishedBy::Known(publisher),
            None => PublishedBy::NotBelieved,
        }
    }

    fn tag(&self, line: &str, event: &Attributes, data: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        publisher::tagged(line, event, data, |piece| context.update(piece));
        context.sign()
    }

    /// Compared by its own HMAC, so that the time tells nothing of where it differs.
    fn is_tag(&self, stated: Stated<'_>, event: &Attributes, data: &[u8]) -> bool {
        let Ok(tag) = URL_SAFE_NO_PAD.decode(stated.tag) else {
            return false;
        };
        let made = self.tag(stated.line, event, data);
        let made = hmac::sign(&self.key, &made.as_ref()[..TAG_BYTES]);
        hmac::verify(&self.key, &tag, made.as_ref()).is_ok()
    }
}
