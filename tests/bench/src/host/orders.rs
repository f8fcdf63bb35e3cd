//! What the component of the benches on a host is told and tells: orders to publish, and how many it handled.

use anyhow::{Context as _, Result, ensure};
use async_nats::{Client, Subscriber};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::tally::Tally;

/// Where the component takes orders: its own constant.
const ORDER: &str = "bench.order";

/// Has the component publish.
pub(crate) struct Orders(Client);

impl Orders {
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }

    /// So many events, in orders of so many, of which so many are under way at once.
    pub(crate) async fn of(&self, way: &str, run: &str, events: usize, each: usize, at_once: usize) -> Result<usize> {
        stream::iter((0..events).step_by(each))
            .map(|from| self.order(way, run, from, each.min(events - from)))
            .buffer_unordered(at_once)
            .try_for_each(|()| async { Ok(()) })
            .await?;
        Ok(events)
    }

    async fn order(&self, way: &str, run: &str, from: usize, events: usize) -> Result<()> {
        let order = format!("{way} {run} {from} {events}");
        let answer = self.0.request(ORDER, order.clone().into()).await;
        let answer = answer.with_context(|| format!("no answer to the order {order:?}"))?;
        let answer = String::from_utf8_lossy(&answer.payload);
        ensure!(answer == "done", "the order {order:?} was not carried out: {answer}");
        Ok(())
    }
}

/// Adds up what the component tells that it handled.
pub(crate) async fn add_up(mut telling: Subscriber, handled: Tally) {
    while let Some(message) = telling.next().await {
        let told = std::str::from_utf8(&message.payload).ok().and_then(|n| n.parse().ok());
        handled.add(told.unwrap_or_default());
    }
}
