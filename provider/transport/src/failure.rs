//! Why an invocation that was taken, or refused, has no result.

use std::fmt;

use crate::{Body, Error, Resource};

/// The longest reason that crosses a connection.
pub(crate) const MAX_REASON_BYTES: usize = 1024;

/// Why an invocation has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It was not taken.
    Busy,
    /// It was not taken: there is no such function here. On the lattice the NATS server reports that itself.
    Nobody,
    /// It was not taken: the server leaves. On the lattice it leaves its queue group instead.
    Leaving,
    /// The handler, or what led to it, failed.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "it is over a limit of calls",
            Self::Nobody => "there is no such function",
            Self::Leaving => "the server leaves",
            Self::Failed(reason) => reason,
        })
    }
}

/// Adds a reason that may hold anything to a text, up to a bound and without what would break a line.
pub(crate) fn one_line(mut text: String, reason: &str) -> String {
    for c in reason.chars() {
        if text.len() + c.len_utf8() > MAX_REASON_BYTES {
            break;
        }
        text.push(if c.is_control() { ' ' } else { c });
    }
    text
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Busy(_) => Self::Busy,
            Error::NoResponders => Self::Nobody,
            error => Self::Failed(describe(&error)),
        }
    }
}

/// What a caller on the same side makes of it.
impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Busy => Self::Busy(Resource::Target),
            Failure::Nobody => Self::NoResponders,
            Failure::Leaving => Self::Leaving,
            Failure::Failed(reason) => Self::Remote(one_line(String::new(), &reason)),
        }
    }
}

/// An error with its sources, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// A body over a limit of `limit` bytes.
pub(crate) fn too_large(body: Body, bytes: usize, limit: usize) -> Error {
    Error::TooLarge { body, bytes, limit }
}
