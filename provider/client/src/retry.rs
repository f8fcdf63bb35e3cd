//! Trying again: with waits that grow and differ between clients, and never beyond the deadline.

use std::time::Duration;

use rand::RngExt as _;
use tokio::time::Instant;

use crate::{Error, ErrorKind};

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// The waits between tries.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait: half of it fixed, half random, so that clients that lost the same bus do not come back at once.
    pub(crate) fn next(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures += 1;
        full / 2 + rand::rng().random_range(Duration::ZERO..=full / 2)
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Tries until it works, fails for good, or the deadline comes. When one try had an unknown outcome and none after it
/// settled that, the outcome of the whole is unknown.
pub(crate) async fn until<T, F>(deadline: Instant, mut attempt: impl FnMut(Duration) -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut backoff = Backoff::default();
    let mut unknown = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match attempt(left).await {
            Ok(done) => return Ok(done),
            Err(error) if !error.is_transient() => return Err(error),
            Err(error) => error,
        };
        let wait = backoff.next();
        let over = Instant::now() + wait >= deadline;
        match (over, error.kind) {
            (false, ErrorKind::OutcomeUnknown) => unknown = Some(error),
            (false, _) => {}
            (true, ErrorKind::OutcomeUnknown) => return Err(error),
            (true, _) => return Err(unknown.unwrap_or(error)),
        }
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, "x", "x")
    }

    #[tokio::test(start_paused = true)]
    async fn an_outcome_that_was_unknown_once_stays_unknown() {
        let tries = Cell::new(0);
        let deadline = Instant::now() + Duration::from_secs(10);
        let done: Result<(), _> = until(deadline, |_| {
            tries.set(tries.get() + 1);
            let kind = if tries.get() == 1 {
                ErrorKind::OutcomeUnknown
            } else {
                ErrorKind::Unavailable
            };
            async move { Err(error(kind)) }
        })
        .await;
        assert_eq!(done.unwrap_err().kind, ErrorKind::OutcomeUnknown);
        assert!(tries.get() > 5 && Instant::now() <= deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_not_tried_again() {
        let tries = Cell::new(0);
        let deadline = Instant::now() + Duration::from_secs(10);
        let done: Result<(), _> = until(deadline, |_| {
            tries.set(tries.get() + 1);
            async { Err(error(ErrorKind::NotPermitted)) }
        })
        .await;
        assert_eq!((done.unwrap_err().kind, tries.get()), (ErrorKind::NotPermitted, 1));
    }
}
