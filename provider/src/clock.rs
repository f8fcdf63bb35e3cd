//! The one place that reads the clocks.

use std::ops::Add;
use std::time::Duration;

use fanout_plan::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// What time it is by this machine's clock.
pub(crate) fn now() -> Timestamp {
    jiff::Timestamp::now().into()
}

/// A moment by the clock of this machine that nobody sets, and that goes on while the machine is suspended.
/// [`std::time::Instant`] stands still then (Rust 1.95): to a process on a machine that was suspended for an hour, what it
/// did before seems a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Moment {
    pub(crate) fn now() -> Self {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        const CLOCK: ClockId = ClockId::Boottime;
        // It counts a suspended machine's time on Apple's systems; elsewhere there is no other.
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        const CLOCK: ClockId = ClockId::Monotonic;
        let now = clock_gettime(CLOCK);
        // Neither is ever negative.
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or_default();
        Self(Duration::new(seconds, nanoseconds))
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.until(Self::now())
    }

    /// How long it is from here to a later moment; nothing to an earlier one.
    pub(crate) fn until(self, later: Self) -> Duration {
        later.0.saturating_sub(self.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0 + later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn moments_count_since_the_machine_started() {
        let uptime = || {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            let seconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
            Duration::from_secs_f64(seconds)
        };
        // In hundredths.
        let (before, Moment(now), after) = (uptime(), Moment::now(), uptime());
        assert!(
            before <= now && now <= after + Duration::from_millis(10),
            "{before:?} {now:?} {after:?}"
        );
    }
}
