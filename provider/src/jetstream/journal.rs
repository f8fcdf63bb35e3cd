//! The journal of deliveries, as the store keeps it. What is asked of one event is read from its slot alone, and never without
//! an end.

use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Info;
use bytes::Bytes;
use fanout_plan::journal::{Batch, Entry, Missing, Slot};
use fanout_plan::{Position, Timestamp};
use futures::StreamExt as _;
use serde::Serialize;
use tokio::time::timeout;

use super::listing::Listing;
use super::observe::moment;
use super::refusal::there;
use super::{Store, StoreError};

/// The most messages of the journal that are read for one event.
const MAX_READ: usize = 20_000;
/// The most entries of one event that are told.
const MAX_TOLD: usize = 2_000;
/// The most messages that are on their way to the store at once.
const AT_ONCE: usize = 16;
/// Instances and servers have clocks of their own: what was written so long before an event was stored may be of it.
const CLOCKS_APART: Duration = Duration::from_secs(60);
/// How long reading may take.
const READS_WITHIN: Duration = Duration::from_secs(10);

const READ: &str = "read the journal";
const WRITE: &str = "write the journal";

/// A message of the journal.
pub(crate) struct JournalMessage {
    pub(crate) subject: String,
    pub(crate) payload: Bytes,
    /// The same twice is one.
    pub(crate) id: String,
}

/// An entry, and which instance wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Delivered {
    /// Host and process.
    pub instance: String,
    /// What it says.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What the journal tells of one event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Journaled {
    /// Its deliveries, in the order in which they were written.
    pub deliveries: Vec<Delivered>,
    /// What may be missing among them.
    pub missing: Vec<Missing>,
    /// There is more than is told.
    pub cut: bool,
    /// What was written before that is not in it: it was made then, or has let go what is older.
    pub begins: Option<Timestamp>,
}

impl Store {
    /// Writes messages, a few at a time. One answer for each.
    pub(crate) async fn write_journal(&self, messages: Vec<JournalMessage>) -> Vec<Result<(), StoreError>> {
        // Each that is under way takes one of the permits that dead letters and quotas need too.
        let at_once = (self.policy.publish.max_in_flight as usize / 4).clamp(1, AT_ONCE);
        let writes = messages
            .into_iter()
            .map(async |JournalMessage { subject, payload, id }| {
                let message = PublishMessage::build()
                    .payload(payload)
                    .message_id(id)
                    .expected_stream(self.names.journal());
                let sent = self.js.send_publish(subject, message).await;
                let ack = sent.map_err(StoreError::when(WRITE))?;
                ack.await.map(drop).map_err(StoreError::when(WRITE))
            });
        futures::stream::iter(writes).buffered(at_once).collect().await
    }

    /// Writes what the journal lacks.
    pub(crate) async fn write_journal_missing(&self, missing: &Missing) -> Result<(), StoreError> {
        let payload = serde_json::to_vec(missing).map_err(StoreError::when(WRITE))?;
        let message = PublishMessage::build()
            .payload(payload.into())
            .expected_stream(self.names.journal());
        let sent = self.js.send_publish(self.names.journal_missing(), message).await;
        let ack = sent.map_err(StoreError::when(WRITE))?;
        ack.await.map(drop).map_err(StoreError::when(WRITE))
    }

    /// What the journal tells of the event of a position, of what was written since it was published; `None` where there is no journal.
    /// It takes no longer than `within`, and than is worth it.
    ///
    /// # Errors
    /// When the store can't be read, or not in time.
    pub async fn journal_of(
        &self,
        position: Position,
        since: Option<Timestamp>,
        within: Duration,
    ) -> Result<Option<Journaled>, StoreError> {
        let read = timeout(within.min(READS_WITHIN), self.read_journal(position, since)).await;
        read.unwrap_or_else(|e| Err(StoreError::when(READ)(e)))
    }

    async fn read_journal(
        &self,
        position: Position,
        since: Option<Timestamp>,
    ) -> Result<Option<Journaled>, StoreError> {
        let at = self.in_its_log(position);
        let missing = self.names.journal_missing();
        let config = pull::OrderedConfig {
            filter_subjects: vec![self.names.journal_slot(Slot::of(position)), missing.clone()],
            deliver_policy: match since
                .map(|at| async_nats::datetime::from_nanos((at - CLOCKS_APART).nanoseconds().into()))
            {
                Some(Ok(start_time)) => DeliverPolicy::ByStartTime { start_time },
                _ => DeliverPolicy::All,
            },
            ..pull::OrderedConfig::default()
        };
        let Some(stream) = there(self.js.get_stream(self.names.journal()).await, READ)? else {
            return Ok(None);
        };
        let mut told = Journaled {
            begins: Some(begins(stream.cached_info())),
            ..Journaled::default()
        };
        let Some(consumer) = there(stream.create_consumer(config).await, READ)? else {
            return Ok(None);
        };
        let Some(mut written) = Listing::begin(&stream, consumer, READ).await? else {
            return Ok(Some(told));
        };
        let mut read = 0;
        while let Some(message) = written.next().await? {
            if *message.subject == *missing {
                told.missing
                    .extend(serde_json::from_slice::<Missing>(&message.payload).ok());
            } else if let Ok(Batch { instance, entries }) = serde_json::from_slice::<Batch>(&message.payload) {
                let of_it = |entry: &Entry| entry.position == position && entry.log == at.log;
                let entries = entries.into_iter().filter(of_it);
                told.deliveries.extend(entries.map(|entry| Delivered {
                    instance: instance.clone(),
                    entry,
                }));
            }
            read += 1;
            told.cut = told.deliveries.len() > MAX_TOLD || (!written.is_at_end() && read >= MAX_READ);
            if told.cut {
                break;
            }
        }
        told.deliveries.truncate(MAX_TOLD);
        Ok(Some(told))
    }
}

/// Since when it holds everything that was written into it.
fn begins(journal: &Info) -> Timestamp {
    let Info { created, state, .. } = journal;
    moment(match (state.first_sequence, state.messages) {
        // It has let nothing go.
        (0 | 1, _) => *created,
        // All that was in it is gone.
        (_, 0) => state.last_timestamp.max(*created),
        _ => state.first_timestamp,
    })
}
