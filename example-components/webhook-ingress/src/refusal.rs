//! Why a webhook was not accepted, and what that means over HTTP.
//!
//! A sender that gets a 4xx may give the webhook up, and the endpoint with it. So a 4xx is for what the sender, or whoever
//! says to be it, has to change. What a holder of a key signed, and only these settings, this bus's policy or its state keep
//! from being an event, is asked for again with a 503: once the operator has acted, nothing is lost.
//!
//! | status | code | the sender |
//! |---|---|---|
//! | 400 | `repeated-header`, `malformed-header` and the like, `invalid-body`, `no-items`, `body-interrupted` | sent something malformed |
//! | 401 | `missing-header`, `no-supported-signature`, `signature-mismatch`, `stale-timestamp`, `future-timestamp` and the like | is not shown to be who it says, or too late |
//! | 403 | `tenant-not-allowed`, where the path or a header names the tenant | may not speak for this tenant |
//! | 404 | `not-found`, `unknown-source` | has the wrong address |
//! | 405 | `method-not-allowed` | must use POST |
//! | 413 | `body-too-large`, `too-many-items`, or the bus's own code | sent too much |
//! | 422 | `invalid-tenant` and the like for `event-type` and `event-id`, or the bus's own code | sent what never can be an event |
//! | 429 | the bus's own code; Retry-After | exceeded the tenant's quota |
//! | 500 | `invalid-config:KEY`, `config-unavailable` | is not at fault: the operator is |
//! | 503 | `no-tenant`, `no-event-type`, `no-event-id`, `evidence-too-large`, `tenant-not-allowed` where it is signed, the bus's own code where its policy refuses; Retry-After | is not at fault: the operator has to change a setting, and the sender should send it again |
//! | 503 | the bus's own code; Retry-After | should send it again |

use component_support::{
    answer::{self, Answer},
    body::BodyError,
};
use http::{Method, StatusCode};
use webhook_signature::RefusalKind;
use webhook_source::{Refusal as NoEvents, setting::InvalidSettings};

use crate::publish::{Problem, PublishError};

/// Why a webhook was not accepted. Its text is for the log, and holds no secret, signature or body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is nothing at this path.
    #[error("there is nothing at {path}")]
    NoSuchPath {
        /// The path.
        path: String,
    },
    /// Webhooks are posted.
    #[error("the method {method} is not allowed")]
    MethodNotAllowed {
        /// The method that was used.
        method: Method,
    },
    /// No source has this name.
    #[error("there is no source {name}")]
    UnknownSource {
        /// The name.
        name: String,
    },
    /// The source's settings are broken.
    #[error("the configuration is broken: {0}")]
    InvalidSettings(InvalidSettings),
    /// The settings can't be read.
    #[error("the configuration can't be read: {reason}")]
    SettingsUnavailable {
        /// Why.
        reason: String,
    },
    /// The body is longer than the source allows.
    #[error("the body is longer than {limit} bytes")]
    TooLarge {
        /// How long it may be.
        limit: usize,
    },
    /// The body did not come to its end.
    #[error("the body could not be read to its end")]
    Interrupted,
    /// It makes no events: it is forged, stale, malformed, or not allowed.
    #[error("{0}")]
    NoEvents(#[from] NoEvents),
    /// The bus gave no receipt.
    #[error("the bus did not accept the event: {}", .0.problem().message)]
    Publish(PublishError),
}

/// After how long to ask for an event again that the bus can't take now, in seconds.
const UNAVAILABLE_RETRY_S: u64 = 5;
/// Room comes when events expire or an operator acts: not within seconds.
const STORE_FULL_RETRY_S: u64 = 60;
/// A person has to change a setting.
const SETTINGS_RETRY_S: u64 = 60;
/// The event is likely stored, and sending it again is how the sender learns of it.
const OUTCOME_UNKNOWN_RETRY_S: u64 = 1;

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { limit } => Self::TooLarge { limit },
            _ => Self::Interrupted,
        }
    }
}

