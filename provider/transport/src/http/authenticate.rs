//! Who sends a request: what its connection proves, or the token that it shows.
//!
//! A request with a token is its holder's, or nobody's: an unknown token never falls back to what the connection proves. A
//! certificate beside it is kept beside it, so that a handler can refuse what would be two callers at once.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::caller::TokenProof;
use crate::http::problem::HttpProblem;
use crate::stream::listener_state::{ListenerState, Speaks};
use crate::stream::peer::Peer;
use crate::{Error, Identity};

/// What stands before a token (RFC 6750, 2.1); its case does not count (RFC 9110, 11.1).
const SCHEME: &str = "bearer";

/// How a request shows who sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// Not at all.
    Nothing,
    /// By a token of this SHA-256.
    Token([u8; 32]),
    /// By something that is no token.
    Other,
}

/// The identity of a request's sender.
pub(crate) fn identify(listener: &ListenerState, peer: &Peer, headers: &HeaderMap) -> Result<Identity, HttpProblem> {
    let denied = |why: &str| HttpProblem::new(StatusCode::UNAUTHORIZED, Error::UNAUTHENTICATED, why);
    let is_anybody = peer.identity == Identity::Nobody && !peer.has_certificate();
    let sha256 = match shown(headers) {
        Shown::Nothing if is_anybody && !listener.options.allow_unauthenticated_network_peers => {
            return Err(denied(
                "this request shows no token, and its connection proves nothing of its caller: send `Authorization: Bearer \
                 TOKEN`, with a token of `fanout token`",
            ));
        }
        Shown::Nothing => return Ok(peer.identity.clone()),
        Shown::Other => {
            return Err(denied(
                "the header `Authorization` is not one `Bearer TOKEN`: send it once, with a token of `fanout token`",
            ));
        }
        Shown::Token(sha256) => sha256,
    };
    let plain = listener.speaks == Speaks::Http { encrypted: false };
    if plain && peer.identity != Identity::Loopback {
        // Whether it is somebody's is not said to who may have read it on the way.
        return Err(HttpProblem::new(
            StatusCode::FORBIDDEN,
            Error::UNAUTHENTICATED,
            "a token came over plain HTTP from beyond this machine, where anyone on the way reads it: replace this token, \
             and use https",
        ));
    }
    if !listener.guard.as_ref().is_some_and(|guard| guard.knows_token(&sha256)) {
        return Err(denied(
            "this token is no caller's: the policy's `callers.NAME.token-sha256` has to list it; make one with `fanout token`",
        ));
    }
    let certificate = match &peer.identity {
        Identity::Certificate(names) => Some(Arc::clone(names)),
        _ => None,
    };
    Ok(Identity::Token(Arc::new(TokenProof { sha256, certificate })))
}

fn shown(headers: &HeaderMap) -> Shown {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Shown::Nothing,
        (Some(value), None) => value.as_bytes(),
        (Some(_), Some(_)) => return Shown::Other,
    };
    let Some((scheme, token)) = value.split_at_checked(SCHEME.len()) else {
        return Shown::Other;
    };
    let token = token.trim_ascii();
    let is_token = scheme.eq_ignore_ascii_case(SCHEME.as_bytes())
        && value.get(SCHEME.len()) == Some(&b' ')
        && !token.is_empty()
        && token.iter().all(u8::is_ascii_graphic);
    match is_token {
        true => Shown::Token(Sha256::digest(token).into()),
        false => Shown::Other,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_token_is_one_word_after_bearer() {
        let shown_by = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
            }
            shown(&headers)
        };
        let token = Shown::Token(Sha256::digest(b"fanout_abc").into());
        assert_eq!(shown_by(&[]), Shown::Nothing);
        for good in ["Bearer fanout_abc", "bearer fanout_abc", "BEARER  fanout_abc "] {
            assert_eq!(shown_by(&[good]), token, "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearerfanout_abc",
            "Basic fanout_abc",
            "fanout_abc",
            "Bearer a b",
            "Bearer\tfanout_abc",
        ] {
            assert_eq!(shown_by(&[bad]), Shown::Other, "{bad}");
        }
        assert_eq!(shown_by(&["Bearer fanout_abc", "Bearer fanout_abc"]), Shown::Other);
    }
}
