//! `publisher` over HTTP: events in.

use std::borrow::Cow;

use axum::Json;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use fanout_plan::Timestamp;
use fanout_plan::http_binding::{Events, Request, RequestEvent};
use fanout_wit::PUBLISHER;
use fanout_wit::types::{Cancellation, Event, PublishError, Receipt, Scheduled};
use schemars::JsonSchema;
use serde::Serialize;

use super::answer;
use super::call::{Body, Call};
use super::problem::Refused;
use crate::contract::convert;

/// Proof that an event is stored.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Receipt")]
pub(super) struct ReceiptDocument {
    /// Where it is stored, `PARTITION/OFFSET`; for a duplicate, where the first copy is.
    position: String,
    /// True when this tenant, source and id were stored before: nothing was added.
    duplicate: bool,
    /// How many durable subscriptions the event matches now.
    durable_subscriptions: u32,
}

/// Receipts of events that were stored together.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Receipts {
    /// One for each event, in order.
    receipts: Vec<ReceiptDocument>,
}

/// Proof that an event is kept and will be published.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Scheduled")]
pub(super) struct ScheduledDocument {
    /// When, RFC 3339.
    due: String,
    /// True when it was to be published before, or is published already: nothing changed.
    duplicate: bool,
}

/// What came of a cancellation.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Cancelled {
    /// `not-waiting`: it is published or about to be, or was never to be published later.
    cancellation: CancellationWord,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum CancellationWord {
    Cancelled,
    NotWaiting,
}

impl From<Receipt> for ReceiptDocument {
    fn from(receipt: Receipt) -> Self {
        Self {
            position: position(&receipt.position),
            duplicate: receipt.duplicate,
            durable_subscriptions: receipt.durable_subscriptions,
        }
    }
}

/// `PARTITION/OFFSET`
pub(super) fn position(p: &fanout_wit::types::Position) -> String {
    fanout_plan::Position::new(p.partition, p.offset).to_string()
}

/// `POST /v1/events`: one event, or a batch of which each stands for itself.
pub(super) async fn publish(call: Call, headers: HeaderMap, Body(body): Body) -> Result<Response, Refused> {
    call.parameters(&[])?;
    let events = match events(&call, &headers, &body)? {
        Events::One(event) => {
            let parameters = (of_contract(*event, &body),);
            let stored: Result<Receipt, PublishError> =
                call.invoke(PUBLISHER, "publish-tenant-event", parameters).await?;
            return Ok(Json(ReceiptDocument::from(stored?)).into_response());
        }
        Events::Batch(events) => events,
    };
    let mut refused = Vec::with_capacity(events.len());
    let mut legal = Vec::with_capacity(events.len());
    for event in events {
        match event {
            Ok(event) => {
                legal.push(of_contract(event, &body));
                refused.push(None);
            }
            Err(problem) => refused.push(Some(Refused::from(problem))),
        }
    }
    let count = legal.len();
    let stored: Vec<Result<Receipt, PublishError>> = call.invoke(PUBLISHER, "publish-tenant-events", (legal,)).await?;
    let mut stored = answer::of_each(count, stored)?.into_iter();
    let results = refused.into_iter().filter_map(|refused| match refused {
        Some(problem) => Some(Err(problem)),
        None => Some(stored.next()?.map(ReceiptDocument::from).map_err(Refused::from)),
    });
    Ok(answer::many("events", "stored", results.collect()))
}

/// `POST /v1/events:together`: all of a batch, or none.
pub(super) async fn publish_together(
    call: Call,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Json<Receipts>, Refused> {
    call.parameters(&[])?;
    let events = match events(&call, &headers, &body)? {
        Events::One(event) => vec![of_contract(*event, &body)],
        Events::Batch(events) => {
            let events = events.into_iter().enumerate().map(|(i, event)| {
                let event = event.map_err(|problem| {
                    let message = format!("event {i} of the batch: {}: none is stored", problem.message);
                    Refused::from(fanout_plan::Problem { message, ..problem })
                })?;
                Ok::<_, Refused>(of_contract(event, &body))
            });
            events.collect::<Result<_, _>>()?
        }
    };
    let stored: Result<Vec<Receipt>, PublishError> = call
        .invoke(PUBLISHER, "publish-tenant-events-together", (events,))
        .await?;
    let receipts = stored?.into_iter().map(ReceiptDocument::from).collect();
    Ok(Json(Receipts { receipts }))
}

/// `POST /v1/events:at?at=TIME`: one event, later.
pub(super) async fn publish_at(
    call: Call,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Json<ScheduledDocument>, Refused> {
    let parameters = call.parameters(&["at"])?;
    let at = parameters.required("at")?;
    let at = at.parse::<Timestamp>().map_err(|_| {
        Refused::invalid_request(
            "query parameter `at` is not an RFC 3339 time of the years 1678 to 2261, such as 2026-11-22T10:00:00Z (write `+` as `%2B`)",
        )
    })?;
    let Events::One(event) = events(&call, &headers, &body)? else {
        return Err(Refused::invalid_request(
            "a batch can't be published later: send each event by itself",
        ));
    };
    let kept: Result<Scheduled, PublishError> = call
        .invoke(
            PUBLISHER,
            "publish-tenant-event-at",
            (of_contract(*event, &body), at.nanoseconds()),
        )
        .await?;
    let kept = kept?;
    Ok(Json(ScheduledDocument {
        due: convert::rfc3339(kept.due),
        duplicate: kept.duplicate,
    }))
}

/// `DELETE /v1/scheduled?tenant=…&source=…&id=…`
pub(super) async fn cancel(call: Call) -> Result<Json<Cancelled>, Refused> {
    let parameters = call.parameters(&["tenant", "source", "id"])?;
    let source = parameters.optional("source")?.unwrap_or_default();
    let named = (parameters.required("tenant")?, source, parameters.required("id")?);
    let cancelled: Result<Cancellation, PublishError> = call.invoke(PUBLISHER, "cancel-scheduled", named).await?;
    let cancellation = match cancelled? {
        Cancellation::Cancelled => CancellationWord::Cancelled,
        Cancellation::NotWaiting => CancellationWord::NotWaiting,
    };
    Ok(Json(Cancelled { cancellation }))
}

/// The events of a request.
fn events<'a>(call: &'a Call, headers: &'a HeaderMap, body: &'a [u8]) -> Result<Events<'a>, Refused> {
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    Ok(Request::new(call.path("tenant"), headers, body)?.events()?)
}

/// An event in the contract's types. Its payload is not copied where it is the whole body.
fn of_contract(event: RequestEvent<'_>, body: &Bytes) -> Event {
    let data = match event.data {
        Cow::Borrowed(_) => body.clone(),
        Cow::Owned(data) => data.into(),
    };
    convert::event_of(event.event, data)
}
