//! A message of the log, read as a delivery.

use std::borrow::Cow;

use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use fanout_plan::retry::FailedAttempt;
use fanout_plan::subscription::{Need, Registered};
use fanout_plan::{Attributes, EventType, Position, Problem, SubjectTemplate, TenantId, envelope};

use tracing::debug;

use super::settle::Settler;
use super::{Context, Delivery};

/// Where a message stands and when it was stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) position: Position,
    /// Nanoseconds since the Unix epoch.
    pub(super) published_at: i64,
    /// How often the server has given it out, this time included.
    pub(super) given_out: i64,
}

impl Place {
    /// As the server says in the message's reply subject. `None` for a message that is not of a consumer.
    pub(super) fn of(message: &jetstream::Message, partition: u32) -> Option<Self> {
        let info = message.info().ok()?;
        Some(Self {
            position: Position {
                partition,
                offset: info.stream_sequence,
            },
            published_at: i64::try_from(info.published.unix_timestamp_nanos()).unwrap_or(i64::MAX),
            given_out: info.delivered,
        })
    }
}

/// Whether an event is one that the subscription asked for. The server's filter may let through more
/// ([`fanout_plan::Filter::subject_filters`]), and it knows nothing of a backfill's end.
pub(super) enum Wanted {
    Yes,
    /// It is none of the subscription's.
    No,
    /// It lies beyond the end, and so does all that follows.
    BeyondEnd,
}

pub(super) fn wanted(registered: &Registered, attributes: &Attributes, place: &Place) -> Wanted {
    let subscription = &registered.subscription;
    if let Need::Backfill { end: Some(end), .. } = subscription.need
        && end.is_before(place.position, place.published_at)
    {
        return Wanted::BeyondEnd;
    }
    if subscription
        .filter
        .matches(attributes.tenant(), attributes.event_type())
    {
        Wanted::Yes
    } else {
        Wanted::No
    }
}

/// The event of a message on one of the bus's subjects.
///
/// # Errors
/// For what some other NATS client wrote there and is not a legal event.
pub(super) fn attributes(
    template: &SubjectTemplate,
    subject: &str,
    headers: Option<&HeaderMap>,
) -> Result<Attributes, Problem> {
    let (tenant, event_type): (TenantId, EventType) = template.parse_subject(subject).ok_or_else(|| {
        Problem::new(
            fanout_plan::Code::InvalidAttribute,
            format!("subject {subject} holds no legal tenant and event type"),
        )
    })?;
    from_headers(tenant.as_str(), event_type.as_str(), headers)
}

/// The event of a message's headers.
///
/// # Errors
/// The first attribute that is missing or not legal.
pub(super) fn from_headers(tenant: &str, event_type: &str, headers: Option<&HeaderMap>) -> Result<Attributes, Problem> {
    let headers = headers.iter().flat_map(|h| h.iter());
    let pairs: Vec<(Cow<'_, str>, &str)> = headers
        .filter_map(|(name, values)| Some((lowercase(name.as_ref()), values.first()?.as_str())))
        .collect();
    envelope::from_headers(tenant, event_type, pairs.iter().map(|(name, value)| (&**name, *value)))
}

/// As the bus itself writes it, a name is lowercase already.
fn lowercase(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// The place and event of a message that is to be delivered. Anything else is sorted out, and settled.
pub(super) async fn admit(
    context: &Context,
    settler: &Settler,
    partition: u32,
    message: &jetstream::Message,
) -> Option<(Place, Attributes)> {
    let Some(place) = Place::of(message, partition) else {
        debug!(subject = %message.subject, "a message without a place in the log was passed over");
        return None;
    };
    let template = context.store.template(partition);
    let attributes = match attributes(template, &message.subject, message.headers.as_ref()) {
        Ok(attributes) => attributes,
        Err(problem) => {
            Box::pin(settler.set_aside_unreadable(message, &place, &problem)).await;
            return None;
        }
    };
    let own = message.info().is_ok_and(|info| {
        let own = Registered::tenant_of_consumer(info.consumer).is_none();
        if own {
            context.health.sees_waiting(info.pending);
        }
        own
    });
    if own && context.registered.is_given_apart(attributes.tenant(), place.position) {
        settler.skip(message).await;
        return None;
    }
    match wanted(&context.registered, &attributes, &place) {
        Wanted::Yes => Some((place, attributes)),
        Wanted::No => {
            settler.skip(message).await;
            None
        }
        Wanted::BeyondEnd => {
            context.health.passed_end(place.position);
            settler.skip(message).await;
            None
        }
    }
}

pub(super) fn traceparent(headers: Option<&HeaderMap>) -> Option<String> {
    Some(headers?.get("traceparent")?.as_str().to_owned())
}

pub(super) fn delivery(
    registered: &Registered,
    attributes: Attributes,
    message: (&Option<HeaderMap>, Bytes),
    place: &Place,
    failed: &[FailedAttempt],
) -> Delivery {
    let (headers, data) = message;
    Delivery {
        subscription: registered.subscription.name.clone(),
        attributes,
        data,
        position: place.position,
        attempt: failed.last().map_or(0, |a| a.attempt) + 1,
        replayed: registered.was_there(place.position),
        published_at: place.published_at,
        traceparent: traceparent(headers.as_ref()),
    }
}
