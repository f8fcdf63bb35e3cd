//! What a caller over HTTP is answered that is not what it asked for: a problem (RFC 9457), and the one table of statuses.
//!
//! A status says whether a repeat can help. 4xx: the caller has to change something. 429 and 503: the same request can
//! succeed later, and `retry-after` says when; an event that is published again with its id is the same event.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fanout_plan::{Code, Problem};
use fanout_transport::HttpProblem;
use fanout_wit::types::{self as wit, InboxError, PublishError, SettleError, SubscribeError};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// The media type of a problem.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// When a repeat can help, where nobody says so: the store or another instance may be back by then.
const SOON_MS: u64 = 1_000;
/// The same where events have to expire first, or the operator to make room.
const ONCE_THERE_IS_ROOM_MS: u64 = 60_000;

/// A problem, and the status that it is answered with.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) document: Box<ProblemDocument>,
}

/// A problem, as RFC 9457 has it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct ProblemDocument {
    /// The page of the code, in the documentation.
    #[serde(rename = "type")]
    kind: String,
    /// The code in words.
    title: String,
    /// The status of the answer that this problem has, or would have.
    status: u16,
    /// What happened, to which tenant, subscription or member, and what to do.
    pub(super) detail: String,
    /// Stable: programs match it.
    pub(super) code: String,
    /// Milliseconds after which the same request can succeed; absent where a repeat can't help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retry_after_ms: Option<u64>,
    /// Of a request with many items: what came of each, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) results: Option<Vec<Value>>,
}

impl Refused {
    fn new(status: StatusCode, problem: wit::Problem, retry_after_ms: Option<u64>) -> Self {
        // What is said of any function, whichever of its errors it stands in.
        let (status, retry_after_ms) = match problem.code.as_str() {
            "unknown-caller" => (StatusCode::UNAUTHORIZED, None),
            "too-many-events" => (StatusCode::PAYLOAD_TOO_LARGE, None),
            "too-many-fetches" => (StatusCode::TOO_MANY_REQUESTS, Some(SOON_MS)),
            _ => (status, retry_after_ms),
        };
        Self {
            status,
            document: Box::new(ProblemDocument {
                kind: format!("/docs/errors/{}", problem.code),
                title: HttpProblem::title(&problem.code),
                status: status.as_u16(),
                detail: problem.message,
                code: problem.code,
                retry_after_ms,
                results: None,
            }),
        }
    }

    /// A request that is not what its path takes.
    pub(super) fn invalid_request(message: impl Into<String>) -> Self {
        Problem::new(Code::InvalidRequest, message).into()
    }

    pub(super) fn not_found(message: &str) -> Self {
        Problem::new(Code::NotFound, message).into()
    }

    pub(super) fn method_not_allowed() -> Self {
        let message = "this method does nothing here: the header `allow` lists those that do";
        Problem::new(Code::MethodNotAllowed, message).into()
    }

    /// A call that has no result. Each of the contract's can be made again as it was: a repeat can help, unless it would be
    /// as large, or as strange, again.
    pub(super) fn of_transport(error: &fanout_transport::Error) -> Self {
        use fanout_transport::Error;
        let (status, retry_after_ms) = match error {
            Error::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, None),
            Error::NoResponders | Error::Unsupported(_) | Error::Encode(_) | Error::Decode(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, None)
            }
            _ => (StatusCode::SERVICE_UNAVAILABLE, Some(SOON_MS)),
        };
        let problem = wit::Problem {
            code: error.code().to_owned(),
            message: fanout_transport::causes(error),
        };
        Self::new(status, problem, retry_after_ms)
    }

    /// Whether a repeat can help by itself.
    pub(super) fn can_be_repeated(&self) -> bool {
        self.document.retry_after_ms.is_some()
    }
}

/// The problems of HTTP itself, and what is found out before a function of the contract is called.
impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        let (status, retry_after_ms) = match problem.code {
            Code::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, None),
            Code::NotFound | Code::UnknownEvent => (StatusCode::NOT_FOUND, None),
            Code::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, None),
            Code::OriginNotAllowed
            | Code::NotLinked
            | Code::LinkRefused
            | Code::InterfaceNotLinked
            | Code::TenantNotPermitted
            | Code::EventTypeNotPermitted => (StatusCode::FORBIDDEN, None),
            Code::TooManyTails | Code::TooManyLookUps => (StatusCode::TOO_MANY_REQUESTS, Some(SOON_MS)),
            Code::UnknownPosition => (StatusCode::CONFLICT, None),
            Code::LimitExceeded | Code::InvalidPattern | Code::PatternMatchesNothing | Code::InvalidTenant => {
                (StatusCode::UNPROCESSABLE_ENTITY, None)
            }
            Code::BusNotReady
            | Code::BusMoved
            | Code::BusMigrating
            | Code::StoreUnavailable
            | Code::TopologyChanged
            | Code::SlowReader => (StatusCode::SERVICE_UNAVAILABLE, Some(SOON_MS)),
            _ => (StatusCode::BAD_REQUEST, None),
        };
        let problem = wit::Problem {
            code: problem.code.to_string(),
            message: problem.message,
        };
        Self::new(status, problem, retry_after_ms)
    }
}

