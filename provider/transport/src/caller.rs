//! Who calls, as the headers of an invocation say.

use async_nats::HeaderMap;

use crate::{Error, wire};

const MAX_ID_BYTES: usize = 256;
const MAX_TRACEPARENT_BYTES: usize = 128;

/// What a handler is told of its caller.
///
/// The lattice does not authenticate it: whoever may publish on the lattice can write any component and link here.
/// Checking that there is such a link is up to the handler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The id of the calling component or provider; empty if it did not say.
    pub component: String,
    /// The name of the link that it calls by.
    pub link: String,
    /// The caller's W3C trace context.
    pub traceparent: Option<String>,
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
            component: id(wire::SOURCE_ID)?.unwrap_or_default(),
            link: id(wire::LINK_NAME)?.unwrap_or_else(|| "default".to_owned()),
            traceparent: get(wire::TRACEPARENT)
                .map(|value| value.as_str())
                .filter(|value| value.len() <= MAX_TRACEPARENT_BYTES)
                .map(str::to_owned),
        })
    }
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
                component: String::new(),
                link: "default".into(),
                traceparent: None
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
