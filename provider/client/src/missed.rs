//! What the transport met on the way to a bus, as an error of the contract.

use fanout_transport::{Error, Outcome, causes};
use fanout_wit::types::{Problem, PublishError, SubscribeError};

/// What the transport met.
#[derive(Debug)]
pub struct Missed {
    pub(crate) problem: Problem,
    may_have_run: bool,
    pub(crate) can_be_repeated: bool,
}

impl From<&anyhow::Error> for Missed {
    fn from(error: &anyhow::Error) -> Self {
        let known = Error::find(error);
        let refused = matches!(
            known,
            Some(Error::TooLarge { .. } | Error::Unsupported(_) | Error::Encode(_) | Error::Decode(_))
        );
        Self {
            problem: Problem {
                code: known.map_or("call-failed", Error::code).to_owned(),
                message: format!(
                    "the bus can't be reached: {}: see that it runs, and that its URL and certificates are right here",
                    causes(&**error)
                ),
            },
            may_have_run: known.is_none_or(|error| error.outcome() != Outcome::NotStarted),
            can_be_repeated: !refused,
        }
    }
}

impl From<Missed> for PublishError {
    fn from(missed: Missed) -> Self {
        if !missed.may_have_run {
            return Self::Unavailable(missed.problem);
        }
        Self::OutcomeUnknown(Problem {
            code: "outcome-unknown".to_owned(),
            message: format!(
                "it may be stored; publish it again with the same id: {}",
                missed.problem.message
            ),
        })
    }
}

impl From<Missed> for SubscribeError {
    fn from(missed: Missed) -> Self {
        match missed.may_have_run {
            true => Self::OutcomeUnknown(missed.problem),
            false => Self::Unavailable(missed.problem),
        }
    }
}

/// Of what is only read.
impl From<Missed> for Problem {
    fn from(missed: Missed) -> Self {
        missed.problem
    }
}
