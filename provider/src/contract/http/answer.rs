//! The answer to a request with many items: what came of each, and a status that is a good one only if all are done, so
//! that a client which reads the status alone repeats what is missing. A repeat of what is done changes nothing.

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

/// What the contract answered to a call with so many items, each by itself.
///
/// # Errors
/// A refusal of the whole call, which is one answer however many items there are; an answer that is none.
pub(super) fn of_each<R, E>(items: usize, mut answers: Vec<Result<R, E>>) -> Result<Vec<Result<R, E>>, Refused>
where
    E: Into<Refused>,
{
    if answers.len() == items {
        return Ok(answers);
    }
    match (answers.pop(), answers.is_empty()) {
        (Some(Err(of_the_call)), true) => Err(of_the_call.into()),
        _ => Err(Refused::of_transport(&fanout_transport::Error::Protocol(
            "another number of results than of items",
        ))),
    }
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
                problem: problem.document,
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
    fn a_refusal_of_the_whole_call_is_one_answer() {
        let away = || {
            PublishError::Unavailable(Problem {
                code: "store-unavailable".to_owned(),
                message: "why".to_owned(),
            })
        };
        let each = |items, answers: Vec<Result<u32, PublishError>>| {
            let each = of_each(items, answers).map(|each| each.len());
            each.map_err(|refused| (refused.status.as_u16(), refused.document.code))
        };
        assert_eq!(each(0, vec![]), Ok(0));
        assert_eq!(each(1, vec![Err(away())]), Ok(1));
        assert_eq!(each(2, vec![Ok(1), Err(away())]), Ok(2));
        assert_eq!(each(3, vec![Err(away())]), Err((503, "store-unavailable".to_owned())));
        for strange in [vec![], vec![Ok(1)], vec![Ok(1), Err(away())]] {
            assert_eq!(each(3, strange), Err((503, "protocol-violation".to_owned())));
        }
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
