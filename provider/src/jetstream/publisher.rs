//! Who published an event, as it stands beside the event's message ([`fanout_plan::publisher`]): written with the secret that
//! the bus's instances share, and believed only if it was.
//!
//! It is written when the bus takes an event, and goes along wherever the event goes: among those that are scheduled, those that wait
//! for a retry, and the dead letters. Subscribers are not given it.

use std::fmt;
use std::sync::Arc;

use async_nats::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use fanout_plan::publisher::{self, PublishedBy, Publisher};
use fanout_plan::{Attributes, publisher::HEADER};
use ring::{hkdf, hmac};
use tokio::sync::OnceCell;

use super::in_flight::SECRET;
use super::{DeadLetter, LogEvent, Store, StoreError};

/// Bytes of a tag: half of what HMAC-SHA256 gives, which is more than anybody guesses.
const TAG_BYTES: usize = 16;

/// What is made of the shared secret for this, and for nothing else.
const PURPOSE: &[u8] = b"fanout publisher";

/// The key of tags, once the secret was read.
#[derive(Clone, Default)]
pub(super) struct PublisherKey(Arc<OnceCell<hmac::Key>>);

impl fmt::Debug for PublisherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublisherKey([redacted])")
    }
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
    publisher::split(value).map(|_| value)
}

impl Store {
    /// Reads the secret that the bus's instances share, with which it is written who published an event; the first instance makes it.
    pub(crate) async fn read_secret(&self, fresh: &[u8]) -> Result<(), StoreError> {
        let read = async || self.token_secret(fresh).await.map(|secret| key(&secret));
        self.publishers.0.get_or_try_init(read).await.map(drop)
    }

    /// What is written beside an event about who publishes it; `None` while the secret is not read.
    pub(crate) fn state_publisher(&self, publisher: &Publisher, event: &Attributes, data: &[u8]) -> Option<String> {
        let line = publisher.line();
        let tag = tag(self.publishers.0.get()?, &line, event, data);
        let tag = URL_SAFE_NO_PAD.encode(&tag.as_ref()[..TAG_BYTES]);
        Some(publisher::with_tag(&line, &tag))
    }

    /// Who published an event of the log.
    pub async fn publisher_of(&self, event: &LogEvent) -> PublishedBy {
        self.judge(event.publisher.as_deref(), event.event.as_ref(), &event.payload)
            .await
    }

    /// Who published the event of a dead letter.
    pub async fn publisher_of_letter(&self, letter: &DeadLetter) -> PublishedBy {
        self.judge(letter.publisher.as_deref(), letter.event.as_ref(), &letter.payload)
            .await
    }

    async fn judge(&self, stated: Option<&str>, event: Option<&Attributes>, data: &[u8]) -> PublishedBy {
        let Some((line, tag)) = stated.and_then(publisher::split) else {
            return PublishedBy::Unknown;
        };
        let key = match self.publishers.0.get_or_try_init(|| self.known_secret()).await {
            Ok(key) => key,
            Err(error) => {
                return PublishedBy::Unverified {
                    reason: format!("{error}: try again"),
                };
            }
        };
        let is_ours = event.is_some_and(|event| is_tag(key, (line, tag), event, data));
        match Publisher::read(line).filter(|_| is_ours) {
            Some(publisher) => PublishedBy::Known(publisher),
            None => PublishedBy::NotBelieved,
        }
    }

    /// The key, where there is a secret: nothing is made for who only reads.
    async fn known_secret(&self) -> Result<hmac::Key, StoreError> {
        const READ: &str = "read the secret that the bus's instances share";
        let registry = self.names.registry();
        let subject = format!("$KV.{registry}.{SECRET}");
        let found = self.last_message(format!("KV_{registry}"), &subject).await?;
        let secret = found.map(|message| message.payload).filter(|secret| !secret.is_empty());
        let secret = secret.ok_or_else(|| StoreError::when(READ)("there is none"))?;
        Ok(key(&secret))
    }
}

fn key(secret: &Bytes) -> hmac::Key {
    let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret);
    let purpose = [PURPOSE];
    match prk.expand(&purpose, hmac::HMAC_SHA256) {
        Ok(okm) => hmac::Key::from(okm),
        Err(_) => unreachable!("HKDF gives as much as one key takes"),
    }
}

fn tag(key: &hmac::Key, line: &str, event: &Attributes, data: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    publisher::tagged(line, event, data, |piece| context.update(piece));
    context.sign()
}

/// Compared by its own HMAC, so that the time tells nothing of where it differs.
fn is_tag(key: &hmac::Key, (line, stated): (&str, &str), event: &Attributes, data: &[u8]) -> bool {
    let Ok(stated) = URL_SAFE_NO_PAD.decode(stated) else {
        return false;
    };
    let made = tag(key, line, event, data);
    let made = hmac::sign(key, &made.as_ref()[..TAG_BYTES]);
    hmac::verify(key, &stated, made.as_ref()).is_ok()
}
