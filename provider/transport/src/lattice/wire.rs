//! Subjects and headers, as wrpc-transport-nats 0.29 has them, and one private header.
//!
//! An invocation is a message on `{prefix}.wrpc.0.0.1.{instance}.{function}` with a reply subject R. The server answers
//! on R with an empty message that carries a reply subject S of its own: the handshake. More of the parameters goes to
//! `S.params`, the result to `R.results`, each in chunks, each ended by an empty message. An empty result is a failure.

use async_nats::{HeaderMap, HeaderValue};

use crate::failure::{Failure, one_line};
use crate::{Caller, Error, Identity, Resource, caller};

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

/// A failure as the value of [`FANOUT_ERROR`].
pub(crate) fn encode_failure(failure: &Failure) -> HeaderValue {
    let (kind, reason) = match failure {
        Failure::Busy => (BUSY, ""),
        Failure::Nobody | Failure::Leaving => (FAILED, "not taken"),
        Failure::Failed(reason) => (FAILED, reason.as_str()),
    };
    HeaderValue::from(one_line(format!("{kind} "), reason).as_str())
}

/// The error that a value of [`FANOUT_ERROR`] stands for.
pub(crate) fn decode_failure(header: &str) -> Error {
    // A header's value is trimmed on its way.
    match header.split_once(' ').unwrap_or((header, "")) {
        (BUSY, _) => Error::Busy(Resource::Target),
        (_, reason) => Error::Remote(reason.trim().to_owned()),
    }
}

/// Who calls, by the headers of an invocation. An over-long id is refused, not cut: a cut id could be another's. An
/// over-long trace context is left out.
pub(crate) fn caller(headers: Option<&HeaderMap>) -> Result<Caller, Error> {
    let get = |name: &'static str| Some(headers?.get(name)?.as_str());
    let id = |name: &'static str| match get(name) {
        Some(id) if id.len() > caller::MAX_ID_BYTES => Err(Error::Protocol("a header is too long")),
        id => Ok(id.map(str::to_owned)),
    };
    Ok(Caller {
        identity: Identity::Lattice,
        component: id(SOURCE_ID)?.unwrap_or_default(),
        link: id(LINK_NAME)?.unwrap_or_else(|| "default".to_owned()),
        traceparent: get(TRACEPARENT).and_then(caller::traceparent).map(str::to_owned),
        tracestate: caller::tracestate(get(TRACESTATE)),
    })
}

/// An error of the client that publishes.
pub(crate) fn publish_error(error: async_nats::PublishError) -> Error {
    match error.kind() {
        async_nats::client::PublishErrorKind::Send => Error::Closed,
        _ => Error::Publish(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::MAX_REASON_BYTES;

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
        let header = encode_failure(&failure);
        assert!(header.as_str().len() <= MAX_REASON_BYTES);
        let Error::Remote(reason) = decode_failure(header.as_str()) else {
            panic!("a failure with a reason");
        };
        assert!(reason.starts_with("two  lines é"), "{reason}");
        assert!(matches!(
            decode_failure(encode_failure(&Failure::Busy).as_str().trim()),
            Error::Busy(_)
        ));
    }

    #[test]
    fn a_caller_without_headers_uses_the_default_link() {
        let found = caller(None).expect("no headers is no fault");
        assert_eq!(
            found,
            Caller {
                identity: Identity::Lattice,
                link: "default".into(),
                ..Caller::default()
            }
        );
    }

    #[test]
    fn ids_are_bounded() {
        let mut headers = HeaderMap::new();
        headers.insert(SOURCE_ID, "ingress");
        headers.insert(LINK_NAME, "audit");
        headers.insert(TRACEPARENT, "0".repeat(129).as_str());
        let found = caller(Some(&headers)).expect("short ids");
        assert_eq!((found.component.as_str(), found.link.as_str()), ("ingress", "audit"));
        assert_eq!(found.traceparent, None);
        headers.insert(SOURCE_ID, "x".repeat(257).as_str());
        assert!(matches!(caller(Some(&headers)), Err(Error::Protocol(_))));
    }
}
