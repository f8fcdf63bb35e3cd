//! Events sent on a schedule, or as fast as they are handled, and how long each took to its handler.
//!
//! **Open loop**: a thread of its own says when each event is due, whatever became of those before, and latency counts
//! from then. A stall is seen by every event that it delayed: no coordinated omission. **Closed loop**: a window of events
//! is under way, and each that is handled lets the next one go: the rate that the box sustains.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::histogram::Latencies;
use crate::load::{IN_FLIGHT, due, number, stamped};
use crate::ways::Way;

/// Publishes that are under way at most: more wait, and their latency counts all the same.
const UNDER_WAY: usize = 8_192;
/// Events that are due and not yet sent.
const DUE: usize = 1 << 16;
/// The run that an event belongs to is in the upper half of its number.
const RUN_BITS: u32 = 32;

/// Where handlers say what they were given.
pub(crate) struct Meter {
    origin: Instant,
    /// Events of other runs are stragglers.
    run: AtomicU64,
    seen: AtomicU64,
    latencies: Mutex<Latencies>,
    /// Of a closed loop.
    window: Semaphore,
    heard: Notify,
}

impl Meter {
    pub(crate) fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            origin: Instant::now(),
            run: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            latencies: Mutex::new(Latencies::new()?),
            window: Semaphore::new(0),
            heard: Notify::new(),
        }))
    }

    /// A handler was given an event with this payload.
    pub(crate) fn saw(&self, payload: &[u8]) {
        let now = self.origin.elapsed();
        let (Some(number), Some(due)) = (number(payload), due(payload)) else {
            return;
        };
        if number >> RUN_BITS != self.run.load(Ordering::Acquire) {
            return;
        }
        self.latencies().record(now.saturating_sub(due));
        self.seen.fetch_add(1, Ordering::AcqRel);
        self.window.add_permits(1);
        self.heard.notify_one();
    }

    fn latencies(&self) -> std::sync::MutexGuard<'_, Latencies> {
        // A histogram is whole whoever panicked.
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a run; what comes of earlier ones no longer counts.
    fn begin(&self, window: usize) -> Result<u64> {
        let run = self.run.fetch_add(1, Ordering::AcqRel) + 1;
        self.seen.store(0, Ordering::Release);
        *self.latencies() = Latencies::new()?;
        self.window.forget_permits(Semaphore::MAX_PERMITS);
        self.window.add_permits(window);
        Ok(run)
    }

    /// Waits until so many were seen, or none came for `patience`; says how many and when the last came.
    async fn settled(&self, expected: u64, patience: Duration) -> (u64, Instant) {
        let mut last = (self.seen.load(Ordering::Acquire), Instant::now());
        while last.0 < expected {
            if tokio::time::timeout(patience, self.heard.notified()).await.is_err() {
                break;
            }
            let now = self.seen.load(Ordering::Acquire);
            if now != last.0 {
                last = (now, Instant::now());
            } else if last.1.elapsed() > patience {
                break;
            }
        }
        last
    }
}

/// What an open loop gave.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub(crate) sent: u64,
    /// Publishes that were refused, or of which nobody knows.
    pub(crate) failed: u64,
    /// From the moment at which an event was due to its handler.
    pub(crate) handled: Latencies,
    /// From the moment at which an event was due to its receipt.
    pub(crate) stored: Latencies,
    /// How much later than due it was sent: the harness's own part.
    pub(crate) late: Latencies,
}

impl Open {
    /// Sent, not refused, and never handled.
    pub(crate) fn missing(&self) -> u64 {
        (self.sent - self.failed).saturating_sub(self.handled.count())
    }
}

/// How long a handler may take to be given its first event.
const WARM_PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing comes before nothing more is expected.
const PATIENCE: Duration = Duration::from_secs(5);

/// Publishes until a handler is given something: from then on the way is open, and what a first use makes is made.
pub(crate) async fn warm(way: &Way, meter: &Arc<Meter>) -> Result<()> {
    let run = meter.begin(0)?;
    let start = Instant::now();
    for n in 0_u64.. {
        if start.elapsed() > WARM_PATIENCE {
            bail!("nothing reached the handler in {WARM_PATIENCE:?}");
        }
        let payload = stamped(run << RUN_BITS | n, meter.origin.elapsed());
        way.publish(run << RUN_BITS | n, payload).await?;
        if meter.settled(1, Duration::from_millis(50)).await.0 > 0 {
            break;
        }
    }
    Ok(())
}

