//! Subjects and headers, as wrpc-transport-nats 0.29 has them, and one private header.
//!
//! An invocation is a message on `{prefix}.wrpc.0.0.1.{instance}.{function}` with a reply subject R. The server answers
//! on R with an empty message that carries a reply subject S of its own: the handshake. More of the parameters goes to
//! `S.params`, the result to `R.results`, each in chunks, each ended by an empty message. An empty result is a failure.

use std::fmt;

use async_nats::{HeaderMap, HeaderValue};

use crate::{Error, Part};

const PROTOCOL: &str = "wrpc.0.0.1";

/// The caller's component or provider id. Anyone who may publish can write any id.
pub(crate) const SOURCE_ID: &str = "source-id";
/// The id that is called.
pub(crate) const TARGET_ID: &str = "target-id";
/// The name of the caller's link to the target.
pub(crate) const LINK_NAME: &str = "link-name";
/// The W3C trace context.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// What goes with it.
pub(crate) const TRACESTATE: &str = "tracestate";
/// Private, ignored by stock peers: the caller subscribed before it published, and takes a whole result, or the reason
/// of a failure, in one message on the reply subject.
pub(crate) const FANOUT_CALL: &str = "fanout-call";
/// Private: why there is no result, as `{kind} {reason}`.
pub(crate) const FANOUT_ERROR: &str = "fanout-error";

/// The value of [`FANOUT_CALL`] when all parameters are in the first message.
pub(crate) const WHOLE: &str = "whole";
/// The value of [`FANOUT_CALL`] when more parameters follow the handshake.
pub(crate) const CHUNKED: &str = "chunked";

const BUSY: &str = "busy";
const FAILED: &str = "failed";
const MAX_REASON_BYTES: usize = 1024;

/// The subject of one function.
pub(crate) fn subject(prefix: &str, instance: &str, func: &str) -> String {
    let parts = [prefix, PROTOCOL, instance, func];
    let mut subject = String::with_capacity(parts.iter().map(|part| part.len() + 1).sum());
    for part in parts.iter().filter(|part| !part.is_empty()) {
        if !subject.is_empty() {
            subject.push('.');
        }
        subject.push_str(part);
    }
    subject
}

/// How many bytes of the parameters fit into the first message. The server counts headers as payload.
pub(crate) fn first_chunk(max_payload: usize, reply: &str, headers: &HeaderMap) -> usize {
    let headers: usize = headers
        .iter()
        .flat_map(|(name, values)| {
            let name: &[u8] = name.as_ref();
            values
                .iter()
                .map(|value| name.len() + value.as_str().len() + ": \r\n".len())
        })
        .sum();
    max_payload
        .saturating_sub("NATS/1.0\r\n\r\n".len())
        .saturating_sub(headers)
        .saturating_sub(reply.len())
}

/// Why an invocation has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It was not taken.
    Busy,
    /// It was not taken: there is no such function here. On the lattice NATS itself says so.
    Nobody,
    /// It was not taken: the server leaves. On the lattice it leaves its queue group instead.
    Leaving,
    /// The handler, or what led to it, failed.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "there is no place for it",
            Self::Nobody => "there is no such function",
            Self::Leaving => "the server leaves",
            Self::Failed(reason) => reason,
        })
    }
}

impl Failure {
    pub(crate) fn header(&self) -> HeaderValue {
        let (kind, reason) = match self {
            Self::Busy => (BUSY, ""),
            Self::Nobody | Self::Leaving => (FAILED, "not taken"),
            Self::Failed(reason) => (FAILED, reason.as_str()),
        };
        HeaderValue::from(one_line(format!("{kind} "), reason).as_str())
    }

    pub(crate) fn parse(header: &str) -> Error {
        // A header's value is trimmed on its way.
        match header.split_once(' ').unwrap_or((header, "")) {
            (BUSY, _) => Error::Busy(crate::Resource::Target),
            (_, reason) => Error::Remote(reason.trim().to_owned()),
        }
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

pub(crate) fn too_large(part: Part, bytes: usize, limit: usize) -> Error {
    Error::TooLarge { part, bytes, limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_those_of_the_v1_lattice() {
        assert_eq!(
            subject("default.bus", "fanout:bus/publisher@0.2.0", "publish-tenant-event"),
            "default.bus.wrpc.0.0.1.fanout:bus/publisher@0.2.0.publish-tenant-event"
        );
        assert_eq!(subject("", "", "f"), "wrpc.0.0.1.f");
    }

    #[test]
    fn headers_count_as_payload() {
        let mut headers = HeaderMap::new();
        headers.insert("a", "bc");
        // NATS/1.0\r\na: bc\r\n\r\n has 19 bytes.
        assert_eq!(first_chunk(100, "reply", &headers), 100 - 19 - 5);
        assert_eq!(first_chunk(10, "reply", &headers), 0);
    }

    #[test]
    fn a_reason_crosses_in_one_line_and_is_bounded() {
        let failure = Failure::Failed(format!("two\r\nlines {}", "é".repeat(2000)));
        let header = failure.header();
        assert!(header.as_str().len() <= MAX_REASON_BYTES);
        let Error::Remote(reason) = Failure::parse(header.as_str()) else {
            panic!("a failure with a reason");
        };
        assert!(reason.starts_with("two  lines é"), "{reason}");
        assert!(matches!(
            Failure::parse(Failure::Busy.header().as_str().trim()),
            Error::Busy(_)
        ));
    }
}
