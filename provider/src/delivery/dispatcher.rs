//! Dispatches the events of an order's owner: to the subscriber, or to fetches. It holds what waits behind another of its
//! key, what is ready, and what is in flight. Due retries without an order go through it, too.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanout_plan::isolation::Reader;
use fanout_plan::sequence::{Offered, Sequencer};
use fanout_plan::{Code, Position};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Context;
use super::feed::{Began, Item, Origin};
use super::invoke::invoke;
use super::lease::Leased;
use super::order_owner::{FetchQueue, OrderOwner, WaitingFetch};
use super::permits::in_flight_bytes;
use super::recovery::{InFlightAtStore, Recovery};
use super::settle::{InFlight, Settler, nak, renew};
use super::state::DeliveryState;
use crate::jetstream::{ConsumerState, Tenure};

/// The most bytes of payload that wait in memory; beyond, they are read again when they are delivered.
const PAYLOAD_BYTES: usize = 64 << 20;

/// What the task of an invocation, or of a fetch, returns: each event in the state that it is in then.
pub(super) type Done = Vec<Item>;

pub(super) struct Dispatcher<'a> {
    context: &'a Arc<Context>,
    settler: Arc<Settler>,
    tenure: Tenure,
    pub(super) sequencer: Sequencer,
    waiting: BTreeMap<Position, Item>,
    /// Redriven letters of events that are here from the log at this moment: they are offered after those.
    behind: BTreeMap<Position, Item>,
    /// Fetches that wait for something.
    pub(super) fetches: VecDeque<WaitingFetch>,
    payload_bytes: usize,
    /// What the log has delivered and is not settled: it waits here, or is in flight.
    of_log: BTreeMap<Position, Arc<Reader>>,
    in_flight: usize,
    /// Of events in flight.
    bytes_free: Arc<Semaphore>,
    pub(super) calls: JoinSet<Done>,
    began: Instant,
    pub(super) recovery: Recovery,
    /// Nothing is delivered before this: the subscriber could not be reached.
    not_before: Instant,
}

impl fmt::Debug for Dispatcher<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher")
            .field("held", &self.sequencer.held())
            .field("is_ready", &self.is_ready())
            .field("resting", &self.sequencer.resting())
            .field("of_log", &self.of_log.len())
            .field("in_flight", &self.in_flight)
            .field("bytes_free", &self.bytes_free.available_permits())
            .field("fetches", &self.fetches.len())
            .finish_non_exhaustive()
    }
}

