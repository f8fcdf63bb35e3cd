//! Who published an event, as it stands beside the event's message ([`fanout_plan::publisher`]): written with the secret that
//! the bus's instances share, and believed only if it was.
//!
//! It is written when the bus takes an event, and goes along wherever the event goes: among those that are scheduled, those that wait
//! for a retry, and the dead letters. Subscribers are not given it.

use async_nats::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanout_plan::publisher::{self, PublishedBy, Publisher, Stated};
use fanout_plan::{Attributes, publisher::HEADER};
use ring::{hkdf, hmac};

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

    /// Who published an event of the log.
    pub async fn publisher_of(&self, event: &LogEvent) -> PublishedBy {
        self.judge(event.publisher.as_deref(), event.event.as_ref(), &event.payload)
            .await
    }

    /// Who published the event of a dead letter.
    pub async fn publisher_of_letter(&self, letter: &DeadLetter) -> PublishedBy {
        if letter.is_cut && letter.publisher.is_some() {
            return PublishedBy::Unverified {
                reason: "the letter lacks a part of the event".to_owned(),
            };
        }
        self.judge(letter.publisher.as_deref(), letter.event.as_ref(), &letter.payload)
            .await
    }

    async fn judge(&self, stated: Option<&str>, event: Option<&Attributes>, data: &[u8]) -> PublishedBy {
        let Some(stated) = stated.and_then(Stated::split) else {
            return PublishedBy::Unknown;
        };
        let unverified = |reason: String| PublishedBy::Unverified { reason };
        let known = match self.secret.get() {
            Some(known) => known,
            None => match self.kept_secret().await {
                Ok(Some(secret)) => self.secret.set(secret),
                Ok(None) => return unverified("the secret that the bus's instances share is not there".to_owned()),
                Err(error) => return unverified(format!("{error}: try again")),
            },
        };
        let key = &known.key;
        if key.name != stated.key {
            return unverified("it was written with another secret than the bus has now".to_owned());
        }
        let is_ours = event.is_some_and(|event| key.is_tag(stated, event, data));
        match Publisher::read(stated.line).filter(|_| is_ours) {
            Some(publisher) => PublishedBy::Known(publisher),
            None => PublishedBy::NotBelieved,
        }
    }
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
