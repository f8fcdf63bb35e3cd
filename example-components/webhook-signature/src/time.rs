//! The time at which a webhook was signed.

use std::time::Duration;

use crate::{Refusal, Unsignable};

/// Reads seconds since 1970: digits only, so that one time has few spellings and none overflows.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let in_form = (1..=12).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if in_form { text.parse().ok() } else { None }
}

/// Writes seconds since 1970 as they are read.
pub(crate) fn write(timestamp: i64) -> Result<String, Unsignable> {
    let text = timestamp.to_string();
    match parse(&text) {
        Some(_) => Ok(text),
        None => Err(Unsignable::InvalidTime),
    }
}

/// How far in the future a time may be at most. A tolerance of days is for webhooks that are repeated; one from the future
/// comes from a clock that is off, or from who wants it to last longer.
const MAX_AHEAD: Duration = Duration::from_secs(300);

/// Refuses a time that was more than `tolerance` before `now`, or is as far after it or more than five minutes.
pub(crate) fn check(timestamp: i64, now: i64, tolerance: Duration) -> Result<(), Refusal> {
    let distance_s = timestamp.abs_diff(now);
    let tolerance_s = if timestamp > now {
        tolerance.min(MAX_AHEAD).as_secs()
    } else {
        tolerance.as_secs()
    };
    if distance_s <= tolerance_s {
        Ok(())
    } else if timestamp < now {
        Err(Refusal::Stale {
            age_s: distance_s,
            tolerance_s,
        })
    } else {
        Err(Refusal::Future {
            ahead_s: distance_s,
            tolerance_s,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_digits() {
        assert_eq!(parse("1614265330"), Some(1_614_265_330));
        assert_eq!(parse("0"), Some(0));
        for text in ["", "-1", "+1", " 1", "1 ", "1.0", "0x1", "1234567890123", "١"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        assert_eq!(write(1_614_265_330), Ok("1614265330".to_owned()));
        assert_eq!(write(-1), Err(Unsignable::InvalidTime));
        assert_eq!(write(1_000_000_000_000), Err(Unsignable::InvalidTime));
    }

    #[test]
    fn the_tolerance_is_inclusive_and_holds_in_both_directions() {
        let at = |timestamp| check(timestamp, 1_000, Duration::from_secs(300));
        assert_eq!(at(1_000), Ok(()));
        assert_eq!(at(700), Ok(()));
        assert_eq!(
            at(699),
            Err(Refusal::Stale {
                age_s: 301,
                tolerance_s: 300
            })
        );
        assert_eq!(at(1_300), Ok(()));
        assert_eq!(
            at(1_301),
            Err(Refusal::Future {
                ahead_s: 301,
                tolerance_s: 300
            })
        );
        let day = Duration::from_secs(86_400);
        assert_eq!(check(0, 86_400, day), Ok(()));
        assert_eq!(check(300, 0, day), Ok(()));
        let early = Refusal::Future {
            ahead_s: 301,
            tolerance_s: 300,
        };
        assert_eq!(check(301, 0, day), Err(early));
        assert!(check(i64::MAX, i64::MIN, Duration::from_secs(300)).is_err());
    }
}
