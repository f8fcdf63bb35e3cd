//! Why an event was not stored, or may not have been.

use std::sync::Arc;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::{self, ErrorCode};

use crate::jetstream::StoreError;

/// Why an event was not stored, or may not have been. Events that were stored together share one answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Unstored {
    #[error("it is {size} bytes with its attributes, and at most {limit} are taken")]
    TooLarge { size: usize, limit: usize },
    #[error("its attributes are {size} bytes as they are written, what is not printable ASCII three for each, and at most {limit} are taken")]
    AttributesTooLarge { size: usize, limit: usize },
    #[error("its tenant has no place in the log yet")]
    NoPartition,
    #[error("the log is full")]
    Full(#[source] Arc<PublishError>),
    #[error("the log can't be reached or refused it")]
    Unavailable(#[source] Arc<PublishError>),
    #[error("the log did not answer in time")]
    Unknown(#[source] Arc<PublishError>),
    #[error("what is kept for later could not be read")]
    Unreadable(#[source] Arc<StoreError>),
    #[error("the provider stopped before the log answered")]
    Stopped,
}

impl Unstored {
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
        matches!(self, Self::Unknown(_) | Self::Stopped)
    }
}

pub(in crate::jetstream) fn unstored(e: PublishError) -> Unstored {
    let kind = e.kind();
    let full = kind == PublishErrorKind::Other && answer(&e).is_some_and(is_full);
    let e = Arc::new(e);
    match kind {
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => Unstored::Unknown(e),
        _ if full => Unstored::Full(e),
        _ => Unstored::Unavailable(e),
    }
}

/// What the server answered, if it did.
pub(super) fn answer(e: &PublishError) -> Option<&jetstream::Error> {
    std::error::Error::source(e).and_then(|source| source.downcast_ref())
}

/// What nats-server 2.15 answers when a stream's `max_bytes`, the account's storage or the disk is used up.
fn is_full(answer: &jetstream::Error) -> bool {
    const FULL: [ErrorCode; 6] = [
        ErrorCode::STREAM_STORE_FAILED,
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::MEMORY_RESOURCES_EXCEEDED,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED,
    ];
    FULL.contains(&answer.error_code())
}
