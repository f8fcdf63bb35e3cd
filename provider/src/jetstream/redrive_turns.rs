//! Whose turn it is to have a dead letter given to a subscription that is fetched.
//!
//! Beside the requests lies one message for each tenant that has any: its *turn*. A consumer gives turns out as the log's
//! gives out events: each to one fetcher, for the hold's time, then again; or later, where a retry waits. Who has the turn
//! has the tenant's first request. So a tenant's letters come one at a time and none overtakes another, whichever
//! instance gives them out and whichever dies; and no instance has to remember anything.
//!
//! A turn goes after the tenant's last request. Turns are made from the requests again and again, so one that is lost,
//! in a crash between two steps, comes back.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::message::PublishMessage;
use fanout_plan::{SubscriptionId, TenantId};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};

/// How long the server remembers the turns' consumer when nobody fetches. Turns that wait for a retry come at once after
/// that.
const UNUSED_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Turns that are made at once.
const AT_ONCE: usize = 16;
/// Tenants that have a letter in a fetcher's hands, or waiting for a retry, at once.
const MAX_TURNS: i64 = 10_000;

/// A tenant's turn, as it was given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Turn {
    pub(crate) tenant: TenantId,
    /// The message's number.
    pub(crate) number: u64,
}

/// No subscription's name has an `=`.
pub(super) fn turns_consumer_name(of: &SubscriptionId) -> String {
    format!("{of}=redrive")
}

impl Store {
    /// What gives turns out.
    pub(super) async fn turns_consumer(&self, of: &SubscriptionId) -> Result<PullConsumer, StoreError> {
        let name = turns_consumer_name(of);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            filter_subject: self.names.redrive_turns(of),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.policy().ack_wait,
            max_ack_pending: MAX_TURNS,
            inactive_threshold: UNUSED_AGE,
            ..pull::Config::default()
        };
        let made = self.letters().await?.create_consumer(config).await;
        made.map_err(StoreError::when(format!("make consumer {name}")))
    }

    /// The turn that a message is; `None` for an event of the log.
    pub(crate) fn turn_of(&self, message: &async_nats::jetstream::Message) -> Option<Turn> {
        Some(Turn {
            tenant: self.names.turn_of(&message.subject)?,
            number: message.info().ok()?.stream_sequence,
        })
    }

    /// Makes the turn of each tenant that has requests. Those that are there stay as they are.
    pub(crate) async fn make_turns(&self, of: &SubscriptionId) -> Result<(), StoreError> {
        if !self.has_redrives(of).await? {
            return Ok(());
        }
        let requests = self
            .letters()
            .await?
            .info_with_subjects(self.names.redrive_filter(of))
            .await
            .map_err(StoreError::when("list redrives"))?;
        let tenants: BTreeSet<TenantId> = requests
            .try_filter_map(|(subject, _)| {
                let letter = self.names.redrive_of(&subject);
                std::future::ready(Ok(letter.map(|letter| letter.tenant)))
            })
            .try_collect()
            .await
            .map_err(StoreError::when("list redrives"))?;
        futures::stream::iter(tenants)
            .map(|tenant| async move { self.make_turn(of, &tenant).await })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn make_turn(&self, of: &SubscriptionId, tenant: &TenantId) -> Result<(), StoreError> {
        let subject = self.names.redrive_turn(of, tenant);
        let made = self.swap(subject, PublishMessage::build(), 0).await;
        made.map(drop).map_err(StoreError::when("make a tenant's turn"))
    }

    /// The letter of a turn is settled: the tenant's next request has the turn, or there is none and the turn goes.
    pub(crate) async fn pass_turn(&self, of: &SubscriptionId, turn: &Turn, reply: &str) -> Result<(), StoreError> {
        if self.first_redrive(of, &turn.tenant).await?.is_some() {
            return self.settle(reply, AckKind::Nak(None)).await;
        }
        self.remove_beside_letters(turn.number).await?;
        // Only now: a turn that is acknowledged and still there would never be given out again.
        self.settle(reply, AckKind::Ack).await?;
        // Asked for in between, when the turn was still there.
        if self.first_redrive(of, &turn.tenant).await?.is_some() {
            return self.make_turn(of, &turn.tenant).await;
        }
        Ok(())
    }
}
