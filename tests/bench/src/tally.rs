//! A count that others wait for.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::sync::Notify;

const LIMIT: Duration = Duration::from_secs(300);

/// The count; clones of it are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    count: Arc<AtomicUsize>,
    changed: Arc<Notify>,
}

impl Tally {
    pub(crate) fn add(&self, n: usize) {
        self.count.fetch_add(n, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// How many so far.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until there are so many.
    pub(crate) async fn until(&self, target: usize) -> Result<()> {
        let counting = async {
            while self.count() < target {
                // What came between the look and the wait is seen at the next look.
                let changed = tokio::time::timeout(Duration::from_millis(50), self.changed.notified()).await;
                drop(changed);
            }
        };
        let counted = tokio::time::timeout(LIMIT, counting).await;
        ensure!(
            counted.is_ok(),
            "{} of {target} were counted after {} s",
            self.count(),
            LIMIT.as_secs()
        );
        Ok(())
    }

    /// Does something that brings so many, and waits until each was counted.
    pub(crate) async fn of(&self, events: usize, doing: impl Future<Output = Result<usize>>) -> Result<usize> {
        let target = self.count() + events;
        let (done, counted) = tokio::join!(doing, self.until(target));
        counted?;
        done?;
        // An event may come twice; not in a run without failures.
        let count = self.count();
        ensure!(count == target, "{count} counted, {target} expected");
        Ok(events)
    }
}