/// Sends `rate` events a second for `time`.
pub(crate) async fn open_loop(way: &Way, meter: &Arc<Meter>, rate: f64, time: Duration) -> Result<Open> {
    let run = meter.begin(0)?;
    let mut ticks = ticks(rate, time);
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    let (tell, mut told) = mpsc::unbounded_channel();
    let collecting: JoinHandle<Result<(u64, Latencies)>> = tokio::spawn(async move {
        let (mut failed, mut stored) = (0, Latencies::new()?);
        while let Some(took) = told.recv().await {
            match took {
                Some(took) => stored.record(took),
                None => failed += 1,
            }
        }
        Ok((failed, stored))
    });
    let mut late = Latencies::new()?;
    let mut sent = 0;
    while let Some((n, due)) = ticks.recv().await {
        let permit = Arc::clone(&under_way).acquire_owned().await?;
        late.record(due.elapsed());
        sent += 1;
        let number = run << RUN_BITS | n;
        let payload = stamped(number, due.saturating_duration_since(meter.origin));
        let (way, tell) = (way.clone(), tell.clone());
        tokio::spawn(async move {
            let took = way.publish(number, payload).await.is_ok().then(|| due.elapsed());
            // The collector ends after the last sender.
            tell.send(took).unwrap_or_default();
            drop(permit);
        });
    }
    drop(tell);
    let (failed, stored) = collecting.await.context("the collector")??;
    meter.settled(sent - failed, PATIENCE).await;
    let handled = meter.latencies().clone();
    Ok(Open {
        sent,
        failed,
        handled,
        stored,
        late,
    })
}

/// Events handled a second with so many under way.
pub(crate) async fn closed_loop(way: &Way, meter: &Arc<Meter>, window: usize, time: Duration) -> Result<f64> {
    let run = meter.begin(window)?;
    let start = Instant::now();
    let mut sent = 0_u64;
    let mut publishing = tokio::task::JoinSet::new();
    while start.elapsed() < time {
        let Ok(permit) = tokio::time::timeout(PATIENCE, meter.window.acquire()).await else {
            break;
        };
        permit?.forget();
        let number = run << RUN_BITS | sent;
        sent += 1;
        let payload = stamped(number, meter.origin.elapsed());
        let way = way.clone();
        publishing.spawn(async move { way.publish(number, payload).await });
        // What is done is taken out, so that the set stays as small as the window.
        while let Some(done) = publishing.try_join_next() {
            done?.context("publish in a closed loop")?;
        }
    }
    while let Some(done) = publishing.join_next().await {
        done?.context("publish in a closed loop")?;
    }
    let (seen, last) = meter.settled(sent, PATIENCE).await;
    Ok(seen as f64 / last.duration_since(start).as_secs_f64())
}

/// Publishes `count` events as fast as they are stored, as a run of its own.
pub(crate) async fn burst(way: &Way, meter: &Arc<Meter>, count: u64) -> Result<()> {
    let run = meter.begin(0)?;
    let publishing = stream::iter(0..count).map(|n| {
        let number = run << RUN_BITS | n;
        way.publish(number, stamped(number, meter.origin.elapsed()))
    });
    publishing
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(|()| std::future::ready(Ok(())))
        .await
        .context("publish in a burst")
}

/// When so many events of a run had been handled, and whether they were within `patience` of each other.
pub(crate) async fn handled(meter: &Arc<Meter>, count: u64, patience: Duration) -> Option<Instant> {
    let (seen, last) = meter.settled(count, patience).await;
    (seen >= count).then_some(last)
}

/// When each event is due, said by a thread that sleeps until then: a runtime's timer counts in whole milliseconds.
fn ticks(rate: f64, time: Duration) -> mpsc::Receiver<(u64, Instant)> {
    let (send, receive) = mpsc::channel(DUE);
    std::thread::spawn(move || {
        let start = Instant::now();
        for n in 0_u64.. {
            let at = Duration::from_secs_f64(n as f64 / rate);
            if at >= time {
                return;
            }
            let due = start + at;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if send.blocking_send((n, due)).is_err() {
                return;
            }
        }
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ticks_come_at_their_times_and_no_more_than_asked() {
        let start = Instant::now();
        let mut ticks = ticks(1_000.0, Duration::from_millis(20));
        let mut dues = Vec::new();
        while let Some((n, due)) = ticks.recv().await {
            assert!(due <= Instant::now(), "not before it is due");
            assert_eq!(n, dues.len() as u64);
            dues.push(due);
        }
        assert_eq!(dues.len(), 20);
        assert!(start.elapsed() >= Duration::from_millis(19));
    }

    #[tokio::test]
    async fn a_straggler_of_an_earlier_run_does_not_count() {
        let meter = Meter::new().unwrap();
        let first = meter.begin(0).unwrap();
        let second = meter.begin(0).unwrap();
        meter.saw(&stamped(first << RUN_BITS, Duration::ZERO));
        meter.saw(&stamped(second << RUN_BITS, Duration::ZERO));
        assert_eq!(meter.settled(1, Duration::ZERO).await.0, 1);
        assert_eq!(meter.latencies().count(), 1);
    }
}
