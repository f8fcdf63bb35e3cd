//! Why an event was not stored, or may not have been.

use std::fmt;
use std::sync::Arc;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::{self, ErrorCode};

use crate::jetstream::StoreError;

/// Why an event was not stored, or may not have been. Events that were stored together share one answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Unstored {
    #[error("it is {size} bytes with its attributes, and at most {limit} are taken")]
    TooLarge { size: usize, limit: usize },
    #[error(
        "its attributes are {size} bytes as they are written, what is not printable ASCII three for each, and at most {limit} are taken"
    )]
    AttributesTooLarge { size: usize, limit: usize },
    #[error("its tenant has no place in the log yet")]
    NoPartition,
    #[error("{what} is full")]
    Full {
        what: Full,
        #[source]
        source: Arc<PublishError>,
    },
    #[error("the log can't be reached or refused it")]
    Unavailable(#[source] Arc<PublishError>),
    #[error("the log did not answer in time")]
    Unknown(#[source] Arc<PublishError>),
    #[error("its place in the log is gone, and events of its call that go after it are stored")]
    Overtaken,
    #[error("the scheduled events could not be read")]
    Unreadable(#[source] Arc<StoreError>),
    #[error("the log knows its id, and could not say whether it still holds it")]
    Unverified(#[source] Arc<StoreError>),
    #[error("the provider stopped before the log answered")]
    Stopped,
}

/// What has no place for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// A stream of the log.
    Log,
    /// The events that are not due yet.
    Scheduled,
    /// All that the server, or the bus's account, may store.
    Storage,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log => "the log",
            Self::Scheduled => "the store of scheduled events",
            Self::Storage => "the storage of the server, or of the bus's account,",
        })
    }
}

impl Unstored {
    /// The same for an event that was to be scheduled.
    pub(in crate::jetstream) fn of_scheduled(self) -> Self {
        match self {
            Self::Full {
                what: Full::Log,
                source,
            } => Self::Full {
                what: Full::Scheduled,
                source,
            },
            other => other,
        }
    }

    /// Whether the event's place is not there any more: nothing listens on its subject, or another stream does.
    pub(crate) fn has_moved(&self) -> bool {
        match self {
            Self::Unavailable(e) => {
                e.kind() == PublishErrorKind::StreamNotFound
                    || answer(e).is_some_and(|a| a.error_code() == ErrorCode::STREAM_NOT_MATCH)
            }
            _ => false,
        }
    }

    /// Whether the event may be stored all the same.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Unverified(_) | Self::Stopped)
    }
}

pub(in crate::jetstream) fn unstored(e: PublishError) -> Unstored {
    let kind = e.kind();
    let full = answer(&e)
        .and_then(what_is_full)
        .filter(|_| kind == PublishErrorKind::Other);
    let e = Arc::new(e);
    match kind {
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => Unstored::Unknown(e),
        _ => match full {
            Some(what) => Unstored::Full { what, source: e },
            None => Unstored::Unavailable(e),
        },
    }
}

/// What the server answered, if it did.
pub(super) fn answer(e: &PublishError) -> Option<&jetstream::Error> {
    std::error::Error::source(e).and_then(|source| source.downcast_ref())
}

impl StoreError {
    /// What was full, if that is why something was not stored: its own stream ([`Full::Log`]), or everything.
    pub(crate) fn full(&self) -> Option<Full> {
        self.answer().as_ref().and_then(what_is_full)
    }
}

/// What is full, as nats-server 2.15 answers when a stream's own bounds, the account's storage or the disk is used up.
fn what_is_full(answer: &jetstream::Error) -> Option<Full> {
    match answer.error_code() {
        ErrorCode::STREAM_STORE_FAILED | ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED => Some(Full::Log),
        ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => Some(Full::Storage),
        _ => None,
    }
}
