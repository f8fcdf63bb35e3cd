//! Fetched deliveries in flight, read again.

use async_nats::jetstream;
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use fanout_plan::Position;

use super::refusal::found;
use super::{Store, StoreError};

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
