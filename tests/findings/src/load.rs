//! Publishers and what they carry.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use bytes::Bytes;
use futures::{StreamExt as _, stream};

use crate::histogram::Latencies;

/// Publishes whose acknowledgements are awaited at once.
pub(crate) const IN_FLIGHT: usize = 256;

/// The size of an event.
pub(crate) const EVENT_BYTES: usize = 1_024;

/// An event that carries a number.
pub(crate) fn event(number: u64) -> Bytes {
    stamped(number, Duration::ZERO)
}

/// An event that carries a number, and when it was due.
pub(crate) fn stamped(number: u64, due: Duration) -> Bytes {
    let mut bytes = vec![b'.'; EVENT_BYTES];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    let due = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
    bytes[8..16].copy_from_slice(&due.to_be_bytes());
    bytes.into()
}

/// The number that an event carries.
pub(crate) fn number(payload: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(payload.get(..8)?.try_into().ok()?))
}

/// When an event was due, since the origin of its run.
pub(crate) fn due(payload: &[u8]) -> Option<Duration> {
    let nanos = u64::from_be_bytes(payload.get(8..16)?.try_into().ok()?);
    Some(Duration::from_nanos(nanos))
}

/// Publishes `count` events as fast as it goes; returns how long it took until all were acknowledged.
pub(crate) async fn publish(js: &jetstream::Context, count: u64, subject: impl Fn(u64) -> String) -> Result<Duration> {
    let start = Instant::now();
    let mut acks = stream::iter(0..count)
        .map(|i| {
            let subject = subject(i);
            async move { js.publish(subject, event(i)).await?.await }
        })
        .buffer_unordered(IN_FLIGHT);
    while let Some(ack) = acks.next().await {
        ack.context("publish")?;
    }
    Ok(start.elapsed())
}

/// Publishes one event after the other; returns how long each waited for its acknowledgement.
pub(crate) async fn publish_singly(
    js: &jetstream::Context,
    count: u64,
    subject: impl Fn(u64) -> String,
) -> Result<Latencies> {
    let mut latencies = Latencies::new()?;
    for i in 0..count {
        let start = Instant::now();
        js.publish(subject(i), event(i)).await?.await.context("publish")?;
        latencies.record(start.elapsed());
    }
    Ok(latencies)
}

/// Pulls and acknowledges until `count` events came, or none came for `patience`; calls `each` with every payload.
pub(crate) async fn consume(
    consumer: &jetstream::consumer::PullConsumer,
    count: u64,
    patience: Duration,
    mut each: impl FnMut(&jetstream::Message),
) -> Result<u64> {
    let mut got = 0;
    let mut quiet_since = Instant::now();
    while got < count && quiet_since.elapsed() < patience {
        let most = usize::try_from(count - got).unwrap_or(usize::MAX).min(500);
        let batch = consumer
            .batch()
            .max_messages(most)
            .expires(Duration::from_millis(500))
            .messages()
            .await;
        let Ok(mut batch) = batch else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while let Some(Ok(message)) = batch.next().await {
            each(&message);
            // An acknowledgement that is lost delivers again, which the caller counts.
            message.ack().await.ok();
            got += 1;
            quiet_since = Instant::now();
        }
    }
    Ok(got)
}
