//! A message of the log, read as a delivery.

use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use fanout_plan::retry::FailedAttempt;
use fanout_plan::subscription::{Need, Registered};
use fanout_plan::{Attributes, ConsumerName, Position, Timestamp};

use tracing::debug;

use super::settle::{Settler, Source};
use super::{Context, Delivery, Health};
use crate::jetstream::read;
use crate::matching;

/// Where an event stands in the log, when it was stored, and how often it was delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metadata {
    pub(super) position: Position,
    /// Nanoseconds since the Unix epoch.
    pub(super) published_at: Timestamp,
    /// How often the server has delivered it, this time included.
    pub(super) deliveries: i64,
}

impl Metadata {
    /// As the server says in the message's reply subject. `None` for a message that is not of a consumer.
    pub(super) fn of(message: &jetstream::Message, partition: u32) -> Option<Self> {
        let info = message.info().ok()?;
        Some(Self {
            position: Position::new(partition, info.stream_sequence),
            published_at: Timestamp::saturating(info.published.unix_timestamp_nanos()),
            deliveries: info.delivered,
        })
    }
}

/// Whether an event is one that the subscription asked for. The server's filter may let through more
/// ([`fanout_plan::Filter::subject_filters`]), and it knows nothing of payloads, of a beginning that has not come yet and of a
/// backfill's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Yes,
    /// It is none of the subscription's.
    No,
    /// Its tenant and its type are the subscription's, and the event pattern leaves it out.
    LeftOut,
    /// It lies beyond the end, and so does all that follows.
    BeyondEnd,
}

/// Judges an event that was not delivered before.
pub(super) async fn wanted(
    registered: &Registered,
    attributes: &Attributes,
    data: &[u8],
    metadata: &Metadata,
) -> Wanted {
    if registered.begins_after(metadata.published_at) {
        return Wanted::No;
    }
    let filter = &registered.subscription.filter;
    // One that the policy declares for anybody stands for itself.
    let caller = match registered.component.as_str() {
        "" => registered.subscription.name.as_str(),
        component => component,
    };
    match still_wanted(registered, attributes, metadata) {
        Wanted::Yes if !matching::matches(filter, attributes, data, caller).await => Wanted::LeftOut,
        judged => judged,
    }
}

/// Judges an event that was delivered and refused. It matched the pattern then, and is not judged by the one of now: it would
/// leave the subscription without having been handled, and without a word.
pub(super) fn still_wanted(registered: &Registered, attributes: &Attributes, metadata: &Metadata) -> Wanted {
    let subscription = &registered.subscription;
    if let Need::Backfill { end: Some(end), .. } = subscription.need
        && end.is_before(metadata.position, metadata.published_at)
    {
        return Wanted::BeyondEnd;
    }
    if subscription.filter.allows(attributes.tenant(), attributes.event_type()) {
        Wanted::Yes
    } else {
        Wanted::No
    }
}

/// The metadata and event of a message that is to be delivered; the message becomes what Fanout would have written. Anything
/// else is sorted out, and settled.
pub(super) async fn admit(
    context: &Context,
    settler: &Settler,
    partition: u32,
    message: &mut jetstream::Message,
) -> Option<(Metadata, Attributes)> {
    let Some(metadata) = Metadata::of(message, partition) else {
        debug!(subject = %message.subject, "a message that no consumer delivered was skipped");
        return None;
    };
    let template = context.store.template(partition);
    let inner = &mut message.message;
    let attributes = match read::event(template, &inner.subject, &mut inner.headers, &mut inner.payload) {
        Ok(attributes) => attributes,
        Err(problem) => {
            let tenant = template.tenant_of(&message.subject);
            let source = Source::Log(message.clone());
            Box::pin(settler.dead_letter_unreadable(&source, (tenant, &metadata), &problem)).await;
            return None;
        }
    };
    // Behind the subscription's own consumer; none of those that isolate a tenant.
    let waiting = message.info().ok().and_then(|info| {
        let own = ConsumerName::from(info.consumer).tenant().is_none();
        own.then_some(info.pending)
    });
    if waiting.is_some()
        && context
            .registered
            .is_isolated_at(attributes.tenant(), metadata.position)
    {
        settler.skip(message).await;
        return None;
    }
    if context
        .registered
        .was_settled_before(attributes.tenant(), metadata.position)
    {
        settler.skip(message).await;
        return None;
    }
    match wanted(&context.registered, &attributes, &message.payload, &metadata).await {
        Wanted::Yes => {
            // What a pattern leaves out holds nobody up, and is no reason to isolate a tenant.
            if let Some(waiting) = waiting {
                context.health.sees_waiting(waiting);
            }
            Some((metadata, attributes))
        }
        Wanted::No => {
            settler.skip(message).await;
            None
        }
        Wanted::LeftOut => {
            Health::count(&context.health.left_out);
            settler.skip(message).await;
            None
        }
        Wanted::BeyondEnd => {
            context.health.passed_end(metadata.position);
            settler.skip(message).await;
            None
        }
    }
}

/// The trace that an event was published in. What another client wrote is passed on only if it is one.
fn traceparent(headers: Option<&HeaderMap>) -> Option<String> {
    fanout_transport::traceparent(headers?.get("traceparent")?.as_str()).map(str::to_owned)
}

pub(super) fn delivery(
    registered: &Registered,
    attributes: Attributes,
    message: (&Option<HeaderMap>, Bytes),
    metadata: &Metadata,
    failed: &[FailedAttempt],
) -> Delivery {
    let (headers, data) = message;
    Delivery {
        subscription: registered.subscription.name.clone(),
        attributes,
        data,
        position: metadata.position,
        attempt: failed.last().map_or(0, |a| a.attempt) + 1,
        replayed: registered.was_there(metadata.position),
        published_at: metadata.published_at,
        traceparent: traceparent(headers.as_ref()),
    }
}