impl<'a> Dispatcher<'a> {
    /// What `readers` had in flight before has to come back first.
    pub(super) fn new(
        context: &'a Arc<Context>,
        settler: Arc<Settler>,
        tenure: Tenure,
        readers: impl IntoIterator<Item = Reader>,
    ) -> Self {
        let ack_wait = context.store.policy().delivery.ack_wait;
        let largest = context.store.policy().max_event_bytes;
        Self {
            context,
            settler,
            tenure,
            sequencer: Sequencer::default(),
            waiting: BTreeMap::new(),
            behind: BTreeMap::new(),
            fetches: VecDeque::new(),
            payload_bytes: 0,
            of_log: BTreeMap::new(),
            in_flight: 0,
            bytes_free: Arc::new(Semaphore::new(in_flight_bytes(largest))),
            calls: JoinSet::new(),
            began: Instant::now(),
            recovery: Recovery::new(readers, ack_wait, Instant::now()),
            not_before: Instant::now(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn wakes_at(&self) -> Instant {
        let due = self.sequencer.due().map(|ms| self.began + Duration::from_millis(ms));
        let far = Instant::now() + Duration::from_secs(3600);
        due.unwrap_or(far).min(if self.not_before > Instant::now() {
            self.not_before
        } else {
            far
        })
    }

    pub(super) fn take(&mut self, item: Item) {
        if let Some(reader) = &item.reader
            && self.of_log.insert(item.position, Arc::clone(reader)).is_none()
        {
            if item.was_delivered_before() {
                self.recovery.came_back(Instant::now());
            }
            self.recovery.took(reader, item.position.offset);
        }
        match self.sequencer.offer(&item.lane, item.position) {
            Offered::New => self.keep(item),
            Offered::Known => match self.waiting.get_mut(&item.position) {
                // The store delivered it again: its lease was not renewed in time.
                Some(held) if held.is_of_log() && item.is_of_log() || held.is_retry() && item.is_retry() => {
                    self.payload_bytes -= held.bytes();
                    let mut item = item;
                    item.failed = held.failed.take();
                    self.keep(item);
                }
                _ if matches!(item.origin, Origin::Redrive(_)) => drop(self.behind.insert(item.position, item)),
                // Refused a moment ago, stored anew and due at once: it is here before its last invocation is settled.
                None if item.is_retry() => drop(self.behind.insert(item.position, item)),
                _ => {}
            },
        }
    }

    fn keep(&mut self, mut item: Item) {
        if self.payload_bytes + item.bytes() > PAYLOAD_BYTES {
            item.let_payload_go();
        }
        self.payload_bytes += item.bytes();
        self.waiting.insert(item.position, item);
    }

    /// Starts as many invocations as may be under way.
    pub(super) fn deliver(&mut self) {
        let subscription = &self.context.registered.subscription;
        // While the subscriber does not answer, one invocation is enough to learn when it does again.
        let most = if self.context.health.is_failing() {
            1
        } else {
            subscription.concurrency as usize
        };
        while self.in_flight < most && self.is_ready() {
            self.start(None);
        }
    }

    /// Whether something could be delivered at this moment.
    pub(super) fn is_ready(&self) -> bool {
        self.not_before <= Instant::now() && self.has_bytes_free() && self.sequencer.is_ready(self.now())
    }

    fn has_bytes_free(&self) -> bool {
        self.bytes_free.available_permits() > 0
    }

    /// Permits for the bytes of an event that goes in flight: all that there are for the last one, which may be larger.
    fn bytes_of(&self, item: &Item) -> Option<OwnedSemaphorePermit> {
        let bytes = self.size(item).min(self.bytes_free.available_permits());
        Arc::clone(&self.bytes_free)
            .try_acquire_many_owned(u32::try_from(bytes).ok()?)
            .ok()
    }

    /// Bytes of an item; of a letter, which is not read yet, those of the largest event.
    fn size(&self, item: &Item) -> usize {
        let largest = || usize::try_from(self.context.store.policy().max_event_bytes).unwrap_or(usize::MAX);
        item.size().unwrap_or_else(largest)
    }

    /// Invocations, or events with fetchers, in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Starts an invocation with what comes next, with a permit where invocations are counted.
    pub(super) fn start(&mut self, permit: Option<OwnedSemaphorePermit>) {
        let (mut batch, mut bytes) = (Vec::new(), Vec::new());
        while batch.len() < self.context.registered.subscription.batch_size as usize
            && self.has_bytes_free()
            && let Some(item) = self.next()
        {
            bytes.extend(self.bytes_of(&item));
            batch.push(item);
        }
        if batch.is_empty() {
            return;
        }
        self.in_flight += 1;
        let (context, settler, tenure) = (Arc::clone(self.context), Arc::clone(&self.settler), self.tenure.clone());
        self.calls.spawn(async move {
            let _permits = (permit, bytes);
            call(&context, &settler, &tenure, batch).await
        });
    }

    /// Dispatches to fetches, in the order in which they came: to each what there is, if there is anything.
    pub(super) fn serve_fetches(&mut self, queue: &FetchQueue) {
        let most = self.context.registered.subscription.max_unsettled() as usize;
        while let Some(mut fetch) = self.fetches.pop_front() {
            while !fetch.is_served()
                && self.in_flight < most
                && self.has_bytes_free()
                && let Some(item) = self.next()
            {
                let bytes = self.size(&item);
                if !fetch.fits(bytes) {
                    self.sequencer.again(&item.lane, item.position, self.now());
                    self.keep(item);
                    break;
                }
                self.in_flight += 1;
                let to = fetch.take(bytes);
                let (context, settler) = (Arc::clone(self.context), Arc::clone(&self.settler));
                let (owner, tenure) = (Arc::clone(queue.owner()), self.tenure.clone());
                let (closed, bytes) = (queue.closed.clone(), self.bytes_of(&item));
                self.calls.spawn(async move {
                    let _bytes = bytes;
                    dispatch(&context, &settler, &owner, item, to, (&tenure, &closed)).await
                });
            }
            if fetch.waits() {
                self.fetches.push_front(fetch);
                break;
            }
        }
        self.forget_fetches();
    }

    /// Forgets fetches that nobody waits for any more.
    pub(super) fn forget_fetches(&mut self) {
        self.fetches.retain(WaitingFetch::waits);
    }

    /// The next item to deliver, which is in flight then.
    fn next(&mut self) -> Option<Item> {
        loop {
            let (lane, position) = self.sequencer.next(self.now())?;
            match self.waiting.remove(&position) {
                Some(item) => {
                    self.payload_bytes -= item.bytes();
                    return Some(item);
                }
                None => {
                    self.sequencer.settled(&lane, position);
                    self.of_log.remove(&position);
                }
            }
        }
    }

    pub(super) fn done(&mut self, done: Done) {
        self.in_flight = self.in_flight.saturating_sub(1);
        for mut item in done {
            let state = std::mem::replace(&mut item.state, DeliveryState::New);
            if let DeliveryState::SubscriberUnavailable(delay) = state {
                self.not_before = Instant::now() + delay;
            }
            let at = match state {
                DeliveryState::SubscriberUnavailable(_) => Some(self.now()),
                state => state.again_after().map(|delay| {
                    let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX / 2);
                    self.now() + delay
                }),
            };
            if let Some(at) = at {
                self.sequencer.again(&item.lane, item.position, at);
                self.keep(item);
                continue;
            }
            self.sequencer.settled(&item.lane, item.position);
            self.of_log.remove(&item.position);
            if let Some(behind) = self.behind.remove(&item.position) {
                self.take(behind);
            }
        }
    }

    /// The same where there is no order: what is to be delivered again waits at the store, and not here.
    pub(super) async fn done_without_order(&mut self, done: Done) {
        self.in_flight = self.in_flight.saturating_sub(1);
        for item in done {
            if let DeliveryState::SubscriberUnavailable(delay) = item.state {
                self.not_before = Instant::now() + delay;
            }
            if let (Some(message), Some(delay)) = (item.message(), item.state.again_after()) {
                nak(message, delay).await;
            }
            self.sequencer.settled(&item.lane, item.position);
            if let Some(behind) = self.behind.remove(&item.position)
                && behind.is_stored_after(&item)
            {
                self.take(behind);
            }
        }
    }

    /// A reader begins: what was delivered of its events before has to come back first.
    pub(super) fn began(&mut self, (reader, at_store): Began) {
        debug!(subscription = %self.context.name(), ?reader, ?at_store, "a reader begins");
        let here = of_reader(&self.of_log, &reader);
        self.recovery.begin(&reader, at_store, here, Instant::now());
    }

    /// The store has answered what it counts as delivered of some readers. Whatever was taken in since it was asked may be
    /// among it or not: it is the offset that says so.
    pub(super) fn answered(&mut self, readers: &[Reader], states: &[(Reader, ConsumerState)]) {
        for reader in readers {
            let state = states.iter().find(|(of, _)| of == reader);
            // One that was removed has nothing in flight.
            let at_store = state.map_or_else(InFlightAtStore::default, |(_, state)| state.into());
            let here = of_reader(&self.of_log, reader);
            self.recovery.answered(reader, at_store, here);
        }
        let now = Instant::now();
        self.recovery.checked(now);
        debug!(subscription = %self.context.name(), recovery = ?self.recovery, "what the last owner had comes back");
        match self.recovery.gives_up(now) {
            None => {}
            Some((0, _)) => {
                debug!(subscription = %self.context.name(), "some of what came back was settled meanwhile by whoever had it");
            }
            Some((missing, silent)) => {
                let seconds = silent.as_secs();
                warn!(
                    subscription = %self.context.name(), code = %Code::OrderNotKept,
                    "{missing} events that were delivered have not come back for {seconds} s: they may be delivered behind later ones of their key; see whether every instance reaches NATS, and nothing else reads the subscription's consumer"
                );
            }
        }
    }

    /// Renews the leases of what waits here.
    pub(super) async fn renew(&self) {
        for message in self.waiting.values().filter_map(Item::message) {
            renew(message).await;
        }
    }

    /// Naks what waits here, so that the next owner has it soon.
    pub(super) async fn release(&self) {
        for message in self.waiting.values().filter_map(Item::message) {
            nak(message, Duration::ZERO).await;
        }
        if let Err(error) = self.context.store.nats().flush().await {
            debug!(%error, "the last naks may not have reached the store");
        }
    }
}

/// The offsets of what the log has delivered to one reader.
fn of_reader(of_log: &BTreeMap<Position, Arc<Reader>>, reader: &Reader) -> impl Iterator<Item = u64> {
    let in_partition = Position::new(reader.partition, 0)..=Position::new(reader.partition, u64::MAX);
    let of_partition = of_log.range(in_partition);
    of_partition
        .filter(move |(_, of)| ***of == *reader)
        .map(|(position, _)| position.offset)
}

/// Dispatches one event to a fetch. Nothing comes of it here once another instance may be the owner.
async fn dispatch(
    context: &Context,
    settler: &Settler,
    owner: &OrderOwner,
    mut item: Item,
    to: mpsc::UnboundedSender<Leased>,
    (tenure, closed): (&Tenure, &CancellationToken),
) -> Done {
    item.state = match item.prepare(context, settler).await {
        Ok(_) if !tenure.is_valid() => DeliveryState::Retry(Duration::ZERO),
        Ok(Some(mut event)) => {
            let redrive = match &item.origin {
                Origin::Redrive(redrive) => Some(redrive.clone()),
                Origin::Log { .. } => None,
            };
            event.has_lapsed = item.has_lapsed;
            if !owner
                .dispatch(context, settler, (&mut event, redrive), to, closed)
                .await
            {
                return Done::new();
            }
            item.has_lapsed = event.has_lapsed;
            item.failed = Some(event.failed);
            event.state
        }
        Ok(None) => DeliveryState::Settled,
        Err(error) => DeliveryState::StoreUnavailable(settler.must_wait(&error)),
    };
    vec![item]
}

/// One invocation, and what comes of each of its events. Nothing is delivered any more once another instance may be the
/// owner: a process that was frozen finds that out here.
async fn call(context: &Context, settler: &Settler, tenure: &Tenure, items: Vec<Item>) -> Done {
    let mut done = Vec::with_capacity(items.len());
    let mut events: Vec<InFlight> = Vec::new();
    let mut by_position = BTreeMap::new();
    for mut item in items {
        match item.prepare(context, settler).await {
            Ok(Some(event)) => {
                events.push(event);
                by_position.insert(item.position, item);
                continue;
            }
            Ok(None) => item.state = DeliveryState::Settled,
            Err(error) => item.state = DeliveryState::StoreUnavailable(settler.must_wait(&error)),
        }
        done.push(item);
    }
    // The last word before the invocation: the store waits `delivery.ack-wait` from here.
    let renewed_at = Instant::now();
    for event in &events {
        event.renew().await;
    }
    let is_over = || context.stop.is_cancelled() || !tenure.is_valid();
    for event in invoke(context, settler, (events, renewed_at), is_over).await {
        if let Some(mut item) = by_position.remove(&event.delivery.position) {
            item.state = event.state;
            item.failed = Some(event.failed);
            done.push(item);
        }
    }
    done
}
