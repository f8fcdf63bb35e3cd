//! How often a tenant may publish: a token bucket as one number, the time at which it is full again (the generic cell
//! rate algorithm).
//!
//! The clock is the caller's: nanoseconds of any clock that does not go back. Deliberately absent: who has which
//! bucket. A bucket that is full is the same as none, so whoever keeps them may forget those.

use std::time::Duration;

const SECOND: u64 = 1_000_000_000;

/// A rate, and how much of it may come at once: what would have come in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Between two events, nanoseconds.
    interval: u64,
    /// The most that a bucket may be short of full, nanoseconds.
    depth: u64,
}

impl Rate {
    /// The part of a rate that one of `instances` may give out. Each part is rounded down, but for the least: an
    /// instance may always give out one event at once, and one in `instances / events_per_second` seconds.
    pub fn share(events_per_second: u64, instances: u32) -> Self {
        let instances = u64::from(instances.max(1));
        let interval = SECOND.saturating_mul(instances).div_ceil(events_per_second.max(1));
        let burst = (events_per_second / instances).max(1);
        Self {
            interval,
            depth: interval.saturating_mul(burst),
        }
    }

    /// The most events at once.
    pub fn burst(&self) -> u64 {
        self.depth / self.interval.max(1)
    }

    /// The most events in any stretch of time: what it yields in that time, and once what may come at once.
    pub fn most_within(&self, time: Duration) -> u64 {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.burst()
            .saturating_add(time / self.interval.max(1))
            .saturating_add(1)
    }
}

/// What is left of a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When it is full again.
    full_at: u64,
}

impl Bucket {
    /// Takes one event out.
    ///
    /// # Errors
    /// The time after which the same would succeed, if nothing else is taken meanwhile.
    pub fn take(&mut self, rate: Rate, now: u64) -> Result<(), Duration> {
        self.take_together(rate, 1, now)
    }

    /// Takes so many events out, or none. More than may come at once are taken when the bucket is full, and leave it
    /// that much short: the next ones wait for it.
    ///
    /// # Errors
    /// The time after which the same would succeed, if nothing else is taken meanwhile.
    pub fn take_together(&mut self, rate: Rate, events: u64, now: u64) -> Result<(), Duration> {
        let from = self.full_at.max(now);
        let needed = rate.interval.saturating_mul(events.min(rate.burst()));
        let room = now.saturating_add(rate.depth);
        if from.saturating_add(needed) > room {
            return Err(Duration::from_nanos(from.saturating_add(needed) - room));
        }
        self.full_at = from.saturating_add(rate.interval.saturating_mul(events));
        Ok(())
    }

    /// Puts back what was taken for events that came to nothing.
    pub fn put_back(&mut self, rate: Rate, events: u64) {
        self.full_at = self.full_at.saturating_sub(rate.interval.saturating_mul(events));
    }

    /// Whether it is as if nothing had ever been taken.
    pub fn is_full(&self, now: u64) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_may_come_at_once_and_then_the_rate() {
        let rate = Rate::share(10, 1);
        let mut bucket = Bucket::default();
        let start = 5 * SECOND;
        for _ in 0..10 {
            bucket.take(rate, start).unwrap();
        }
        assert_eq!(bucket.take(rate, start), Err(Duration::from_millis(100)));
        bucket.take(rate, start + SECOND / 10).unwrap();
        assert!(!bucket.is_full(start + SECOND));
        assert!(bucket.is_full(start + 11 * SECOND / 10));
    }

    #[test]
    fn more_than_may_come_at_once_is_paid_for_afterwards() {
        let rate = Rate::share(10, 1);
        let start = 5 * SECOND;
        let mut bucket = Bucket::default();
        bucket.take(rate, start).unwrap();
        let wait = bucket.take_together(rate, 25, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100), "a full bucket");
        let later = start + SECOND / 10;
        bucket.take_together(rate, 25, later).unwrap();
        assert_eq!(bucket.take(rate, later), Err(Duration::from_millis(1_600)));
        assert!(bucket.is_full(later + 5 * SECOND / 2));
        bucket.put_back(rate, 25);
        assert!(bucket.is_full(later));
    }

    #[test]
    fn shares_of_a_rate_are_not_more_than_the_rate() {
        for (rate, instances) in [(10, 3), (7, 7), (1_000, 4)] {
            let share = Rate::share(rate, instances);
            assert!(share.burst() * u64::from(instances) <= rate);
            assert!(share.interval * rate >= SECOND * u64::from(instances));
        }
        // Less than one a second for each: one may always come.
        assert_eq!(Rate::share(1, 3).burst(), 1);
        assert_eq!(Rate::share(1, 3).interval, 3 * SECOND);
    }

    fn tries() -> impl Strategy<Value = Vec<u64>> {
        proptest::collection::vec(prop_oneof![3 => 0..2_000_000_u64, 1 => 0..3 * SECOND], 1..400)
    }

    proptest! {
        #[test]
        fn no_window_holds_more_than_the_rate(per_second in 1..2_000_u64, instances in 1..5_u32, gaps in tries()) {
            let rate = Rate::share(per_second, instances);
            let mut bucket = Bucket::default();
            let mut now = SECOND;
            let mut taken = Vec::new();
            for gap in gaps {
                now += gap;
                if bucket.take(rate, now).is_ok() {
                    taken.push(now);
                }
            }
            for (i, from) in taken.iter().enumerate() {
                for (j, to) in taken.iter().enumerate().skip(i) {
                    let window = Duration::from_nanos(to - from);
                    prop_assert!((j - i + 1) as u64 <= rate.most_within(window));
                }
            }
        }

        #[test]
        fn what_is_refused_succeeds_after_the_time_given_and_not_before(per_second in 1..2_000_u64, gaps in tries()) {
            let rate = Rate::share(per_second, 1);
            let mut bucket = Bucket::default();
            let mut now = SECOND;
            for gap in gaps {
                now += gap;
                if let Err(after) = bucket.take(rate, now) {
                    let after = u64::try_from(after.as_nanos()).unwrap();
                    let (mut early, mut then) = (bucket, bucket);
                    prop_assert!(early.take(rate, now + after - 1).is_err());
                    prop_assert!(then.take(rate, now + after).is_ok());
                }
            }
        }

        #[test]
        fn who_stays_below_the_rate_is_never_refused(per_second in 1..2_000_u64, extra in proptest::collection::vec(0..SECOND, 1..400)) {
            let rate = Rate::share(per_second, 1);
            let mut bucket = Bucket::default();
            let mut now = SECOND;
            for extra in extra {
                now += rate.interval + extra;
                prop_assert_eq!(bucket.take(rate, now), Ok(()));
            }
        }

        #[test]
        fn a_full_bucket_is_the_same_as_a_new_one(per_second in 1..2_000_u64, gaps in tries()) {
            let rate = Rate::share(per_second, 1);
            let (mut kept, mut forgotten) = (Bucket::default(), Bucket::default());
            let mut now = SECOND;
            for gap in gaps {
                now += gap;
                if forgotten.is_full(now) {
                    forgotten = Bucket::default();
                }
                prop_assert_eq!(kept.take(rate, now), forgotten.take(rate, now));
            }
        }
    }
}
