//! What the owner of an order holds: events in line, those whose turn has come, and what is under way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::AckKind;
use fanout_plan::sequence::{Offered, Sequencer};
use fanout_plan::{Code, Position};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::feed::{From, Item};
use super::invoke::invoke;
use super::pull;
use super::recovery::Recovery;
use super::settle::{Next, Settler};
use super::{Context, Delivery};
use crate::inbox::{Asked, Counter, Desk, Hold};
use crate::jetstream::{StoreError, Tenure};

/// The most bytes of payload that wait in memory; beyond, they are read again when their turn comes.
const PAYLOAD_BYTES: usize = 64 << 20;

/// What an invocation's task reports.
pub(super) type Done = Vec<(Item, Next)>;

pub(super) struct Owner<'a> {
    context: &'a Arc<Context>,
    settler: Arc<Settler>,
    tenure: Tenure,
    pub(super) line: Sequencer,
    waiting: BTreeMap<Position, Item>,
    /// Redriven letters of events that are held from the log at this moment: they are offered after those.
    behind: BTreeMap<Position, Item>,
    /// Fetches that wait for something.
    pub(super) asked: VecDeque<Asked>,
    payload_bytes: usize,
    of_log: u64,
    under_way: usize,
    pub(super) calls: JoinSet<Done>,
    began: Instant,
    pub(super) recovery: Recovery,
    /// Nothing is delivered before this: the subscriber could not be reached.
    not_before: Instant,
}

