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
