//! The answer to a request with many items: what came of each, and a status that is a good one only if all are done, so
//! that who looks at the status alone repeats what is missing. A repeat of what is done changes nothing.

use axum::Json;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::problem::{ProblemDocument, Refused};

/// What came of each item, in order.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Results<T> {
    results: Vec<Item<T>>,
}

/// What came of one item.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Item<T> {
    /// It is done.
    Done(T),
    /// It is not done, and why.
    Refused {
        /// As if it had been the only item.
        problem: Box<ProblemDocument>,
    },
}

/// The answer. `what` are the items, in the plural, and `done` is what they are to be.
pub(super) fn many<T: Serialize>(what: &str, done: &str, results: Vec<Result<T, Refused>>) -> Response {
    let all = results.len();
    let refused: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    // What a repeat can help is repeated; the rest is refused then as now.
    let chosen = refused.iter().find(|p| p.can_be_repeated()).or(refused.first());
    let chosen = chosen.map(|p| {
        let mut problem = (*p).clone();
        problem.document.detail = format!(
            "{} of {all} {what} were not {done}, each for the reason in its place of `results`; one of them: {}",
            refused.len(),
            problem.document.detail
        );
        problem
    });
    let results: Vec<_> = results
        .into_iter()
        .map(|result| match result {
            Ok(done) => Item::Done(done),
            Err(problem) => Item::Refused {
                problem: Box::new(problem.document),
            },
        })
        .collect();
    match chosen {
        None => Json(Results { results }).into_response(),
        Some(mut problem) => {
            let values = results
                .iter()
                .map(|item| serde_json::to_value(item).unwrap_or(Value::Null));
            problem.document.results = Some(values.collect());
            problem.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use fanout_wit::types::{Problem, PublishError};

    use super::*;

    fn refused(code: &str, e: fn(Problem) -> PublishError) -> Refused {
        let message = "why".to_owned();
        e(Problem {
            code: code.to_owned(),
            message,
        })
        .into()
    }

    #[test]
    fn an_answer_is_good_only_if_everything_is_done() {
        let invalid = || refused("invalid-attribute", PublishError::InvalidEvent);
        let away = || refused("store-unavailable", PublishError::Unavailable);
        for (results, status) in [
            (vec![], 200),
            (vec![Ok(1), Ok(2)], 200),
            (vec![Ok(1), Err(invalid())], 422),
            (vec![Err(invalid()), Ok(1), Err(away())], 503),
        ] {
            assert_eq!(many("events", "stored", results).status(), status);
        }
    }
}
