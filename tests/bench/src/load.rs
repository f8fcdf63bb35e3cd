//! Ways to publish many events: through the bus and past it.

use std::ops::Range;

use anyhow::{Result, anyhow};
use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use fanout_tests::types::{Event, PublishError, Receipt};
use fanout_transport::{Client, Error, Remote};
use fanout_wit::PUBLISHER;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::world::{PAYLOAD, patient, sized, subject};

/// What the bus says of one event.
type Answer = std::result::Result<Receipt, PublishError>;

/// A bus, on whichever transport, called as fanout-client calls it: without frames.
pub(crate) trait Bus {
    async fn publish_one(&self, event: Event) -> Result<Answer, Error>;
    async fn publish_many(&self, events: Vec<Event>) -> Result<Vec<Answer>, Error>;
}

macro_rules! bus {
    ($way:ty) => {
        impl Bus for $way {
            async fn publish_one(&self, event: Event) -> Result<Answer, Error> {
                self.call_values(patient(), PUBLISHER, "publish-tenant-event", (event,))
                    .await
            }

            async fn publish_many(&self, events: Vec<Event>) -> Result<Vec<Answer>, Error> {
                self.call_values(patient(), PUBLISHER, "publish-tenant-events", (events,))
                    .await
            }
        }
    };
}

bus!(Client);
bus!(Remote);

/// Through the bus, one event in a call, from so many callers at once.
pub(crate) async fn singles(bus: &impl Bus, tenant: &str, run: &str, events: usize, callers: usize) -> Result<usize> {
    stream::iter(0..events)
        .map(|i| async move {
            let event = sized(tenant, &format!("{run}-{i}"));
            bus.publish_one(event).await?.map_err(|e| anyhow!("{e:?}"))
        })
        .buffer_unordered(callers)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok(events)
}

/// Through the bus, many events in a call, from so many callers at once.
pub(crate) async fn batches(
    bus: &impl Bus,
    tenant: &str,
    run: &str,
    events: usize,
    batch: usize,
    callers: usize,
) -> Result<usize> {
    stream::iter(chunks(events, batch))
        .map(|ids| async move {
            let events: Vec<_> = ids.map(|i| sized(tenant, &format!("{run}-{i}"))).collect();
            for result in bus.publish_many(events).await? {
                result.map_err(|e| anyhow!("{e:?}"))?;
            }
            anyhow::Ok(())
        })
        .buffer_unordered(callers)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    Ok(events)
}

/// The plain client straight into the stream, with so many acknowledgements awaited at once.
pub(crate) async fn raw(
    js: &jetstream::Context,
    tenant: &str,
    run: &str,
    events: usize,
    in_flight: usize,
) -> Result<usize> {
    let subject = &subject(tenant);
    stream::iter(0..events)
        .map(|i| async move {
            let message = PublishMessage::build()
                .message_id(format!("{run}-{i}"))
                .payload(Bytes::from_static(&[b'x'; PAYLOAD]));
            js.send_publish(subject.clone(), message).await?.await
        })
        .buffer_unordered(in_flight)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok(events)
}

fn chunks(events: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..events)
        .step_by(size)
        .map(move |from| from..(from + size).min(events))
}

/// Straight into the stream, in the form in which the bus itself stores events.
pub(crate) async fn raw_as_stored(js: &jetstream::Context, tenant: &str, run: &str, events: usize) -> Result<usize> {
    let subject = &subject(tenant);
    stream::iter(0..events)
        .map(|i| async move {
            let id = format!("{run}-{i}");
            let message = PublishMessage::build()
                .header("ce-specversion", "1.0")
                .header("ce-id", id.as_str())
                .header("ce-source", "/bench")
                .header("ce-type", "invoice.paid")
                .header("ce-tenant", tenant)
                .message_id(format!("{tenant}/{id}"))
                .payload(Bytes::from_static(&[b'x'; PAYLOAD]));
            js.send_publish(subject.clone(), message).await?.await
        })
        .buffer_unordered(256)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok(events)
}
