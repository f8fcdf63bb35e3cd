//! How one subscription's deliveries are doing on this instance.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fanout_plan::status::InstanceCounts;
use fanout_plan::{Position, Problem};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::telemetry::Histogram;

/// The first wait before an unreachable subscriber is tried again; doubled each time up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest wait before an unreachable subscriber is tried again.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How long the store of retries is left alone that did not take an event: one after another would wait for it.
const RETRIES_PAUSE: Duration = Duration::from_secs(1);

/// For how long its refusal is reported: nothing may be refused since that could be stored.
const RETRIES_REPORTED: Duration = Duration::from_secs(60);

/// What deliveries wait for, and counts since this instance began them.
#[derive(Debug, Default)]
pub(crate) struct Health {
    waiting: Mutex<Waiting>,
    is_failing: AtomicBool,
    /// Why refused events stay in flight.
    retries: Mutex<Retries>,
    /// Notified when an event was stored that waits for a retry.
    pub(crate) retry_stored: Notify,
    pub(crate) handled: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) dead_lettered: AtomicU64,
    /// Events that the event pattern left out.
    pub(crate) left_out: AtomicU64,
    /// Events of a queue subscription that were not handled: it keeps none.
    pub(crate) missed: AtomicU64,
    /// Invocations that the subscriber never saw.
    pub(crate) unreachable: AtomicU64,
    /// How long its invocations take.
    pub(crate) process: Histogram,
    /// Orders whose first event waits for a retry, while this instance delivers them.
    resting: AtomicU64,
    /// The most events that were seen to wait in one partition.
    most_waiting: AtomicU64,
    /// In each partition, the first offset seen beyond a backfill's end.
    passed_end_at: Mutex<BTreeMap<u32, u64>>,
}

/// What deliveries wait for, and how long until the next try.
#[derive(Debug)]
struct Waiting {
    problem: Option<Problem>,
    backoff: Backoff,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            problem: None,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
        }
    }
}

/// What is wrong with the store of retries.
#[derive(Debug, Default)]
struct Retries {
    /// It takes nothing, and when that was found last.
    refuses: Option<(Problem, Instant)>,
    /// It delivers nothing.
    unread: Option<Problem>,
}

impl Health {
    /// Why deliveries wait, if they do.
    pub(crate) fn waiting(&self) -> Option<Problem> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.problem.clone()
    }

    /// Deliveries can't be made. Returns how long to wait before the next try. Logged when it begins, not each time.
    pub(crate) fn fails(&self, problem: Problem) -> Duration {
        self.is_failing.store(true, Ordering::Relaxed);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.problem.as_ref() != Some(&problem) {
            warn!(code = %problem.code, "{}", problem.message);
            waiting.problem = Some(problem);
        }
        waiting.backoff.next()
    }

    /// A delivery was made.
    pub(crate) fn works(&self, subscription: &str) {
        if self.is_failing.swap(false, Ordering::Relaxed) {
            *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Waiting::default();
            info!(subscription, "deliveries go on");
        }
    }

    /// Why refused events stay in flight until their next attempt, if they do.
    pub(crate) fn retries_problem(&self) -> Option<Problem> {
        let retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let refuses = retries
            .refuses
            .as_ref()
            .filter(|(_, at)| at.elapsed() < RETRIES_REPORTED);
        retries
            .unread
            .clone()
            .or_else(|| refuses.map(|(problem, _)| problem.clone()))
    }

    /// The store of retries did not take an event. Logged when it begins, not each time.
    pub(crate) fn retries_refuse(&self, problem: Problem) {
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        if retries.refuses.is_none() {
            warn!(code = %problem.code, "{}", problem.message);
        }
        retries.refuses = Some((problem, Instant::now()));
    }

    /// The store of retries takes events.
    pub(crate) fn retries_are_taken(&self, subscription: &str) {
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        if retries.refuses.take().is_some() {
            info!(subscription, "refused events wait in the store of retries again");
        }
    }

    /// Whether what waits for a retry can be read, and if not, why. Logged when it begins, not each time.
    pub(crate) fn retries_are_read(&self, read: Result<(), Problem>) {
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Err(problem), None) = (&read, &retries.unread) {
            warn!(code = %problem.code, "{}", problem.message);
        }
        retries.unread = read.err();
    }

    /// Whether a refused event may be stored: it would be delivered again, and the store is worth a try.
    pub(crate) fn may_store_retries(&self) -> bool {
        let retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let paused = |(_, at): &(Problem, Instant)| at.elapsed() < RETRIES_PAUSE;
        retries.unread.is_none() && !retries.refuses.as_ref().is_some_and(paused)
    }

    /// An event beyond a backfill's end was seen.
    pub(crate) fn passed_end(&self, position: Position) {
        // Only the first counts: everything before it is what the backfill holds.
        let mut passed = self.passed_end_at.lock().unwrap_or_else(PoisonError::into_inner);
        let first = passed.entry(position.partition).or_insert(position.offset);
        *first = position.offset.min(*first);
    }

    /// Whether everything before a backfill's end is settled in a partition, since what follows was seen.
    pub(crate) fn has_passed_end(&self, partition: u32, settled_to: u64) -> bool {
        let passed = self.passed_end_at.lock().unwrap_or_else(PoisonError::into_inner);
        passed.get(&partition).is_some_and(|first| settled_to >= *first)
    }

    /// Notes how many orders wait for a retry.
    pub(crate) fn rest(&self, orders: usize) {
        self.resting.store(orders as u64, Ordering::Relaxed);
    }

    /// How many orders wait for a retry, as far as this instance delivers them.
    pub(crate) fn resting(&self) -> u64 {
        self.resting.load(Ordering::Relaxed)
    }

    /// Notes how many events wait behind one that was delivered.
    pub(crate) fn sees_waiting(&self, events: u64) {
        self.most_waiting.fetch_max(events, Ordering::Relaxed);
    }

    /// The most that were seen to wait since this was last asked.
    pub(crate) fn most_waiting(&self) -> u64 {
        self.most_waiting.swap(0, Ordering::Relaxed)
    }

    /// How many events were settled, left out or refused here, which changes with each.
    pub(crate) fn settled(&self) -> u64 {
        [&self.handled, &self.refused, &self.dead_lettered, &self.left_out]
            .map(|count| count.load(Ordering::Relaxed))
            .into_iter()
            .fold(0, u64::wrapping_add)
    }

    /// What was counted, for whoever asks how the subscription is doing.
    pub(crate) fn counts(&self) -> InstanceCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        InstanceCounts {
            handled: count(&self.handled),
            refused: count(&self.refused),
            left_out: Some(count(&self.left_out)),
            dead_lettered: Some(count(&self.dead_lettered)),
            missed: Some(count(&self.missed)),
        }
    }

    /// Whether the last try failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
