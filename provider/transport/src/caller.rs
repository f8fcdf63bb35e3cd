//! Who calls, as an invocation's headers or its connection say.

use std::fmt;

use async_nats::HeaderMap;

use crate::{Error, wire};

/// Longest id of a component or link that is taken.
pub(crate) const MAX_ID_BYTES: usize = 256;
const MAX_TRACEPARENT_BYTES: usize = 128;
const MAX_TRACESTATE_BYTES: usize = 512;

/// What a handler is told of its caller. What it may do is up to the handler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// How the caller is known. It comes from the connection, never from what the caller writes into a call.
    pub identity: Identity,
    /// The id of the calling component or provider, which it says itself: see [`Identity::Lattice`]. Empty if it did
    /// not say, and for every caller that is not on the lattice.
    pub component: String,
    /// The name of the link that it says to call by.
    pub link: String,
    /// The caller's W3C trace context.
    pub traceparent: Option<String>,
    /// What goes with `traceparent`.
    pub tracestate: Option<String>,
}

/// How a caller is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Identity {
    /// Not at all. Only processes of this machine, unless the listener was told to take anyone.
    #[default]
    Anonymous,
    /// It may publish on the lattice. The lattice does not authenticate more: whoever may can write any component and
    /// link. Checking that there is such a link is up to the handler.
    Lattice,
    /// A process of this machine, as its kernel says.
    Unix {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// The process, where the kernel tells.
        pid: Option<i32>,
    },
    /// The holder of a certificate that the listener's `client_ca` signed: the certificate's name. That is the first
    /// URI or DNS name of its subject alternative names, else its subject's common name.
    Certificate(String),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Lattice => f.write_str("lattice"),
            Self::Unix { uid, gid, .. } => write!(f, "unix:{uid}:{gid}"),
            Self::Certificate(name) => write!(f, "certificate:{name}"),
        }
    }
}

impl Caller {
    /// An over-long id is refused, not cut: a cut id could be another's. An over-long trace context is left out.
    pub(crate) fn parse(headers: Option<&HeaderMap>) -> Result<Self, Error> {
        let get = |name: &'static str| headers.and_then(|headers| headers.get(name));
        let id = |name: &'static str| match get(name) {
            Some(value) if value.as_str().len() > MAX_ID_BYTES => Err(Error::Protocol("a header is too long")),
            value => Ok(value.map(|value| value.as_str().to_owned())),
        };
        Ok(Self {
            identity: Identity::Lattice,
            component: id(wire::SOURCE_ID)?.unwrap_or_default(),
            link: id(wire::LINK_NAME)?.unwrap_or_else(|| "default".to_owned()),
            traceparent: traceparent(get(wire::TRACEPARENT).map(|value| value.as_str())),
            tracestate: tracestate(get(wire::TRACESTATE).map(|value| value.as_str())),
        })
    }

    /// A caller on a connection.
    pub(crate) fn known_as(identity: Identity) -> Self {
        Self {
            identity,
            link: "default".to_owned(),
            ..Self::default()
        }
    }
}

pub(crate) fn traceparent(value: Option<&str>) -> Option<String> {
    bounded(value, MAX_TRACEPARENT_BYTES)
}

pub(crate) fn tracestate(value: Option<&str>) -> Option<String> {
    bounded(value, MAX_TRACESTATE_BYTES)
}

fn bounded(value: Option<&str>, limit: usize) -> Option<String> {
    value
        .filter(|value| (1..=limit).contains(&value.len()))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_without_headers_uses_the_default_link() {
        let caller = Caller::parse(None).expect("no headers is no fault");
        assert_eq!(
            caller,
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
        headers.insert(wire::SOURCE_ID, "ingress");
        headers.insert(wire::LINK_NAME, "audit");
        headers.insert(wire::TRACEPARENT, "0".repeat(129).as_str());
        let caller = Caller::parse(Some(&headers)).expect("short ids");
        assert_eq!((caller.component.as_str(), caller.link.as_str()), ("ingress", "audit"));
        assert_eq!(caller.traceparent, None);
        headers.insert(wire::SOURCE_ID, "x".repeat(257).as_str());
        assert!(matches!(Caller::parse(Some(&headers)), Err(Error::Protocol(_))));
    }
}
