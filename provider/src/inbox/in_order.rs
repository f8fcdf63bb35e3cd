//! Events that have an order, for fetchers at any instance: dispatched and settled by the instance that owns the order.

use std::time::Duration;

use async_nats::RequestErrorKind;
use async_nats::jetstream::AckKind;
use futures::{StreamExt as _, stream};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::order_owner::{OrderOwner, OwnerRequest, SettleReply};
use super::settle::{not_taken, over, owner_gone, unsettled};
use super::token::Dispatched;
use super::{DeliveryHandle, Inbox, Leased, Settled, Unsettled, Verdict, admit_here};
use crate::clock::nanoseconds;
use crate::delivery::{Delivery, DeliveryState, owner_of, redriven};
use crate::jetstream::{Redrive, StoreError};

/// How long the owner may take beyond what it was asked to wait.
const ANSWERS_IN: Duration = Duration::from_secs(4);
/// How often it is looked for when there is none.
const LOOKS: Duration = Duration::from_millis(100);
/// Events that are read from the store at once.
const READS: usize = 16;

impl Inbox {
    /// What the owner dispatches until then.
    pub(super) async fn fetch_from_owner(
        &self,
        order: &OrderOwner,
        (events, bytes): (usize, usize),
        end: Instant,
    ) -> Result<Vec<Leased>, StoreError> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let fetched = match order.fetch(events, bytes, left).await {
                Some(fetched) => fetched,
                None => self.fetch_elsewhere(order, (events, bytes), left).await?,
            };
            if !fetched.is_empty() || Instant::now() + LOOKS >= end {
                return Ok(fetched);
            }
            sleep(LOOKS).await;
        }
    }

    async fn fetch_elsewhere(
        &self,
        order: &OrderOwner,
        (events, bytes): (usize, usize),
        wait: Duration,
    ) -> Result<Vec<Leased>, StoreError> {
        let owner = self.context.store.owner(&owner_of(&self.context.id())).await?;
        let Some(owner) = owner.filter(|owner| owner != order.address()) else {
            return Ok(Vec::new());
        };
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let request = OwnerRequest::Fetch { events, bytes, wait_ms };
        let handles: Option<Option<Vec<DeliveryHandle>>> = self.request(&owner, &request, wait + ANSWERS_IN).await?;
        Ok(stream::iter(handles.flatten().unwrap_or_default())
            .map(|handle| self.read(handle))
            .buffered(READS)
            .filter_map(|read| async { read })
            .collect()
            .await)
    }

    /// Reads what was dispatched elsewhere; what can't be read now is released.
    async fn read(&self, handle: DeliveryHandle) -> Option<Leased> {
        let dispatched = handle.dispatched.as_ref()?;
        let read = async {
            let (context, settler) = (&self.context, self.settler().await?);
            let event = match &dispatched.redrive {
                Some(redrive) => redriven(context, settler, redrive, Some(Vec::new())).await?,
                None => match context.store.taken_before(handle.position, &handle.reply).await? {
                    Some(message) => admit_here(context, settler, message).await,
                    None => None,
                },
            };
            Ok::<_, StoreError>(event)
        };
        let read = read.await;
        if let Ok(Some(event)) = read {
            let delivery = Delivery {
                attempt: handle.attempt,
                ..event.delivery
            };
            return Some((delivery, handle));
        }
        debug!(subscription = %self.context.name(), position = %handle.position, error = ?read.err(), "it is released unread");
        if let Err(error) = self.settle_at_owner(dispatched, &Verdict::Released).await {
            debug!(subscription = %self.context.name(), ?error, "it comes again when its lease is over");
        }
        None
    }

    /// Settles what an owner dispatched.
    pub(super) async fn settle_dispatched(
        &self,
        handle: DeliveryHandle,
        dispatched: &Dispatched,
        verdict: Verdict,
    ) -> Result<Settled, Unsettled> {
        let failed = |e| unsettled(&handle, e);
        match self.settle_at_owner(dispatched, &verdict).await.map_err(failed)? {
            Some(SettleReply::Taken) => Ok(Settled::Taken),
            Some(SettleReply::Leased(lease_until)) => Ok(Settled::Leased(DeliveryHandle { lease_until, ..handle })),
            Some(SettleReply::NotTaken) => Err(not_taken(&handle)),
            Some(SettleReply::Over) => self.settle_late(&handle, dispatched, &verdict).await,
            None => self.settle_alone(&handle, dispatched, verdict).await,
        }
    }

    /// Its lease is over: the same verdict came before and its answer was lost, or it may be in other hands.
    async fn settle_late(
        &self,
        handle: &DeliveryHandle,
        dispatched: &Dispatched,
        verdict: &Verdict,
    ) -> Result<Settled, Unsettled> {
        let failed = |e| unsettled(handle, e);
        let store = &self.context.store;
        let taken = match (verdict, &dispatched.redrive) {
            (Verdict::Handled, Some(redrive)) => !store.is_asked(redrive).await.map_err(failed)?,
            // Taken however late it comes: the event was handled.
            (Verdict::Handled, None) => store
                .settle(&handle.reply, AckKind::Ack)
                .await
                .map(|()| true)
                .map_err(failed)?,
            (Verdict::Rejected(_), None) => {
                let settler = self.settler().await.map_err(failed)?;
                let noted = settler.attempts_so_far(handle.position).await.map_err(failed)?;
                noted.last().is_some_and(|a| a.attempt >= handle.attempt)
            }
            _ => false,
        };
        if taken { Ok(Settled::Taken) } else { Err(over(handle)) }
    }

    /// Its owner is gone, and the next one waits until all that the last one dispatched has come back to the store. While the
    /// subscription is paused there is no next one.
    async fn settle_alone(
        &self,
        handle: &DeliveryHandle,
        dispatched: &Dispatched,
        verdict: Verdict,
    ) -> Result<Settled, Unsettled> {
        let paused = self.context.registered.paused;
        if let Some(redrive) = &dispatched.redrive {
            return self.settle_letter_alone(handle, redrive, verdict, paused).await;
        }
        let settled = match verdict {
            Verdict::StillWorking if paused => return self.extend(handle.clone()).await.map(Settled::Leased),
            // A lease is not renewed which the next owner waits for.
            Verdict::StillWorking => return Err(owner_gone(handle)),
            Verdict::Handled => self.handled(handle).await,
            Verdict::Released => self.release(handle).await,
            Verdict::Rejected(rejection) => self.rejected(handle, rejection).await,
        };
        settled.map(|()| Settled::Taken)
    }

    /// The same of a redriven letter: its request stays until it is handled, or an owner delivers it again.
    async fn settle_letter_alone(
        &self,
        handle: &DeliveryHandle,
        redrive: &Redrive,
        verdict: Verdict,
        paused: bool,
    ) -> Result<Settled, Unsettled> {
        let answer = match verdict {
            Verdict::Handled => Ok(()),
            Verdict::Rejected(rejection) if paused => Err(rejection),
            Verdict::Released => return Ok(Settled::Taken),
            Verdict::StillWorking if paused => {
                let lease_until = self
                    .context
                    .store
                    .now()
                    .saturating_add(nanoseconds(self.context.store.policy().delivery.ack_wait));
                return Ok(Settled::Leased(DeliveryHandle {
                    lease_until,
                    ..handle.clone()
                }));
            }
            Verdict::Rejected(_) | Verdict::StillWorking => return Err(owner_gone(handle)),
        };
        match self.settle_letter(handle, redrive, answer).await? {
            Some(DeliveryState::StoreUnavailable(_) | DeliveryState::SubscriberUnavailable(_)) => {
                Err(not_taken(handle))
            }
            _ => Ok(Settled::Taken),
        }
    }

    /// Settles at the owner that dispatched an event; `None` when it is gone.
    async fn settle_at_owner(
        &self,
        dispatched: &Dispatched,
        verdict: &Verdict,
    ) -> Result<Option<SettleReply>, StoreError> {
        if let Some(order) = self.order.as_ref().filter(|order| order.address() == dispatched.owner) {
            return Ok(match order.is_open() {
                true => Some(order.settle(dispatched.number, verdict.clone()).await),
                false => None,
            });
        }
        let request = OwnerRequest::Settle {
            number: dispatched.number,
            verdict: verdict.clone(),
        };
        self.request(&dispatched.owner, &request, ANSWERS_IN).await
    }

    /// A request to another instance; `None` when it is gone.
    async fn request<T: DeserializeOwned>(
        &self,
        owner: &str,
        request: &OwnerRequest,
        within: Duration,
    ) -> Result<Option<T>, StoreError> {
        let answered = async {
            let request = async_nats::Request::new()
                .payload(serde_json::to_vec(request)?.into())
                .timeout(Some(within));
            match self.context.store.nats().send_request(owner.to_owned(), request).await {
                Ok(answer) => Ok::<_, async_nats::Error>(Some(serde_json::from_slice(&answer.payload)?)),
                Err(e) if e.kind() == RequestErrorKind::NoResponders => Ok(None),
                Err(e) => Err(e.into()),
            }
        };
        answered
            .await
            .map_err(StoreError::when("reach the instance that owns the order"))
    }
}
