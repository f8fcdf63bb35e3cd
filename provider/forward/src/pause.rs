//! Waits between tries: short at first, then longer, up to a bound.

use std::time::Duration;

/// The next wait.
#[derive(Debug)]
pub(crate) struct Pause {
    next: Duration,
    first: Duration,
    longest: Duration,
}

impl Pause {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            next: first,
            first,
            longest,
        }
    }

    /// Waits, and longer the next time.
    pub(crate) async fn wait(&mut self) {
        let now = self.next;
        self.next = (now * 2).min(self.longest);
        tokio::time::sleep(now).await;
    }

    /// Something worked.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}
