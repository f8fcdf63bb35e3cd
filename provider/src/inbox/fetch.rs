//! `fetch`: takes deliveries out of the store for one caller, and waits for the first when there are none.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fanout_plan::Timestamp;
use fanout_plan::subscription::{Need, Progress, Registered};
use tokio::time::Instant;
use tracing::debug;

use super::{CaughtUp, DEFAULT_BYTES, FetchLimits, Fetched, Inbox, MAX_BYTES, MAX_DELIVERIES, MAX_WAIT, admit_here};
use crate::delivery::{self, Delivery, DeliveryHandle, Health, Leased, Settler};
use crate::jetstream::{LISTENS_FOR, Message, Sources, StandingPulls, StoreError, Taken};

/// Bytes of a message's subject and headers beyond its event, counted generously.
const OVERHEAD: usize = 4 << 10;

/// For how long a fetch passes over events of tenants that are isolated, and how many it takes for that at a time.
const PASSES_OVER_FOR: Duration = Duration::from_millis(200);
const PASSED_OVER: usize = 1_000;

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
        // At least one event fits, whatever was asked for.
        let bytes = limits.max_bytes.unwrap_or(DEFAULT_BYTES).min(MAX_BYTES);
        let bytes = usize::try_from(bytes.max(policy.max_event_bytes + OVERHEAD as u64)).unwrap_or(usize::MAX);
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
        let number = self.fetches.fetch_add(1, Ordering::Relaxed);
        // Who asks for one is leased a letter every other time, a retry every other of the rest, and an isolated
        // tenant's event every other of what is left then.
        let leases = if most == 1 { number % 2 } else { most / 2 };
        let mut leased = Vec::new();
        // An event pattern may leave out what came: what stands behind it comes before what the store has.
        loop {
            let left = self.pulls.left(store, most, max_bytes).await;
            let is_all = left.messages.is_empty();
            self.lease(settler, left, max_bytes, &mut leased).await;
            if is_all || !leased.is_empty() {
                break;
            }
        }
        let letters = store
            .take_redrive_leases(&sources, leases.min(most - leased.len()))
            .await?;
        self.lease(settler, letters, max_bytes, &mut leased).await;
        let retries = match most - leased.len() {
            1 => usize::from(number % 4 == 2),
            events_left => events_left / 2,
        };
        self.lease_retries(settler, &sources, (retries, max_bytes), &mut leased)
            .await?;
        let share = match most - leased.len() {
            1 => number / 4 % 2,
            events_left => events_left.div_ceil(2),
        };
        self.pass_over(settler, &sources, (share, max_bytes), &mut leased)
            .await?;
        let used: usize = leased.iter().map(|(delivery, _)| delivery.data.len() + OVERHEAD).sum();
        let (events_left, bytes_left) = (most - leased.len(), max_bytes.saturating_sub(used));
        if leased.is_empty() {
            self.find(settler, &sources, (number, events_left, bytes_left), &mut leased)
                .await?;
            if leased.is_empty() && wait >= SHORTEST_WAIT {
                let first = self.pulls.first(store, wait).await;
                self.lease(settler, first, max_bytes, &mut leased).await;
            }
        } else if events_left > 0 && bytes_left > 0 {
            // What fails here waits for the next fetch.
            match store.take(&sources, (number, events_left), bytes_left).await {
                Ok(events) => self.lease(settler, events, bytes_left, &mut leased).await,
                Err(error) => {
                    debug!(subscription = %self.context.name(), %error, "the fetch brings dead letters and no events: the log can't be read now")
                }
            }
        }
        Ok(leased)
    }

    /// Gives what there is. Where an event pattern leaves out all of it, what stands behind that is matched, too, and more of it
    /// each time: what then matches and does not fit is nak'ed, or has its place in the next fetch of a queue subscription.
    async fn find(
        &self,
        settler: &Settler,
        sources: &Sources,
        (number, events_left, bytes_left): (usize, usize, usize),
        leased: &mut Vec<Leased>,
    ) -> Result<(), StoreError> {
        let context = &self.context;
        let leaves_out = context.registered.subscription.filter.pattern().is_some();
        let end = Instant::now() + PASSES_OVER_FOR;
        let mut pulled = events_left;
        loop {
            let taken = context.store.take(sources, (number, pulled), bytes_left).await?;
            let is_all = taken.messages.is_empty();
            if pulled <= events_left {
                self.lease(settler, taken, bytes_left, leased).await;
            } else if self.is_queue() {
                self.lease_first(settler, taken, (events_left, bytes_left), leased)
                    .await;
            } else {
                self.lease_some(settler, taken, &mut (events_left, bytes_left), leased)
                    .await;
            }
            if !leased.is_empty() || is_all || !leaves_out || Instant::now() >= end {
                return Ok(());
            }
            let most = if self.is_queue() { KEPT } else { PASSED_OVER };
            pulled = (pulled * 4).min(most.max(events_left));
        }
    }

    /// Gives the first events of a queue subscription. What matches behind them can't be nak'ed, and waits for the next fetch;
    /// so does what was not matched, where the fetch is given up.
    async fn lease_first(
        &self,
        settler: &Settler,
        taken: Taken,
        (events_left, bytes_left): (usize, usize),
        leased: &mut Vec<Leased>,
    ) {
        let since = taken.since;
        let mut behind = Behind {
            pulls: &self.pulls,
            matching: Vec::new(),
            not_seen: taken.messages.into(),
        };
        while let Some(message) = behind.not_seen.pop_front() {
            if leased.len() < events_left {
                let messages = vec![message];
                self.lease(settler, Taken { messages, since }, bytes_left, leased).await;
            } else if delivery::fetched(&self.context, message.clone()).await.is_some() {
                behind.matching.push(message);
            }
        }
    }

    /// Gives so many of the events that were taken, of so many bytes, and naks those that are left. Returns whether any was none
    /// to be leased.
    async fn lease_some(
        &self,
        settler: &Settler,
        taken: Taken,
        (events_left, bytes_left): &mut (usize, usize),
        leased: &mut Vec<Leased>,
    ) -> bool {
        let context = &self.context;
        let lease_until = taken.since + context.store.policy().delivery.ack_wait;
        let mut passed_over = false;
        for message in taken.messages {
            let bytes = message.length;
            let Some(event) = admit_here(context, settler, message).await else {
                passed_over = true;
                continue;
            };
            if *events_left > 0 && (bytes <= *bytes_left || leased.is_empty()) {
                (*events_left, *bytes_left) = (*events_left - 1, bytes_left.saturating_sub(bytes));
                let handle = self.handle(&event.delivery, event.reply(), lease_until);
                leased.push((event.delivery, handle));
            } else {
                event.release().await;
            }
        }
        passed_over
    }

    /// Gives refused events whose next attempt is due, and passes over those that are not.
    async fn lease_retries(
        &self,
        settler: &Settler,
        sources: &Sources,
        (events_left, max_bytes): (usize, usize),
        leased: &mut Vec<Leased>,
    ) -> Result<(), StoreError> {
        let end = Instant::now() + PASSES_OVER_FOR;
        let most = leased.len() + events_left;
        while leased.len() < most {
            let used: usize = leased.iter().map(|(delivery, _)| delivery.data.len() + OVERHEAD).sum();
            let (events_left, bytes_left) = (most - leased.len(), max_bytes.saturating_sub(used));
            if bytes_left == 0 {
                break;
            }
            let taken = match self.context.store.take_retries(sources, events_left, bytes_left).await {
                Ok(taken) => taken,
                Err(error) if !leased.is_empty() => {
                    debug!(subscription = %self.context.name(), %error, "the fetch brings dead letters and no retries: they can't be read now");
                    break;
                }
                Err(error) => return Err(error),
            };
            if taken.messages.is_empty() {
                break;
            }
            self.lease(settler, taken, bytes_left, leased).await;
            if Instant::now() >= end {
                break;
            }
        }
        Ok(())
    }

    /// Passes over events of tenants that are isolated, to what stands behind them. What it meets of others is leased,
    /// as far as they fit, and beyond that nak'ed.
    async fn pass_over(
        &self,
        settler: &Settler,
        sources: &Sources,
        mut room: (usize, usize),
        leased: &mut Vec<Leased>,
    ) -> Result<(), StoreError> {
        let end = Instant::now() + PASSES_OVER_FOR;
        while room.0 > 0 {
            let store = &self.context.store;
            let taken = store.take_own(sources, PASSED_OVER, MAX_BYTES as usize).await?;
            let Some(taken) = taken else { return Ok(()) };
            let passed_over = self.lease_some(settler, taken, &mut room, leased).await;
            if !passed_over || Instant::now() >= end {
                break;
            }
        }
        Ok(())
    }

    /// Reads what was taken out as deliveries; what is none is settled.
    async fn lease(&self, settler: &Settler, taken: Taken, max_bytes: usize, leased: &mut Vec<Leased>) {
        let lease_until = taken.since + self.context.store.policy().delivery.ack_wait;
        let mut used = 0;
        for message in taken.messages {
            let delivery = if let Some(lease) = self.context.store.redrive_lease_of(&message) {
                // One is leased however large it is.
                let bytes_left = (!leased.is_empty()).then(|| max_bytes.saturating_sub(used + OVERHEAD));
                self.redriven(settler, lease, &message, (lease_until, bytes_left)).await
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
                used += delivery.0.data.len() + OVERHEAD;
                leased.push(delivery);
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
