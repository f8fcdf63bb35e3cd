//! What the log takes for a repeat of an event that it does not hold any more.
//!
//! The server remembers ids apart from messages: after a purge it answers a repeated id with the place at which the event was
//! (nats-server 2.15). A receipt means stored, so such a position is read, and an event that is gone is stored anew. Its id
//! is made one with the place that is empty, so that two who publish it again at the same moment still store it once.
//!
//! Whoever asks begins with the plain id, and comes from its empty place to the copy that was stored anew. So that copy is
//! recognised only while the server remembers the plain id: for the window after the first copy was stored, and until it
//! restarts, since it then reads ids from the messages that are there. An event that comes again after that is stored
//! once more. Nothing here prevents it: the plain id can't be taken while the server remembers it, and asking for copies
//! beforehand would be a request more for each publish.

use std::sync::Arc;

use fanout_plan::envelope::EventKey;
use fanout_plan::partition::Keeps;
use fanout_plan::{Attributes, Position};
use tracing::info;

use super::{Outgoing, Sent, Store, Stored, Unstored};
use crate::jetstream::StoreError;
use crate::jetstream::migrate::MIGRATION;
use crate::jetstream::refusal::found;

/// How often what is stored anew may be gone again.
pub(in crate::jetstream) const TIMES_ANEW: usize = 8;

/// The id of an event that is stored once more after its first copy has gone from a place.
pub(in crate::jetstream) fn id_after(key: &EventKey, gone: Position) -> String {
    format!("{key}@{gone}")
}

impl Outgoing {
    /// The same, as it is stored once more after its first copy has gone from a place.
    fn after(self, attributes: &Attributes, gone: Position) -> Self {
        Self {
            id: id_after(&EventKey::of(attributes), gone),
            ..self
        }
    }
}

impl Store {
    /// Waits for the store, and sees to it that an event which it takes for a repeat is there. `event` makes it anew.
    ///
    /// # Errors
    /// Why it is not stored, or may not be.
    pub(crate) async fn stored(
        &self,
        attributes: &Attributes,
        sent: Sent,
        event: impl Fn() -> Result<Outgoing, Unstored>,
    ) -> Result<Stored, Unstored> {
        let stored = sent.stored().await?;
        if !stored.duplicate {
            return Ok(stored);
        }
        // Boxed, for it is rare: every publish would carry room for it.
        Box::pin(self.there_or_anew(attributes, stored, event)).await
    }

    async fn there_or_anew(
        &self,
        attributes: &Attributes,
        mut stored: Stored,
        event: impl Fn() -> Result<Outgoing, Unstored>,
    ) -> Result<Stored, Unstored> {
        for _ in 0..TIMES_ANEW {
            let there = self.holds(stored.position).await;
            if !stored.duplicate || there.map_err(|e| Unstored::Unverified(Arc::new(e)))? {
                return Ok(stored);
            }
            info!(
                tenant = %attributes.tenant(),
                id = attributes.id(),
                gone = %stored.position,
                "an event that the log remembers and does not hold any more is stored anew"
            );
            let sent = self
                .send(attributes, event()?.after(attributes, stored.position))
                .await?;
            stored = sent.stored().await?;
        }
        Ok(stored)
    }

    /// Whether the log holds an event that was stored at a place; what a work queue delivered may be gone.
    pub(in crate::jetstream) async fn holds(&self, position: Position) -> Result<bool, StoreError> {
        let partition = self.layout.partitions.get(&position.partition);
        if partition.is_some_and(|p| p.keeps == Keeps::WorkQueue) {
            return Ok(true);
        }
        let log = self.log(position.partition).await?;
        let event = found(
            log.get_raw_message(position.offset).await,
            format!("read event {position}"),
        )?;
        if event.is_some() {
            return Ok(true);
        }
        // A store that the bus has left does not hold what the next one answered for, over the link between them.
        let info = self.stream_info(&self.names.partition(position.partition)).await?;
        Ok(info.is_some_and(|info| info.config.metadata.contains_key(MIGRATION)))
    }
}
