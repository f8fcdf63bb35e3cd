//! What the server itself answered, found in whatever error the client made of it; here and nowhere else are its answers
//! told apart by their codes.

use std::error::Error;

use async_nats::jetstream::context::{
    ConsumerInfoError, ConsumerInfoErrorKind, CreateStreamError, CreateStreamErrorKind, GetStreamError,
    GetStreamErrorKind,
};
use async_nats::jetstream::stream::{
    ConsumerCreateStrictError, ConsumerCreateStrictErrorKind, ConsumerError, ConsumerErrorKind, ConsumerUpdateError,
    ConsumerUpdateErrorKind, RawMessageError, RawMessageErrorKind,
};
use async_nats::jetstream::{self, ErrorCode};
use fanout_plan::step::Step;
use fanout_plan::{Code, Problem};

use super::StoreError;

/// The most characters of a server's or client's words that a message repeats.
const SHOWN: usize = 300;

/// The server's answer in an error, if it gave one.
pub(super) fn answer_in(error: &(dyn Error + 'static)) -> Option<jetstream::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(answer) = answer_of(error) {
            return Some(answer);
        }
        next = error.source();
    }
    None
}

fn answer_of(error: &(dyn Error + 'static)) -> Option<jetstream::Error> {
    macro_rules! answers_of {
        ($($error:ident: $kind:ident),+) => {
            $(if let Some(e) = error.downcast_ref::<$error>() {
                return match e.kind() {
                    $kind::JetStream(answer) => Some(answer),
                    _ => None,
                };
            })+
        };
    }
    answers_of!(
        ConsumerError: ConsumerErrorKind,
        ConsumerUpdateError: ConsumerUpdateErrorKind,
        ConsumerCreateStrictError: ConsumerCreateStrictErrorKind,
        ConsumerInfoError: ConsumerInfoErrorKind,
        CreateStreamError: CreateStreamErrorKind,
        GetStreamError: GetStreamErrorKind,
        RawMessageError: RawMessageErrorKind
    );
    error.downcast_ref::<jetstream::Error>().cloned()
}

/// The code of the server's answer, also where the client keeps no more than its meaning (async-nats 0.51).
fn code_in(error: &(dyn Error + 'static)) -> Option<ErrorCode> {
    let of_consumer = error.downcast_ref::<ConsumerInfoError>().map(|e| e.kind());
    let of_message = error.downcast_ref::<RawMessageError>().map(|e| e.kind());
    let of_new_consumer = error.downcast_ref::<ConsumerCreateStrictError>().map(|e| e.kind());
    if of_new_consumer == Some(ConsumerCreateStrictErrorKind::AlreadyExists) {
        return Some(ErrorCode::CONSUMER_ALREADY_EXISTS);
    }
    match (of_consumer, of_message) {
        (Some(ConsumerInfoErrorKind::NotFound), _) => Some(ErrorCode::CONSUMER_NOT_FOUND),
        (Some(ConsumerInfoErrorKind::StreamNotFound), _) => Some(ErrorCode::STREAM_NOT_FOUND),
        (_, Some(RawMessageErrorKind::NoMessageFound)) => Some(ErrorCode::NO_MESSAGE_FOUND),
        _ => answer_in(error).map(|answer| answer.error_code()),
    }
}

/// A message that was requested; `None` where the server says that it is not there.
///
/// # Errors
/// As it is [`StoreError::when`] the `action` fails, also where the stream is not there.
pub(super) fn found<T, E: Into<async_nats::Error>>(
    answer: Result<T, E>,
    action: impl Into<String>,
) -> Result<Option<T>, StoreError> {
    unless(answer, action, &[ErrorCode::NO_MESSAGE_FOUND])
}

/// What is said of a stream or a consumer; `None` where the server says that it is not there, or its stream is not.
///
/// # Errors
/// As it is [`StoreError::when`] the `action` fails.
pub(super) fn there<T, E: Into<async_nats::Error>>(
    answer: Result<T, E>,
    action: impl Into<String>,
) -> Result<Option<T>, StoreError> {
    unless(
        answer,
        action,
        &[ErrorCode::STREAM_NOT_FOUND, ErrorCode::CONSUMER_NOT_FOUND],
    )
}

/// What was asked for; `None` where the server's answer has one of these codes.
///
/// # Errors
/// As it is [`StoreError::when`] the `action` fails.
pub(super) fn unless<T, E: Into<async_nats::Error>>(
    answer: Result<T, E>,
    action: impl Into<String>,
    absent: &[ErrorCode],
) -> Result<Option<T>, StoreError> {
    let source = match answer {
        Ok(found) => return Ok(Some(found)),
        Err(e) => e.into(),
    };
    if code_in(source.as_ref()).is_some_and(|code| absent.contains(&code)) {
        return Ok(None);
    }
    Err(StoreError::when(action)(source))
}

impl StoreError {
    /// The server's answer, if it gave one.
    pub(crate) fn answer(&self) -> Option<jetstream::Error> {
        match self {
            Self::Unavailable { source, .. } => answer_in(source.as_ref()),
            _ => None,
        }
    }

    /// Whether the server refused it for good: asked again at once, it would say the same. It is not there then.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            // 5xx is the server's own trouble, but for limits, which it counts among those (10023, 10026, 10028, 10047).
            _ => self.answer().is_some_and(|a| a.code() < 500 || is_limit(&a)),
        }
    }
}

fn is_limit(answer: &jetstream::Error) -> bool {
    use ErrorCode as E;
    let limits = [
        E::ACCOUNT_RESOURCES_EXCEEDED,
        E::INSUFFICIENT_RESOURCES,
        E::MAXIMUM_CONSUMERS_LIMIT,
        E::STORAGE_RESOURCES_EXCEEDED,
        E::MEMORY_RESOURCES_EXCEEDED,
    ];
    limits.contains(&answer.error_code())
}

/// Whether the store refused a step for good. A write of the registry is a message: why it was not stored passes, and it is
/// not known whether another instance's was.
pub(super) fn is_for_good(step: &Step, error: &StoreError) -> bool {
    let is_message = matches!(step, Step::Remember(_) | Step::Forget(_));
    error.is_refusal() && (!is_message || matches!(error, StoreError::Refused(_)))
}

/// Why a step was not taken, as the state of what it was for.
pub(super) fn problem(step: &Step, error: &StoreError) -> Problem {
    if let StoreError::Refused(problems) = error
        && let Some(problem) = problems.first()
    {
        return problem.clone();
    }
    let part = step.part();
    if let Some(answer) = error.answer().filter(|_| is_for_good(step, error)) {
        return Problem::new(
            Code::StoreRefused,
            format!(
                "{part}: the store did not {}: {}",
                cut(&step.to_string()),
                cut(&answer.to_string())
            ),
        );
    }
    let mut why = cut(&error.to_string());
    if let Some(source) = error.source() {
        why = format!("{why}: {}", cut(&source.to_string()));
    }
    Problem::new(Code::StoreUnavailable, format!("{part}: {why}; it is tried again"))
}

/// An error with its cause, for a message.
pub(crate) fn explained(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error} ({cause})"),
        None => error.to_string(),
    }
}

/// A text for a message, which is never longer than a person reads.
pub(super) fn cut(text: &str) -> String {
    let mut chars = text.chars();
    let mut cut: String = chars.by_ref().take(SHOWN).collect();
    if chars.next().is_some() {
        cut.push('…');
    }
    cut
}
