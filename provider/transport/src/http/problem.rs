//! Why a request has no result, as a response (RFC 9457).

use std::fmt;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::{Deserialize, Serialize};

use crate::failure::one_line;
use crate::{Body, Error, Outcome};

/// The media type of a problem.
const PROBLEM_JSON: &str = "application/problem+json";
/// When a caller that found no permit may come again.
const BUSY_SECONDS: u32 = 1;

/// Why a request has no result: a status, a stable code with its page in `docs/errors/`, a sentence, and what is known of the
/// handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProblem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    outcome: Outcome,
    retry_after: Option<u32>,
    limit: Option<usize>,
}

/// A problem as it is written.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Written {
    /// The page of the code.
    #[serde(rename = "type")]
    pub(crate) page: String,
    pub(crate) title: String,
    pub(crate) status: u16,
    pub(crate) detail: String,
    pub(crate) code: String,
    /// `not-started`, `unknown` or `failed`.
    pub(crate) outcome: String,
    /// When a repeat can succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after_ms: Option<u64>,
    /// Bytes that a body may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<usize>,
}

impl HttpProblem {
    /// A problem whose request was not begun.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            outcome: Outcome::NotStarted,
            retry_after: None,
            limit: None,
        }
    }

    /// What is known of the handler.
    #[must_use]
    pub fn with_outcome(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }

    /// With more of what to do.
    pub(crate) fn hint(self, hint: &str) -> Self {
        Self {
            detail: format!("{}: {hint}", self.detail),
            ..self
        }
    }

    /// When the caller may come again, in seconds from now.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }

    /// A code in words: `Quota exceeded` for `quota-exceeded`.
    #[must_use]
    pub fn title(code: &str) -> String {
        let words = code.replace('-', " ");
        let (first, rest) = words.split_at(words.len().min(1));
        format!("{}{rest}", first.to_uppercase())
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The response, with `application/problem+json`.
    #[must_use]
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let (status, retry_after) = (self.status, self.retry_after);
        // Texts and numbers alone: nothing of it can fail to be written.
        let body = serde_json::to_vec(&self.written()).unwrap_or_default();
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }

    /// The last response of a connection, where nobody else writes it.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let status = self.status;
        let body = serde_json::to_vec(&self.written()).unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), &body].concat()
    }

    fn written(self) -> Written {
        Written {
            page: format!("/docs/errors/{}", self.code),
            title: Self::title(self.code),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code.to_owned(),
            outcome: name_of(self.outcome).to_owned(),
            retry_after_ms: self.retry_after.map(|seconds| u64::from(seconds) * 1_000),
            limit: self.limit,
        }
    }
}

/// The answer to a call that ended in this error.
impl From<&Error> for HttpProblem {
    fn from(error: &Error) -> Self {
        let status = match error {
            Error::NoResponders => StatusCode::NOT_FOUND,
            Error::TooLarge {
                body: Body::Parameters, ..
            } => StatusCode::PAYLOAD_TOO_LARGE,
            Error::Busy(_) | Error::NoMemory | Error::Leaving => StatusCode::SERVICE_UNAVAILABLE,
            Error::Protocol(_) | Error::Unsupported(_) | Error::Decode(_) => StatusCode::BAD_REQUEST,
            Error::Deadline { .. } => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let detail = match error {
            // Its own sentence is for those who call it from elsewhere.
            Error::Remote(reason) => reason.clone(),
            error => error.to_string(),
        };
        Self {
            code: error.code(),
            detail: one_line(String::new(), &detail),
            outcome: match status {
                // A request that can't be read was not begun.
                StatusCode::BAD_REQUEST => Outcome::NotStarted,
                _ => error.outcome(),
            },
            retry_after: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(BUSY_SECONDS),
            limit: match error {
                Error::TooLarge { limit, .. } => Some(*limit),
                _ => None,
            },
            status,
        }
    }
}

impl fmt::Display for HttpProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.detail, self.code)
    }
}

fn name_of(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotStarted => "not-started",
        Outcome::Unknown => "unknown",
        Outcome::Failed => "failed",
    }
}
