//! Events at a steady pace, and who follows them: latency is counted from the moment at which an event was due, so that a
//! stall is seen by every event that it delayed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, consumer::PullConsumer};
use futures::StreamExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::histogram::Latencies;
use crate::load::{due, number, stamped};

/// Acknowledgements that are awaited at once.
const UNACKNOWLEDGED: usize = 4_096;

/// What came of publishing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    /// The numbers that were acknowledged.
    pub(crate) accepted: BTreeSet<u64>,
    /// The numbers that were not, or of which it is not known.
    pub(crate) failed: BTreeSet<u64>,
}

/// Publishes `rate` events a second for a time, each acknowledged or not.
pub(crate) async fn publish(
    js: &jetstream::Context,
    origin: Instant,
    rate: u64,
    time: Duration,
    subject: impl Fn(u64) -> String,
) -> Result<Published> {
    publish_from(js, origin, 0, rate, time, subject).await
}

/// The same, with numbers from `first` on.
pub(crate) async fn publish_from(
    js: &jetstream::Context,
    origin: Instant,
    first: u64,
    rate: u64,
    time: Duration,
    subject: impl Fn(u64) -> String,
) -> Result<Published> {
    let (send, mut receive) = mpsc::channel(UNACKNOWLEDGED);
    let collecting = tokio::spawn(async move {
        let mut published = Published::default();
        while let Some((n, ack)) = receive.recv().await {
            let ack: jetstream::context::PublishAckFuture = ack;
            match ack.await {
                Ok(_) => published.accepted.insert(n),
                Err(_) => published.failed.insert(n),
            };
        }
        published
    });
    let mut unsent = BTreeSet::new();
    let start = Instant::now();
    for i in 0.. {
        let at = Duration::from_secs_f64(i as f64 / rate as f64);
        if at >= time {
            break;
        }
        tokio::time::sleep_until((start + at).into()).await;
        let due = start.duration_since(origin) + at;
        let n = first + i;
        match js.publish(subject(n), stamped(n, due)).await {
            Ok(ack) => send.send((n, ack)).await.ok().context("the collector ended")?,
            Err(_) => drop(unsent.insert(n)),
        }
    }
    drop(send);
    let mut published = collecting.await.context("the collector")?;
    published.failed.extend(unsent);
    Ok(published)
}

/// What a follower saw.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) latencies: Latencies,
    /// Numbers in the order of arrival, with the time since the origin.
    pub(crate) arrivals: Vec<(u64, Duration)>,
}

/// What is odd about what a follower saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Oddities {
    /// Expected, and never seen.
    pub(crate) missing: u64,
    /// Seen again.
    pub(crate) twice: u64,
    /// Seen after a later one.
    pub(crate) reordered: u64,
}

impl Seen {
    pub(crate) fn oddities(&self, expected: &BTreeSet<u64>) -> Oddities {
        let mut seen = BTreeSet::new();
        let (mut twice, mut reordered) = (0, 0);
        for (n, _) in &self.arrivals {
            let late = seen.last().is_some_and(|last| last > n);
            if !seen.insert(*n) {
                twice += 1;
            } else if late {
                reordered += 1;
            }
        }
        Oddities {
            missing: expected.difference(&seen).count() as u64,
            twice,
            reordered,
        }
    }

    /// When the last of some events had arrived.
    pub(crate) fn complete_at(&self, expected: &BTreeSet<u64>) -> Option<Duration> {
        let wanted = self.arrivals.iter().filter(|(n, _)| expected.contains(n));
        wanted.map(|(_, at)| *at).max()
    }
}

/// One who follows a consumer until told to stop.
pub(crate) struct Follower {
    task: JoinHandle<Result<Seen>>,
    stop: watch::Sender<bool>,
    count: watch::Receiver<u64>,
}

impl Follower {
    pub(crate) fn start(consumer: PullConsumer, origin: Instant) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (counter, count) = watch::channel(0);
        Self {
            task: tokio::spawn(follow(consumer, origin, stopped, counter)),
            stop,
            count,
        }
    }

    /// Waits until so many events came, or none came for `patience`.
    pub(crate) async fn seen(&mut self, count: u64, patience: Duration) {
        loop {
            if *self.count.borrow_and_update() >= count {
                return;
            }
            match tokio::time::timeout(patience, self.count.changed()).await {
                Ok(Ok(())) => {}
                _ => return,
            }
        }
    }

    /// Stops it.
    pub(crate) async fn stop(self) -> Result<Seen> {
        self.stop.send_replace(true);
        self.task.await.context("a follower")?
    }
}

async fn follow(
    consumer: PullConsumer,
    origin: Instant,
    mut stopped: watch::Receiver<bool>,
    counter: watch::Sender<u64>,
) -> Result<Seen> {
    let mut seen = Seen {
        latencies: Latencies::new()?,
        arrivals: Vec::new(),
    };
    while !*stopped.borrow() {
        let pull = consumer
            .batch()
            .max_messages(500)
            .expires(Duration::from_secs(1))
            .messages();
        // Across a link that is cut a pull may not be answered at all.
        let Ok(Ok(mut batch)) = tokio::time::timeout(Duration::from_secs(2), pull).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        loop {
            let message = tokio::select! {
                _ = stopped.wait_for(|s| *s) => return Ok(seen),
                message = tokio::time::timeout(Duration::from_secs(2), batch.next()) => message,
            };
            let Ok(Some(Ok(message))) = message else { break };
            let now = origin.elapsed();
            if let (Some(n), Some(due)) = (number(&message.payload), due(&message.payload)) {
                seen.latencies.record(now.saturating_sub(due));
                seen.arrivals.push((n, now));
                counter.send_modify(|count| *count += 1);
            }
            // One that is lost brings the event again, which is counted.
            message.ack().await.ok();
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oddities_are_told_apart() {
        let seen = Seen {
            latencies: Latencies::new().unwrap(),
            arrivals: [1, 3, 2, 3, 5].map(|n| (n, Duration::from_secs(n))).to_vec(),
        };
        let expected = (1..=5).collect();
        assert_eq!(
            seen.oddities(&expected),
            Oddities {
                missing: 1,
                twice: 1,
                reordered: 1
            }
        );
        assert_eq!(seen.complete_at(&BTreeSet::from([1, 2])), Some(Duration::from_secs(2)));
    }
}
