//! What can go wrong, so that a program can act on it.

use std::time::Duration;

use fanout_wit::types::{InboxError, Problem, PublishError, SettleError, SubscribeError};

/// Why the bus did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{message} [{code}]")]
pub struct Error {
    /// What a program does about it.
    pub kind: ErrorKind,
    /// The bus's stable code, such as `tenant-not-permitted`; `docs/errors/` has a page for each.
    pub code: String,
    /// What happened and what to do, for a person.
    pub message: String,
}

/// What a program does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request breaks a rule: nothing happened, and asking again can't help.
    Invalid,
    /// The bus does not allow it to this caller: nothing happened.
    NotPermitted,
    /// The event is larger than the bus takes.
    TooLarge,
    /// The tenant's quota is used up: nothing was stored. It helps to wait this long.
    QuotaExceeded(Duration),
    /// The log is full: nothing was stored.
    StoreFull,
    /// The subscription's name is taken, or it has another meaning.
    Conflict,
    /// There is no such subscription.
    UnknownSubscription,
    /// The lease had ended: the event is delivered again.
    LeaseExpired,
    /// The bus can't be reached or can't do it now: nothing happened. Tried until the deadline.
    Unavailable,
    /// Nobody knows whether it happened. An event may be stored: publishing it again with the same id is safe.
    OutcomeUnknown,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: code.into(),
            message: message.into(),
        }
    }

    pub(crate) fn of(kind: ErrorKind, problem: Problem) -> Self {
        Self::new(kind, problem.code, problem.message)
    }

    /// How long the bus says to wait for a quota; `None` for every other error.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.kind {
            ErrorKind::QuotaExceeded(wait) => Some(wait),
            _ => None,
        }
    }

    /// Whether trying again, with the same event id, can help by itself.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::OutcomeUnknown)
    }

    /// An error of connecting: nothing was asked of the bus yet. What waiting can't mend is not tried again.
    pub(crate) fn connecting(error: fanout_transport::Error) -> Self {
        let kind = match &error {
            fanout_transport::Error::Refused { .. } => ErrorKind::NotPermitted,
            fanout_transport::Error::Tls { .. }
            | fanout_transport::Error::Options { .. }
            | fanout_transport::Error::Misused { .. }
            | fanout_transport::Error::Seed => ErrorKind::Invalid,
            _ => ErrorKind::Unavailable,
        };
        let why = std::error::Error::source(&error)
            .map(|s| format!(" ({s})"))
            .unwrap_or_default();
        Self::new(kind, error.code(), format!("{error}{why}"))
    }
}

impl From<PublishError> for Error {
    fn from(e: PublishError) -> Self {
        match e {
            PublishError::InvalidEvent(p) => Self::of(ErrorKind::Invalid, p),
            PublishError::NotPermitted(p) => Self::of(ErrorKind::NotPermitted, p),
            PublishError::TooLarge(p) => Self::of(ErrorKind::TooLarge, p),
            PublishError::QuotaExceeded(r) => {
                let wait = Duration::from_millis(r.retry_after_ms);
                Self::of(ErrorKind::QuotaExceeded(wait), r.problem)
            }
            PublishError::StoreFull(p) => Self::of(ErrorKind::StoreFull, p),
            PublishError::Unavailable(p) => Self::of(ErrorKind::Unavailable, p),
            PublishError::OutcomeUnknown(p) => Self::of(ErrorKind::OutcomeUnknown, p),
        }
    }
}

impl From<SubscribeError> for Error {
    fn from(e: SubscribeError) -> Self {
        match e {
            SubscribeError::InvalidRequest(p) => Self::of(ErrorKind::Invalid, p),
            SubscribeError::NotPermitted(p) => Self::of(ErrorKind::NotPermitted, p),
            SubscribeError::Conflict(p) => Self::of(ErrorKind::Conflict, p),
            SubscribeError::UnknownSubscription(p) => Self::of(ErrorKind::UnknownSubscription, p),
            SubscribeError::Unavailable(p) => Self::of(ErrorKind::Unavailable, p),
            SubscribeError::OutcomeUnknown(p) => Self::of(ErrorKind::OutcomeUnknown, p),
        }
    }
}

impl From<InboxError> for Error {
    fn from(e: InboxError) -> Self {
        match e {
            InboxError::InvalidRequest(p) => Self::of(ErrorKind::Invalid, p),
            InboxError::NotPermitted(p) => Self::of(ErrorKind::NotPermitted, p),
            InboxError::UnknownSubscription(p) => Self::of(ErrorKind::UnknownSubscription, p),
            InboxError::Unavailable(p) => Self::of(ErrorKind::Unavailable, p),
        }
    }
}

impl From<SettleError> for Error {
    fn from(e: SettleError) -> Self {
        match e {
            SettleError::InvalidToken(p) => Self::of(ErrorKind::Invalid, p),
            SettleError::LeaseExpired(p) => Self::of(ErrorKind::LeaseExpired, p),
            SettleError::NotPermitted(p) => Self::of(ErrorKind::NotPermitted, p),
            SettleError::Unavailable(p) => Self::of(ErrorKind::Unavailable, p),
        }
    }
}