impl<'a> Owner<'a> {
    pub(super) fn new(context: &'a Arc<Context>, settler: Arc<Settler>, tenure: Tenure) -> Self {
        let ack_wait = context.store.policy().ack_wait;
        Self {
            context,
            settler,
            tenure,
            line: Sequencer::default(),
            waiting: BTreeMap::new(),
            behind: BTreeMap::new(),
            asked: VecDeque::new(),
            payload_bytes: 0,
            of_log: 0,
            under_way: 0,
            calls: JoinSet::new(),
            began: Instant::now(),
            recovery: Recovery::new(ack_wait, Instant::now()),
            not_before: Instant::now(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn wakes_at(&self) -> Instant {
        let due = self.line.due().map(|ms| self.began + Duration::from_millis(ms));
        let far = Instant::now() + Duration::from_secs(3600);
        due.unwrap_or(far).min(if self.not_before > Instant::now() {
            self.not_before
        } else {
            far
        })
    }

    pub(super) fn take(&mut self, item: Item) {
        match self.line.offer(&item.lane, item.position) {
            Offered::New => {
                if item.was_given_out() {
                    self.recovery.came_back(Instant::now());
                }
                self.of_log += u64::from(item.is_of_log());
                self.keep(item);
            }
            Offered::Known => match self.waiting.get_mut(&item.position) {
                // The store gave it out again: it was not told in time that it is held.
                Some(held) if held.is_of_log() && item.is_of_log() || held.is_retry() && item.is_retry() => {
                    self.payload_bytes -= held.bytes();
                    let mut item = item;
                    item.failed = held.failed.take();
                    self.keep(item);
                }
                _ if matches!(item.from, From::Redrive(_)) => drop(self.behind.insert(item.position, item)),
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
        while self.under_way < most && self.is_ready() {
            self.start(None);
        }
    }

    /// Whether something could be delivered at this moment.
    pub(super) fn is_ready(&self) -> bool {
        self.not_before <= Instant::now() && self.line.is_ready(self.now())
    }

    /// Invocations under way.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Starts an invocation with what comes next, which has a place among those of the subscription where they are counted.
    pub(super) fn start(&mut self, place: Option<OwnedSemaphorePermit>) {
        let mut batch = Vec::new();
        while batch.len() < self.context.registered.subscription.batch_size as usize
            && let Some(item) = self.next()
        {
            batch.push(item);
        }
        if batch.is_empty() {
            return;
        }
        self.under_way += 1;
        let (context, settler, tenure) = (Arc::clone(self.context), Arc::clone(&self.settler), self.tenure.clone());
        self.calls.spawn(async move {
            let _place = place;
            call(&context, &settler, &tenure, batch).await
        });
    }

    /// Lends to those who ask, in the order in which they ask: to each what there is, if there is anything.
    pub(super) fn lend(&mut self, counter: &Counter, may_lend: bool) {
        let most = self.context.registered.subscription.max_unsettled() as usize;
        while may_lend && let Some(mut asked) = self.asked.pop_front() {
            while !asked.is_served()
                && self.under_way < most
                && let Some(item) = self.next()
            {
                if !asked.fits(item.size()) {
                    self.line.again(&item.lane, item.position, self.now());
                    self.keep(item);
                    break;
                }
                self.under_way += 1;
                let to = asked.give(item.size());
                let (context, settler) = (Arc::clone(self.context), Arc::clone(&self.settler));
                let (desk, tenure) = (Arc::clone(counter.desk()), self.tenure.clone());
                let closed = counter.closed.clone();
                self.calls
                    .spawn(async move { lend(&context, &settler, &desk, item, to, (&tenure, &closed)).await });
            }
            if asked.waits() {
                self.asked.push_front(asked);
                break;
            }
        }
        self.asked.retain(Asked::waits);
    }

    /// The next item whose turn it is, which is then under way.
    fn next(&mut self) -> Option<Item> {
        loop {
            let (lane, position) = self.line.next(self.now())?;
            match self.waiting.remove(&position) {
                Some(item) => {
                    self.payload_bytes -= item.bytes();
                    return Some(item);
                }
                None => self.line.settled(&lane, position),
            }
        }
    }

    pub(super) fn done(&mut self, done: Done) {
        self.under_way = self.under_way.saturating_sub(1);
        for (item, next) in done {
            match next {
                Next::Gone | Next::Waits => {
                    self.line.settled(&item.lane, item.position);
                    self.of_log -= u64::from(item.is_of_log());
                    if let Some(behind) = self.behind.remove(&item.position) {
                        self.take(behind);
                    }
                }
                Next::Again(delay) | Next::Stuck(delay) => {
                    let at = self.now() + u64::try_from(delay.as_millis()).unwrap_or(u64::MAX / 2);
                    self.line.again(&item.lane, item.position, at);
                    self.keep(item);
                }
                Next::Unreached(delay) => {
                    self.not_before = Instant::now() + delay;
                    self.line.again(&item.lane, item.position, self.now());
                    self.keep(item);
                }
            }
        }
    }

    /// The same where there is no order: what is to be delivered later waits at the store, and not here.
    pub(super) async fn done_without_order(&mut self, done: Done) {
        self.under_way = self.under_way.saturating_sub(1);
        for (item, next) in done {
            let again = match next {
                Next::Gone | Next::Waits => None,
                Next::Again(delay) | Next::Stuck(delay) => Some(delay),
                Next::Unreached(delay) => {
                    self.not_before = Instant::now() + delay;
                    Some(delay)
                }
            };
            if let Some(delay) = again {
                item.give_back(delay).await;
            }
            self.line.settled(&item.lane, item.position);
            if let Some(behind) = self.behind.remove(&item.position)
                && behind.is_stored_after(&item)
            {
                self.take(behind);
            }
        }
    }

    /// Whether all that the store counts as given out is here, or is not waited for any more.
    pub(super) async fn has_recovered(&mut self) -> Result<bool, StoreError> {
        // Read first: what comes during the request is newer than all of it.
        let held = self.of_log;
        let state = self.context.store.consumer_state(&self.context.registered).await?;
        self.recovery.looked(Instant::now());
        if state.unsettled == held {
            return Ok(true);
        }
        let Some(silent) = self.recovery.is_over(Instant::now()) else {
            return Ok(false);
        };
        let (missing, seconds) = (state.unsettled.saturating_sub(held), silent.as_secs());
        warn!(
            subscription = %self.context.name(), code = %Code::OrderNotKept,
            "{missing} events that were given out have not come back for {seconds} s: they may be delivered behind later ones of their key; see whether every instance reaches NATS, and nothing else reads the subscription's consumer"
        );
        Ok(true)
    }

    /// Tells the store that what waits here is still held.
    pub(super) async fn hold(&self) {
        for item in self.waiting.values() {
            if let From::Log { message, .. } = &item.from
                && let Err(error) = message.ack_with(AckKind::Progress).await
            {
                debug!(%error, "the store was not told that an event is held");
            }
        }
    }

    /// Gives back what waits, so that the next owner has it soon.
    pub(super) async fn give_back(&self) {
        for item in self.waiting.values() {
            if let From::Log { message, .. } = &item.from {
                pull::give_back(message).await;
            }
        }
        if let Err(error) = self.context.store.nats().flush().await {
            debug!(%error, "what was given back may not have reached the store");
        }
    }
}

/// Lends one event. Nothing comes of it here once another instance may be the owner.
async fn lend(
    context: &Context,
    settler: &Settler,
    desk: &Desk,
    mut item: Item,
    to: mpsc::UnboundedSender<(Delivery, Hold)>,
    (tenure, closed): (&Tenure, &CancellationToken),
) -> Done {
    let next = match item.prepare(context, settler).await {
        Ok(_) if !tenure.is_valid() => Some(Next::Again(Duration::ZERO)),
        Ok(Some(mut held)) => {
            let redrive = match &item.from {
                From::Redrive(redrive) => Some(redrive.clone()),
                From::Log { .. } => None,
            };
            let next = desk.lend(context, settler, (&mut held, redrive), to, closed).await;
            item.failed = Some(held.failed);
            next
        }
        Ok(None) => Some(Next::Gone),
        Err(error) => Some(Next::Stuck(settler.must_wait(&error))),
    };
    next.map(|next| (item, next)).into_iter().collect()
}

/// One invocation, and what comes of each of its events. Nothing is delivered any more once another instance may be the
/// owner: a process that was frozen finds that out here.
async fn call(context: &Context, settler: &Settler, tenure: &Tenure, items: Vec<Item>) -> Done {
    let mut done = Vec::with_capacity(items.len());
    let mut held = Vec::new();
    let mut by_position = BTreeMap::new();
    for mut item in items {
        match item.prepare(context, settler).await {
            Ok(Some(event)) => {
                held.push(event);
                by_position.insert(item.position, item);
            }
            Ok(None) => done.push((item, Next::Gone)),
            Err(error) => {
                let wait = settler.must_wait(&error);
                done.push((item, Next::Stuck(wait)));
            }
        }
    }
    // The last word before the invocation: the store waits `delivery.ack-wait` from here.
    let held_since = Instant::now();
    for event in &held {
        event.source.tell(AckKind::Progress).await;
    }
    let is_over = || context.stop.is_cancelled() || !tenure.is_valid();
    for (event, next) in invoke(context, settler, (held, held_since), is_over).await {
        if let Some(mut item) = by_position.remove(&event.delivery.position) {
            item.failed = Some(event.failed);
            done.push((item, next));
        }
    }
    done
}
