//! One request and its response: what a request has to be, who sends it, and what answers it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, TRANSFER_ENCODING, WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use crate::failure::too_large;
use crate::functions::Answer;
use crate::http::activity::Activity;
use crate::http::answer::{AnswerBody, answer, whole};
use crate::http::authenticate::identify;
use crate::http::calls::Calls;
use crate::http::headers;
use crate::http::invocation;
use crate::http::problem::HttpProblem;
use crate::http::request_body::RequestBody;
use crate::http::router::ResponseBody;
use crate::http::target::Target;
use crate::result_budget::ResultPermits;
use crate::stream::listener_state::{LAST_WORDS, ListenerState};
use crate::stream::peer::Peer;
use crate::{Body, Caller, Error, Identity, Outcome, Resource};

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// Of a request's head, its path included. hyper reads somewhat more, so that there is a request to answer.
pub(crate) const MAX_HEAD_BYTES: usize = 8 << 10;
/// Of a request.
pub(crate) const MAX_HEADERS: usize = 100;
/// `: ` and the end of a line.
const HEADER_BYTES: usize = 4;
/// The code of a request that a browser sends for a page that may not.
const ORIGIN_NOT_ALLOWED: &str = "origin-not-allowed";
/// How whoever is answered with 401 says who it is.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"fanout\"");

/// What answers the requests of one connection.
pub(crate) struct Responder {
    pub(crate) listener: Arc<ListenerState>,
    pub(crate) peer: Peer,
    pub(crate) activity: Arc<Activity>,
    /// The connection takes no more requests.
    pub(crate) leaving: CancellationToken,
}

/// What is made of a request, before it is a response.
type Made = (Response<ResponseBody>, Option<Calls>, ResultPermits);

impl Responder {
    /// Answers one request.
    pub(crate) async fn respond(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        self.activity.request();
        let (parts, body) = request.into_parts();
        let beside = self.listener.http.as_ref().map(|http| http.beside(&parts.headers));
        // hyper goes by Transfer-Encoding where there is a Content-Length too, and does not tell. RFC 9112, 6.1 lets a server do
        // that if it closes the connection behind its response: what someone on the way takes for a second request is none here.
        let mut last = parts.headers.contains_key(TRANSFER_ENCODING);
        let made = match self.admit(&parts) {
            Ok((target, calls)) => self.make(target, calls, parts, body).await,
            Err(problem) => {
                let refused = &self.listener.tallies.faults;
                refused.count(|| format!("of {}: a request was refused: {problem}", self.peer.identity));
                last = true;
                (whole(problem.into_response()), None, ResultPermits::default())
            }
        };
        let (mut response, calls, permits) = made;
        let is_unauthorized = response.status() == StatusCode::UNAUTHORIZED;
        let headers = response.headers_mut();
        if is_unauthorized {
            headers.insert(WWW_AUTHENTICATE, CHALLENGE);
        }
        for (name, value) in beside.into_iter().flatten() {
            headers.append(name, value);
        }
        if last || self.leaving.is_cancelled() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer(response, &self.activity, calls, permits)
    }

    /// What a request is for and whose it is, by its head alone.
    fn admit(&self, parts: &Parts) -> Result<(Target, Calls), HttpProblem> {
        let listener = &self.listener;
        check(&parts.uri, &parts.headers, parts.version)?;
        if self.leaving.is_cancelled() {
            return Err(HttpProblem::from(&Error::Leaving));
        }
        let target = Target::of(&parts.method, &parts.uri);
        // A browser sends it for a page, which would call with the rights of whoever sits at this machine. Routes judge pages
        // by themselves.
        if target != Target::Route && parts.headers.contains_key(ORIGIN) {
            return Err(HttpProblem::new(
                StatusCode::FORBIDDEN,
                ORIGIN_NOT_ALLOWED,
                "pages of a browser make no invocations: leave the header `Origin` out",
            ));
        }
        let is_open = target == Target::Route
            && listener
                .http
                .as_ref()
                .is_some_and(|http| http.is_open(&parts.method, &parts.uri));
        let identity = match is_open {
            true => Identity::Nobody,
            false => identify(listener, &self.peer, &parts.headers)?,
        };
        let peer = match &identity {
            Identity::Token(_) => self.peer.known_by_call(identity.clone()),
            _ => self.peer.clone(),
        };
        if !is_open {
            peer.begin();
            self.activity.known();
        }
        let limit = listener.options.limits.max_body_bytes;
        if let Some(bytes) = content_length(&parts.headers).filter(|&bytes| bytes > limit) {
            return Err(HttpProblem::from(&too_large(Body::Parameters, bytes, limit)));
        }
        let caller = headers::of_call(&parts.headers, Caller::known_as(identity));
        let deadline_ms = headers::deadline_ms(&parts.headers);
        let calls = Calls::begin(listener, peer, caller, deadline_ms, self.leaving.clone());
        let calls = calls.ok_or_else(|| HttpProblem::from(&Error::Busy(Resource::Target)))?;
        Ok((target, calls))
    }

