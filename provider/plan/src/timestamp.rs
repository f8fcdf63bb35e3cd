//! Moments of time: parsed once, and never a bare number from there on.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment between the years 1677 and 2262. It is written as nanoseconds since the Unix epoch where programs read it, and
/// shown in RFC 3339, in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

/// What is no moment that a [`Timestamp`] can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTimestamp;

impl Timestamp {
    /// The Unix epoch; where a moment may be unknown, it stands for that.
    pub const EPOCH: Self = Self(0);
    /// The first moment.
    pub const MIN: Self = Self(i64::MIN);
    /// The last moment.
    pub const MAX: Self = Self(i64::MAX);

    /// The moment so many nanoseconds after the Unix epoch.
    pub const fn from_nanoseconds(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }

    /// The same. What is no moment here is the last: what is later, and the year 1, which is the store's for what never was.
    pub fn saturating(nanoseconds: i128) -> Self {
        Self(i64::try_from(nanoseconds).unwrap_or(i64::MAX))
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn nanoseconds(self) -> i64 {
        self.0
    }

    /// How long it is from an earlier moment; zero from a later one.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }

    /// Whole seconds from another moment to this one; negative where this one is earlier.
    pub const fn seconds_after(self, other: Self) -> i64 {
        self.0.saturating_sub(other.0) / 1_000_000_000
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// The last moment, where it would be later.
impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(duration)))
    }
}

/// The first moment, where it would be earlier.
impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanoseconds(duration)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(at) => at.fmt(f),
            Err(_) => Ok(()),
        }
    }
}

impl FromStr for Timestamp {
    type Err = NoTimestamp;

    fn from_str(text: &str) -> Result<Self, NoTimestamp> {
        let at: jiff::Timestamp = text.parse().map_err(|_| NoTimestamp)?;
        i64::try_from(at.as_nanosecond()).map(Self).map_err(|_| NoTimestamp)
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(at: jiff::Timestamp) -> Self {
        Self::saturating(at.as_nanosecond())
    }
}

impl fmt::Display for NoTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no time in RFC 3339 between the years 1677 and 2262")
    }
}

impl std::error::Error for NoTimestamp {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(nanoseconds: i64, duration in 0u64..1 << 40) {
            let at = Timestamp::from_nanoseconds(nanoseconds);
            prop_assert_eq!(at.to_string().parse(), Ok(at));
            let duration = Duration::from_nanos(duration);
            let later = at + duration;
            prop_assert_eq!(at.since(later), Duration::ZERO);
            if later < Timestamp::MAX {
                prop_assert_eq!(later.since(at), duration);
                prop_assert_eq!(later - duration, at);
            }
        }
    }

    #[test]
    fn the_ends_of_time_are_moments() {
        assert_eq!(Timestamp::MAX + Duration::from_secs(1), Timestamp::MAX);
        assert_eq!(Timestamp::MIN - Duration::from_secs(1), Timestamp::MIN);
        assert_eq!(Timestamp::saturating(i128::MAX), Timestamp::MAX);
        assert_eq!(
            "1970-01-01T00:00:01Z".parse(),
            Ok(Timestamp::from_nanoseconds(1_000_000_000))
        );
        for text in ["", "yesterday", "1970-01-01", "9999-01-01T00:00:00Z"] {
            assert_eq!(text.parse::<Timestamp>(), Err(NoTimestamp), "{text}");
        }
    }
}
