//! What the headers of dead letters say, read without their payloads: of a million letters, no more than a line each comes over the
//! network, and none stays in memory.
//!
//! What waits for a retry is not read so: its stream is a work queue, in which a reader beside the one that delivers is refused
//! (nats-server 2.15, error 10100).

use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use fanout_plan::retry::FailedAttempt;
use fanout_plan::{LetterId, SubscriptionName, TenantId, envelope};
use tokio::time::timeout;

use super::dead_letters::{ID, attempts_in};
use super::listing::Listing;
use super::{Store, StoreError};

pub(super) const LIST: &str = "list dead letters";

/// How long the next letter may take: what is read for may be taken away meanwhile, and then never comes.
pub(super) const NEXT_WITHIN: Duration = Duration::from_secs(15);

/// A dead letter without its event.
#[derive(Clone, Debug)]
pub struct LetterNote {
    /// Its number.
    pub number: u64,
    /// Of which subscription, whose event, and where that stands in the log.
    pub id: LetterId,
    /// The event's id, if it has one.
    pub event_id: Option<String>,
    /// What became of each attempt.
    pub attempts: Vec<FailedAttempt>,
}

impl Store {
    /// Looks at dead letters, oldest first; of one subscription, of one tenant, or of all. One that is being replaced at the same moment may
    /// be seen with the one that takes its place.
    ///
    /// # Errors
    /// When the store can't be read, or not to the end.
    pub async fn look_at_letters(
        &self,
        subscription: Option<&SubscriptionName>,
        tenant: Option<&TenantId>,
        mut see: impl FnMut(LetterNote),
    ) -> Result<(), StoreError> {
        let config = pull::OrderedConfig {
            filter_subject: self.names.dead_letter_filter(subscription, tenant),
            deliver_policy: DeliverPolicy::All,
            headers_only: true,
            ..pull::OrderedConfig::default()
        };
        let stream = self.letters().await?;
        let consumer = stream.create_consumer(config).await.map_err(StoreError::when(LIST))?;
        let Some(mut letters) = Listing::begin(&stream, consumer, LIST).await? else {
            return Ok(());
        };
        while let Some(message) = timeout(NEXT_WITHIN, letters.next())
            .await
            .map_err(StoreError::when(LIST))??
        {
            let number = message.info().map_err(StoreError::when(LIST))?.stream_sequence;
            // Requests to redrive lie beside the letters.
            if let Some(id) = self.names.letter_of(&message.subject) {
                let headers = message.headers.as_ref();
                let of = |name: &str| {
                    headers
                        .and_then(|headers| headers.get(name))
                        .map(|value| value.as_str())
                };
                see(LetterNote {
                    number,
                    id,
                    event_id: of("ce-id").or_else(|| of(ID)).map(envelope::shown_value),
                    attempts: attempts_in(headers),
                });
            }
        }
        Ok(())
    }
}
