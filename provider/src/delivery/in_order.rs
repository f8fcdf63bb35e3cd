//! Deliveries in order: of each key one at a time and as the log has them, across retries and instances.
//!
//! One instance owns the subscription ([`Lease`]). What waits for a retry is not given back to the store, which would
//! give it out again behind later events: the owner holds it, says so, and delivers others meanwhile ([`Sequencer`]).
//!
//! The guarantee across owners: a new owner delivers nothing until every event that the last one had in its hands has
//! come back. The store gives such an event out again `delivery.ack-wait` after the last word of it, and the last owner
//! says that word before it starts an invocation, which is shorter: so none is under way any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::AckKind;
use fanout_plan::policy::Ordering;
use fanout_plan::sequence::{Offered, Sequencer};
use fanout_plan::{Code, Position, Problem};
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info};

use super::Context;
use super::apart::Rooms;
use super::feed::{self, From, Item};
use super::invoke::{invoke, parts};
use super::settle::{Next, Settler};
use crate::jetstream::{Contender, Lease, StoreError};

/// The most bytes of payload that wait in memory; beyond, they are read again when their turn comes.
const PAYLOAD_BYTES: usize = 64 << 20;

/// How often a subscription without an order is looked at for dead letters to redrive, besides when one is asked for.
const LOOK: Duration = Duration::from_secs(30);

/// How long an owner that was only made for redrives stays when there are none left.
const IDLE: Duration = Duration::from_secs(1);

/// What is delivered in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// Everything, by the policy's `ordering`.
    Everything,
    /// Dead letters that are redriven, in each tenant's order; the log has no order.
    Redrives,
}

