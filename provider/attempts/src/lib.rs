//! When a call to a bus is tried again, and what came of all of its attempts.
//!
//! Every function of the contract is idempotent, so a call may be repeated. Where nobody knows what an attempt did, only a success
//! after it settles that. A refusal does not: a quota is used up by the attempt before, a policy changes between the two, and
//! what has ended a subscription finds none the second time.
//!
//! Deliberately absent: how a call is sent, and how one waits. The native client and the bus's components do so differently.

use std::time::Duration;

/// How long one attempt may take; a repeat may find another connection.
pub const ATTEMPT: Duration = Duration::from_secs(3);
/// The first wait between attempts, and the longest.
pub const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// An attempt that has less time ends with an unknown outcome, though nothing is wrong with the bus.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(100);

/// The code of a publish that is refused because its place takes nothing new.
pub const PLACE_RETIRED: &str = "place-retired";

/// What an attempt's error says of what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It was not done, and the same again would not be, for now at least.
    Refused,
    /// The bus was not reached, or says that a retry can help: it was not done.
    Away,
    /// It may have been done.
    Unknown,
}

/// An error of the contract, as far as a repeat depends on it.
pub trait Refusal {
    /// What it says of what was asked.
    fn meaning(&self) -> Meaning;

    /// How long the bus says that a quota is used up; `None` for what no quota refused.
    fn retry_after(&self) -> Option<Duration> {
        None
    }

    /// A retry can help.
    fn is_transient(&self) -> bool {
        matches!(self.meaning(), Meaning::Away | Meaning::Unknown)
    }

    /// It may have been done.
    fn is_unknown(&self) -> bool {
        self.meaning() == Meaning::Unknown
    }
}

/// Whether there is time for an attempt after a wait.
#[must_use]
pub fn leaves_an_attempt(wait: Duration, left: Duration) -> bool {
    wait + SHORTEST_ATTEMPT <= left
}

/// How long the next attempt may take, where so much of the whole call's time is left.
#[must_use]
pub fn within(left: Duration, attempt: Duration) -> Duration {
    left.min(attempt).max(Duration::from_millis(1))
}

/// The attempts at one call.
#[derive(Clone, Debug)]
pub struct Attempts<E> {
    unknown: Option<E>,
}

impl<E> Default for Attempts<E> {
    fn default() -> Self {
        Self { unknown: None }
    }
}

impl<E: Refusal + Clone> Attempts<E> {
    /// What to do after an attempt that was refused, `left` before the end of the whole: wait for `again` and try again, if
    /// that can help.
    ///
    /// # Errors
    /// What came of the whole.
    pub fn refused(&mut self, refusal: E, again: Option<Duration>, left: Duration) -> Result<Duration, E> {
        let Some(wait) = again.filter(|wait| leaves_an_attempt(*wait, left)) else {
            return Err(self.whole(refusal));
        };
        if refusal.is_unknown() {
            self.unknown = Some(refusal);
        }
        Ok(wait)
    }

    /// What came of the whole, or of one thing of many in it, where the last attempt was answered with a refusal.
    #[must_use]
    pub fn whole(&self, refusal: E) -> E {
        self.unknown.clone().unwrap_or(refusal)
    }
}

/// Says what the errors of a generated module of the contract's types mean.
#[macro_export]
macro_rules! meanings {
    ($($types:tt)+) => {
        const _: () = {
            use $crate::{Meaning, Refusal};
            use $($types)+ as types;

            impl Refusal for types::PublishError {
                fn meaning(&self) -> Meaning {
                    match self {
                        Self::InvalidEvent(_)
                        | Self::TooLarge(_)
                        | Self::QuotaExceeded(_)
                        | Self::StoreFull(_)
                        | Self::NotPermitted(_) => Meaning::Refused,
                        // An operator took the place out of use: whoever publishes is to go elsewhere, and not to wait.
                        Self::Unavailable(problem) if problem.code == $crate::PLACE_RETIRED => Meaning::Refused,
                        Self::Unavailable(_) => Meaning::Away,
                        Self::OutcomeUnknown(_) => Meaning::Unknown,
                    }
                }

                fn retry_after(&self) -> Option<std::time::Duration> {
                    match self {
                        Self::QuotaExceeded(refusal) => Some(std::time::Duration::from_millis(refusal.retry_after_ms)),
                        _ => None,
                    }
                }
            }

            impl Refusal for types::SubscribeError {
                fn meaning(&self) -> Meaning {
                    match self {
                        Self::InvalidRequest(_)
                        | Self::Conflict(_)
                        | Self::UnknownSubscription(_)
                        | Self::NotPermitted(_) => Meaning::Refused,
                        Self::Unavailable(_) => Meaning::Away,
                        Self::OutcomeUnknown(_) => Meaning::Unknown,
                    }
                }
            }

            /// Of what is only read.
            impl Refusal for types::Problem {
                fn meaning(&self) -> Meaning {
                    Meaning::Away
                }
            }
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    impl Refusal for Meaning {
        fn meaning(&self) -> Meaning {
            *self
        }
    }

    /// What comes of a call whose attempts end so, with time for all of them.
    fn whole(attempts: &[Meaning]) -> Meaning {
        let (last, before) = attempts.split_last().unwrap();
        let mut all = Attempts::default();
        for attempt in before {
            assert_eq!(all.refused(*attempt, Some(Duration::ZERO), SECOND), Ok(Duration::ZERO));
        }
        all.refused(*last, None, SECOND).unwrap_err()
    }

    #[test]
    fn an_unknown_outcome_stays_unknown_whatever_refuses_the_next() {
        use Meaning::{Away, Refused, Unknown};
        for (attempts, expected) in [
            (&[Away][..], Away),
            (&[Unknown], Unknown),
            (&[Away, Refused], Refused),
            (&[Unknown, Away], Unknown),
            (&[Unknown, Refused], Unknown),
            (&[Unknown, Away, Away, Refused], Unknown),
            (&[Away, Unknown], Unknown),
        ] {
            assert_eq!(whole(attempts), expected, "{attempts:?}");
        }
    }

    #[test]
    fn there_is_another_attempt_where_it_has_time() {
        let again = |wait, left| Attempts::default().refused(Meaning::Away, Some(wait), left);
        assert_eq!(again(SECOND, SECOND * 2), Ok(SECOND));
        assert_eq!(again(SECOND, SECOND + SHORTEST_ATTEMPT), Ok(SECOND));
        assert_eq!(again(SECOND, SECOND), Err(Meaning::Away));
    }
}
