//! Trying again: with waits that grow and differ between clients.

use std::time::Duration;

use fanout_attempts::PAUSES;
use rand::RngExt as _;

/// The waits between tries.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

/// From 50 ms to 2 s.
impl Default for Backoff {
    fn default() -> Self {
        Self::between(PAUSES.0, PAUSES.1)
    }
}

impl Backoff {
    /// The first wait, and the longest.
    pub(crate) fn between(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// The next wait: half of it fixed, half random, so that clients that lost the same bus do not come back at once.
    pub(crate) fn next(&mut self) -> Duration {
        let full = self.first.saturating_mul(1 << self.failures.min(10)).min(self.longest);
        self.failures += 1;
        full / 2 + rand::rng().random_range(Duration::ZERO..=full / 2)
    }

    /// Waits, and longer the next time.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    /// Something worked.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}
