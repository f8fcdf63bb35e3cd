//! What the component answers over HTTP.

use std::io::Read;

use component_support::{
    answer::{self, Answer},
    body::{self, BodyError},
    path,
    store::KeyValue,
};
use http::{Method, StatusCode};

use crate::{
    backfill::Backfill,
    bus::{Bus, BusError},
    report::Report,
};

/// The longest body of `POST /backfills`.
const MAX_BODY: usize = 64 * 1024;

/// Answers a request.
pub fn answer(method: &Method, path: &str, body: impl Read, store: &impl KeyValue, bus: &impl Bus) -> Answer {
    let segments = path::segments(path).unwrap_or_default();
    let segments: Vec<_> = segments.iter().map(String::as_str).collect();
    match (segments.as_slice(), method) {
        (["backfills"], &Method::POST) => start(body, bus),
        (["backfills"], _) => answer::method_not_allowed(method, "POST"),
        (["reports", subscription], &Method::GET) => report(store, subscription),
        (["reports", _], _) => answer::method_not_allowed(method, "GET"),
        (["subscriptions"], &Method::GET) => list(bus),
        (["subscriptions"], _) => answer::method_not_allowed(method, "GET"),
        (["subscriptions", name], &Method::DELETE) => end(bus, name),
        (["subscriptions", _], _) => answer::method_not_allowed(method, "DELETE"),
        _ => answer::not_found(path),
    }
}

