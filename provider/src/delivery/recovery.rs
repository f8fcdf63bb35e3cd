//! How long a new owner of an order waits for what the last one had in its hands.
//!
//! The store delivers such an event again `delivery.ack-wait` after the last word of it, or at once when it was
//! nak'ed; thousands of them take their time. So it is not the whole wait that is bounded, but the silence in it: what the
//! store counts as delivered, and never gives again, must not hold up the rest for ever.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// What the store and the way to it may take besides.
const MARGIN: Duration = Duration::from_secs(1);

/// How long it is until the store is asked again what is in flight: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

#[derive(Debug)]
pub(super) struct Recovery {
    /// The longest silence that is waited out.
    patience: Duration,
    /// When the last event came back.
    last: Instant,
    check_at: Instant,
    pause: Backoff,
}

impl Recovery {
    pub(super) fn new(ack_wait: Duration, now: Instant) -> Self {
        Self {
            patience: ack_wait * 2 + MARGIN,
            last: now,
            check_at: now,
            pause: Backoff::new(PAUSES.0, PAUSES.1),
        }
    }

    /// When the store is to be asked.
    pub(super) fn check_at(&self) -> Instant {
        self.check_at
    }

    /// It was asked.
    pub(super) fn checked(&mut self, now: Instant) {
        self.check_at = now + self.pause.next();
    }

    /// An event came that the last owner had.
    pub(super) fn came_back(&mut self, now: Instant) {
        self.last = now;
    }

    /// The silence since the last event came, if it is too long to wait for more.
    pub(super) fn is_over(&self, now: Instant) -> Option<Duration> {
        let silent = now.saturating_duration_since(self.last);
        (silent > self.patience).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_goes_on_for_as_long_as_events_come_back() {
        let began = Instant::now();
        let mut recovery = Recovery::new(SECOND * 2, began);
        for second in 1..=60 {
            let now = began + SECOND * second;
            assert_eq!(recovery.is_over(now), None, "after {second} s");
            recovery.came_back(now);
        }
    }

    #[test]
    fn it_checks_often_at_first_and_then_less() {
        let began = Instant::now();
        let mut recovery = Recovery::new(SECOND, began);
        let checks = std::iter::repeat_with(|| {
            let at = recovery.check_at();
            recovery.checked(at);
            (at - began).as_millis()
        });
        assert_eq!(
            checks.take(7).collect::<Vec<_>>(),
            [0, 250, 750, 1750, 3750, 7750, 11750]
        );
    }

    #[test]
    fn it_ends_when_none_has_come_for_twice_the_hold() {
        let began = Instant::now();
        let mut recovery = Recovery::new(SECOND * 2, began);
        recovery.came_back(began + SECOND);
        assert_eq!(recovery.is_over(began + SECOND * 6), None);
        let late = began + SECOND * 7;
        assert_eq!(recovery.is_over(late), Some(SECOND * 6));
    }
}
