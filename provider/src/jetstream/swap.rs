//! Compare and swap: the one way in which instances change what they share.

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use fanout_plan::JetStreamApi;

use super::Store;

/// How often a change is tried anew that other instances were faster with.
pub(crate) const RACES: usize = 10;

impl Store {
    /// Stores a message if the last one of its subject has the sequence `last`; 0 means that the subject has none.
    /// Returns the new sequence, or `None` if another writer was faster.
    pub(super) async fn swap(
        &self,
        subject: String,
        message: PublishMessage,
        last: u64,
    ) -> Result<Option<u64>, PublishError> {
        let message = message.expected_last_subject_sequence(last);
        let stored = match self.js.send_publish(subject, message).await {
            Ok(ack) => ack.await,
            Err(e) => Err(e),
        };
        match stored {
            Ok(ack) => Ok(Some(ack.sequence)),
            Err(e) if e.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The subject on which a bucket's entry is written. That of a JetStream elsewhere has its API's prefix (async-nats
    /// 0.51 does the same).
    pub(super) fn entry_subject(&self, bucket: &str, key: &str) -> String {
        let subject = format!("$KV.{bucket}.{key}");
        match &self.policy.jetstream {
            JetStreamApi::Local => subject,
            elsewhere => format!("{}.{subject}", elsewhere.subject()),
        }
    }
}
