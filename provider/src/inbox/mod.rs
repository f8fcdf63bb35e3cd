//! Subscriptions whose deliveries are fetched: leases them to their fetcher, and settles them by its verdicts.
//!
//! Without an order it keeps nothing in memory: leases are the store's to know, and a token carries the rest, so any
//! instance can settle what another delivered. With one, the instance that owns the order dispatches the events, and the
//! others forward fetches and settlements to it ([`OrderOwner`]). The guarantee is that of pushed deliveries: an event leaves its subscription only after its fetcher
//! said that it is handled, or after its dead letter was stored.

mod fetch;
mod in_order;
mod redrive;
mod settle;
mod token;
mod verdicts;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use fanout_plan::subscription::{Need, Reach};
use fanout_plan::{Code, Problem, SubscriptionName};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OnceCell, Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::debug;

pub(crate) use fetch::caught_up;
pub(crate) use in_order::{READ_OWNER_EVERY, ServedBy};
pub(crate) use settle::settle;
pub(crate) use token::{Seal, fresh_secret};
use verdicts::Verdicts;
pub(crate) use waiting::{Waiting, Waits};

use crate::delivery::{
    Context, DeliveryHandle, InFlight, Leased, OrderOwner, Running, Settler, admit, admit_retry, put_off,
};
use crate::jetstream::{Message, Sources, StandingPulls, Store, StoreError, explained};

/// The most deliveries in one fetch.
pub(crate) const MAX_DELIVERIES: usize = 1_000;
/// The longest that a fetch waits: it has to end before the transport's deadline for an invocation.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(8);
/// The most bytes of events in one fetch.
pub(crate) const MAX_BYTES: u64 = 8 << 20;
/// How long the secret that instances share may take to be read.
const SECRET_WITHIN: Duration = Duration::from_secs(2);
/// The same when the caller says nothing.
pub(crate) const DEFAULT_BYTES: u64 = 1 << 20;
/// Fetches of one subscription that wait at once, at this instance. One more receives what is there, or is refused.
pub(crate) const MAX_WAITING: usize = 64;
/// After how long a subscription's sources are opened again that could not be pulled from.
const AGAIN: Duration = Duration::from_millis(250);
/// Fetches of one caller that wait at once at one instance, and those of all.
pub(crate) const WAITING_OF_ONE: usize = 256;
pub(crate) const WAITING_OF_ALL: usize = 4_096;

/// One subscription that is fetched.
pub(crate) struct Inbox {
    context: Arc<Context>,
    /// Only with an order.
    order: Option<Arc<OrderOwner>>,
    settler: OnceCell<Settler>,
    /// Forgotten when a pull fails, so that what was made anew is found.
    sources: Mutex<Option<Arc<Sources>>>,
    /// What fetches wait on, without an order.
    pulls: StandingPulls,
    waiting: Semaphore,
    turns: Turns,
    verdicts: Verdicts,
}

/// Whose turn it is. Each choice has a count of its own: two that shared one would keep step, and some of what the second chooses
/// from would never have its turn.
#[derive(Default)]
struct Turns {
    /// Fetches so far, which say what a fetch of one event takes.
    fetches: AtomicUsize,
    /// Of the log: each begins with another of its consumers.
    log: AtomicUsize,
    /// The same of those consumers that pass over events.
    passing_over: AtomicUsize,
}

/// How much a fetch may bring, and how long it may wait.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct FetchLimits {
    pub(crate) most: u32,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) wait: Duration,
}

/// What a fetch brought.
pub(crate) struct Fetched {
    pub(crate) deliveries: Vec<Leased>,
    pub(crate) lease: Duration,
    pub(crate) caught_up: Option<CaughtUp>,
    /// It would have waited if fewer fetches of the subscription did.
    pub(crate) crowded: bool,
}

/// The state of a backfill that has delivered all that the log held when it was made.
pub(crate) struct CaughtUp {
    pub(crate) replayed: u64,
    pub(crate) finished: bool,
}

/// What came of a settlement.
pub(crate) enum Settled {
    Taken,
    Leased(DeliveryHandle),
}

/// Why a settlement was not taken.
#[derive(Debug)]
pub(crate) enum Unsettled {
    LeaseExpired(Problem),
    Unavailable(Problem),
}