impl Refusal {
    /// What it means over HTTP.
    pub fn answer(&self) -> Answer {
        let problem = |status, code: &str| answer::problem(status, code, &self.to_string());
        match self {
            Self::NoSuchPath { path } => answer::not_found(path),
            Self::MethodNotAllowed { method } => answer::method_not_allowed(method, "POST"),
            Self::UnknownSource { .. } => problem(StatusCode::NOT_FOUND, "unknown-source"),
            Self::InvalidSettings(settings) => broken(settings),
            Self::SettingsUnavailable { .. } => problem(StatusCode::INTERNAL_SERVER_ERROR, "config-unavailable"),
            Self::TooLarge { .. } => problem(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large"),
            Self::Interrupted => problem(StatusCode::BAD_REQUEST, "body-interrupted"),
            Self::NoEvents(refusal) => match status(refusal) {
                StatusCode::SERVICE_UNAVAILABLE => answer::problem_for_now(
                    StatusCode::SERVICE_UNAVAILABLE,
                    refusal.code(),
                    &self.to_string(),
                    SETTINGS_RETRY_S,
                ),
                status => problem(status, refusal.code()),
            },
            Self::Publish(error) => not_published(error),
        }
    }

    /// True when whoever posted it was not shown to hold a key: anybody can cause it, as often as they like.
    pub fn is_of_a_stranger(&self) -> bool {
        match self {
            Self::NoEvents(NoEvents::Signature(_)) => true,
            Self::NoEvents(_) | Self::Publish(_) => false,
            _ => true,
        }
    }

    /// True when the operator has to act, rather than the sender.
    pub fn concerns_operator(&self) -> bool {
        self.answer().status().is_server_error()
    }
}

/// The sender is told which settings are broken, not how: that is for the operator's log.
fn broken(settings: &InvalidSettings) -> Answer {
    let keys: Vec<_> = settings.problems().iter().map(|problem| problem.key.as_str()).collect();
    let code = format!("invalid-config:{}", keys.first().unwrap_or(&"source"));
    let message = format!("the configuration of this source is broken: {}", keys.join(", "));
    answer::problem(StatusCode::INTERNAL_SERVER_ERROR, &code, &message)
}

fn status(refusal: &NoEvents) -> StatusCode {
    match refusal {
        NoEvents::Signature(refusal) => match refusal.kind() {
            RefusalKind::Malformed => StatusCode::BAD_REQUEST,
            RefusalKind::Unproven | RefusalKind::OutOfTime => StatusCode::UNAUTHORIZED,
        },
        NoEvents::Malformed { .. } | NoEvents::NoItems { .. } => StatusCode::BAD_REQUEST,
        // Whoever posts it chose the tenant.
        NoEvents::TenantNotAllowed { signed: false, .. } => StatusCode::FORBIDDEN,
        NoEvents::TooManyItems { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        NoEvents::Illegal { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        // It is signed, and these settings have no place for it.
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn not_published(error: &PublishError) -> Answer {
    let Problem { code, message } = error.problem();
    let never = |status| answer::problem(status, code, message);
    let later = |status, retry_after_s| answer::problem_for_now(status, code, message, retry_after_s);
    match error {
        PublishError::InvalidEvent(_) => never(StatusCode::UNPROCESSABLE_ENTITY),
        // The bus's policy does not let this component publish what a holder of a key signed.
        PublishError::NotPermitted(_) => later(StatusCode::SERVICE_UNAVAILABLE, SETTINGS_RETRY_S),
        PublishError::TooLarge(_) => never(StatusCode::PAYLOAD_TOO_LARGE),
        PublishError::QuotaExceeded { retry_after_ms, .. } => {
            later(StatusCode::TOO_MANY_REQUESTS, retry_after_ms.div_ceil(1000).max(1))
        }
        PublishError::StoreFull(_) => later(StatusCode::SERVICE_UNAVAILABLE, STORE_FULL_RETRY_S),
        PublishError::Unavailable(_) => later(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE_RETRY_S),
        PublishError::OutcomeUnknown(_) => later(StatusCode::SERVICE_UNAVAILABLE, OUTCOME_UNKNOWN_RETRY_S),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(refusal: &Refusal, status: u16, code: &str, retry_after: Option<&str>) {
        let answer = refusal.answer();
        let body = String::from_utf8(answer.body().clone()).unwrap();
        assert_eq!(answer.status(), status, "{refusal:?}");
        assert!(body.starts_with(&format!(r#"{{"code":"{code}","message":"#)), "{body}");
        let header = answer.headers().get("retry-after").map(|value| value.to_str().unwrap());
        assert_eq!(header, retry_after, "{refusal:?}");
        assert_eq!(refusal.concerns_operator(), status >= 500, "{refusal:?}");
    }

    #[test]
    fn what_the_bus_says_tells_the_sender_whether_to_send_again() {
        let problem = || Problem {
            code: "some-code".to_owned(),
            message: "m".to_owned(),
        };
        let quota = |retry_after_ms| PublishError::QuotaExceeded {
            problem: problem(),
            retry_after_ms,
        };
        for (error, status, retry_after) in [
            (PublishError::InvalidEvent(problem()), 422, None),
            (PublishError::NotPermitted(problem()), 503, Some("60")),
            (PublishError::TooLarge(problem()), 413, None),
            (quota(0), 429, Some("1")),
            (quota(1_000), 429, Some("1")),
            (quota(1_001), 429, Some("2")),
            (quota(u64::MAX), 429, Some("18446744073709552")),
            (PublishError::StoreFull(problem()), 503, Some("60")),
            (PublishError::Unavailable(problem()), 503, Some("5")),
            (PublishError::OutcomeUnknown(problem()), 503, Some("1")),
        ] {
            check(&Refusal::Publish(error), status, "some-code", retry_after);
        }
    }

    #[test]
    fn a_webhook_is_malformed_or_unproven_or_no_event() {
        use webhook_signature::Refusal::*;
        let place = || "path".parse().unwrap();
        let part = String::new();
        for (refusal, status) in [
            (NoEvents::Signature(RepeatedHeader { header: "h" }), 400),
            (NoEvents::Signature(MissingHeader { header: "h" }), 401),
            (NoEvents::Signature(SignatureMismatch), 401),
            (
                NoEvents::Signature(Stale {
                    age_s: 301,
                    tolerance_s: 300,
                }),
                401,
            ),
            (NoEvents::Malformed { error: "e".to_owned() }, 400),
            (
                NoEvents::NoItems {
                    items: "/events/*".to_owned(),
                    index: Some(1),
                },
                400,
            ),
            (NoEvents::TooManyItems { count: 1_001 }, 413),
            (NoEvents::EvidenceTooLarge { limit: 1 }, 503),
            (
                NoEvents::NotFound {
                    what: "tenant",
                    place: place(),
                    part: part.clone(),
                },
                503,
            ),
            (
                NoEvents::Illegal {
                    what: "event-type",
                    place: place(),
                    part,
                    rule: "r",
                },
                422,
            ),
            (
                NoEvents::TenantNotAllowed {
                    name: "s".to_owned(),
                    tenant: "t".to_owned(),
                    signed: false,
                },
                403,
            ),
            (
                NoEvents::TenantNotAllowed {
                    name: "s".to_owned(),
                    tenant: "t".to_owned(),
                    signed: true,
                },
                503,
            ),
        ] {
            let code = refusal.code();
            let retry_after = (status == 503).then_some("60");
            check(&Refusal::NoEvents(refusal), status, code, retry_after);
        }
    }

    #[test]
    fn the_rest_has_a_status_and_a_code() {
        check(&Refusal::NoSuchPath { path: "/".to_owned() }, 404, "not-found", None);
        check(
            &Refusal::MethodNotAllowed { method: Method::GET },
            405,
            "method-not-allowed",
            None,
        );
        check(
            &Refusal::UnknownSource { name: "s".to_owned() },
            404,
            "unknown-source",
            None,
        );
        check(
            &Refusal::SettingsUnavailable { reason: "r".to_owned() },
            500,
            "config-unavailable",
            None,
        );
        check(&Refusal::TooLarge { limit: 1 }, 413, "body-too-large", None);
        check(&Refusal::Interrupted, 400, "body-interrupted", None);
    }
}
