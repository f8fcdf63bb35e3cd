//! How long it takes from publishing one event to hearing that it was handled, with nothing else under way.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream::consumer::pull;
use futures::StreamExt as _;

use super::world::HostWorld;
use crate::case::Size;
use crate::delivery;
use crate::load::raw_as_stored;
use crate::report::Report;

const GROUPS: [(&str, usize); 2] = [
    (
        "from publishing one to hearing that it was handled, half of them within",
        50,
    ),
    (
        "from publishing one to hearing that it was handled, 99 of 100 within",
        99,
    ),
];

/// How an event comes to be handled.
#[derive(Clone, Copy)]
enum Way {
    /// This program takes it from the stream itself.
    Pulled,
    /// The bus gives it to this component.
    Stored(&'static str),
    /// The host's messaging gives it to a component.
    Message,
}

const WAYS: [(&str, Way); 4] = [
    ("bare pull consumer, native", Way::Pulled),
    ("bus: handler", Way::Stored("one")),
    ("bus: batch-handler", Way::Stored("many")),
    ("messaging-nats: handler; at most once, not stored", Way::Message),
];

pub(super) async fn run(report: &mut Report, size: Size, world: &HostWorld) -> Result<()> {
    let times = size.events(500);
    let consumer = delivery::consumer(&world.js, "bare-latency").await?;
    let mut pulled = consumer.stream().max_messages_per_batch(500).messages().await?;
    let mut samples = Vec::new();
    for round in 0..=size.rounds() {
        for (name, way) in WAYS {
            let run = format!("latency-{round}");
            let mut took = Vec::with_capacity(times);
            for i in 0..times {
                took.push(one(world, way, &format!("{run}-{i}"), &mut pulled).await?);
            }
            took.sort();
            if round > 0 {
                samples.push((name, took));
            }
            world.clear().await?;
        }
    }
    for (group, hundredths) in GROUPS {
        for (name, took) in &samples {
            let within = took.get(took.len() * hundredths / 100).context("nothing was timed")?;
            report.value(group, name, "µs", within.as_secs_f64() * 1e6)?;
        }
    }
    Ok(())
}

async fn one(world: &HostWorld, way: Way, run: &str, pulled: &mut pull::Stream) -> Result<Duration> {
    let handled = world.handled.until(world.handled.count() + 1);
    match way {
        Way::Pulled => {
            let pulled = async {
                let message = pulled.next().await.context("the messages ended")??;
                message.ack().await.map_err(|e| anyhow::anyhow!("{e}"))
            };
            timed(raw_as_stored(&world.js, delivery::BARE, run, 1), pulled).await
        }
        Way::Stored(component) => timed(raw_as_stored(&world.js, component, run, 1), handled).await,
        Way::Message => timed(world.messages(1), handled).await,
    }
}

/// Until it is handled: the answer to the publisher may come later.
async fn timed(
    publishing: impl Future<Output = Result<usize>>,
    handling: impl Future<Output = Result<()>>,
) -> Result<Duration> {
    let start = Instant::now();
    let handling = async { handling.await.map(|()| start.elapsed()) };
    let (published, took) = tokio::join!(publishing, handling);
    published?;
    took
}
