//! Which pages a browser may send requests for.
//!
//! A page of another site can have a browser send a request, and on a listener that knows its callers by the loopback alone
//! that request would have the rights of whoever sits there. So a request that a browser sends for a page (`origin`) is
//! refused before anything is done unless the operator lists the page's origin; and a caller that is known by the loopback
//! has to address this machine by a name that is its own, which a page that has its name point here can't
//! (DNS rebinding).
//!
//! What a listed page may read is said of every answer, whoever makes it ([`Origins::beside`]).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use fanout_plan::{Code, Problem};
use fanout_transport::{Calls, Identity};

use super::problem::Refused;

/// How long a browser may remember what it was allowed, in seconds.
const REMEMBERED_SECONDS: u32 = 600;
/// What requests of pages may use.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, PUT, POST, DELETE");
/// What pages may read of answers, besides what they always may.
const EXPOSED: HeaderValue = HeaderValue::from_static("allow, retry-after, www-authenticate");

/// The origins of pages that may send requests: a setting of the instance, which is read again while it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins(Arc<RwLock<BTreeSet<String>>>);

impl Origins {
    /// These, and no others any more.
    pub(crate) fn set(&self, origins: &[String]) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = origins.iter().cloned().collect();
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let allowed = self.0.read().unwrap_or_else(PoisonError::into_inner);
        origin.to_str().is_ok_and(|origin| allowed.contains(origin))
    }

    fn are_none(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// What the answer to a request with these headers says of who may read it, be it the answer of a route, or of the
    /// transport before one.
    pub(crate) fn beside(&self, request: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        if self.are_none() {
            return Vec::new();
        }
        let mut said = vec![(header::VARY, HeaderValue::from_static("origin"))];
        if let Some(origin) = page(request).filter(|origin| self.allows(origin)) {
            said.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()));
            said.push((header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED));
        }
        said
    }
}

/// The page that a request is sent for, if it is one.
fn page(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut pages = headers.get_all(header::ORIGIN).iter();
    pages.next().filter(|_| pages.next().is_none())
}

/// Judges a request by the page that it is sent for, before anything else is made of it.
pub(super) async fn guard(State(origins): State<Origins>, request: Request, next: Next) -> Response {
    match judge(&origins, &request) {
        Some(problem) => Refused::from(problem).into_response(),
        None if is_preflight(&request) => preflight(request.headers()),
        None => next.run(request).await,
    }
}

fn judge(origins: &Origins, request: &Request) -> Option<Problem> {
    let refuse = |message: String| Some(Problem::new(Code::OriginNotAllowed, message));
    if let Some(origin) = request.headers().get(header::ORIGIN)
        && !page(request.headers()).is_some_and(|page| origins.allows(page))
    {
        let shown: String = origin.to_str().unwrap_or("?").chars().take(128).collect();
        return refuse(format!(
            "pages of {shown:?} may send nothing here: add the origin to the setting `http.allowed-origins`"
        ));
    }
    let calls = request.extensions().get::<Calls>();
    let by_loopback = calls.is_some_and(|calls| calls.caller().identity == Identity::Loopback);
    let host = host(request);
    if by_loopback && !host.as_deref().is_none_or(is_this_machine) {
        return refuse(format!(
            "a caller that is known by the loopback alone addressed {:?}: use `localhost`, `127.0.0.1` or `[::1]`",
            host.unwrap_or_default()
        ));
    }
    None
}

/// The host that a request addresses, without its port. Empty for what is none.
fn host(request: &Request) -> Option<String> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.host().to_owned());
    }
    let host = request.headers().get(header::HOST)?;
    let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    Some(authority.map_or_else(String::new, |authority| authority.host().to_owned()))
}

fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

fn is_preflight(request: &Request) -> bool {
    let asks = |name| request.headers().contains_key(name);
    request.method() == Method::OPTIONS && asks(header::ORIGIN) && asks(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// What a page of an allowed origin may send: any of our methods, and the headers that it asks for. Credentials that a browser
/// holds by itself are none of ours, so they are not allowed.
fn preflight(asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    if let Some(wanted) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, REMEMBERED_SECONDS.into());
    response
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower_service::Service as _;

    use super::*;

    const PAGE: &str = "https://console.example.com";

    async fn check(allowed: &[&str], method: Method, headers: &[(&str, &str)]) -> (u16, HeaderMap) {
        let origins = Origins::default();
        origins.set(&allowed.iter().map(|&origin| origin.to_owned()).collect::<Vec<_>>());
        let mut router: Router = Router::new()
            .route("/", get(|| async { "here" }))
            .layer(from_fn_with_state(origins.clone(), guard));
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let beside = origins.beside(request.headers());
        let mut response = router.call(request).await.unwrap();
        for (name, value) in beside {
            response.headers_mut().append(name, value);
        }
        (response.status().as_u16(), response.headers().clone())
    }

    #[tokio::test]
    async fn a_page_is_allowed_by_its_origin_and_by_nothing_else() {
        let (status, headers) = check(&[], Method::GET, &[]).await;
        assert_eq!((status, headers.get("vary")), (200, None));
        for other in [
            "https://evil.example",
            "null",
            "*",
            "https://console.example.com.evil.example",
            "HTTPS://console.example.com",
        ] {
            for allowed in [&[][..], &[PAGE]] {
                let (status, headers) = check(allowed, Method::GET, &[("origin", other)]).await;
                assert_eq!(status, 403, "{other}");
                assert_eq!(headers.get("access-control-allow-origin"), None, "{other}");
            }
        }
        let (status, headers) = check(&[PAGE], Method::GET, &[("origin", PAGE)]).await;
        assert_eq!(status, 200);
        assert_eq!(headers["access-control-allow-origin"], PAGE);
        assert_eq!(headers["vary"], "origin");
        assert_eq!(headers.get("access-control-allow-credentials"), None);
        let (_, headers) = check(&[PAGE], Method::GET, &[]).await;
        assert_eq!(headers["vary"], "origin", "what is cached is of no page");
        let two = [("origin", PAGE), ("origin", "https://evil.example")];
        assert_eq!(check(&[PAGE], Method::GET, &two).await.0, 403);
    }

    #[tokio::test]
    async fn a_page_may_ask_first() {
        let ask = |origin| {
            [
                ("origin", origin),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "authorization,ce-id"),
            ]
        };
        let (status, headers) = check(&[PAGE], Method::OPTIONS, &ask(PAGE)).await;
        assert_eq!(status, 204);
        assert_eq!(headers["access-control-allow-origin"], PAGE);
        assert_eq!(headers["access-control-allow-headers"], "authorization,ce-id");
        assert_eq!(
            check(&[PAGE], Method::OPTIONS, &ask("https://evil.example")).await.0,
            403
        );
        assert_eq!(check(&[PAGE], Method::OPTIONS, &[]).await.0, 405, "no page asks");
    }

    #[test]
    fn this_machine_has_names_of_its_own() {
        for mine in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.8.7", "[::1]"] {
            assert!(is_this_machine(mine), "{mine}");
        }
        for other in [
            "",
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::]",
            "127.0.0.1.evil.example",
        ] {
            assert!(!is_this_machine(other), "{other}");
        }
    }
}
