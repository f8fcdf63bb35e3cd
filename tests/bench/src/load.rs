//! Ways to publish many events: through the bus and past it.

use std::ops::Range;

use anyhow::{Result, anyhow};
use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use fanout_tests::publisher;
use fanout_transport::CallContext;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use wrpc_transport::Invoke;

use crate::world::{PAYLOAD, patient, sized, subject};

/// A bus, on whichever transport.
pub(crate) trait Bus: Invoke<Context = CallContext> {}

impl<I: Invoke<Context = CallContext>> Bus for I {}

/// Through the bus, one event in a call, from so many callers at once.
pub(crate) async fn singles(bus: &impl Bus, tenant: &str, run: &str, events: usize, callers: usize) -> Result<usize> {
    stream::iter(0..events)
        .map(|i| async move {
            publisher::publish_tenant_event(bus, patient(), &sized(tenant, &format!("{run}-{i}")))
                .await?
                .map_err(|e| anyhow!("{e:?}"))
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
            let results = publisher::publish_tenant_events(bus, patient(), &events).await?;
            for result in results {
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
