//! Whether a caller may call at all, before the body of its request is read: what the guard of the contract's functions decides
//! of the call that would be made.

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use fanout_transport::Calls;
use percent_encoding::percent_decode_str;

use super::problem::Refused;
use crate::bus::Bus;
use crate::contract::exports::known;
use crate::contract::guard::{Interface, may};

/// Judges a request by who sends it.
pub(super) async fn admit(State(bus): State<Bus>, request: Request, next: Next) -> Response {
    if let Some(right) = right(request.method(), request.uri().path())
        && let Some(calls) = request.extensions().get::<Calls>()
    {
        let view = bus.view();
        let caller = known(&*view, calls.caller().clone());
        let admitted = match right {
            Right::Call(interface) => may(&*view, &caller, interface),
            Right::Metrics => view.may_read_metrics(&caller.component),
        };
        if let Err(problem) = admitted {
            return Refused::from(problem).into_response();
        }
    }
    next.run(request).await
}

/// What a caller has to be allowed for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    /// To call an interface of the contract.
    Call(Interface),
    /// To read the metrics.
    Metrics,
}

/// The right that a request takes; `None` where anybody may ask, and where there is nothing.
fn right(method: &Method, path: &str) -> Option<Right> {
    // It comes without a caller, and calls nothing.
    if *method == Method::OPTIONS {
        return None;
    }
    // Routes take `{name}%3Afetch` for `{name}:fetch`.
    let path = &*percent_decode_str(path).decode_utf8_lossy();
    let noun = path.strip_prefix("/v1/").unwrap_or(path);
    Some(Right::Call(match noun.split(['/', ':']).next()? {
        "events" if matches!(*method, Method::GET | Method::HEAD) => Interface::Subscriber,
        "events" | "tenants" | "scheduled" => Interface::Publisher,
        "subscriptions" if path.ends_with(":fetch") => Interface::Inbox,
        "subscriptions" => Interface::Subscriber,
        "settlements" => Interface::Inbox,
        "status" | "life" => Interface::Status,
        _ if path == "/metrics" => return Some(Right::Metrics),
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::http::operations::OPERATIONS;

    #[test]
    fn an_operation_is_of_the_interface_whose_function_it_calls() {
        for operation in OPERATIONS {
            let found = right(&operation.method.parse().unwrap(), operation.path);
            let shown = format!("{} {}", operation.method, operation.path);
            assert_eq!(found.is_none(), operation.is_open, "{shown}");
            for function in operation.functions {
                let Some(Right::Call(interface)) = found else {
                    panic!("{shown} is of no interface")
                };
                assert_eq!(function.split_once('.').unwrap().0, interface.as_str(), "{shown}");
            }
        }
    }

    #[test]
    fn an_action_is_the_same_however_it_is_escaped() {
        for path in ["/v1/subscriptions/audit:fetch", "/v1/subscriptions/audit%3Afetch"] {
            assert_eq!(
                right(&Method::POST, path),
                Some(Right::Call(Interface::Inbox)),
                "{path}"
            );
        }
    }
}
