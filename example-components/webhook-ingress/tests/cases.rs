//! Webhooks as they came to people who do this job, with other names and secrets: each through the whole ingress, from the
//! request to the answer.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{cell::RefCell, collections::BTreeMap, io::Cursor};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Request;
use serde::Deserialize;
use webhook_ingress::{
    ingress::{self, Host},
    publish::{Position, PublishError, Receipt},
};
use webhook_source::{Event, Secrets, setting::Settings};

#[derive(Deserialize)]
struct Case {
    name: String,
    why: String,
    settings: BTreeMap<String, String>,
    path: String,
    now: i64,
    headers: Vec<String>,
    body: String,
    status: u16,
    /// The answer's code, where it is a refusal.
    code: Option<String>,
    /// Tenant, type and id of each event.
    events: Vec<[String; 3]>,
}

struct Bus {
    settings: Settings,
    now: i64,
    published: RefCell<Vec<Event>>,
}

impl Secrets for Bus {
    fn secret(&self, _: &str) -> Result<Option<String>, String> {
        Ok(None)
    }
}

impl Host for Bus {
    fn settings(&self) -> Result<Settings, String> {
        Ok(self.settings.clone())
    }

    fn now(&self) -> i64 {
        self.now
    }

    fn publish(&self, events: Vec<Event>) -> Result<Vec<Receipt>, PublishError> {
        let receipt = Receipt {
            position: Position {
                partition: 0,
                offset: 1,
            },
            duplicate: false,
            durable_subscriptions: 1,
        };
        let receipts = vec![receipt; events.len()];
        self.published.borrow_mut().extend(events);
        Ok(receipts)
    }
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("cases.json")).unwrap()
}

/// The answer's status and body, and what was published.
fn receive(case: &Case, body: &[u8]) -> (u16, String, Vec<Event>) {
    let bus = Bus {
        settings: case.settings.clone().into_iter().collect(),
        now: case.now,
        published: RefCell::default(),
    };
    let mut request = Request::post(&case.path);
    for header in &case.headers {
        let (name, value) = header.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    let (answer, _) = ingress::answer(&bus, request.body(Cursor::new(body.to_vec())).unwrap());
    let text = String::from_utf8(answer.body().clone()).unwrap();
    (answer.status().as_u16(), text, bus.published.take())
}

#[test]
fn each_becomes_what_its_sender_and_its_receiver_expect() {
    for case in cases() {
        let body = STANDARD.decode(&case.body).unwrap();
        let (status, answer, events) = receive(&case, &body);
        assert_eq!(status, case.status, "{} ({}): {answer}", case.name, case.why);
        let seen: Vec<_> = events
            .iter()
            .map(|event| [event.tenant.clone(), event.event_type.clone(), event.id.clone()])
            .collect();
        assert_eq!(seen, case.events, "{}", case.name);
        match &case.code {
            Some(code) => assert!(
                answer.starts_with(&format!(r#"{{"code":"{code}""#)),
                "{}: {answer}",
                case.name
            ),
            None if case.name.starts_with("adyen") => assert_eq!(answer, "[accepted]"),
            None => assert!(answer.contains(r#""duplicate":false"#), "{}: {answer}", case.name),
        }
        // The payload is as it came, but for Adyen's, of which an event is one item.
        if let [event] = events.as_slice() {
            let is_item = case.name.starts_with("adyen");
            assert!(is_item || event.data == body, "{}: the payload was changed", case.name);
            assert!(
                body.windows(event.data.len()).any(|part| part == event.data),
                "{}",
                case.name
            );
        }
    }
}

#[test]
fn with_another_body_none_of_them_is_published() {
    for case in cases().into_iter().filter(|case| case.status == 200) {
        let body = STANDARD.decode(&case.body).unwrap();
        for at in [0, body.len() / 2, body.len() - 1] {
            let mut changed = body.clone();
            changed[at] ^= 1;
            let (status, answer, events) = receive(&case, &changed);
            // Of Adyen's, what no signature covers may change, and is no event's tenant, type or id.
            let told: Vec<_> = events
                .iter()
                .map(|event| [event.tenant.clone(), event.event_type.clone(), event.id.clone()])
                .collect();
            let harmless = case.name.starts_with("adyen") && told == case.events;
            assert!(
                harmless || (status != 200 && events.is_empty()),
                "{}: {answer}",
                case.name
            );
        }
    }
}
