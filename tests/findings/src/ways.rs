//! Ways from a publisher to a handler: through the bus, and past it on the same server.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use bytes::Bytes;
use fanout_client::{Bus, Deliveries, Event, Subscription};
use futures::StreamExt as _;
use tokio_util::task::AbortOnDropHandle;

use crate::flow::Meter;

/// The type of all events.
pub(crate) const EVENT_TYPE: &str = "invoice.paid";
/// Deliveries that a native handler holds at most: as many as one fetch gives.
const PREFETCH: u32 = 1_000;

/// How an event gets to its handler.
#[derive(Clone)]
pub(crate) enum Way {
    /// Through the bus, as an event of this tenant.
    Bus(Bus, Arc<str>),
    /// JetStream's own client, to this subject, acknowledged.
    JetStream(jetstream::Context, Arc<str>),
    /// Core NATS, to this subject, acknowledged by nobody.
    Core(async_nats::Client, Arc<str>),
}

impl Way {
    /// Publishes an event and waits for its receipt, if this way has one.
    pub(crate) async fn publish(&self, number: u64, payload: Bytes) -> Result<()> {
        match self {
            Self::Bus(bus, tenant) => {
                let event = Event::new(&**tenant, EVENT_TYPE, number.to_string()).data(payload);
                bus.publish(&event).await?;
            }
            Self::JetStream(js, subject) => {
                js.publish(subject.to_string(), payload).await?.await?;
            }
            Self::Core(client, subject) => client.publish(subject.to_string(), payload).await?,
        }
        Ok(())
    }
}

/// A handler at work; it ends when this is dropped.
pub(crate) struct Handler(AbortOnDropHandle<()>);

impl Handler {
    /// Whether it gave up, because what it reads was refused.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.is_finished() {
            return Err(anyhow!("a handler ended before its run"));
        }
        Ok(())
    }
}

/// A subscription of the bus whose handler is native, and does nothing but say what it was given.
pub(crate) async fn subscribe(bus: &Bus, subscription: Subscription, meter: &Arc<Meter>) -> Result<Handler> {
    let deliveries = bus.subscribe(subscription.prefetch(PREFETCH)).await?;
    Ok(handle(deliveries, meter))
}

/// Handles what comes.
pub(crate) fn handle(mut deliveries: Deliveries, meter: &Arc<Meter>) -> Handler {
    let meter = Arc::clone(meter);
    Handler(AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(Ok(delivery)) = deliveries.recv().await {
            meter.saw(&delivery.event().data);
            // As many as are held at most. One that fails comes again, which is no part of what is measured here.
            tokio::spawn(async move { delivery.ack().await.ok() });
        }
    })))
}

/// A durable pull consumer of a stream, which acknowledges each message.
pub(crate) async fn pull(js: &jetstream::Context, stream: &str, subject: &str, meter: &Arc<Meter>) -> Result<Handler> {
    let config = pull::Config {
        durable_name: Some("bare".into()),
        ack_policy: AckPolicy::Explicit,
        filter_subject: subject.to_owned(),
        max_ack_pending: 4_096,
        ..pull::Config::default()
    };
    let consumer = js
        .create_consumer_on_stream(config, stream)
        .await
        .context("the bare consumer")?;
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(500)
        .expires(Duration::from_secs(5))
        .messages()
        .await
        .context("read")?;
    let meter = Arc::clone(meter);
    Ok(Handler(AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(Ok(message)) = messages.next().await {
            meter.saw(&message.payload);
            // One that is lost brings the event again.
            message.ack().await.ok();
        }
    }))))
}

/// A plain subscription.
pub(crate) async fn core(client: &async_nats::Client, subject: &str, meter: &Arc<Meter>) -> Result<Handler> {
    let mut messages = client.subscribe(subject.to_owned()).await?;
    client.flush().await?;
    let meter = Arc::clone(meter);
    Ok(Handler(AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(message) = messages.next().await {
            meter.saw(&message.payload);
        }
    }))))
}
