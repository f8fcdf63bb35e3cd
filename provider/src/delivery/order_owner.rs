//! Where the owner of an order dispatches its events to fetches, and takes the verdicts on them.
//!
//! The owner knows which event comes next ([`super::in_order`]). Another instance forwards whole fetches and settlements to
//! it (`contract/local/instances.rs`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fanout_plan::{Problem, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::lease::{DeliveryHandle, Dispatched, Leased, Verdict};
use super::processing::settle_fetched;
use super::settle::{InFlight, Settler};
use super::{Context, DeliveryState};
use crate::jetstream::Redrive;

/// How long the owner may take to serve a fetch that does not wait.
const SERVES_IN: Duration = Duration::from_secs(1);
/// Fetches that the owner has not seen yet. One more waits to be seen.
const UNSEEN: usize = 256;

/// Numbers what is dispatched, whichever order it is of: an instance has one address, and never uses a number twice.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// The order of one subscription at one instance, which may own it.
pub(crate) struct OrderOwner {
    /// This instance's, as the lease's entry names it.
    address: String,
    /// There while this instance is the owner.
    tenure: Mutex<Option<Open>>,
    dispatched: Mutex<HashMap<u64, mpsc::Sender<Settlement>>>,
}

/// The queue of one ownership.
struct Open {
    queue: mpsc::Sender<WaitingFetch>,
    /// What has a lower number was dispatched by an owner before.
    from: u64,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SettleReply {
    Taken,
    /// The lease ends then.
    Leased(Timestamp),
    /// The store did not take what belongs to the event; why, where that is known.
    NotTaken(Option<Box<Problem>>),
    /// The event is not dispatched under this number any more.
    Over,
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
        *self.owner.tenure.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl OrderOwner {
    pub(crate) fn new(context: &Context) -> Self {
        Self {
            address: context.store.names().instance(&context.instance),
            tenure: Mutex::default(),
            dispatched: Mutex::default(),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn is_open(&self) -> bool {
        self.tenure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Opens the queue: this instance is the owner from now on.
    pub(crate) fn open(self: &Arc<Self>) -> FetchQueue {
        let (queue, fetches) = mpsc::channel(UNSEEN);
        let from = NUMBERS.load(Ordering::Relaxed);
        *self.tenure.lock().unwrap_or_else(PoisonError::into_inner) = Some(Open { queue, from });
        FetchQueue {
            owner: Arc::clone(self),
            fetches,
            closed: CancellationToken::new(),
        }
    }

    /// What the owner dispatches to a fetch, in the log's order; `None` while another instance is the owner.
    pub(crate) async fn fetch(&self, events: usize, bytes: usize, wait: Duration) -> Option<Vec<Leased>> {
        let queue = {
            let tenure = self.tenure.lock().unwrap_or_else(PoisonError::into_inner);
            tenure.as_ref()?.queue.clone()
        };
        let (to, mut dispatched) = mpsc::unbounded_channel();
        let fetch = WaitingFetch {
            events,
            bytes_left: bytes,
            taken: 0,
            may_wait: !wait.is_zero(),
            to,
        };
        queue.send(fetch).await.ok()?;
        let wait = if wait.is_zero() { SERVES_IN } else { wait };
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
        if Box::pin(settler.learns_of_late(event)).await {
            return true;
        }
        let (settlements, mut verdicts) = mpsc::channel(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let _registered = DispatchedEvent::register(self, number, settlements);
        let ack_wait = context.store.policy().delivery.ack_wait;
        let lease_until = || context.store.now() + ack_wait;
        // The last word before it is dispatched: the store waits `delivery.ack-wait` from here.
        event.renew().await;
        let mut end = Instant::now() + ack_wait;
        let handle = DeliveryHandle {
            of: context.id(),
            position: event.delivery.position,
            attempt: event.delivery.attempt,
            reply: event.reply(),
            lease_until: lease_until(),
            redrive,
            redrive_lease: None,
            dispatched: Some(Dispatched {
                owner: self.address.clone(),
                number,
            }),
        };
        event.begin();
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
                    event.has_lapsed = true;
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
                    settle_fetched(context, settler, event, Ok(())).await;
                }
                Verdict::Rejected(rejection) => {
                    // Whoever had it before may have refused it late meanwhile.
                    if !Box::pin(settler.learns_of_late(event)).await {
                        settle_fetched(context, settler, event, Err(rejection)).await;
                    }
                }
            }
            reply.send(settle_reply(event)).ok();
            return true;
        }
    }

    /// Settles what was dispatched under a number; `None` where another owner has dispatched it, or this one is none any more.
    pub(crate) async fn settle(&self, dispatched: &Dispatched, verdict: Verdict) -> Option<SettleReply> {
        let number = dispatched.number;
        {
            let tenure = self.tenure.lock().unwrap_or_else(PoisonError::into_inner);
            tenure.as_ref().filter(|tenure| number >= tenure.from)?;
        }
        if dispatched.owner != self.address {
            return None;
        }
        let settlements = {
            let dispatched = self.dispatched.lock().unwrap_or_else(PoisonError::into_inner);
            dispatched.get(&number).cloned()
        };
        let Some(settlements) = settlements else {
            return Some(SettleReply::Over);
        };
        let (reply, replied) = oneshot::channel();
        if settlements.send(Settlement { verdict, reply }).await.is_err() {
            return Some(SettleReply::Over);
        }
        Some(replied.await.unwrap_or(SettleReply::Over))
    }
}

/// The reply to a settlement that left its event in this state.
fn settle_reply(event: &mut InFlight) -> SettleReply {
    match event.state {
        DeliveryState::StoreUnavailable(_) | DeliveryState::SubscriberUnavailable(_) => {
            SettleReply::NotTaken(event.waits_for.take())
        }
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
