//! `fetch`: takes deliveries out of the store for one caller, and waits for the first when there are none.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fanout_plan::Timestamp;
use fanout_plan::subscription::{Need, Progress, Registered};
use tokio::time::Instant;
use tracing::debug;

use super::{
    CaughtUp, DEFAULT_BYTES, FetchLimits, Fetched, Inbox, MAX_BYTES, MAX_DELIVERIES, MAX_WAIT, admit_here, put_off_here,
};
use crate::delivery::{self, Delivery, DeliveryHandle, Health, Leased, Settler};
use crate::jetstream::{LISTENS_FOR, MaxBytes, Message, Sources, StandingPulls, StoreError, Taken};

/// For how long a fetch passes over events of tenants that are isolated, or that a pattern leaves out, and the most that it takes for
/// that at a time. It begins with as many as it asks for, and takes [`MORE`] times as many where it passed over them: what is taken
/// beyond what it asks for is given back, and a thousand events that are given back for each that is delivered are no delivery.
const PASSES_OVER_FOR: Duration = Duration::from_millis(200);
const PASSED_OVER: usize = 1_000;
const MORE: usize = 4;

/// A shorter wait is none: it is not worth a request.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);

/// How often a pull is begun anew because what it pulled from is gone.
const TRIES: u32 = 3;

/// How many events a fetch of a queue subscription takes from the log at a time while a pattern leaves them out. What matches of
/// them and was not asked for is kept here, and lost with this process.
const KEPT: usize = 64;

/// What was taken and is not leased: the next fetch has it first.
struct Behind<'a> {
    pulls: &'a StandingPulls,
    matching: Vec<Message>,
    not_seen: VecDeque<Message>,
}

impl Drop for Behind<'_> {
    fn drop(&mut self) {
        let matching = std::mem::take(&mut self.matching).into_iter();
        let not_seen = std::mem::take(&mut self.not_seen);
        self.pulls.put_back(matching.chain(not_seen));
    }
}

/// What a fetch has been given, and how much more it takes. All that it is given, wherever it comes from, counts: what is
/// leased and can't be sent would be leased again and again, and stay before everything else.
struct Batch {
    leased: Vec<Leased>,
    most: usize,
    bytes_left: usize,
}

impl Batch {
    fn new(most: usize, max_bytes: usize) -> Self {
        Self {
            leased: Vec::new(),
            most,
            bytes_left: max_bytes,
        }
    }

    fn is_empty(&self) -> bool {
        self.leased.is_empty()
    }

    fn events_left(&self) -> usize {
        self.most.saturating_sub(self.leased.len())
    }

    fn max_bytes(&self) -> MaxBytes {
        match self.is_empty() {
            true => MaxBytes::OrOne(self.bytes_left),
            false => MaxBytes::Exactly(self.bytes_left),
        }
    }

    fn is_full(&self) -> bool {
        self.events_left() == 0 || self.bytes_left == 0
    }

    /// One fits, however large it is.
    fn fits(&self, delivery: &Delivery) -> bool {
        self.is_empty() || delivery.bytes() <= self.bytes_left
    }

    fn push(&mut self, (delivery, handle): Leased) {
        self.bytes_left = self.bytes_left.saturating_sub(delivery.bytes());
        self.leased.push((delivery, handle));
    }
}

