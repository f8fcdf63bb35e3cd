//! Dead letters that are to be given to their subscription again.
//!
//! A request is an empty message beside the letters. The letter stays until its subscriber has handled the event, or
//! refused it again: then a new letter takes its place. The request goes last, so a crash anywhere repeats the delivery
//! and forgets nothing.

use std::time::Duration;

use async_nats::Subscriber as NatsSubscriber;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use fanout_plan::{Incarnation, LetterId, LogPosition, Position, SubscriptionId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

use super::observe::moment;
use super::refusal::found;
use super::{DeadLetter, Store, StoreError};

/// How long the server remembers a reader of requests that is gone.
const READER_AGE: Duration = Duration::from_secs(60);

/// A dead letter on its way to its subscriber.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Redrive {
    pub(crate) request: u64,
    #[serde(flatten)]
    pub(crate) of: SubscriptionId,
    pub(crate) tenant: TenantId,
    pub(crate) position: Position,
    /// In which of the logs that have stood there.
    #[serde(default, skip_serializing_if = "Incarnation::is_unsaid")]
    pub(crate) log: Incarnation,
}

impl Redrive {
    /// Where the event stood, and in which log.
    pub(crate) fn at(&self) -> LogPosition {
        LogPosition {
            position: self.position,
            log: self.log,
        }
    }
}

impl Store {
    /// Asks for a dead letter to be given to its subscription again, and to no other. Returns `false` when that was
    /// asked already.
    ///
    /// # Errors
    /// When the store can't be changed.
    pub async fn redrive(&self, letter: &DeadLetter) -> Result<bool, StoreError> {
        let LetterId { of, tenant, .. } = &letter.id;
        let subject = self.names.redrive(of, tenant, letter.id.at());
        let asked = self.swap(subject, PublishMessage::build(), 0).await;
        let action = format!("take a request to redrive dead letter {}", letter.number);
        Ok(asked.map_err(StoreError::when(action))?.is_some())
    }

    /// When a letter was asked to be redriven, while that has not come about.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn redrive_requested_at(
        &self,
        of: &SubscriptionId,
        tenant: &TenantId,
        at: LogPosition,
    ) -> Result<Option<Timestamp>, StoreError> {
        let request = self.names.redrive(of, tenant, at);
        let request = self.last_message(self.names.dead_letters(), &request).await?;
        Ok(request.map(|request| moment(request.time)))
    }

    /// Whether a subscription has requests.
    pub(crate) async fn has_redrives(&self, of: &SubscriptionId) -> Result<bool, StoreError> {
        let filter = self.names.redrive_filter(of);
        let first = self.letters().await?.get_first_raw_message_by_subject(filter, 1).await;
        Ok(found(first, "read redrives")?.is_some())
    }

    /// Receives requests as they are made.
    pub(crate) async fn redrive_requests(&self, of: &SubscriptionId) -> Result<NatsSubscriber, StoreError> {
        self.nats()
            .subscribe(self.names.redrive_filter(of))
            .await
            .map_err(StoreError::when("receive redrives"))
    }

    /// Reads all requests from the oldest on. The server keeps no place for the reader: what is done is removed.
    pub(crate) async fn read_redrives(&self, of: &SubscriptionId) -> Result<PullConsumer, StoreError> {
        self.letters()
            .await?
            .create_consumer(pull::Config {
                filter_subject: self.names.redrive_filter(of),
                ack_policy: AckPolicy::None,
                inactive_threshold: READER_AGE,
                ..pull::Config::default()
            })
            .await
            .map_err(StoreError::when("read redrives"))
    }

    /// A request as it was read.
    pub(crate) fn redrive_of(&self, message: &async_nats::jetstream::Message) -> Option<Redrive> {
        self.request(&message.subject, message.info().ok()?.stream_sequence)
    }

    fn request(&self, subject: &str, request: u64) -> Option<Redrive> {
        let LetterId {
            of,
            tenant,
            position,
            log,
        } = self.names.redrive_of(subject)?;
        Some(Redrive {
            request,
            of,
            tenant,
            position,
            log,
        })
    }

    /// A tenant's oldest request.
    pub(crate) async fn first_redrive(
        &self,
        of: &SubscriptionId,
        tenant: &TenantId,
    ) -> Result<Option<Redrive>, StoreError> {
        self.next_redrive(of, tenant, 1).await
    }

    /// A tenant's oldest request of this number or a later one.
    pub(crate) async fn next_redrive(
        &self,
        of: &SubscriptionId,
        tenant: &TenantId,
        from: u64,
    ) -> Result<Option<Redrive>, StoreError> {
        let filter = self.names.redrive_filter_of(of, tenant);
        let letters = self.letters().await?;
        let next = letters.get_first_raw_message_by_subject(filter, from).await;
        let next = found(next, "read a tenant's redrives")?;
        Ok(next.and_then(|message| self.request(&message.subject, message.sequence)))
    }

    /// Whether a request is still there.
    pub(crate) async fn is_asked(&self, redrive: &Redrive) -> Result<bool, StoreError> {
        let request = self.letters().await?.get_raw_message(redrive.request).await;
        Ok(found(request, "read a request to redrive")?.is_some())
    }

    /// The letter that a request is for; `None` when it is there no more.
    pub(crate) async fn letter_for(&self, redrive: &Redrive) -> Result<Option<StreamMessage>, StoreError> {
        let letters = self.names.dead_letters();
        self.last_message(letters, &self.letter_subject(redrive)).await
    }

    /// The event was handled: the letter goes, then the request.
    pub(crate) async fn redriven(&self, redrive: &Redrive) -> Result<(), StoreError> {
        self.letters()
            .await?
            .purge()
            .filter(self.letter_subject(redrive))
            .await
            .map_err(StoreError::when("remove a redriven dead letter"))?;
        self.end_redrive(redrive).await
    }

    /// The event was refused again and a new letter is stored: those before it go, then the request.
    pub(crate) async fn dead_lettered_again(&self, redrive: &Redrive) -> Result<(), StoreError> {
        self.letters()
            .await?
            .purge()
            .filter(self.letter_subject(redrive))
            .keep(1)
            .await
            .map_err(StoreError::when("remove a dead letter that was replaced"))?;
        self.end_redrive(redrive).await
    }

    /// Removes a request.
    pub(crate) async fn end_redrive(&self, redrive: &Redrive) -> Result<(), StoreError> {
        self.remove_beside_letters(redrive.request).await
    }

    /// Removes what lies beside the letters: a request, or a tenant's lease. What another instance removed is as good.
    pub(super) async fn remove_beside_letters(&self, sequence: u64) -> Result<(), StoreError> {
        let action = "remove a request to redrive";
        let letters = self.letters().await?;
        let Err(e) = letters.delete_message(sequence).await else {
            return Ok(());
        };
        // The server has one code for whatever was wrong (10057).
        match found(letters.get_raw_message(sequence).await, action)? {
            None => Ok(()),
            Some(_) => Err(StoreError::when(action)(e)),
        }
    }

    fn letter_subject(&self, redrive: &Redrive) -> String {
        self.names.dead_letter(&redrive.of, &redrive.tenant, redrive.at())
    }
}
