//! The component's boundary: bindings in, plain Rust inside.

#![allow(unsafe_code, reason = "the generated bindings cross the boundary")]

use std::time::{SystemTime, UNIX_EPOCH};

use component_support::bus::types;
use fanout::bus::publisher;
use wasmcloud_component::{error, http, info, wasi::config};

use crate::{
    event::Event,
    ingress::{self, Host},
    publish::{Position, Problem, PublishError, Receipt},
    setting::Settings,
};

wit_bindgen::generate!({
    path: ["../../wit", "wit"],
    world: "example:webhook-ingress/webhook-ingress",
    with: {
        "fanout:bus/types@0.1.0": component_support::bus::types,
        "fanout:bus/publisher@0.1.0": generate,
    },
});

struct Component;

http::export!(Component);

impl http::Server for Component {
    fn handle(request: http::IncomingRequest) -> http::Result<http::Response<impl http::OutgoingBody>> {
        let path = request.uri().path().to_owned();
        Ok(match ingress::receive(&LinkedHost, request) {
            Ok(receipt) => ingress::answer(&receipt),
            Err(refusal) => {
                let answer = refusal.answer();
                // Escaped, so that a sender can't write lines of its own into the log.
                let reason = refusal.to_string();
                if refusal.concerns_operator() {
                    error!("{} at {path}: {}", answer.status(), reason.escape_debug());
                } else {
                    info!("{} at {path}: {}", answer.status(), reason.escape_debug());
                }
                answer
            }
        })
    }
}

/// The host, and the bus that the component is linked to.
struct LinkedHost;

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

    fn publish(&self, event: Event) -> Result<Receipt, PublishError> {
        let receipt = publisher::publish_tenant_event(&types::Event {
            tenant: event.tenant,
            event_type: event.event_type,
            id: event.id,
            source: event.source,
            subject: None,
            time: event.time,
            data_content_type: event.data_content_type.map(str::to_owned),
            data_schema: None,
            extensions: Vec::new(),
            ordering_key: None,
            data: event.data,
        })?;
        Ok(Receipt {
            position: Position {
                partition: receipt.position.partition,
                offset: receipt.position.offset,
            },
            duplicate: receipt.duplicate,
            durable_subscriptions: receipt.durable_subscriptions,
        })
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
