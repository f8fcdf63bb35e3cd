//! What is in a fetcher's hands: read again, settled, and the secret of the tokens that stand for it.

use std::time::Duration;

use async_nats::jetstream::{self, AckKind, kv};
use async_nats::{StatusCode, Subject};
use bytes::Bytes;
use fanout_plan::Position;
use tokio::time::timeout;

use super::redrive::is_absent;
use super::{Store, StoreError};

/// How long the store may take to settle.
const SETTLES_IN: Duration = Duration::from_secs(5);
/// The registry's entry that holds the secret of the tokens. With a dot, it is no subscription's name.
pub(super) const SECRET: &str = "inbox.secret";

impl Store {
    /// A message of the log as a consumer gave it out, read again; `None` once the log has let it go.
    pub(crate) async fn taken_before(
        &self,
        position: Position,
        reply: &str,
    ) -> Result<Option<jetstream::Message>, StoreError> {
        let found = match self
            .log(position.partition)
            .await?
            .get_raw_message(position.offset)
            .await
        {
            Ok(found) => found,
            Err(e) if is_absent(e.kind()) => return Ok(None),
            Err(e) => return Err(StoreError::when("read an event again")(e)),
        };
        let length = found.payload.len();
        Ok(Some(jetstream::Message {
            message: async_nats::Message {
                subject: found.subject,
                reply: Some(Subject::from(reply)),
                payload: found.payload,
                headers: Some(found.headers),
                status: None,
                description: None,
                length,
            },
            context: self.js.clone(),
        }))
    }

    /// Settles a message, or extends its hold, and waits until the store has done so.
    pub(crate) async fn settle(&self, reply: &str, kind: AckKind) -> Result<(), StoreError> {
        let nats = self.nats();
        let request = nats.request(Subject::from(reply), Bytes::from(kind));
        let answer = timeout(SETTLES_IN, request)
            .await
            .map_err(StoreError::when("settle an event in time"))?
            .map_err(StoreError::when("settle an event"))?;
        match answer.status {
            None | Some(StatusCode::OK) => Ok(()),
            Some(status) => Err(StoreError::when("settle an event")(format!("it answered {status}"))),
        }
    }

    /// The secret by which instances know each other's tokens. The first that needs it makes it.
    pub(crate) async fn token_secret(&self, fresh: &[u8]) -> Result<Bytes, StoreError> {
        let bucket = self.bucket(&self.names.registry()).await?;
        match bucket.create(SECRET, Bytes::copy_from_slice(fresh)).await {
            Ok(_) => return Ok(Bytes::copy_from_slice(fresh)),
            Err(e) if e.kind() == kv::CreateErrorKind::AlreadyExists => {}
            Err(e) => return Err(StoreError::when("make the secret of the inbox's tokens")(e)),
        }
        let found = bucket
            .get(SECRET)
            .await
            .map_err(StoreError::when("read the secret of the inbox's tokens"))?;
        found.ok_or_else(|| StoreError::when("keep the secret of the inbox's tokens")("it was deleted just now"))
    }
}