    async fn make(&self, target: Target, calls: Calls, parts: Parts, body: Incoming) -> Made {
        let is_stock = target == Target::Stock;
        let called = match target {
            Target::Function { instance, func } => {
                let body = RequestBody::new(body, calls.clone());
                invocation::of_function(&calls, (&instance, &func), body).await
            }
            Target::Stock => invocation::of_stock(&calls, body).await,
            Target::Ping => {
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::NO_CONTENT;
                let headers = response.headers_mut();
                headers.insert(ALLOW, HeaderValue::from_static("OPTIONS, POST"));
                return (whole(response), Some(calls), ResultPermits::default());
            }
            Target::Route => return self.route(calls, parts, body).await,
        };
        match called {
            Ok(Answer { body, permits }) => (whole(of_result(body)), Some(calls), permits),
            Err(error) => {
                let problem = calls.fault().unwrap_or_else(|| HttpProblem::from(&error));
                let problem = match is_stock && problem.status() == StatusCode::BAD_REQUEST {
                    true => {
                        problem.hint("`POST /` takes an invocation of wRPC, and everything else has a path of its own")
                    }
                    false => problem,
                };
                (whole(problem.into_response()), Some(calls), ResultPermits::default())
            }
        }
    }

    /// The answer of the service's own routes.
    async fn route(&self, calls: Calls, parts: Parts, body: Incoming) -> Made {
        let failed = |calls, problem: HttpProblem| {
            let response = whole(problem.into_response());
            (response, Some(calls), ResultPermits::default())
        };
        let Some(http) = &self.listener.http else {
            return failed(calls, HttpProblem::from(&Error::NoResponders));
        };
        let mut request = Request::from_parts(parts, RequestBody::new(body, calls.clone()));
        request.extensions_mut().insert(calls.clone());
        // Its calls have deadlines of their own, from when they begin: this one is for a route that hangs.
        let limit = calls.deadline() + self.listener.options.limits.serve_deadline + LAST_WORDS;
        let answer = AssertUnwindSafe(http.answer(request)).catch_unwind();
        let response = match timeout_at(limit, answer).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => {
                let panicked = Error::Remote("the route of this request panicked".to_owned());
                return failed(calls, HttpProblem::from(&panicked));
            }
            Err(_) => {
                let late = HttpProblem::new(
                    StatusCode::GATEWAY_TIMEOUT,
                    "call-deadline",
                    "the route of this request did not answer in time",
                );
                return failed(calls, late.with_outcome(Outcome::Unknown));
            }
        };
        match calls.fault() {
            Some(problem) => failed(calls, problem),
            None => (response, Some(calls), ResultPermits::default()),
        }
    }
}

fn of_result(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, OCTETS);
    response
}

/// What every request has to be.
fn check(uri: &Uri, headers: &HeaderMap, version: Version) -> Result<(), HttpProblem> {
    let protocol = |status, why: &str| Err(HttpProblem::new(status, Error::Protocol("").code(), why));
    if version != Version::HTTP_11 {
        return protocol(
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            "HTTP/1.1 is spoken here, and no other version",
        );
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if !host.is_empty() => {}
        _ => {
            return protocol(
                StatusCode::BAD_REQUEST,
                "a request has one header `Host`, which is not empty: send it once, with the host that is called",
            );
        }
    }
    let bytes = headers.iter().fold(uri.path().len(), |bytes, (name, value)| {
        bytes + name.as_str().len() + value.len() + HEADER_BYTES
    });
    let bytes = bytes + uri.query().map_or(0, str::len);
    match bytes > MAX_HEAD_BYTES || headers.len() > MAX_HEADERS {
        true => protocol(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the head of a request has at most 8 KiB and 100 headers: send fewer, shorter ones, and a shorter path",
        ),
        false => Ok(()),
    }
}

/// What a request announces of its body. One that is no number of this machine is refused by hyper.
fn content_length(headers: &HeaderMap) -> Option<usize> {
    let text = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    Some(text.trim().parse().unwrap_or(usize::MAX))
}