/// Delivers while this instance is the owner, until stopped.
pub(super) async fn run(context: Arc<Context>, of: Of) {
    let suffix = match of {
        Of::Everything => "order",
        Of::Redrives => "redrive",
    };
    let name = format!("{}={suffix}", context.name());
    let term = term(&context);
    while !context.stop.is_cancelled() {
        let result = async {
            if of == Of::Redrives && !wait_for_redrives(&context).await? {
                return Ok(());
            }
            let Some(mut lease) = contend(&context, &name, term).await? else {
                return Ok(());
            };
            info!(subscription = %context.name(), "this instance delivers in order");
            let owned = own(&context, of, &mut lease).await;
            if lease.is_valid() {
                lease.release().await;
            }
            owned
        };
        let Err(error) = result.await else { continue };
        let wait = context.health.fails(Problem::new(
            Code::StoreUnavailable,
            format!("subscription {}: {error}; its events wait in the log", context.name()),
        ));
        debug!(subscription = %context.name(), ?error, "delivering in order broke off");
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// The lease's term. Its entry lies in a bucket that forgets after `retention.max-age`: it must not be forgotten while
/// its owner is one.
fn term(context: &Context) -> Duration {
    let policy = context.store.policy();
    policy.ack_wait.max(Duration::from_secs(1)).min(policy.max_age)
}

/// Waits until there is something to redrive; `false` when stopped.
async fn wait_for_redrives(context: &Context) -> Result<bool, StoreError> {
    let mut heard = context.store.hear_redrives(context.name()).await?;
    loop {
        if context.store.has_redrives(context.name()).await? {
            return Ok(true);
        }
        tokio::select! {
            () = context.stop.cancelled() => return Ok(false),
            _ = heard.next() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Waits for its turn to own the subscription; `None` when stopped.
async fn contend(context: &Context, name: &str, term: Duration) -> Result<Option<Lease>, StoreError> {
    let mut contender = Contender::default();
    let pause = (term / 8).clamp(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        if let Some(lease) = context.store.contend(&mut contender, name, term).await? {
            return Ok(Some(lease));
        }
        tokio::select! {
            () = context.stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What an invocation's task reports.
type Done = Vec<(Item, Next)>;

struct Owner<'a> {
    context: &'a Arc<Context>,
    settler: Arc<Settler>,
    line: Sequencer,
    waiting: BTreeMap<Position, Item>,
    /// Redriven letters of events that are held from the log at this moment: they are offered after those.
    behind: BTreeMap<Position, Item>,
    payload_bytes: usize,
    of_log: u64,
    under_way: usize,
    calls: JoinSet<Done>,
    began: Instant,
    /// Nothing is delivered before this: the subscriber could not be reached.
    not_before: Instant,
}

/// Delivers as the owner. Ends when stopped, when the lease is lost, or when there is nothing left to redrive.
async fn own(context: &Arc<Context>, of: Of, lease: &mut Lease) -> Result<(), StoreError> {
    let policy = context.store.policy();
    let settler = Arc::new(Settler::new(context).await?);
    let most = context.registered.subscription.max_unsettled_under(policy);
    let (out, mut items) = mpsc::channel(256);
    let mut feeds = JoinSet::new();
    let from_log = of == Of::Everything;
    if from_log {
        let rooms = Rooms::new(context, most);
        for (partition, reader) in context.store.readers_of(&context.registered) {
            let (context, settler, out) = (Arc::clone(context), Arc::clone(&settler), out.clone());
            let (partition, room) = (partition.clone(), rooms.of(&reader));
            feeds.spawn(async move { feed::log(&context, (&partition, &reader), &settler, room, out).await });
        }
    }
    {
        let (context, out) = (Arc::clone(context), out.clone());
        feeds.spawn(async move { feed::redrives(&context, out).await });
    }
    drop(out);
    let mut owner = Owner::new(context, settler);
    let mut recovered = !from_log;
    let recovery_ends = Instant::now() + policy.ack_wait * 2 + Duration::from_secs(1);
    let mut renew = tokio::time::interval((term(context) / 8).clamp(Duration::from_millis(50), Duration::from_secs(5)));
    renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut hold = tokio::time::interval(policy.ack_wait / 3);
    hold.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut idle_since = Instant::now();
    let ended = loop {
        if !lease.is_valid() {
            info!(subscription = %context.name(), "another instance may deliver in order now");
            break Ok(());
        }
        if recovered {
            owner.deliver();
        }
        if owner.line.held() > 0 || from_log {
            idle_since = Instant::now();
        } else if idle_since.elapsed() > IDLE && !context.store.has_redrives(context.name()).await? {
            break Ok(());
        }
        let wake = owner.wakes_at().min(Instant::now() + Duration::from_millis(500));
        tokio::select! {
            () = context.stop.cancelled() => break Ok(()),
            Some(item) = items.recv() => owner.take(item),
            Some(done) = owner.calls.join_next() => owner.done(done.unwrap_or_default()),
            Some(fed) = feeds.join_next() => match fed {
                Ok(Err(error)) => break Err(error),
                // A feed ends only with the owner.
                _ => break Ok(()),
            },
            _ = renew.tick() => {
                if let Err(error) = lease.renew().await {
                    debug!(subscription = %context.name(), %error, "the lease was not renewed");
                }
                if !recovered {
                    recovered = owner.has_everything().await? || Instant::now() > recovery_ends;
                }
            }
            _ = hold.tick() => owner.hold().await,
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    };
    // Invocations under way end within their deadline; the lease is released after them.
    feeds.abort_all();
    while let Some(done) = owner.calls.join_next().await {
        owner.done(done.unwrap_or_default());
    }
    if lease.is_valid() {
        owner.give_back().await;
    }
    ended
}

impl<'a> Owner<'a> {
    fn new(context: &'a Arc<Context>, settler: Arc<Settler>) -> Self {
        Self {
            context,
            settler,
            line: Sequencer::default(),
            waiting: BTreeMap::new(),
            behind: BTreeMap::new(),
            payload_bytes: 0,
            of_log: 0,
            under_way: 0,
            calls: JoinSet::new(),
            began: Instant::now(),
            not_before: Instant::now(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn wakes_at(&self) -> Instant {
        let due = self.line.due().map(|ms| self.began + Duration::from_millis(ms));
        let far = Instant::now() + Duration::from_secs(3600);
        due.unwrap_or(far).min(if self.not_before > Instant::now() {
            self.not_before
        } else {
            far
        })
    }

    fn take(&mut self, item: Item) {
        match self.line.offer(&item.lane, item.position) {
            Offered::New => {
                self.of_log += u64::from(item.is_of_log());
                self.keep(item);
            }
            Offered::Known => match self.waiting.get_mut(&item.position) {
                // The store gave it out again: it was not told in time that it is held.
                Some(held) if held.is_of_log() && item.is_of_log() => {
                    self.payload_bytes -= held.bytes();
                    let mut item = item;
                    item.failed = held.failed.take();
                    self.keep(item);
                }
                _ if !item.is_of_log() => drop(self.behind.insert(item.position, item)),
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
    fn deliver(&mut self) {
        let subscription = &self.context.registered.subscription;
        // While the subscriber does not answer, one invocation is enough to learn when it does again.
        let most = if self.context.health.is_failing() {
            1
        } else {
            subscription.concurrency as usize
        };
        while self.under_way < most && self.not_before <= Instant::now() && self.line.is_ready(self.now()) {
            let mut batch = Vec::new();
            while batch.len() < subscription.batch_size as usize {
                let Some((lane, position)) = self.line.next(self.now()) else {
                    break;
                };
                match self.waiting.remove(&position) {
                    Some(item) => {
                        self.payload_bytes -= item.bytes();
                        batch.push(item);
                    }
                    None => self.line.settled(&lane, position),
                }
            }
            if batch.is_empty() {
                return;
            }
            self.under_way += 1;
            let (context, settler) = (Arc::clone(self.context), Arc::clone(&self.settler));
            self.calls.spawn(async move { call(&context, &settler, batch).await });
        }
    }

    fn done(&mut self, done: Done) {
        self.under_way = self.under_way.saturating_sub(1);
        for (item, next) in done {
            match next {
                Next::Gone => {
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

    /// Whether all that the store counts as given out is here.
    async fn has_everything(&self) -> Result<bool, StoreError> {
        // Read first: what comes during the request is newer than all of it.
        let held = self.of_log;
        let state = self.context.store.consumer_state(&self.context.registered).await?;
        Ok(state.unsettled == held)
    }

    /// Tells the store that what waits here is still held.
    async fn hold(&self) {
        for item in self.waiting.values() {
            if let From::Log { message, .. } = &item.from
                && let Err(error) = message.ack_with(AckKind::Progress).await
            {
                debug!(%error, "the store was not told that an event is held");
            }
        }
    }

    /// Gives back what waits, so that the next owner has it at once.
    async fn give_back(&self) {
        for item in self.waiting.values() {
            if let From::Log { message, .. } = &item.from
                && let Err(error) = message.ack_with(AckKind::Nak(None)).await
            {
                debug!(%error, "an event was not given back; it comes again by itself");
            }
        }
        if let Err(error) = self.context.store.nats().flush().await {
            debug!(%error, "what was given back may not have reached the store");
        }
    }
}

/// One invocation, and what comes of each of its events.
async fn call(context: &Context, settler: &Settler, items: Vec<Item>) -> Done {
    let mut done = Vec::with_capacity(items.len());
    let mut held = Vec::new();
    let mut by_position = BTreeMap::new();
    for mut item in items {
        match item.prepare(context, settler).await {
            Ok(Some(event)) => {
                // The last word before the invocation: the store waits `delivery.ack-wait` from here.
                event.source.tell(AckKind::Progress).await;
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
    for part in parts(held, context.store.nats().max_payload()) {
        for event in &part {
            event.source.tell(AckKind::Progress).await;
        }
        for (event, next) in invoke(context, settler, part).await {
            if let Some(mut item) = by_position.remove(&event.delivery.position) {
                item.failed = Some(event.failed);
                done.push((item, next));
            }
        }
    }
    done
}

/// Whether a subscription's events have an order.
pub(super) fn is_asked_for(context: &Context) -> bool {
    context.store.policy().ordering != Ordering::None
}