impl From<PublishError> for Refused {
    fn from(e: PublishError) -> Self {
        match e {
            PublishError::InvalidEvent(p) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, p, None),
            PublishError::NotPermitted(p) => Self::new(StatusCode::FORBIDDEN, p, None),
            PublishError::TooLarge(p) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, p, None),
            PublishError::QuotaExceeded(r) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, r.problem, Some(r.retry_after_ms))
            }
            PublishError::StoreFull(p) => Self::new(StatusCode::SERVICE_UNAVAILABLE, p, Some(ONCE_THERE_IS_ROOM_MS)),
            PublishError::Unavailable(p) | PublishError::OutcomeUnknown(p) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, p, Some(SOON_MS))
            }
        }
    }
}

impl From<SubscribeError> for Refused {
    fn from(e: SubscribeError) -> Self {
        match e {
            SubscribeError::InvalidRequest(p) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, p, None),
            SubscribeError::NotPermitted(p) => Self::new(StatusCode::FORBIDDEN, p, None),
            SubscribeError::Conflict(p) => Self::new(StatusCode::CONFLICT, p, None),
            SubscribeError::UnknownSubscription(p) => Self::new(StatusCode::NOT_FOUND, p, None),
            SubscribeError::Unavailable(p) | SubscribeError::OutcomeUnknown(p) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, p, Some(SOON_MS))
            }
        }
    }
}

impl From<InboxError> for Refused {
    fn from(e: InboxError) -> Self {
        match e {
            InboxError::InvalidRequest(p) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, p, None),
            InboxError::NotPermitted(p) => Self::new(StatusCode::FORBIDDEN, p, None),
            InboxError::UnknownSubscription(p) => Self::new(StatusCode::NOT_FOUND, p, None),
            InboxError::Unavailable(p) => Self::new(StatusCode::SERVICE_UNAVAILABLE, p, Some(SOON_MS)),
        }
    }
}

impl From<SettleError> for Refused {
    fn from(e: SettleError) -> Self {
        match e {
            SettleError::InvalidToken(p) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, p, None),
            SettleError::LeaseExpired(p) => Self::new(StatusCode::CONFLICT, p, None),
            SettleError::NotPermitted(p) => Self::new(StatusCode::FORBIDDEN, p, None),
            SettleError::Unavailable(p) => {
                let again = if p.code == Code::StoreFull.as_str() {
                    ONCE_THERE_IS_ROOM_MS
                } else {
                    SOON_MS
                };
                Self::new(StatusCode::SERVICE_UNAVAILABLE, p, Some(again))
            }
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let retry_after_ms = self.document.retry_after_ms;
        let mut response = (self.status, Json(self.document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        // A cache may keep a 404 where nobody says so (RFC 9110, 15.1).
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(ms) = retry_after_ms {
            // Whole seconds, and not before a repeat can succeed.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).max(1)));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(code: &str) -> wit::Problem {
        wit::Problem {
            code: code.to_owned(),
            message: "what happened".to_owned(),
        }
    }

    fn check(problem: impl Into<Refused>, status: u16, retry_after: Option<&str>) {
        let problem: Refused = problem.into();
        let shown = format!("{problem:?}");
        assert_eq!(problem.document.status, status, "{shown}");
        let response = problem.into_response();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        assert_eq!(response.status(), status, "{shown}");
        assert_eq!(header(header::RETRY_AFTER), retry_after, "{shown}");
        assert_eq!(header(header::CONTENT_TYPE), Some(PROBLEM_JSON));
        assert_eq!(header(header::CACHE_CONTROL), Some("no-store"));
    }

    #[test]
    fn a_status_says_whether_a_repeat_can_help() {
        let quota = |ms| {
            PublishError::QuotaExceeded(wit::RefusalForNow {
                problem: problem("quota-exceeded"),
                retry_after_ms: ms,
            })
        };
        check(quota(0), 429, Some("1"));
        check(quota(1_001), 429, Some("2"));
        check(PublishError::InvalidEvent(problem("invalid-attribute")), 422, None);
        check(PublishError::NotPermitted(problem("tenant-not-permitted")), 403, None);
        check(PublishError::NotPermitted(problem("unknown-caller")), 401, None);
        check(PublishError::TooLarge(problem("event-too-large")), 413, None);
        check(PublishError::StoreFull(problem("store-full")), 503, Some("60"));
        check(PublishError::Unavailable(problem("store-unavailable")), 503, Some("1"));
        check(PublishError::OutcomeUnknown(problem("outcome-unknown")), 503, Some("1"));
        check(SubscribeError::Conflict(problem("subscription-conflict")), 409, None);
        check(
            SubscribeError::UnknownSubscription(problem("unknown-subscription")),
            404,
            None,
        );
        check(InboxError::Unavailable(problem("too-many-fetches")), 429, Some("1"));
        check(SettleError::LeaseExpired(problem("lease-expired")), 409, None);
        check(SettleError::Unavailable(problem("store-full")), 503, Some("60"));
        check(Problem::new(Code::InvalidRequest, ""), 400, None);
        check(Problem::new(Code::UnsupportedMediaType, ""), 415, None);
        check(Problem::new(Code::TooManyEvents, ""), 413, None);
        check(Refused::of_transport(&fanout_transport::Error::Leaving), 503, Some("1"));
        check(Refused::of_transport(&fanout_transport::Error::NoResponders), 500, None);
    }

    #[test]
    fn a_problem_is_one_of_rfc_9457() {
        let document = Refused::from(PublishError::NotPermitted(problem("tenant-not-permitted"))).document;
        expect_test::expect![[r#"{"type":"/docs/errors/tenant-not-permitted","title":"Tenant not permitted","status":403,"detail":"what happened","code":"tenant-not-permitted"}"#]]
            .assert_eq(&serde_json::to_string(&document).unwrap());
    }
}
