//! The component's boundary: bindings in, plain Rust inside.

#![allow(unsafe_code, reason = "the generated bindings cross the boundary")]

use std::time::{SystemTime, UNIX_EPOCH};

use component_support::{bus::types, secrets};
use fanout::bus::publisher;
use wasmcloud_component::{debug, error, http, info, warn, wasi::config};
use webhook_source::{Event, Secrets, setting::Settings};

use crate::{
    ingress::{self, Host, Level},
    publish::{Position, Problem, PublishError, Receipt},
};

wit_bindgen::generate!({
    path: ["../../wit", "wit"],
    world: "example:webhook-ingress/webhook-ingress",
    with: {
        "fanout:bus/types@0.2.0": component_support::bus::types,
        "fanout:bus/publisher@0.2.0": generate,
    },
});

struct Component;

http::export!(Component);

impl http::Server for Component {
    fn handle(request: http::IncomingRequest) -> http::Result<http::Response<impl http::OutgoingBody>> {
        let (answer, note) = ingress::answer(&LinkedHost, request);
        match note {
            Some(note) if note.level == Level::Error => error!("{}", note.text),
            Some(note) if note.level == Level::Warning => warn!("{}", note.text),
            Some(note) if note.level == Level::Info => info!("{}", note.text),
            Some(note) => debug!("{}", note.text),
            None => {}
        }
        Ok(answer)
    }
}

/// The host, and the bus that the component is linked to.
struct LinkedHost;

impl Secrets for LinkedHost {
    fn secret(&self, name: &str) -> Result<Option<String>, String> {
        secrets::read(name)
    }
}

impl Host for LinkedHost {
    fn settings(&self) -> Result<Settings, String> {
        config::store::get_all().map_err(|error| match error {
            config::store::Error::Upstream(reason) | config::store::Error::Io(reason) => reason,
        })
    }

    fn now(&self) -> i64 {
        // A clock before 1970 makes every webhook one from the future.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }

    fn publish(&self, events: Vec<Event>) -> Result<Vec<Receipt>, PublishError> {
        let events: Vec<types::Event> = events.into_iter().map(to_bus).collect();
        let receipts = match events.as_slice() {
            // One by itself takes the shorter way.
            [only] => publisher::publish_tenant_event(only).map(|receipt| vec![receipt]),
            together => publisher::publish_tenant_events_together(together),
        };
        match receipts {
            Ok(receipts) => Ok(receipts.into_iter().map(Receipt::from).collect()),
            Err(error) => Err(error.into()),
        }
    }
}

fn to_bus(event: Event) -> types::Event {
    types::Event {
        tenant: event.tenant,
        event_type: event.event_type,
        id: event.id,
        source: event.source,
        subject: None,
        time: event.time,
        data_content_type: event.data_content_type.map(str::to_owned),
        data_schema: None,
        extensions: event
            .extensions
            .into_iter()
            .map(|(name, value)| types::Attribute { name, value })
            .collect(),
        ordering_key: None,
        data: event.data,
    }
}

impl From<types::Receipt> for Receipt {
    fn from(receipt: types::Receipt) -> Self {
        Self {
            position: Position {
                partition: receipt.position.partition,
                offset: receipt.position.offset,
            },
            duplicate: receipt.duplicate,
            durable_subscriptions: receipt.durable_subscriptions,
        }
    }
}

impl From<types::PublishError> for PublishError {
    fn from(error: types::PublishError) -> Self {
        match error {
            types::PublishError::InvalidEvent(problem) => Self::InvalidEvent(problem.into()),
            types::PublishError::NotPermitted(problem) => Self::NotPermitted(problem.into()),
            types::PublishError::TooLarge(problem) => Self::TooLarge(problem.into()),
            types::PublishError::QuotaExceeded(refusal) => Self::QuotaExceeded {
                problem: refusal.problem.into(),
                retry_after_ms: refusal.retry_after_ms,
            },
            types::PublishError::StoreFull(problem) => Self::StoreFull(problem.into()),
            types::PublishError::Unavailable(problem) => Self::Unavailable(problem.into()),
            types::PublishError::OutcomeUnknown(problem) => Self::OutcomeUnknown(problem.into()),
        }
    }
}

impl From<types::Problem> for Problem {
    fn from(problem: types::Problem) -> Self {
        Self {
            code: problem.code,
            message: problem.message,
        }
    }
}
