//! Where the owner of an order dispatches its events to fetches, at whichever instance they are made.
//!
//! The owner knows which event comes next ([`crate::delivery`]). Another instance requests events over NATS, and receives
//! the handles, by which it reads the events themselves from the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use fanout_transport::{InboxPrefix, Inboxes};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::token::Dispatched;
use super::{DeliveryHandle, Leased, Verdict};
use crate::clock::nanoseconds;
use crate::delivery::{Context, DeliveryState, InFlight, Settler};
use crate::jetstream::{Redrive, StoreError};

/// How long the owner may take to look at what is there.
const LOOKS_IN: Duration = Duration::from_secs(5);
/// Fetches of other instances that wait at once. One more is answered at once, with nothing.
const MAX_WAITING: usize = 256;
/// Requests of other instances that are under way at once, those fetches included.
const MAX_REQUESTS: usize = 1_024;
/// Bytes of a reply that one handle takes, counted generously.
const HANDLE_BYTES: usize = 1 << 10;

/// The order of one subscription at one instance, which may own it.
pub(crate) struct OrderOwner {
    /// The subject of other instances' requests.
    address: String,
    /// There while this instance is the owner.
    queue: Mutex<Option<mpsc::Sender<WaitingFetch>>>,
    dispatched: Mutex<HashMap<u64, mpsc::Sender<Settlement>>>,
    numbers: AtomicU64,
}

/// A fetch that waits for the owner.
pub(crate) struct WaitingFetch {
    events: usize,
    bytes_left: usize,
    taken: usize,
    may_wait: bool,
    to: mpsc::UnboundedSender<Leased>,
}

/// The fetches that the owner serves. Closed when it is dropped.
pub(crate) struct FetchQueue {
    owner: Arc<OrderOwner>,
    fetches: mpsc::Receiver<WaitingFetch>,
    /// Whoever still has something in flight then settles it without this owner.
    pub(crate) closed: CancellationToken,
}

/// A fetcher's verdict on a dispatched event, on its way to the owner.
struct Settlement {
    verdict: Verdict,
    reply: oneshot::Sender<SettleReply>,
}

/// What came of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SettleReply {
    Taken,
    /// The lease ends then, nanoseconds since the Unix epoch.
    Leased(i64),
    /// The store did not take what belongs to the event.
    NotTaken,
    /// The event is not dispatched under this number any more.
    Over,
}

/// What one instance requests of another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum OwnerRequest {
    Fetch { events: usize, bytes: usize, wait_ms: u64 },
    Settle { number: u64, verdict: Verdict },
}

impl WaitingFetch {
    /// Whether it could still take its first event.
    pub(crate) fn waits(&self) -> bool {
        self.may_wait && self.taken == 0 && !self.to.is_closed()
    }

    pub(crate) fn is_served(&self) -> bool {
        self.taken >= self.events || self.to.is_closed()
    }

    /// Whether an event of this size fits. One does, however large it is.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.taken == 0 || bytes <= self.bytes_left
    }

    /// Counts an event in, and returns where it goes.
    pub(crate) fn take(&mut self, bytes: usize) -> mpsc::UnboundedSender<Leased> {
        self.taken += 1;
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.to.clone()
    }
}

impl FetchQueue {
    /// The next fetch.
    pub(crate) async fn next(&mut self) -> Option<WaitingFetch> {
        self.fetches.recv().await
    }

    pub(crate) fn owner(&self) -> &Arc<OrderOwner> {
        &self.owner
    }
}