fn start(body: impl Read, bus: &impl Bus) -> Answer {
    let body = match body::read(body, MAX_BODY) {
        Ok(body) => body,
        Err(error @ BodyError::TooLarge { .. }) => {
            return answer::problem(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", &error.to_string());
        }
        Err(error) => return answer::problem(StatusCode::BAD_REQUEST, "body-interrupted", &error.to_string()),
    };
    let backfill: Backfill = match serde_json::from_slice(&body) {
        Ok(backfill) => backfill,
        Err(error) => return answer::problem(StatusCode::BAD_REQUEST, "invalid-backfill", &error.to_string()),
    };
    match bus.subscribe_backfill(&backfill) {
        Ok(subscription) => answer::json(StatusCode::CREATED, &subscription),
        Err(error) => error.answer(),
    }
}

fn report(store: &impl KeyValue, subscription: &str) -> Answer {
    match Report::read(store, subscription) {
        Ok(report) => answer::json(StatusCode::OK, &report),
        Err(error) => answer::store_unavailable(&error),
    }
}

fn list(bus: &impl Bus) -> Answer {
    let answer = bus
        .list_subscriptions()
        .map(|subscriptions| answer::json(StatusCode::OK, &subscriptions));
    answer.unwrap_or_else(|error: BusError| error.answer())
}

fn end(bus: &impl Bus, name: &str) -> Answer {
    let answer = bus.unsubscribe(name).map(|()| answer::no_content());
    answer.unwrap_or_else(|error| error.answer())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use component_support::memory::MemoryStore;

    use super::*;
    use crate::{
        backfill::Start,
        subscription::{MadeBy, Need, Problem, State, Subscription},
    };

    /// A bus that remembers what it was asked, or refuses everything.
    #[derive(Default)]
    struct FakeBus {
        subscriptions: RefCell<Vec<Subscription>>,
        refusal: Option<BusError>,
    }

    impl FakeBus {
        fn check(&self) -> Result<(), BusError> {
            self.refusal.clone().map_or(Ok(()), Err)
        }
    }

    impl Bus for FakeBus {
        fn subscribe_backfill(&self, backfill: &Backfill) -> Result<Subscription, BusError> {
            self.check()?;
            let subscription = Subscription {
                name: backfill.name.clone(),
                need: Need::Backfill,
                from: Some(backfill.from),
                tenants: backfill.tenants.clone(),
                event_types: backfill.event_types.clone(),
                pattern: backfill.pattern(),
                made_by: MadeBy::Call,
                state: State::CatchingUp,
                problem: None,
                pending: 12,
                in_flight: 0,
            };
            self.subscriptions.borrow_mut().push(subscription.clone());
            Ok(subscription)
        }

        fn unsubscribe(&self, name: &str) -> Result<(), BusError> {
            self.check()?;
            self.subscriptions
                .borrow_mut()
                .retain(|subscription| subscription.name != name);
            Ok(())
        }

        fn list_subscriptions(&self) -> Result<Vec<Subscription>, BusError> {
            self.check()?;
            Ok(self.subscriptions.borrow().clone())
        }
    }

    fn ask(bus: &FakeBus, method: Method, path: &str, body: &str) -> (u16, String) {
        let answer = answer(&method, path, body.as_bytes(), &MemoryStore::default(), bus);
        (answer.status().as_u16(), String::from_utf8(answer.into_body()).unwrap())
    }

    #[test]
    fn a_backfill_is_started_listed_and_ended() {
        let bus = FakeBus::default();
        let text = concat!(
            r#"{"name":"late","need":"backfill","from":{"position":{"partition":0,"offset":4}},"tenants":["a"],"#,
            r#""event_types":["**"],"made_by":"call","state":"catching-up","problem":null,"pending":12,"in_flight":0}"#,
        );
        let body = concat!(
            r#"{"name": "late", "from": {"position": {"partition": 0, "offset": 4}}, "#,
            r#""tenants": ["a"], "event_types": ["**"]}"#,
        );
        assert_eq!(ask(&bus, Method::POST, "/backfills", body), (201, text.to_owned()));
        assert_eq!(ask(&bus, Method::GET, "/subscriptions", ""), (200, format!("[{text}]")));
        assert_eq!(
            ask(&bus, Method::DELETE, "/subscriptions/late", ""),
            (204, String::new())
        );
        assert_eq!(ask(&bus, Method::GET, "/subscriptions", ""), (200, "[]".to_owned()));
        assert!(matches!(
            bus.subscribe_backfill(&serde_json::from_str(body).unwrap())
                .unwrap()
                .from,
            Some(Start::Position(_))
        ));
    }

    #[test]
    fn what_is_no_backfill_is_refused_before_the_bus_sees_it() {
        let bus = FakeBus::default();
        for body in ["", "[]", "{}", r#"{"name": "late", "from": "noon"}"#] {
            let (status, answer) = ask(&bus, Method::POST, "/backfills", body);
            assert_eq!(status, 400, "{body}");
            assert!(answer.contains("invalid-backfill"), "{answer}");
        }
        assert_eq!(ask(&bus, Method::POST, "/backfills", &" ".repeat(MAX_BODY + 1)).0, 413);
        assert!(bus.subscriptions.borrow().is_empty());
    }

    #[test]
    fn the_buss_refusal_says_whether_asking_again_helps() {
        let problem = || Problem {
            code: "some-code".to_owned(),
            message: "m".to_owned(),
        };
        for (refusal, status) in [
            (BusError::InvalidRequest(problem()), 422),
            (BusError::NotPermitted(problem()), 403),
            (BusError::Conflict(problem()), 409),
            (BusError::UnknownSubscription(problem()), 404),
            (BusError::Unavailable(problem()), 503),
            (BusError::OutcomeUnknown(problem()), 503),
        ] {
            let bus = FakeBus {
                refusal: Some(refusal),
                ..FakeBus::default()
            };
            let text = r#"{"code":"some-code","message":"m"}"#.to_owned();
            assert_eq!(
                ask(&bus, Method::POST, "/backfills", r#"{"name": "n"}"#),
                (status, text.clone())
            );
            assert_eq!(
                ask(&bus, Method::DELETE, "/subscriptions/n", ""),
                (status, text.clone())
            );
            assert_eq!(ask(&bus, Method::GET, "/subscriptions", ""), (status, text));
        }
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        let bus = FakeBus::default();
        assert_eq!(ask(&bus, Method::GET, "/reports/late", "").0, 200);
        for path in ["/", "/reports", "/reports/a/b", "/backfills/a", "/%ff"] {
            assert_eq!(ask(&bus, Method::GET, path, "").0, 404, "{path}");
        }
        for path in ["/backfills", "/reports/late", "/subscriptions", "/subscriptions/late"] {
            assert_eq!(ask(&bus, Method::PUT, path, "").0, 405, "{path}");
        }
    }
}
