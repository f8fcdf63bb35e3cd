//! Reads dead letters, and takes them away again.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::RawMessageErrorKind;
use fanout_plan::retry::FailedAttempt;
use fanout_plan::subscription::Registered;
use fanout_plan::{LetterId, SubscriptionId, SubscriptionName, TenantId};
use futures::TryStreamExt as _;
use serde::Serialize;

use super::read::shown;
use super::registry::Registry;
use super::{Store, StoreError};

/// A dead letter as the store holds it.
#[derive(Clone, Debug, Serialize)]
pub struct SetAside {
    /// Its number, which `show` and `discard` take.
    pub number: u64,
    /// Of which subscription, whose event, and where that stands in the log.
    #[serde(flatten)]
    pub id: LetterId,
    /// The subscription that it is of has ended: nobody is given it any more.
    pub orphaned: bool,
    /// Every attribute of the event as it came, under its `ce-` name.
    pub attributes: BTreeMap<String, String>,
    /// What became of each attempt.
    pub attempts: Vec<FailedAttempt>,
    /// When it was set aside, RFC 3339.
    pub at: String,
    /// The event's payload.
    #[serde(skip)]
    pub payload: Vec<u8>,
}

impl Store {
    /// Dead letters, oldest first; of one subscription, of one tenant, or of all. At most `limit`.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn set_aside(
        &self,
        subscription: Option<&SubscriptionName>,
        tenant: Option<&TenantId>,
        limit: usize,
    ) -> Result<Vec<SetAside>, StoreError> {
        let stream = self
            .js
            .get_stream_no_info(self.names.dead_letters())
            .await
            .map_err(StoreError::when("open the dead letters"))?;
        let subjects: Vec<String> = stream
            .info_with_subjects(self.names.dead_letter_filter(subscription, tenant))
            .await
            .map_err(StoreError::when("list dead letters"))?
            .map_ok(|(subject, _)| subject)
            // Requests to redrive lie beside the letters.
            .try_filter(|subject| std::future::ready(self.names.letter_of(subject).is_some()))
            .try_collect()
            .await
            .map_err(StoreError::when("list dead letters"))?;
        let living = self.living().await?;
        let mut found = Vec::new();
        // Each subject holds one message: there is one dead letter for a subscription and position.
        for subject in subjects {
            match stream.get_last_raw_message_by_subject(&subject).await {
                Ok(message) => found.extend(self.letter(&living, message)),
                Err(e) if matches!(e.kind(), RawMessageErrorKind::NoMessageFound) => {}
                Err(e) => return Err(StoreError::when("read a dead letter")(e)),
            }
        }
        found.sort_by_key(|letter| letter.number);
        found.truncate(limit);
        Ok(found)
    }

    /// One dead letter; `None` if there is none of that number.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn dead_letter(&self, number: u64) -> Result<Option<SetAside>, StoreError> {
        let stream = self
            .js
            .get_stream_no_info(self.names.dead_letters())
            .await
            .map_err(StoreError::when("open the dead letters"))?;
        match stream.get_raw_message(number).await {
            Ok(message) => Ok(self.letter(&self.living().await?, message)),
            Err(e) => match e.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                RawMessageErrorKind::JetStream(e) if e.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
                _ => Err(StoreError::when("read a dead letter")(e)),
            },
        }
    }

    /// Takes a dead letter away for good. Returns whether there was one.
    ///
    /// # Errors
    /// When the store can't be changed.
    pub async fn discard(&self, number: u64) -> Result<bool, StoreError> {
        if self.dead_letter(number).await?.is_none() {
            return Ok(false);
        }
        let stream = self
            .js
            .get_stream_no_info(self.names.dead_letters())
            .await
            .map_err(StoreError::when("open the dead letters"))?;
        stream
            .delete_message(number)
            .await
            .map_err(StoreError::when("discard a dead letter"))
    }

    /// How many dead letters each subscription has, those that have ended included.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn dead_letter_counts(&self) -> Result<BTreeMap<SubscriptionId, u64>, StoreError> {
        let stream = self
            .js
            .get_stream_no_info(self.names.dead_letters())
            .await
            .map_err(StoreError::when("open the dead letters"))?;
        let mut subjects = stream
            .info_with_subjects(self.names.dead_letter_filter(None, None))
            .await
            .map_err(StoreError::when("count dead letters"))?;
        let mut counts = BTreeMap::new();
        while let Some((subject, count)) = subjects
            .try_next()
            .await
            .map_err(StoreError::when("count dead letters"))?
        {
            if let Some(letter) = self.names.letter_of(&subject) {
                *counts.entry(letter.of).or_default() += count as u64;
            }
        }
        Ok(counts)
    }

    /// The subscriptions that have not ended, as far as is known. One whose entry can't be read may be any of its name.
    async fn living(&self) -> Result<Living, StoreError> {
        let Registry {
            entries: registry,
            unreadable,
            ..
        } = self.registry().await?;
        Ok(Living {
            ids: registry.values().map(Registered::id).collect(),
            unreadable: unreadable.into_keys().collect(),
        })
    }

    fn letter(&self, living: &Living, message: async_nats::jetstream::message::StreamMessage) -> Option<SetAside> {
        let id = self.names.letter_of(&message.subject)?;
        let attempts = message.headers.get("fanout-dead-attempts");
        let stored_at = i64::try_from(message.time.unix_timestamp_nanos()).unwrap_or(i64::MAX);
        Some(SetAside {
            number: message.sequence,
            orphaned: !living.ids.contains(&id.of) && !living.unreadable.contains(&id.of.name),
            id,
            attempts: attempts
                .and_then(|a| serde_json::from_str(a.as_str()).ok())
                .unwrap_or_default(),
            attributes: shown(&message.headers),
            at: fanout_plan::timestamp::to_rfc3339(stored_at),
            payload: message.payload.to_vec(),
        })
    }
}

struct Living {
    ids: BTreeSet<SubscriptionId>,
    unreadable: BTreeSet<SubscriptionName>,
}
