//! What an answer of HTTP says of its call: as `fanout-transport`'s own client reads it.

use std::time::Duration;

use serde::Deserialize;

use crate::types::Problem;

/// The longest wait that a bus may name.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What went wrong, with its stable code.
    pub problem: Problem,
    /// The bus may have done what was asked.
    pub may_have_run: bool,
    /// The same call can succeed later.
    pub can_be_repeated: bool,
    /// When the bus takes such calls again, as it says.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// Nothing was sent, or what was sent was not taken: a repeat can help.
    pub fn not_started(code: &str, message: impl Into<String>) -> Self {
        Self::new(code, message, false)
    }

    /// Nobody knows what the bus did: a repeat can help.
    pub fn unknown(code: &str, message: impl Into<String>) -> Self {
        Self::new(code, message, true)
    }

    /// Somebody has to change something first.
    #[must_use]
    pub fn for_good(self) -> Self {
        Self {
            can_be_repeated: false,
            ..self
        }
    }

    fn new(code: &str, message: impl Into<String>, may_have_run: bool) -> Self {
        let message = message.into();
        Self {
            problem: Problem {
                code: code.to_owned(),
                message: format!(
                    "the bus can't be reached: {message}: see that it runs, and that FANOUT_URL and FANOUT_TOKEN are right here"
                ),
            },
            may_have_run,
            can_be_repeated: true,
            retry_after: None,
        }
    }
}

/// An answer that is read.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// `content-type`.
    pub content_type: String,
    /// `retry-after`.
    pub retry_after: String,
    /// All of the body.
    pub body: Vec<u8>,
}

/// A problem as it is written (RFC 9457).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Written {
    detail: String,
    code: String,
    outcome: String,
}

impl Answer {
    /// The result of the call, encoded.
    ///
    /// # Errors
    /// What a status other than 200 means.
    pub fn result(self) -> Result<Vec<u8>, Failure> {
        if self.status == 200 {
            return Ok(self.body);
        }
        let is_problem = self.content_type.starts_with("application/problem+json");
        let written = is_problem.then(|| serde_json::from_slice::<Written>(&self.body).ok());
        let Written { detail, code, outcome } = written.flatten().unwrap_or_default();
        let status = self.status;
        let detail = match detail.is_empty() {
            true => format!("it answers with HTTP status {status}"),
            false => detail,
        };
        let failure = match (status, code.as_str()) {
            (_, "server-leaving" | "nobody-serves") => Failure::not_started(&code, detail),
            (_, "call-failed") => Failure::unknown(&code, detail),
            (503, _) if outcome == "unknown" => Failure::unknown("too-busy", detail),
            (429 | 503, _) => Failure::not_started("too-busy", detail),
            (413, _) => Failure::not_started("body-too-large", detail).for_good(),
            (401 | 403 | 404, _) => Failure::not_started("peer-refused", detail),
            // Of what is between here and there, it is not known what it did.
            (500.., "") => Failure::unknown("connection-lost", detail),
            _ => Failure::unknown("call-failed", detail),
        };
        let seconds = self.retry_after.trim().parse().ok().map(Duration::from_secs);
        Err(Failure {
            retry_after: seconds.map(|wait| wait.min(LONGEST_RETRY_AFTER)),
            ..failure
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, code: &str, outcome: &str) -> (String, bool, bool) {
        let answer = Answer {
            status,
            content_type: "application/problem+json".to_owned(),
            body: format!(r#"{{"detail":"why","code":"{code}","outcome":"{outcome}","more":1}}"#).into_bytes(),
            ..Answer::default()
        };
        let failure = answer.result().expect_err("no result");
        assert!(failure.problem.message.contains("why"));
        (failure.problem.code, failure.may_have_run, failure.can_be_repeated)
    }

    #[test]
    fn a_status_and_a_code_say_whether_the_call_may_have_run_and_whether_a_repeat_can_help() {
        let known = |code: &str, may_have_run, can_be_repeated| (code.to_owned(), may_have_run, can_be_repeated);
        assert_eq!(failure(503, "too-busy", "not-started"), known("too-busy", false, true));
        assert_eq!(failure(503, "too-busy", "unknown"), known("too-busy", true, true));
        assert_eq!(
            failure(413, "body-too-large", "not-started"),
            known("body-too-large", false, false)
        );
        assert_eq!(
            failure(401, "unauthenticated-caller", ""),
            known("peer-refused", false, true)
        );
        assert_eq!(failure(500, "call-failed", "failed"), known("call-failed", true, true));
        assert_eq!(
            failure(404, "nobody-serves", "not-started"),
            known("nobody-serves", false, true)
        );
        let of_a_proxy = Answer {
            status: 502,
            retry_after: "1000000".to_owned(),
            ..Answer::default()
        };
        let failure = of_a_proxy.result().expect_err("no result");
        assert!(
            failure.may_have_run && failure.problem.message.contains("502"),
            "{failure:?}"
        );
        assert_eq!(failure.retry_after, Some(LONGEST_RETRY_AFTER));
    }

    #[test]
    fn a_200_is_the_result() {
        let answer = Answer {
            status: 200,
            body: vec![0],
            ..Answer::default()
        };
        assert_eq!(answer.result(), Ok(vec![0]));
    }
}
