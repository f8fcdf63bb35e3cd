//! What a request is for, by its method and its path.

use http::{Method, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::caller::MAX_ID_BYTES;

/// What a segment of a path takes as it is (RFC 3986, 3.3), and the names of WIT hold.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b':')
    .remove(b'@')
    .remove(b'/')
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'~');

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// `POST /{interface}/{function}`: an invocation, whose body is its parameters.
    Function {
        /// The interface, such as `fanout:bus/publisher@0.2.0`.
        instance: String,
        /// Its function.
        func: String,
    },
    /// `POST /`: an invocation as stock wRPC writes it, with its names in the body.
    Stock,
    /// `OPTIONS *`: whether this is a server that takes the caller.
    Ping,
    /// Anything else, which the service's routes know.
    Route,
}

impl Target {
    /// What a request is for. Only an interface has a colon in its first segment, which no route may have.
    pub(crate) fn of(method: &Method, uri: &Uri) -> Self {
        match (method, uri.path()) {
            (&Method::OPTIONS, "*") => Self::Ping,
            (&Method::POST, "/") => Self::Stock,
            (&Method::POST, path) => function(path).unwrap_or(Self::Route),
            _ => Self::Route,
        }
    }
}

fn function(path: &str) -> Option<Target> {
    let (instance, func) = path.strip_prefix('/')?.rsplit_once('/')?;
    let decoded = |text| percent_decode_str(text).decode_utf8().ok();
    let (instance, func) = (decoded(instance)?, decoded(func)?);
    let named = |name: &str| (1..=MAX_ID_BYTES).contains(&name.len());
    let is_interface = instance.split('/').next()?.contains(':');
    (is_interface && named(&instance) && named(&func)).then(|| Target::Function {
        instance: instance.into_owned(),
        func: func.into_owned(),
    })
}

/// The path of an invocation.
pub(crate) fn path_of(instance: &str, func: &str) -> String {
    let written = |name| utf8_percent_encode(name, PLAIN);
    format!("/{}/{}", written(instance), written(func))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: &Method, path: &str) -> Target {
        Target::of(method, &path.parse().expect("a path"))
    }

    #[test]
    fn an_invocation_is_known_by_its_interface() {
        let call = Target::Function {
            instance: "fanout:bus/publisher@0.2.0".to_owned(),
            func: "publish-tenant-event".to_owned(),
        };
        for path in [
            "/fanout:bus/publisher@0.2.0/publish-tenant-event",
            "/fanout%3Abus%2Fpublisher%400.2.0/publish%2Dtenant-event",
            &path_of("fanout:bus/publisher@0.2.0", "publish-tenant-event"),
        ] {
            assert_eq!(target(&Method::POST, path), call, "{path}");
            assert_eq!(target(&Method::GET, path), Target::Route, "{path}");
        }
        let odd = path_of("a:b/c", "[method]d.e");
        let named = |instance: &str, func: &str| Target::Function {
            instance: instance.to_owned(),
            func: func.to_owned(),
        };
        assert_eq!(target(&Method::POST, &odd), named("a:b/c", "[method]d.e"));
        assert_eq!(target(&Method::POST, "/"), Target::Stock);
        assert_eq!(target(&Method::OPTIONS, "*"), Target::Ping);
        for route in [
            "/v1/events",
            "/v1/events:at",
            "//",
            "/a:b",
            "/a:b/",
            "/%ff:/b",
            "/x/a:b/c",
        ] {
            assert_eq!(target(&Method::POST, route), Target::Route, "{route}");
        }
        assert_eq!(
            target(&Method::POST, &format!("/a:{}/f", "b".repeat(256))),
            Target::Route
        );
    }
}
