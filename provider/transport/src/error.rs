//! What can go wrong between a caller and a handler, and what is then known of the handler.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::endpoint::{Endpoint, EndpointError};

/// A source error of a codec.
pub type CodecError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// An error of the transport. Look at [`Error::outcome`] first: whether a repeat can do harm.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody serves that function: the target is down, or has no such export.
    #[error("nobody serves this function")]
    NoResponders,
    /// The deadline passed after the call was sent.
    #[error("no result within {after_ms} ms")]
    Deadline {
        /// The deadline that passed.
        after_ms: u64,
    },
    /// A body is over a limit.
    #[error("{body} of at least {bytes} bytes, over the limit of {limit}")]
    TooLarge {
        /// Which body.
        body: Body,
        /// What was seen of it.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A limit of this process or of the target was reached before the call was taken.
    #[error("too busy: no {0} left")]
    Busy(Resource),
    /// No memory was left for a result that did arrive.
    #[error("no memory left for the result")]
    NoMemory,
    /// The NATS connection is down at the moment: nothing was sent.
    #[error("not connected to the lattice")]
    Disconnected,
    /// The NATS connection was closed for good.
    #[error("the connection to the lattice is closed")]
    Closed,
    /// The target took the call and ended it without (all of) a result: its handler failed or trapped, or it stopped
    /// the call at its own deadline. The v1 lattice has no word for which.
    #[error("the call ended without a result")]
    Incomplete,
    /// The target reports why it failed. Only peers that use this crate can.
    #[error("the call failed at its target: {0}")]
    Remote(String),
    /// A peer does not keep to the protocol.
    #[error("protocol violation: {0}")]
    Protocol(&'static str),
    /// WIT streams, futures and resources are not carried.
    #[error("not supported on the lattice: {0}")]
    Unsupported(&'static str),
    /// The parameters or the result can't be encoded.
    #[error("encoding failed")]
    Encode(#[source] CodecError),
    /// The parameters or the result can't be decoded.
    #[error("decoding failed")]
    Decode(#[source] CodecError),
    /// A text is no endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// An endpoint that can't be used in this way.
    #[error("{endpoint} {why}")]
    Misused {
        /// The endpoint.
        endpoint: Endpoint,
        /// What does not fit, and what to do.
        why: &'static str,
    },
    /// The listener would take anyone who can reach it.
    #[error(
        "{endpoint} takes peers of the network that nobody authenticates: set a client_ca with tls, quic or \
         webtransport, use https with tokens, listen on the loopback or a Unix socket, or set \
         allow_unauthenticated_network_peers"
    )]
    Unprotected {
        /// The endpoint.
        endpoint: Endpoint,
    },
    /// The endpoint can't be listened on.
    #[error("can't listen on {endpoint}")]
    Listen {
        /// The endpoint.
        endpoint: Endpoint,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate, a key, an authority or a token can't be used.
    #[error("{what} can't be used")]
    Tls {
        /// Which of them, and from where.
        what: String,
        /// Why.
        #[source]
        source: CodecError,
    },
    /// No connection to the endpoint.
    #[error("can't reach {endpoint}")]
    Unreachable {
        /// The endpoint.
        endpoint: Endpoint,
        /// Why.
        #[source]
        source: CodecError,
    },
    /// The endpoint is there, and one side does not accept the other.
    #[error("{endpoint} and this caller do not accept each other: {reason}")]
    Refused {
        /// The endpoint.
        endpoint: Endpoint,
        /// Which side, and why.
        reason: String,
    },
    /// The connection ended while the call was under way.
    #[error("the connection was lost while the call was under way")]
    Lost,
    /// The server leaves, and no other took its place before the deadline.
    #[error("the server leaves and takes no new calls")]
    Leaving,
    /// An option has no usable value.
    #[error("option {name} must be {expected}")]
    Options {
        /// The field of [`crate::Options`].
        name: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// The seed is no NATS user seed. The seed itself is never part of an error.
    #[error("the NATS user seed can't be read")]
    Seed,
    /// A connection to NATS is not described as it can be. The text holds no secret.
    #[error("the connection to NATS is not described as it can be used: {0}")]
    Access(String),
    /// No connection to any of the servers of NATS.
    #[error("can't connect to NATS")]
    Connect {
        /// A server was reached, and does not take the user.
        refused: bool,
        /// Why.
        #[source]
        source: CodecError,
    },
    /// NATS refused a subscription.
    #[error("can't subscribe")]
    Subscribe(#[source] CodecError),
    /// NATS refused a message.
    #[error("can't publish")]
    Publish(#[source] CodecError),
}

/// An error with its causes, each said once: some repeat theirs.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        next = cause.source();
    }
    said
}

/// Which body of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Body {
    /// The parameters of an invocation.
    Parameters,
    /// The result of an invocation.
    Result,
}

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resource {
    /// Calls at a time of this process.
    Calls,
    /// Buffered bytes of this process.
    Bytes,
    /// Invocations at a time of the target.
    Target,
    /// A connection to the target, which was still being made.
    Connection,
}

/// What is known of the handler when a call ends in an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It never saw the call: a repeat is safe.
    NotStarted,
    /// It may have run, in part or to its end.
    Unknown,
    /// It ran and failed.
    Failed,
}

impl Error {
    /// What is known of the handler.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.meaning().0
    }

    /// The stable code of this error, with a page in `docs/errors/`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.meaning().1
    }

    fn meaning(&self) -> (Outcome, &'static str) {
        use Outcome::{Failed, NotStarted, Unknown};
        match self {
            Self::NoResponders => (NotStarted, "nobody-serves"),
            Self::Deadline { .. } => (Unknown, "call-deadline"),
            Self::TooLarge {
                body: Body::Parameters, ..
            } => (NotStarted, "body-too-large"),
            Self::TooLarge { .. } => (Unknown, "body-too-large"),
            Self::Busy(_) => (NotStarted, "too-busy"),
            Self::NoMemory => (Unknown, "too-busy"),
            Self::Disconnected | Self::Connect { .. } | Self::Unreachable { .. } => (NotStarted, "peer-unreachable"),
            Self::Closed | Self::Lost => (Unknown, "connection-lost"),
            Self::Incomplete | Self::Remote(_) => (Failed, "call-failed"),
            Self::Protocol(_) | Self::Decode(_) => (Unknown, "protocol-violation"),
            Self::Unsupported(_) | Self::Encode(_) => (NotStarted, "protocol-violation"),
            Self::Options { .. } => (NotStarted, "invalid-limit"),
            Self::Endpoint(_) | Self::Misused { .. } => (NotStarted, EndpointError::CODE),
            Self::Unprotected { .. } => (NotStarted, "unauthenticated-listener"),
            Self::Listen { .. } => (NotStarted, "listen-failed"),
            Self::Seed | Self::Access(_) | Self::Tls { .. } => (NotStarted, "invalid-credentials"),
            Self::Refused { .. } | Self::Subscribe(_) | Self::Publish(_) => (NotStarted, "peer-refused"),
            Self::Leaving => (NotStarted, "server-leaving"),
        }
    }

    /// Every code.
    pub const CODES: &'static [&'static str] = &[
        "nobody-serves",
        "call-deadline",
        "body-too-large",
        "too-busy",
        "peer-unreachable",
        "connection-lost",
        "call-failed",
        "protocol-violation",
        "invalid-limit",
        "invalid-endpoint",
        "unauthenticated-listener",
        "listen-failed",
        "invalid-credentials",
        "peer-refused",
        "server-leaving",
        Self::UNAUTHENTICATED,
    ];

    /// The code of a request on HTTP that shows nobody whom the service knows.
    pub(crate) const UNAUTHENTICATED: &'static str = "unauthenticated-caller";

    /// The transport's error in what generated bindings return, if there is one. A result that was cut short shows
    /// as an error of the bindings' decoder instead, and its outcome is unknown.
    #[must_use]
    pub fn find(error: &anyhow::Error) -> Option<&Self> {
        error
            .downcast_ref()
            .or_else(|| error.chain().find_map(|cause| cause.downcast_ref()))
    }

    /// Reading or writing failed.
    pub(crate) fn lost(error: io::Error) -> Self {
        tracing::debug!(%error, "a connection is lost");
        Self::Lost
    }

    pub(crate) fn deadline(after: Duration) -> Self {
        Self::Deadline {
            after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parameters => "parameters",
            Self::Result => "a result",
        })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Calls => "permit for another call",
            Self::Bytes => "buffer space",
            Self::Target => "permit at the target",
            Self::Connection => "connection to the target",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_below_the_context_that_bindings_add() {
        let error = anyhow::Error::new(Error::NoResponders)
            .context("failed to invoke function")
            .context("failed to invoke `a.b`");
        assert!(matches!(Error::find(&error), Some(Error::NoResponders)));
        assert!(Error::find(&anyhow::anyhow!("incomplete results")).is_none());
    }

    #[test]
    fn a_cause_that_its_error_repeats_is_said_once() {
        let error = anyhow::anyhow!("timed out").context("can't reach it: timed out");
        assert_eq!(causes(&*error), "can't reach it: timed out");
        let error = anyhow::anyhow!("refused").context("can't reach it").context("failed");
        assert_eq!(causes(&*error), "failed: can't reach it: refused");
    }

    #[test]
    fn every_code_has_a_page() {
        let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        let index = std::fs::read_to_string(pages.join("README.md")).unwrap();
        for code in Error::CODES {
            let page = std::fs::read_to_string(pages.join(format!("{code}.md"))).unwrap_or_default();
            assert!(page.starts_with(&format!("# `{code}`")), "docs/errors/{code}.md");
            assert!(
                index.contains(&format!("({code}.md)")),
                "docs/errors/README.md names {code}"
            );
        }
        assert!(Error::CODES.contains(&Error::Lost.code()));
    }

    #[test]
    fn only_what_never_started_is_safe_to_repeat() {
        assert_eq!(Error::NoResponders.outcome(), Outcome::NotStarted);
        assert_eq!(Error::Deadline { after_ms: 1 }.outcome(), Outcome::Unknown);
        assert_eq!(Error::Incomplete.outcome(), Outcome::Failed);
    }
}
