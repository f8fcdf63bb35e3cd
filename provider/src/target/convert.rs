//! Events and deliveries in the contract's types, and answers out of them.

use bytes::Bytes;
use fanout_plan::retry::Rejection;
use fanout_plan::{Attributes, Position, RawEvent, Timestamp};
use fanout_wit::types as wit;

use crate::delivery::Delivery;

pub(crate) fn position(p: Position) -> wit::Position {
    wit::Position {
        partition: p.partition,
        offset: p.offset,
    }
}

/// An event with its payload.
pub(crate) fn event(attributes: Attributes, data: Bytes) -> wit::Event {
    event_of(attributes.into_raw(), data)
}

/// The same of attributes that nobody has judged yet.
pub(crate) fn event_of(raw: RawEvent, data: Bytes) -> wit::Event {
    wit::Event {
        tenant: raw.tenant,
        event_type: raw.event_type,
        id: raw.id,
        source: raw.source,
        subject: raw.subject,
        time: raw.time.map(Timestamp::nanoseconds),
        data_content_type: raw.data_content_type,
        data_schema: raw.data_schema,
        extensions: raw
            .extensions
            .into_iter()
            .map(|(name, value)| wit::Attribute { name, value })
            .collect(),
        ordering_key: raw.ordering_key,
        data,
    }
}

pub(crate) fn delivery(d: Delivery) -> wit::Delivery {
    wit::Delivery {
        subscription: d.subscription.plain().to_owned(),
        event: event(d.attributes, d.data),
        position: position(d.position),
        attempt: d.attempt,
        origin: if d.replayed {
            wit::Origin::Replayed
        } else {
            wit::Origin::Live
        },
        published_at: d.published_at.nanoseconds(),
    }
}

pub(crate) fn rejection(r: wit::Rejection) -> Rejection {
    match r {
        wit::Rejection::Retry(reason) => Rejection::Retry(reason),
        wit::Rejection::RetryNow(reason) => Rejection::RetryNow(reason),
        wit::Rejection::RetryAfter(d) => Rejection::RetryAfter(std::time::Duration::from_millis(d.delay_ms), d.reason),
        wit::Rejection::DeadLetter(reason) => Rejection::DeadLetter(reason),
    }
}