impl Drop for FetchQueue {
    fn drop(&mut self) {
        self.closed.cancel();
        *self.owner.queue.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl OrderOwner {
    pub(crate) fn new(context: &Context) -> Self {
        let nats = context.store.nats();
        // An address is used once: what one that is gone dispatched is never taken for another's.
        let id = nats.new_inbox().replace(['.', '_'], "");
        Self::at(context.store.names().order_owner(context.name(), &id))
    }

    fn at(address: String) -> Self {
        Self {
            address,
            queue: Mutex::default(),
            dispatched: Mutex::default(),
            numbers: AtomicU64::new(0),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn is_open(&self) -> bool {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Opens the queue: this instance is the owner from now on.
    pub(crate) fn open(self: &Arc<Self>) -> FetchQueue {
        let (queue, fetches) = mpsc::channel(MAX_WAITING);
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = Some(queue);
        FetchQueue {
            owner: Arc::clone(self),
            fetches,
            closed: CancellationToken::new(),
        }
    }

    /// What the owner dispatches to a fetch, in the log's order; `None` while another instance is the owner.
    pub(super) async fn fetch(&self, events: usize, bytes: usize, wait: Duration) -> Option<Vec<Leased>> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let (to, mut dispatched) = mpsc::unbounded_channel();
        let fetch = WaitingFetch {
            events,
            bytes_left: bytes,
            taken: 0,
            may_wait: !wait.is_zero(),
            to,
        };
        queue.send(fetch).await.ok()?;
        let wait = if wait.is_zero() { LOOKS_IN } else { wait };
        let mut taken = Vec::new();
        match timeout(wait, dispatched.recv()).await {
            Ok(first) => taken.extend(first),
            // What was dispatched at this moment still comes.
            Err(_) => dispatched.close(),
        }
        while let Some(one) = dispatched.recv().await {
            taken.push(one);
        }
        taken.sort_unstable_by_key(|(delivery, _)| delivery.position);
        Some(taken)
    }

    /// Dispatches an event, and waits for what becomes of it, which is its state then. Returns `false` once the queue is
    /// closed: the event is its fetcher's until its lease ends.
    pub(crate) async fn dispatch(
        &self,
        context: &Context,
        settler: &Settler,
        (event, redrive): (&mut InFlight, Option<Redrive>),
        to: mpsc::UnboundedSender<Leased>,
        closed: &CancellationToken,
    ) -> bool {
        let (settlements, mut verdicts) = mpsc::channel(1);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let _registered = DispatchedEvent::register(self, number, settlements);
        let ack_wait = context.store.policy().delivery.ack_wait;
        let lease_until = || context.store.now().saturating_add(nanoseconds(ack_wait));
        // The last word before it is dispatched: the store waits `delivery.ack-wait` from here.
        event.renew().await;
        let mut end = Instant::now() + ack_wait;
        let handle = DeliveryHandle {
            of: context.id(),
            position: event.delivery.position,
            attempt: event.delivery.attempt,
            reply: event.reply(),
            lease_until: lease_until(),
            redriven: None,
            dispatched: Some(Dispatched {
                owner: self.address.clone(),
                number,
                redrive,
            }),
        };
        event.state = DeliveryState::InFlight;
        if to.send((event.delivery.clone(), handle)).is_err() {
            event.state = DeliveryState::Retry(Duration::ZERO);
            return true;
        }
        drop(to);
        loop {
            let settlement = tokio::select! {
                biased;
                settlement = verdicts.recv() => settlement,
                () = closed.cancelled() => return false,
                () = sleep_until(end) => {
                    event.state = DeliveryState::Retry(Duration::ZERO);
                    return true;
                }
            };
            let Some(Settlement { verdict, reply }) = settlement else {
                return false;
            };
            match verdict {
                Verdict::StillWorking => {
                    event.renew().await;
                    end = Instant::now() + ack_wait;
                    // Whoever is not there to receive it asks again, or is too late.
                    reply.send(SettleReply::Leased(lease_until())).ok();
                    continue;
                }
                Verdict::Released => event.state = DeliveryState::Retry(Duration::ZERO),
                Verdict::Handled => {
                    settler.settle(event, Ok(())).await;
                }
                Verdict::Rejected(rejection) => {
                    settler.settle(event, Err(rejection)).await;
                }
            }
            reply.send(settle_reply(event.state)).ok();
            return true;
        }
    }

    /// Settles what was dispatched under a number.
    pub(super) async fn settle(&self, number: u64, verdict: Verdict) -> SettleReply {
        let settlements = self
            .dispatched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&number)
            .cloned();
        let Some(settlements) = settlements else {
            return SettleReply::Over;
        };
        let (reply, replied) = oneshot::channel();
        if settlements.send(Settlement { verdict, reply }).await.is_err() {
            return SettleReply::Over;
        }
        replied.await.unwrap_or(SettleReply::Over)
    }

    /// Serves other instances.
    pub(crate) async fn serve(&self, nats: &Client) -> Result<(), StoreError> {
        let requests = nats
            .subscribe(self.address.clone())
            .await
            .map_err(StoreError::when("receive fetches of other instances"))?;
        let waiting = &Semaphore::new(MAX_WAITING);
        let inboxes = &Inboxes::with_those_of(nats, [InboxPrefix::default()]);
        requests
            .for_each_concurrent(MAX_REQUESTS, |message| async move {
                // Instances have connections alike.
                let Some(reply) = inboxes.reply_to(&message) else {
                    return;
                };
                let answer = match serde_json::from_slice(&message.payload) {
                    Ok(request) => self.answer(request, waiting, nats.max_payload()).await,
                    Err(error) => {
                        debug!(%error, "a request of another instance is not readable");
                        return;
                    }
                };
                if let Err(error) = nats.publish(reply.into_subject(), answer).await {
                    debug!(%error, "another instance was not answered");
                }
            })
            .await;
        Ok(())
    }

    async fn answer(&self, request: OwnerRequest, waiting: &Semaphore, max_payload: usize) -> Bytes {
        let answer = match request {
            OwnerRequest::Fetch { events, bytes, wait_ms } => {
                let events = events.min(max_payload / HANDLE_BYTES).max(1);
                let permit = waiting.try_acquire();
                let wait = permit.as_ref().map_or(0, |_| wait_ms);
                let taken = self.fetch(events, bytes, Duration::from_millis(wait)).await;
                let handles: Option<Vec<_>> = taken.map(|taken| taken.into_iter().map(|(_, handle)| handle).collect());
                serde_json::to_vec(&handles)
            }
            OwnerRequest::Settle { number, verdict } => serde_json::to_vec(&self.settle(number, verdict).await),
        };
        // They are made of strings and numbers: they always have this form.
        answer.unwrap_or_default().into()
    }
}

/// The reply to a settlement that left its event in this state.
fn settle_reply(state: DeliveryState) -> SettleReply {
    match state {
        DeliveryState::StoreUnavailable(_) | DeliveryState::SubscriberUnavailable(_) => SettleReply::NotTaken,
        _ => SettleReply::Taken,
    }
}

/// An event that is dispatched, as long as it is.
struct DispatchedEvent<'a>(&'a OrderOwner, u64);

impl<'a> DispatchedEvent<'a> {
    fn register(owner: &'a OrderOwner, number: u64, settlements: mpsc::Sender<Settlement>) -> Self {
        let mut dispatched = owner.dispatched.lock().unwrap_or_else(PoisonError::into_inner);
        dispatched.insert(number, settlements);
        Self(owner, number)
    }
}

impl Drop for DispatchedEvent<'_> {
    fn drop(&mut self) {
        let mut dispatched = self.0.dispatched.lock().unwrap_or_else(PoisonError::into_inner);
        dispatched.remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use fanout_transport::testing::NatsServer;
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn requests_are_answered_in_inboxes_alone() {
        let server = NatsServer::start().await;
        let nats = server.client().await;
        let owner = Arc::new(OrderOwner::at("fanout.order.test".to_owned()));
        let serving = tokio::spawn({
            let (owner, nats) = (Arc::clone(&owner), nats.clone());
            async move { owner.serve(&nats).await }
        });
        let peer = server.client().await;
        let mut victim = peer.subscribe("victim.>").await.unwrap();
        let request = Bytes::from_static(br#"{"settle":{"number":1,"verdict":"handled"}}"#);
        let answer = loop {
            // Nobody answers before the owner has subscribed.
            if let Ok(answer) = peer.request("fanout.order.test", request.clone()).await {
                break answer;
            }
        };
        assert_eq!(answer.payload, "\"over\"");
        peer.publish_with_reply("fanout.order.test", "victim.a", request.clone())
            .await
            .unwrap();
        peer.request("fanout.order.test", request).await.unwrap();
        peer.flush().await.unwrap();
        assert!(victim.next().now_or_never().is_none(), "it is answered nowhere else");
        serving.abort();
    }
}