impl Inbox {
    /// The inbox of deliveries that are fetched. What it pulls for fetches that wait ends with them.
    pub(crate) fn of(running: &mut Running) -> Option<Arc<Self>> {
        let (context, order) = (Arc::clone(running.context()), running.order().cloned());
        if context.registered.subscription.reach != Reach::Inbox {
            return None;
        }
        let pulls = order.is_none() && context.registered.delivers();
        let inbox = Arc::new(Self {
            context,
            order,
            settler: OnceCell::new(),
            sources: Mutex::default(),
            pulls: StandingPulls::default(),
            waiting: Semaphore::new(MAX_WAITING),
            turns: Turns::default(),
            verdicts: Verdicts::default(),
        });
        if pulls {
            running.spawn(Arc::clone(&inbox).keep_pulling());
        }
        Some(inbox)
    }

    async fn settler(&self) -> Result<&Settler, StoreError> {
        self.settler
            .get_or_try_init(|| Settler::new(&self.context, self.context.stop.clone()))
            .await
    }

    async fn sources(&self) -> Result<Arc<Sources>, StoreError> {
        let mut kept = self.sources.lock().await;
        if let Some(sources) = &*kept {
            return Ok(Arc::clone(sources));
        }
        let opened = Arc::new(self.context.store.inbox_sources(&self.context.registered).await?);
        // One that lacks its retries is opened anew.
        if opened.is_whole() {
            *kept = Some(Arc::clone(&opened));
        }
        Ok(opened)
    }

    async fn forget_sources(&self) {
        *self.sources.lock().await = None;
    }

    /// Pulls for fetches that wait, until stopped.
    async fn keep_pulling(self: Arc<Self>) {
        let (context, stop) = (&self.context, &self.context.stop);
        while self.pulls.wanted(stop).await {
            let pulled = async {
                let sources = self.sources().await?;
                self.pulls.keep(&context.store, &sources, stop).await
            };
            if let Err(error) = pulled.await {
                debug!(subscription = %context.name(), %error, "pulling for fetches failed; the consumers are opened again");
                self.forget_sources().await;
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        }
    }

    /// Whether these deliveries end: whatever is fetched now is fetched anew.
    pub(crate) fn is_over(&self) -> bool {
        self.context.stop.is_cancelled()
    }

    /// A permit to wait here; `None` where as many fetches wait as may.
    pub(crate) fn waits(&self) -> Option<SemaphorePermit<'_>> {
        self.waiting.try_acquire().ok()
    }

    /// Whether a fetch waits here now.
    pub(crate) fn is_waited_on(&self) -> bool {
        self.waiting.available_permits() < MAX_WAITING
    }

    fn is_queue(&self) -> bool {
        self.context.registered.subscription.need == Need::Queue
    }
}

/// Reads a message of whichever partition it is of, or of the store of retries; `None` for what is not to be delivered, which
/// is settled.
async fn admit_here(context: &Context, settler: &Settler, message: Message) -> Option<InFlight> {
    if context.store.is_retry(&message) {
        return admit_retry(context, settler, message).await;
    }
    let partition = context.store.partition_of(message.info().ok()?.stream)?;
    admit(context, settler, partition, message).await
}

/// Has an event of the log delivered again at once, unless it is none to be delivered and settled so; returns whether it is.
async fn put_off_here(context: &Context, settler: &Settler, message: Message) -> bool {
    let stream = message.info().ok().map(|info| info.stream);
    let Some(partition) = stream.and_then(|stream| context.store.partition_of(stream)) else {
        return true;
    };
    put_off(context, settler, partition, message).await
}

/// The secret that a bus's instances share; it is read where it was not yet.
pub(crate) async fn secret(store: &Store) -> Result<Bytes, Problem> {
    if store.secret().is_none() {
        read_secret(store).await?;
    }
    store.secret().ok_or_else(|| secret_is_not_read(store))
}

/// Reads it, also again; where there is none it is made or put back.
pub(crate) async fn read_secret(store: &Store) -> Result<(), Problem> {
    let fresh = token::fresh_secret().map_err(|e| Problem::new(Code::BusNotReady, e.to_string()))?;
    let read = timeout(SECRET_WITHIN, store.read_secret(&fresh)).await;
    match read {
        Ok(read) => read.map_err(unavailable),
        Err(_) => Err(secret_is_not_read(store)),
    }
}

fn secret_is_not_read(store: &Store) -> Problem {
    Problem::new(
        Code::BusNotReady,
        format!(
            "bus {}: the secret that its instances share was not read within {SECRET_WITHIN:?}: try again; see whether this instance reaches its JetStream",
            store.policy().bus
        ),
    )
}

/// What the store did not do for a subscription.
pub(crate) fn unavailable_to(subscription: &SubscriptionName, e: StoreError) -> Problem {
    let Problem { code, message, .. } = unavailable(e);
    Problem::new(code, format!("subscription {subscription}: {message}"))
}

fn unavailable(e: StoreError) -> Problem {
    Problem::new(Code::StoreUnavailable, format!("{}: try again", explained(&e)))
}