impl Inbox {
    /// Takes deliveries. `registered` is how the subscription stands now.
    pub(crate) async fn fetch(&self, registered: &Registered, limits: FetchLimits) -> Result<Fetched, StoreError> {
        let policy = self.context.store.policy();
        let mut fetched = Fetched {
            deliveries: Vec::new(),
            lease: policy.delivery.ack_wait,
            caught_up: caught_up(registered),
            crowded: false,
        };
        if registered.progress == Progress::Finished {
            return Ok(fetched);
        }
        if !self.context.registered.delivers() {
            // What it waits for comes once it is resumed, to a fetch of then.
            self.wait_out(&limits).await;
            return Ok(fetched);
        }
        let settler = self.settler().await?;
        let most = (limits.most as usize).clamp(1, MAX_DELIVERIES);
        let bytes = limits.max_bytes.unwrap_or(DEFAULT_BYTES).min(MAX_BYTES);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let waiting = self.waits();
        let wait = waiting.as_ref().map_or(Duration::ZERO, |_| limits.wait.min(MAX_WAIT));
        fetched.crowded = waiting.is_none() && !limits.wait.is_zero();
        let end = Instant::now() + wait;
        let mut failures = 0;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let taken = tokio::select! {
                biased;
                taken = self.some(settler, (most, bytes), left) => taken,
                // Paused, ended or stopping: what comes from now on is leased to nobody.
                () = self.context.stop.cancelled() => return Ok(fetched),
            };
            match taken {
                Ok(taken) => fetched.deliveries = taken,
                Err(error) => {
                    // A consumer may have been made anew; that of a queue subscription goes when nobody fetches, and
                    // that of a backfill once it is finished.
                    self.forget_sources().await;
                    let name = &self.context.registered.subscription.name;
                    let now = self.context.store.registered(name).await?;
                    if let Some(now) = now.filter(|r| r.id() == self.context.id() && r.progress == Progress::Finished) {
                        fetched.caught_up = caught_up(&now);
                        return Ok(fetched);
                    }
                    failures += 1;
                    if failures < TRIES {
                        continue;
                    }
                    return Err(error);
                }
            }
            // Where there is an order, its owner has waited, or is none any more.
            if !fetched.deliveries.is_empty() || Instant::now() >= end || self.order.is_some() {
                self.context
                    .health
                    .works(self.context.registered.subscription.name.as_str());
                return Ok(fetched);
            }
        }
    }

    /// Waits as long as is asked, or until the deliveries begin anew; not at all, where as many wait as may.
    async fn wait_out(&self, limits: &FetchLimits) {
        let Some(_waiting) = self.waits() else {
            return;
        };
        let changed = self.context.stop.cancelled();
        // Either way there is nothing.
        tokio::time::timeout(limits.wait.min(MAX_WAIT), changed).await.ok();
    }

    async fn some(
        &self,
        settler: &Settler,
        (most, max_bytes): (usize, usize),
        wait: Duration,
    ) -> Result<Vec<Leased>, StoreError> {
        match &self.order {
            Some(order) => Ok(order.fetch(most, max_bytes, wait).await.unwrap_or_default()),
            None => self.take(settler, most, max_bytes, wait).await,
        }
    }

    /// What there is, at most half of it redriven dead letters, and at most half of the rest retries; when there is nothing, what comes first within the wait.
    async fn take(
        &self,
        settler: &Settler,
        most: usize,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Leased>, StoreError> {
        let store = &self.context.store;
        let sources = self.sources().await?;
        let number = self.turns.fetches.fetch_add(1, Ordering::Relaxed);
        // Who asks for one is leased a letter every other time, a retry every other of the rest, and an isolated
        // tenant's event every other of what is left then.
        let letters = if most == 1 { number % 2 } else { most / 2 };
        let mut batch = Batch::new(most, max_bytes);
        // An event pattern may leave out what came: what stands behind it comes before what the store has.
        loop {
            let left = self.pulls.left(store, most, max_bytes).await;
            let is_all = left.messages.is_empty();
            self.lease(settler, left, &mut batch).await;
            if is_all || !batch.is_empty() {
                break;
            }
        }
        let letters = store
            .take_redrive_leases(&sources, letters.min(batch.events_left()))
            .await?;
        self.lease(settler, letters, &mut batch).await;
        let retries = match batch.events_left() {
            1 => usize::from(number % 4 == 2),
            events_left => events_left / 2,
        };
        self.lease_retries(settler, &sources, retries, &mut batch).await?;
        let share = match batch.events_left() {
            1 => number / 4 % 2,
            events_left => events_left.div_ceil(2),
        };
        self.pass_over(settler, &sources, share, &mut batch).await?;
        if batch.is_empty() {
            self.find(settler, &sources, &mut batch).await?;
            if batch.is_empty() && wait >= SHORTEST_WAIT {
                let first = self.pulls.first(store, wait).await;
                self.lease(settler, first, &mut batch).await;
            }
        } else if !batch.is_full() {
            // What fails here waits for the next fetch.
            let turn = self.turns.log.fetch_add(1, Ordering::Relaxed);
            match store
                .take(&sources, (turn, batch.events_left()), batch.max_bytes())
                .await
            {
                Ok(events) => self.lease(settler, events, &mut batch).await,
                Err(error) => {
                    debug!(subscription = %self.context.name(), %error, "the fetch brings dead letters and no events: the log can't be read now")
                }
            }
        }
        Ok(batch.leased)
    }

    /// Gives what there is. Where all of it is of tenants that are isolated, another consumer is asked. Where an event pattern leaves out
    /// all of it, what stands behind that is matched, too, and more of it each time: what then matches and does not fit is nak'ed, or
    /// has its place in the next fetch of a queue subscription.
    async fn find(&self, settler: &Settler, sources: &Sources, batch: &mut Batch) -> Result<(), StoreError> {
        let context = &self.context;
        let mut turn = self.turns.log.fetch_add(1, Ordering::Relaxed);
        let leaves_out = context.registered.subscription.filter.pattern().is_some();
        let end = Instant::now() + PASSES_OVER_FOR;
        let mut pulled = batch.most;
        loop {
            let taken = context.store.take(sources, (turn, pulled), batch.max_bytes()).await?;
            let is_all = taken.messages.is_empty();
            if pulled <= batch.most {
                self.lease(settler, taken, batch).await;
            } else if self.is_queue() {
                self.lease_first(settler, taken, batch).await;
            } else {
                let mut share = batch.most;
                self.lease_some(settler, taken, &mut share, batch).await;
            }
            let more_may_come = leaves_out || sources.pass_over();
            if !batch.is_empty() || is_all || !more_may_come || Instant::now() >= end {
                return Ok(());
            }
            turn += 1;
            if leaves_out {
                let most = if self.is_queue() { KEPT } else { PASSED_OVER };
                pulled = (pulled * MORE).min(most.max(batch.most));
            }
        }
    }

    /// Gives the first events of a queue subscription. What matches behind them can't be nak'ed, and waits for the next fetch;
    /// so does what was not matched, where the fetch is given up.
    async fn lease_first(&self, settler: &Settler, taken: Taken, batch: &mut Batch) {
        let since = taken.since;
        let mut behind = Behind {
            pulls: &self.pulls,
            matching: Vec::new(),
            not_seen: taken.messages.into(),
        };
        while let Some(message) = behind.not_seen.pop_front() {
            if batch.events_left() > 0 {
                let messages = vec![message];
                self.lease(settler, Taken { messages, since }, batch).await;
            } else if delivery::fetched(&self.context, message.clone()).await.is_some() {
                behind.matching.push(message);
            }
        }
    }

    /// Gives up to `share` of the events that were taken, as far as they fit, and naks those that are left. Returns whether any
    /// was none to be leased.
    async fn lease_some(&self, settler: &Settler, taken: Taken, share: &mut usize, batch: &mut Batch) -> bool {
        let context = &self.context;
        let lease_until = taken.since + context.store.policy().delivery.ack_wait;
        let mut passed_over = false;
        for message in taken.messages {
            if *share == 0 || batch.is_full() {
                passed_over |= put_off_here(context, settler, message).await;
                continue;
            }
            let Some(event) = admit_here(context, settler, message).await else {
                passed_over = true;
                continue;
            };
            if batch.fits(&event.delivery) {
                *share -= 1;
                let handle = self.handle(&event.delivery, event.reply(), lease_until);
                batch.push((event.delivery, handle));
            } else {
                event.release().await;
            }
        }
        passed_over
    }

    /// Gives up to `share` refused events whose next attempt is due, and passes over those that are not.
    async fn lease_retries(
        &self,
        settler: &Settler,
        sources: &Sources,
        share: usize,
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        let end = Instant::now() + PASSES_OVER_FOR;
        let most = batch.leased.len() + share;
        while batch.leased.len() < most && !batch.is_full() {
            let events_left = most - batch.leased.len();
            let taken = match self
                .context
                .store
                .take_retries(sources, events_left, batch.max_bytes())
                .await
            {
                Ok(taken) => taken,
                Err(error) if !batch.is_empty() => {
                    debug!(subscription = %self.context.name(), %error, "the fetch brings dead letters and no retries: they can't be read now");
                    break;
                }
                Err(error) => return Err(error),
            };
            if taken.messages.is_empty() {
                break;
            }
            self.lease(settler, taken, batch).await;
            if Instant::now() >= end {
                break;
            }
        }
        Ok(())
    }

    /// Passes over events of tenants that are isolated, to what stands behind them. Up to `share` of others that it meets are
    /// leased, as far as they fit, and beyond that nak'ed.
    async fn pass_over(
        &self,
        settler: &Settler,
        sources: &Sources,
        mut share: usize,
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        if share == 0 || !sources.pass_over() {
            return Ok(());
        }
        let end = Instant::now() + PASSES_OVER_FOR;
        let turn = self.turns.passing_over.fetch_add(1, Ordering::Relaxed);
        let mut pulled = share;
        while share > 0 && !batch.is_full() {
            // What is passed over takes nothing of what the fetch may bring.
            let max_bytes = MaxBytes::OrOne(MAX_BYTES as usize);
            let store = &self.context.store;
            let taken = store.take_passing_over(sources, (turn, pulled), max_bytes).await?;
            let passed_over = self.lease_some(settler, taken, &mut share, batch).await;
            if !passed_over || Instant::now() >= end {
                break;
            }
            pulled = (pulled * MORE).min(PASSED_OVER.max(share));
        }
        Ok(())
    }

    /// Reads what was taken out as deliveries; what is none is settled.
    async fn lease(&self, settler: &Settler, taken: Taken, batch: &mut Batch) {
        let lease_until = taken.since + self.context.store.policy().delivery.ack_wait;
        for message in taken.messages {
            let delivery = if let Some(lease) = self.context.store.redrive_lease_of(&message) {
                let fits = |delivery: &Delivery| batch.fits(delivery);
                self.redriven(settler, lease, &message, (lease_until, fits)).await
            } else if self.is_queue() {
                self.live(message).await.map(|delivery| {
                    let handle = self.handle(&delivery, String::new(), lease_until);
                    (delivery, handle)
                })
            } else {
                let event = admit_here(&self.context, settler, message).await;
                event.map(|event| {
                    let handle = self.handle(&event.delivery, event.reply(), lease_until);
                    (event.delivery, handle)
                })
            };
            if let Some(delivery) = delivery {
                batch.push(delivery);
            }
        }
    }

    pub(super) fn handle(&self, delivery: &Delivery, reply: String, lease_until: Timestamp) -> DeliveryHandle {
        DeliveryHandle {
            of: self.context.id(),
            position: delivery.position,
            attempt: delivery.attempt,
            reply,
            lease_until,
            redrive: None,
            redrive_lease: None,
            dispatched: None,
        }
    }

    /// An event of a queue subscription, unless it is too old to be called live.
    async fn live(&self, message: Message) -> Option<Delivery> {
        let delivery = delivery::fetched(&self.context, message).await?;
        let age = self.context.store.now().since(delivery.published_at);
        if age > LISTENS_FOR {
            Health::count(&self.context.health.missed);
            return None;
        }
        Health::count(&self.context.health.handled);
        Some(delivery)
    }
}

pub(crate) fn caught_up(registered: &Registered) -> Option<CaughtUp> {
    if !matches!(registered.subscription.need, Need::Backfill { .. }) {
        return None;
    }
    let finished = registered.progress == Progress::Finished;
    (finished || registered.progress == Progress::CaughtUp).then(|| CaughtUp {
        replayed: registered.replayed.sum(),
        finished,
    })
}
