//! Reads dead letters, and takes them away again.

use std::collections::BTreeMap;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::RawMessageErrorKind;
use fanout_plan::retry::FailedAttempt;
use fanout_plan::{SubscriptionName, TenantId};
use futures::TryStreamExt as _;
use serde::Serialize;

use super::read::shown;
use super::{Store, StoreError};

/// A dead letter as the store holds it.
#[derive(Clone, Debug, Serialize)]
pub struct SetAside {
    /// Its number, which `show` and `discard` take.
    pub number: u64,
    /// The subscription that would not handle it.
    pub subscription: String,
    /// Whose event it is.
    pub tenant: String,
    /// Where the event stands in the log: `partition/offset`.
    pub position: String,
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
            .try_filter(|subject| std::future::ready(!subject.contains('=')))
            .try_collect()
            .await
            .map_err(StoreError::when("list dead letters"))?;
        let mut found = Vec::new();
        // Each subject holds one message: there is one dead letter for a subscription and position.
        for subject in subjects {
            match stream.get_last_raw_message_by_subject(&subject).await {
                Ok(message) => found.push(read(message)),
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
            Ok(message) => Ok(Some(read(message))),
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
}

fn read(message: async_nats::jetstream::message::StreamMessage) -> SetAside {
    let header = |name: &str| {
        message
            .headers
            .get(name)
            .map(|v| v.as_str().to_owned())
            .unwrap_or_default()
    };
    // fanout.dead.{bus}.{subscription}.{tenant}.{partition}.{offset}
    let mut tokens = message.subject.split('.').skip(3);
    let mut token = || tokens.next().unwrap_or_default().to_owned();
    let (subscription, tenant) = (token(), token());
    let tenant = TenantId::from_token(&tenant).map_or(tenant, String::from);
    SetAside {
        number: message.sequence,
        subscription,
        tenant,
        position: header("fanout-dead-position"),
        attempts: serde_json::from_str(&header("fanout-dead-attempts")).unwrap_or_default(),
        attributes: shown(&message.headers),
        at: fanout_plan::timestamp::to_rfc3339(i64::try_from(message.time.unix_timestamp_nanos()).unwrap_or(i64::MAX)),
        payload: message.payload.to_vec(),
    }
}
