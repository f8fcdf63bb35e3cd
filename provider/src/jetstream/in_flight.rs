//! Fetched deliveries in flight: read again, and the secret of the tokens that stand for them.

use async_nats::jetstream::{self, kv};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use fanout_plan::Position;

use super::refusal::found;
use super::{Store, StoreError};

/// The registry's entry that holds the secret of the tokens. With a dot, it is no subscription's name.
pub(super) const SECRET: &str = "inbox.secret";
/// Its bytes.
pub(crate) const SECRET_BYTES: usize = 32;
/// How often it is tried to keep the secret, if others change it meanwhile.
const RACES: u32 = 5;

/// Whether these bytes can be the secret: what somebody else wrote there is none.
pub(super) fn is_secret(bytes: &[u8]) -> bool {
    bytes.len() == SECRET_BYTES
}

impl Store {
    /// A message of the log, or of the retries, as a consumer delivered it, read again; `None` once it is gone.
    pub(crate) async fn taken_before(
        &self,
        position: Position,
        reply: &str,
    ) -> Result<Option<jetstream::Message>, StoreError> {
        let delivered = self.under(reply, Subject::from(""), Bytes::new(), None);
        if self.is_retry(&delivered) {
            let sequence = delivered
                .info()
                .map_err(StoreError::when("say what it delivered"))?
                .stream_sequence;
            let found = self.retry_message(sequence).await?;
            return Ok(found.map(|found| self.under(reply, found.subject, found.payload, Some(found.headers))));
        }
        // In another log, another event stands there.
        let stored_at = delivered
            .info()
            .map_err(StoreError::when("say what it delivered"))?
            .published;
        let log = self.log(position.partition).await?;
        let message = found(log.get_raw_message(position.offset).await, "read an event again")?;
        let message = message.filter(|message| message.time == stored_at);
        Ok(message.map(|m| self.under(reply, m.subject, m.payload, Some(m.headers))))
    }

    /// How often the store had delivered what came under this reply; 0 where it is no delivery's.
    pub(crate) fn delivery_number(&self, reply: &str) -> u64 {
        let delivered = self.under(reply, Subject::from(""), Bytes::new(), None);
        delivered
            .info()
            .map_or(0, |info| u64::try_from(info.delivered).unwrap_or(0))
    }

    /// A message as a consumer delivered it under this reply.
    pub(super) fn under(
        &self,
        reply: &str,
        subject: Subject,
        payload: Bytes,
        headers: Option<HeaderMap>,
    ) -> jetstream::Message {
        jetstream::Message {
            message: async_nats::Message {
                subject,
                reply: Some(Subject::from(reply)),
                length: payload.len(),
                payload,
                headers,
                status: None,
                description: None,
            },
            context: jetstream::Context::clone(&self.js),
        }
    }
}

/// The secret that the sharers of a bucket have: the one that is there, or `ours`, which is put there where there is none, or
/// what is there is none.
pub(crate) async fn shared_secret(bucket: &kv::Store, ours: Bytes) -> Result<Bytes, StoreError> {
    for _ in 0..RACES {
        let found = bucket
            .entry(SECRET)
            .await
            .map_err(StoreError::when("read the secret that instances share"))?;
        let revision = match found {
            Some(entry) if is_secret(&entry.value) => return Ok(entry.value),
            Some(entry) => entry.revision,
            None => 0,
        };
        match bucket.update(SECRET, ours.clone(), revision).await {
            Ok(_) => return Ok(ours),
            Err(e) if e.kind() == kv::UpdateErrorKind::WrongLastRevision => {}
            Err(e) => return Err(StoreError::when("keep the secret that instances share")(e)),
        }
    }
    Err(StoreError::when("keep the secret that instances share")(
        "others change it all the time",
    ))
}
