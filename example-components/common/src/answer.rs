//! HTTP answers in JSON.

use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderName, RETRY_AFTER},
};
use serde::Serialize;

use crate::store::StoreError;

/// An HTTP answer with its whole body.
pub type Answer = Response<Vec<u8>>;

/// An error as it is answered.
#[derive(Serialize)]
struct Problem<'a> {
    /// Stable: programs match this.
    code: &'a str,
    /// What happened and what to do, for a person.
    message: &'a str,
}

/// An answer with `value` as JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => with_body(status, body),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "unserialisable", &error.to_string()),
    }
}

/// An answer that is a text.
pub fn text(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(text.as_bytes().to_vec());
    *answer.status_mut() = status;
    with_header(
        answer,
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    )
}

/// 204: done, and there is nothing to say.
pub fn no_content() -> Answer {
    let mut answer = Response::new(Vec::new());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// An answer that says what went wrong: `{"code": …, "message": …}`.
pub fn problem(status: StatusCode, code: &str, message: &str) -> Answer {
    // Two strings always serialise.
    with_body(
        status,
        serde_json::to_vec(&Problem { code, message }).unwrap_or_default(),
    )
}

/// As [`problem`], with the seconds after which the same request can succeed.
pub fn problem_for_now(status: StatusCode, code: &str, message: &str, retry_after_s: u64) -> Answer {
    with_header(
        problem(status, code, message),
        RETRY_AFTER,
        HeaderValue::from(retry_after_s),
    )
}

/// 404: no such path.
pub fn not_found(path: &str) -> Answer {
    problem(
        StatusCode::NOT_FOUND,
        "not-found",
        &format!("there is nothing at {path}"),
    )
}

/// 405: the path exists, with other methods.
pub fn method_not_allowed(method: &Method, allowed: &'static str) -> Answer {
    let message = format!("{method} is not allowed here; use {allowed}");
    let answer = problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", &message);
    with_header(answer, ALLOW, HeaderValue::from_static(allowed))
}

/// 503: the key-value store could not be read.
pub fn store_unavailable(error: &StoreError) -> Answer {
    problem_for_now(
        StatusCode::SERVICE_UNAVAILABLE,
        "store-unavailable",
        &error.to_string(),
        5,
    )
}

fn with_body(status: StatusCode, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    with_header(answer, CONTENT_TYPE, HeaderValue::from_static("application/json"))
}

fn with_header(mut answer: Answer, name: HeaderName, value: HeaderValue) -> Answer {
    answer.headers_mut().insert(name, value);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(answer: &Answer) -> &str {
        std::str::from_utf8(answer.body()).unwrap()
    }

    #[test]
    fn a_problem_is_json_whatever_it_says() {
        let answer = problem(StatusCode::BAD_REQUEST, "code", "a \"quote\"\n");
        assert_eq!(answer.status(), 400);
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(text(&answer), r#"{"code":"code","message":"a \"quote\"\n"}"#);
    }

    #[test]
    fn refusals_say_what_helps() {
        let answer = problem_for_now(StatusCode::SERVICE_UNAVAILABLE, "full", "m", 60);
        assert_eq!(answer.headers()["retry-after"], "60");
        let answer = method_not_allowed(&Method::PUT, "GET, POST");
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers()["allow"], "GET, POST");
    }

    #[test]
    fn what_is_no_json_is_said() {
        let value = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert_eq!(json(StatusCode::OK, &value).status(), 500);
    }
}
