//! The bus's publisher interface in plain Rust.

use serde::Serialize;

/// Proof that an event is stored, as it is answered in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// Where it is stored.
    pub position: Position,
    /// True when it was stored before.
    pub duplicate: bool,
    /// How many durable subscriptions will be given it.
    pub durable_subscriptions: u32,
}

/// A place in the bus's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    /// The partition.
    pub partition: u32,
    /// The place within it.
    pub offset: u64,
}

/// What the bus says is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Stable: programs match this.
    pub code: String,
    /// For a person.
    pub message: String,
}

/// Why there is no receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// The event breaks a rule.
    InvalidEvent(Problem),
    /// The component's link does not allow it.
    NotPermitted(Problem),
    /// The event is larger than the bus takes.
    TooLarge(Problem),
    /// The tenant's quota is used up.
    QuotaExceeded {
        /// What the bus says.
        problem: Problem,
        /// When a retry can succeed.
        retry_after_ms: u64,
    },
    /// The log is full.
    StoreFull(Problem),
    /// The log can't be reached.
    Unavailable(Problem),
    /// The event may be stored: publishing it again is safe.
    OutcomeUnknown(Problem),
}

impl PublishError {
    /// Of two refusals of one webhook's events the one that decides the answer: as long as a repeat can help any of the
    /// events, the sender is asked for one, and after the longest wait.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        match (&self, &other) {
            (
                Self::QuotaExceeded {
                    retry_after_ms: one, ..
                },
                Self::QuotaExceeded {
                    retry_after_ms: another,
                    ..
                },
            ) if another > one => other,
            _ if other.rank() > self.rank() => other,
            _ => self,
        }
    }

    /// How much it decides: what may be stored before what is not, what a repeat can help before what it can't.
    fn rank(&self) -> u8 {
        match self {
            Self::InvalidEvent(_) => 0,
            Self::TooLarge(_) => 1,
            Self::NotPermitted(_) => 2,
            Self::QuotaExceeded { .. } => 3,
            Self::OutcomeUnknown(_) => 4,
            Self::Unavailable(_) => 5,
            Self::StoreFull(_) => 6,
        }
    }

    /// The bus did not say of every event what became of it.
    pub(crate) fn missing_result() -> Self {
        Self::OutcomeUnknown(Problem {
            code: "outcome-unknown".to_owned(),
            message: "the bus did not answer for every event; publishing them again is safe".to_owned(),
        })
    }

    /// What the bus says is wrong.
    pub fn problem(&self) -> &Problem {
        match self {
            Self::InvalidEvent(problem)
            | Self::NotPermitted(problem)
            | Self::TooLarge(problem)
            | Self::QuotaExceeded { problem, .. }
            | Self::StoreFull(problem)
            | Self::Unavailable(problem)
            | Self::OutcomeUnknown(problem) => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem {
            code: String::new(),
            message: String::new(),
        }
    }

    #[test]
    fn what_a_repeat_can_help_decides_over_what_it_can_not() {
        let quota = |retry_after_ms| PublishError::QuotaExceeded {
            problem: problem(),
            retry_after_ms,
        };
        let in_order = [
            PublishError::InvalidEvent(problem()),
            PublishError::TooLarge(problem()),
            PublishError::NotPermitted(problem()),
            quota(1),
            quota(2),
            PublishError::OutcomeUnknown(problem()),
            PublishError::Unavailable(problem()),
            PublishError::StoreFull(problem()),
        ];
        for (index, one) in in_order.iter().enumerate() {
            for another in &in_order[index..] {
                assert_eq!(&one.clone().worse(another.clone()), another);
                assert_eq!(&another.clone().worse(one.clone()), another);
            }
        }
    }
}
