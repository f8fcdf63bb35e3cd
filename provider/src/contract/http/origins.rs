//! Which pages a browser may send requests for.
//!
//! A page of another site can have a browser send a request, and on a listener that knows its callers by the loopback alone
//! that request would have the rights of whoever sits there. So a request that a browser sends for a page (`origin`, and
//! `sec-fetch-site` where a browser sends no `origin`, as for an image) is refused before anything is done unless the operator
//! lists the page's origin; and a caller that is known by the loopback has to address this machine by a name that is its own,
//! which a page that has its name point here can't (DNS rebinding).
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
/// In which a browser says for whose page it sends a request. No page can set it (Fetch Metadata).
const SITE: &str = "sec-fetch-site";
/// Its values for requests that no page of another origin has sent: of a page of this one, and of whoever sits there.
const OWN_SITES: [&str; 2] = ["same-origin", "none"];

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
    let mut sites = request.headers().get_all(SITE).iter();
    let is_own = |site: &HeaderValue| OWN_SITES.iter().any(|own| site == own);
    if page(request.headers()).is_none() && !sites.all(is_own) {
        return refuse(
            "a browser sent this for a page of another origin and does not say which: list the page's origin in the setting `http.allowed-origins`, and have the page send a request with `origin`, as `fetch` does"
                .to_owned(),
        );
    }
    let calls = request.extensions().get::<Calls>();
    let by_loopback = calls.is_some_and(|calls| calls.caller().identity == Identity::Loopback);
    for addressed in addressed(request) {
        if addressed.contains('@') {
            return Some(Problem::new(
                Code::InvalidRequest,
                "the request addresses a user at a host: send the host and its port alone, in the target and in `Host`",
            ));
        }
        let authority = addressed.parse::<Authority>().ok();
        let host = authority.as_ref().map_or("", Authority::host);
        if by_loopback && !is_this_machine(host) {
            return refuse(format!(
                "a caller that is known by the loopback alone addressed {host:?}: use `localhost`, `127.0.0.1` or `[::1]`"
            ));
        }
    }
    None
}

/// What a request addresses, in its target and in each `Host`: whoever stands between may go by either. Empty for what is no text.
fn addressed(request: &Request) -> impl Iterator<Item = &str> {
    let target = request.uri().authority().map(Authority::as_str);
    let hosts = request.headers().get_all(header::HOST).iter();
    target
        .into_iter()
        .chain(hosts.map(|host| host.to_str().unwrap_or_default()))
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

    #[tokio::test]
    async fn what_a_browser_sends_for_another_site_is_refused_without_an_origin_too() {
        let of_site = async |site: &'static str| check(&[PAGE], Method::GET, &[(SITE, site)]).await.0;
        for own in OWN_SITES {
            assert_eq!(of_site(own).await, 200, "{own}");
        }
        for other in ["cross-site", "same-site", "", "None", "none, cross-site"] {
            assert_eq!(of_site(other).await, 403, "{other}");
        }
        let two = [(SITE, "none"), (SITE, "cross-site")];
        assert_eq!(check(&[PAGE], Method::GET, &two).await.0, 403);
        let listed = [("origin", PAGE), (SITE, "cross-site")];
        assert_eq!(check(&[PAGE], Method::GET, &listed).await.0, 200);
        assert_eq!(check(&[], Method::GET, &listed).await.0, 403);
    }

    #[tokio::test]
    async fn a_host_has_no_user() {
        for (host, status) in [
            ("evil.example@127.0.0.1", 400),
            ("evil.example:80@localhost", 400),
            ("@localhost", 400),
            ("localhost", 200),
            ("bus.example.com:443", 200),
        ] {
            assert_eq!(check(&[], Method::GET, &[("host", host)]).await.0, status, "{host}");
        }
    }

    #[test]
    fn the_target_and_every_host_are_judged() {
        let request = Request::builder()
            .uri("http://127.0.0.1:7780/v1/status")
            .header("host", "evil.example")
            .body(Body::empty())
            .unwrap();
        assert_eq!(
            addressed(&request).collect::<Vec<_>>(),
            ["127.0.0.1:7780", "evil.example"]
        );
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
