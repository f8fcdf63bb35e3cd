//! The bus's subscriber interface, as far as the component uses it.

use component_support::answer::{self, Answer};
use http::StatusCode;

use crate::{
    backfill::Backfill,
    subscription::{Problem, Subscription},
};

/// The bus's subscriber interface. A component uses the bindings, a test a bus of its own.
pub trait Bus {
    /// Makes a backfill subscription. The same one twice is one.
    fn subscribe_backfill(&self, backfill: &Backfill) -> Result<Subscription, BusError>;

    /// Ends a subscription that was made by a call.
    fn unsubscribe(&self, name: &str) -> Result<(), BusError>;

    /// The component's subscriptions, declared and called.
    fn list_subscriptions(&self) -> Result<Vec<Subscription>, BusError>;
}

/// Why the bus did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusError {
    /// The request breaks a rule.
    InvalidRequest(Problem),
    /// The component's link does not allow it.
    NotPermitted(Problem),
    /// The name is taken.
    Conflict(Problem),
    /// There is no subscription of that name.
    UnknownSubscription(Problem),
    /// The bus can't do it now.
    Unavailable(Problem),
    /// The bus did not learn whether it was done; asking again is safe.
    OutcomeUnknown(Problem),
}

impl BusError {
    /// What it means over HTTP: 4xx when asking again can't help, 503 when it can.
    pub fn answer(&self) -> Answer {
        let (status, problem) = match self {
            BusError::InvalidRequest(problem) => (StatusCode::UNPROCESSABLE_ENTITY, problem),
            BusError::NotPermitted(problem) => (StatusCode::FORBIDDEN, problem),
            BusError::Conflict(problem) => (StatusCode::CONFLICT, problem),
            BusError::UnknownSubscription(problem) => (StatusCode::NOT_FOUND, problem),
            BusError::Unavailable(problem) | BusError::OutcomeUnknown(problem) => {
                return answer::problem_for_now(
                    StatusCode::SERVICE_UNAVAILABLE,
                    &problem.code,
                    &problem.message,
                    RETRY_AFTER_S,
                );
            }
        };
        answer::problem(status, &problem.code, &problem.message)
    }
}

const RETRY_AFTER_S: u64 = 5;
