//! Deliveries that are leased to a fetcher: their handles, and the acknowledgements for a fetcher's verdicts.
//!
//! The guarantee is that of pushed deliveries: an event leaves its subscription only after its fetcher said that it is
//! handled, or after its dead letter was stored. An answer to the fetcher means that the store has confirmed.

use std::hash::Hash;
use std::time::Duration;

use fanout_plan::retry::Rejection;
use fanout_plan::{Position, SubscriptionId, Timestamp};
use serde::{Deserialize, Serialize};

use super::settle::Settler;
use super::{Delivery, Health};
use crate::jetstream::{Acknowledgement, Redrive, StoreError};

/// A delivery in its fetcher's hands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeliveryHandle {
    #[serde(flatten)]
    pub(crate) of: SubscriptionId,
    pub(crate) position: Position,
    pub(crate) attempt: u32,
    /// The reply subject of its message, on which it is acknowledged; empty where there is none: a queue subscription settles
    /// nothing, and of a letter that an owner dispatched the store knows only the request, which stays.
    pub(crate) reply: String,
    /// When the lease ends.
    pub(crate) lease_until: Timestamp,
    /// Of a dead letter that is redriven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) redrive: Option<Redrive>,
    /// The number of the tenant's redrive lease that stands for the letter, where no owner dispatched it: `reply` is that of
    /// the lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) redrive_lease: Option<u64>,
    /// Of an event that has an order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dispatched: Option<Dispatched>,
}

impl DeliveryHandle {
    /// What tells one delivery from another. A lease that is renewed is of the same delivery.
    pub(crate) fn delivery(&self) -> impl Hash + Eq {
        let dispatched = self.dispatched.as_ref().map(|d| (d.owner.as_str(), d.number));
        let redriven = (self.redrive.as_ref().map(|r| r.request), self.redrive_lease);
        (&self.of, &self.reply, self.position, self.attempt, dispatched, redriven)
    }
}

/// The owner of an order that dispatched an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dispatched {
    /// The owner's address.
    pub(crate) owner: String,
    /// The event's number at this owner.
    pub(crate) number: u64,
}

/// A delivery and its handle, on their way to a fetcher.
pub(crate) type Leased = (Delivery, DeliveryHandle);

/// What a fetcher made of a delivery.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Handled,
    Rejected(Rejection),
    StillWorking,
    Released,
}

impl Settler {
    /// Acknowledges an event that its fetcher handled.
    pub(crate) async fn lease_handled(&self, handle: &DeliveryHandle) -> Result<(), StoreError> {
        self.acknowledge_lease(handle).await?;
        Health::count(&self.context.health.handled);
        // What is delivered once more may have been refused late by whoever had it before.
        if handle.attempt > 1 || self.context.store.delivery_number(&handle.reply) > 1 {
            self.forget(handle.position).await;
        }
        Ok(())
    }

    /// Acknowledges an event whose verdict is acted on already.
    pub(crate) async fn acknowledge_lease(&self, handle: &DeliveryHandle) -> Result<(), StoreError> {
        self.confirm(&handle.reply, Acknowledgement::Ack).await
    }

    /// Begins a lease anew.
    pub(crate) async fn extend_lease(&self, handle: DeliveryHandle) -> Result<DeliveryHandle, StoreError> {
        let store = &self.context.store;
        let from = store.now();
        self.confirm(&handle.reply, Acknowledgement::Progress).await?;
        Ok(DeliveryHandle {
            lease_until: from + store.policy().delivery.ack_wait,
            ..handle
        })
    }

    /// Ends the lease under a reply: it is delivered again after the delay.
    pub(crate) async fn release_lease(&self, reply: &str, delay: Duration) -> Result<(), StoreError> {
        self.confirm(reply, Acknowledgement::Nak(delay)).await
    }

    async fn confirm(&self, reply: &str, acknowledgement: Acknowledgement) -> Result<(), StoreError> {
        match reply {
            "" => Ok(()),
            reply => self.context.store.settle(reply, acknowledgement).await,
        }
    }
}
