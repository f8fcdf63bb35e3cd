//! A tenant's redrive lease: the permission to deliver one of its dead letters to a subscription that is fetched.
//!
//! Beside the requests lies one message for each tenant that has any, its *redrive lease*. A consumer delivers leases as the
//! log's delivers events: each to one fetcher, for `delivery.ack-wait`, then again; or later, where a retry waits. Who has
//! the lease has the tenant's first request. So a tenant's letters come one at a time and none overtakes another,
//! whichever instance delivers them and whichever dies; and no instance has to remember anything.
//!
//! A lease goes after the tenant's last request. Leases are made from the requests again and again, so one that is lost, in
//! a crash between two steps, comes back.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::message::PublishMessage;
use fanout_plan::{SubscriptionId, TenantId};
use futures::{StreamExt as _, TryStreamExt as _};

use super::{Acknowledgement, Message, Store, StoreError};

/// How long the server remembers the leases' consumer when nobody fetches. Leases that wait for a retry come at once after
/// that.
const UNUSED_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Leases that are made at once.
const AT_ONCE: usize = 16;
/// Tenants that have a letter in a fetcher's hands, or waiting for a retry, at once.
const MAX_LEASES: i64 = 10_000;

/// A tenant's redrive lease, as it was delivered.
#[derive(Clone, Debug)]
pub(crate) struct RedriveLease {
    pub(crate) tenant: TenantId,
    /// The message's number.
    pub(crate) number: u64,
}

/// No subscription's name has an `=`.
pub(super) fn redrive_leases_consumer_name(of: &SubscriptionId) -> String {
    format!("{of}=redrive")
}

impl Store {
    /// The consumer that delivers redrive leases.
    pub(super) async fn redrive_leases_consumer(&self, of: &SubscriptionId) -> Result<PullConsumer, StoreError> {
        let name = redrive_leases_consumer_name(of);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            filter_subject: self.names.redrive_leases(of),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.policy().delivery.ack_wait,
            max_ack_pending: MAX_LEASES,
            inactive_threshold: UNUSED_AGE,
            ..pull::Config::default()
        };
        let made = self.letters().await?.create_consumer(config).await;
        made.map_err(StoreError::when(format!("make consumer {name}")))
    }

    /// The lease that a message is; `None` for an event of the log.
    pub(crate) fn redrive_lease_of(&self, message: &Message) -> Option<RedriveLease> {
        Some(RedriveLease {
            tenant: self.names.redrive_lease_of(&message.subject)?,
            number: message.info().ok()?.stream_sequence,
        })
    }

    /// Makes the lease of each tenant that has requests. Those that are there stay as they are.
    pub(crate) async fn make_redrive_leases(&self, of: &SubscriptionId) -> Result<(), StoreError> {
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
            .map(|tenant| async move { self.make_redrive_lease(of, &tenant).await })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn make_redrive_lease(&self, of: &SubscriptionId, tenant: &TenantId) -> Result<(), StoreError> {
        let subject = self.names.redrive_lease(of, tenant);
        let made = self.swap(subject, PublishMessage::build(), 0).await;
        made.map(drop)
            .map_err(StoreError::when("make a tenant's redrive lease"))
    }

    /// The letter of a lease is settled: the lease passes to the tenant's next request, or goes where there is none.
    pub(crate) async fn pass_redrive_lease(
        &self,
        of: &SubscriptionId,
        lease: &RedriveLease,
        reply: &str,
    ) -> Result<(), StoreError> {
        if self.first_redrive(of, &lease.tenant).await?.is_some() {
            return self.settle(reply, Acknowledgement::Nak(Duration::ZERO)).await;
        }
        self.remove_beside_letters(lease.number).await?;
        // Only now: a lease that is acknowledged and still there would never be delivered again.
        self.settle(reply, Acknowledgement::Ack).await?;
        // Asked for in between, when the lease was still there.
        if self.first_redrive(of, &lease.tenant).await?.is_some() {
            return self.make_redrive_lease(of, &lease.tenant).await;
        }
        Ok(())
    }
}
