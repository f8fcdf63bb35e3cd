//! How one subscription's deliveries are doing on this instance.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fanout_plan::{Position, Problem};
use tracing::{info, warn};

/// The first wait before an unreachable subscriber is tried again; doubled each time up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest wait before an unreachable subscriber is tried again.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What deliveries wait for, and counts since this instance began them.
#[derive(Debug, Default)]
pub(crate) struct Health {
    waiting: Mutex<Option<Problem>>,
    failures: AtomicU32,
    pub(crate) handled: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) dead_lettered: AtomicU64,
    /// Events of a queue subscription that were not handled: it keeps none.
    pub(crate) missed: AtomicU64,
    /// The most events that were seen to wait in one partition.
    most_waiting: AtomicU64,
    /// In each partition, the first offset seen beyond a backfill's end.
    passed_end_at: Mutex<BTreeMap<u32, u64>>,
}

impl Health {
    /// Why deliveries wait, if they do.
    pub(crate) fn waiting(&self) -> Option<Problem> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Deliveries can't be made. Returns how long to wait before the next try. Logged when it begins, not each time.
    pub(crate) fn fails(&self, problem: Problem) -> Duration {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.as_ref() != Some(&problem) {
            warn!(code = %problem.code, "{}", problem.message);
            *waiting = Some(problem);
        }
        FIRST_WAIT.saturating_mul(1 << failures.min(10)).min(LONGEST_WAIT)
    }

    /// A delivery was made.
    pub(crate) fn works(&self, subscription: &str) {
        if self.failures.swap(0, Ordering::Relaxed) > 0
            && self
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
                .is_some()
        {
            info!(subscription, "deliveries go on");
        }
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

    /// So many events wait behind one that was given out.
    pub(crate) fn sees_waiting(&self, events: u64) {
        self.most_waiting.fetch_max(events, Ordering::Relaxed);
    }

    /// The most that were seen to wait since this was last asked.
    pub(crate) fn most_waiting(&self) -> u64 {
        self.most_waiting.swap(0, Ordering::Relaxed)
    }

    /// Whether the last try failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failures.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
