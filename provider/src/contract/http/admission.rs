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
    if let Some(interface) = interface(request.method(), request.uri().path())
        && let Some(calls) = request.extensions().get::<Calls>()
    {
        let view = bus.view();
        if let Err(problem) = may(&*view, &known(&*view, calls.caller().clone()), interface) {
            return Refused::from(problem).into_response();
        }
    }
    next.run(request).await
}

/// The interface that a request is for; `None` where anybody may ask, and where there is nothing.
fn interface(method: &Method, path: &str) -> Option<Interface> {
    // It comes without a caller, and calls nothing.
    if *method == Method::OPTIONS {
        return None;
    }
    // Routes take `{name}%3Afetch` for `{name}:fetch`.
    let path = &*percent_decode_str(path).decode_utf8_lossy();
    let noun = path.strip_prefix("/v1/").unwrap_or(path);
    match noun.split(['/', ':']).next()? {
        "events" if matches!(*method, Method::GET | Method::HEAD) => Some(Interface::Subscriber),
        "events" | "tenants" | "scheduled" => Some(Interface::Publisher),
        "subscriptions" if path.ends_with(":fetch") => Some(Interface::Inbox),
        "subscriptions" => Some(Interface::Subscriber),
        "settlements" => Some(Interface::Inbox),
        "status" | "life" => Some(Interface::Status),
        _ if path == "/metrics" => Some(Interface::Status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::http::operations::OPERATIONS;

    #[test]
    fn an_operation_is_of_the_interface_whose_function_it_calls() {
        for operation in OPERATIONS {
            let found = interface(&operation.method.parse().unwrap(), operation.path);
            let shown = format!("{} {}", operation.method, operation.path);
            assert_eq!(found.is_none(), operation.is_open, "{shown}");
            for function in operation.functions {
                let interface = found.unwrap();
                assert_eq!(function.split_once('.').unwrap().0, interface.as_str(), "{shown}");
            }
        }
    }

    #[test]
    fn an_action_is_the_same_however_it_is_escaped() {
        for path in ["/v1/subscriptions/audit:fetch", "/v1/subscriptions/audit%3Afetch"] {
            assert_eq!(interface(&Method::POST, path), Some(Interface::Inbox), "{path}");
        }
    }
}
