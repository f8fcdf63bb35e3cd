//! The headers that both ends of wRPC over HTTP write and read.

use http::{HeaderMap, HeaderName};

use crate::Caller;
use crate::caller::{MAX_ID_BYTES, traceparent, tracestate};

/// How long the caller waits for the result, in milliseconds. The server gives a call no more than its own limit.
pub(crate) const DEADLINE_MS: HeaderName = HeaderName::from_static("fanout-deadline-ms");
/// The name of the link that a call belongs to.
pub(crate) const LINK: HeaderName = HeaderName::from_static("fanout-link");
/// The W3C trace context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What goes with it.
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The value of a header that is there once, as text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// The caller's deadline; 0 where it names none.
pub(crate) fn deadline_ms(headers: &HeaderMap) -> u32 {
    text(headers, &DEADLINE_MS)
        .and_then(|value| value.parse().ok())
        .unwrap_or_default()
}

/// Adds what a request says of its call to what its connection and its token prove of the caller.
pub(crate) fn of_call(headers: &HeaderMap, caller: Caller) -> Caller {
    let parent = text(headers, &TRACEPARENT).and_then(traceparent);
    let link = text(headers, &LINK).filter(|link| (1..=MAX_ID_BYTES).contains(&link.len()));
    Caller {
        link: link.map_or(caller.link, str::to_owned),
        tracestate: parent.and_then(|_| tracestate(text(headers, &TRACESTATE))),
        traceparent: parent.map(str::to_owned),
        ..caller
    }
}
