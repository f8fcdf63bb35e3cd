//! How one subscription's deliveries are doing here.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use fanout_wit::types::Problem;

/// What a subscription is doing here.
#[derive(Clone, Debug)]
pub enum Doing {
    /// Deliveries are made as they come.
    Active,
    /// Deliveries wait for this.
    Waiting(Problem),
    /// A backfill that reached its end.
    Finished,
}

/// What deliveries wait for, and counts since they began.
#[derive(Debug, Default)]
pub struct State {
    waiting: Mutex<Option<Problem>>,
    finished: AtomicBool,
    handled: AtomicU64,
    refused: AtomicU64,
}

impl State {
    /// What it is doing.
    #[must_use]
    pub fn doing(&self) -> Doing {
        if self.finished.load(Ordering::Relaxed) {
            return Doing::Finished;
        }
        match &*self.waiting.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Doing::Active,
            Some(problem) => Doing::Waiting(problem.clone()),
        }
    }

    /// Deliveries that were handled, and those that were refused.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (
            self.handled.load(Ordering::Relaxed),
            self.refused.load(Ordering::Relaxed),
        )
    }

    /// Logged when it begins, not each time.
    pub(crate) fn waits(&self, problem: Problem) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let known = waiting.as_ref().is_some_and(|before| before.code == problem.code);
        if !known {
            tracing::warn!(code = problem.code, "{}", problem.message);
        }
        *waiting = Some(problem);
    }

    pub(crate) fn works(&self, subscription: &str) {
        let waited = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if waited.is_some() {
            tracing::info!(subscription, "deliveries go on");
        }
    }

    pub(crate) fn finish(&self) {
        self.finished.store(true, Ordering::Relaxed);
    }

    pub(crate) fn count(&self, handled: bool) {
        let counter = if handled { &self.handled } else { &self.refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
