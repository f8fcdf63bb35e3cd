//! Pulls that stay at the store for the fetches of one subscription that wait: one at a time for each of its sources.
//!
//! A fetch that waits takes the first message of any source. With pulls of its own it would have to give up the others,
//! and what the store sends to a pull that was given up comes again only after `delivery.ack-wait` ([`super::batch`]). So
//! the pulls are the subscription's: what comes goes to the fetch that has waited longest, else to the next one. A source
//! is pulled from while a fetch waits. When none does, the last pull is read to its end, which is a second away at most, and
//! what nobody took is nak'ed.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use futures::StreamExt as _;
use futures::future::join_all;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::pull::{Sources, Taken};
use super::{Acknowledgement, Message, Store, StoreError, acknowledge, batch};

/// The most messages of one pull: what comes of several sources at once, and finds no fetch, waits here.
const MOST: usize = 16;
/// Bytes of one pull, and of its largest message beyond its event, counted generously.
const BYTES: usize = 1 << 20;
const OVERHEAD: usize = 16 << 10;
/// A message that came longer ago has its lease renewed before a fetch takes it.
const FRESH: Duration = Duration::from_millis(100);

/// What came, and the fetches that wait for it.
#[derive(Default)]
pub(crate) struct StandingPulls {
    arrived: Mutex<VecDeque<(Message, Instant)>>,
    /// Notifies one fetch of each message, and all of a source that failed.
    came: Notify,
    /// How many fetches wait.
    waiting: watch::Sender<usize>,
}

/// A fetch that waits, until it is dropped.
struct Waits<'a>(&'a watch::Sender<usize>);

impl<'a> Waits<'a> {
    fn on(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|waiting| *waiting += 1);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl StandingPulls {
    /// What came before and no fetch took: up to `most` messages of together at most `max_bytes`, one at least.
    pub(crate) async fn left(&self, store: &Store, most: usize, mut max_bytes: usize) -> Taken {
        let mut left = Vec::new();
        {
            let mut arrived = self.arrived();
            while left.len() < most
                && let Some((message, _)) = arrived.front()
                && (left.is_empty() || message.length <= max_bytes)
            {
                max_bytes = max_bytes.saturating_sub(message.length);
                left.extend(arrived.pop_front());
            }
        }
        taken(store, left).await
    }

    /// Messages that a fetch took and had no place for, in their order: the next one has them before what came since.
    pub(crate) fn put_back(&self, messages: impl DoubleEndedIterator<Item = Message>) {
        let mut arrived = self.arrived();
        for message in messages.rev() {
            arrived.push_front((message, Instant::now()));
            // A fetch that waits has it now.
            self.came.notify_one();
        }
    }

    /// The first message that comes within the wait. None, too, where a source failed: whoever pulls from it next receives
    /// the error.
    pub(crate) async fn first(&self, store: &Store, wait: Duration) -> Taken {
        let _waits = Waits::on(&self.waiting);
        let mut came = pin!(self.came.notified());
        // Before the queue is read: what comes in between is not missed.
        came.as_mut().enable();
        let mut first = self.arrived().pop_front();
        if first.is_none() && timeout(wait, came).await.is_ok() {
            first = self.arrived().pop_front();
        }
        taken(store, first).await
    }

    /// Returns once a fetch waits; `false` when stopped.
    pub(crate) async fn wanted(&self, stop: &CancellationToken) -> bool {
        let mut waiting = self.waiting.subscribe();
        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            wanted = waiting.wait_for(|waiting| *waiting > 0) => wanted.is_ok(),
        }
    }

    /// Pulls from all sources while fetches wait, until stopped. Then every pull has ended, and what is left is nak'ed.
    ///
    /// # Errors
    /// When a source can't be pulled from. Fetches that wait pull for themselves then.
    pub(crate) async fn keep(
        &self,
        store: &Store,
        sources: &Sources,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let over = &stop.child_token();
        let pulls = sources.all().map(|consumer| async move {
            let pulled = self.pull(store, (sources, consumer), over).await;
            if pulled.is_err() {
                over.cancel();
                self.came.notify_waiters();
            }
            pulled
        });
        let pulled: Result<(), StoreError> = join_all(pulls).await.into_iter().collect();
        self.nak_left(sources).await;
        pulled
    }

    async fn pull(
        &self,
        store: &Store,
        (sources, consumer): (&Sources, &PullConsumer),
        over: &CancellationToken,
    ) -> Result<(), StoreError> {
        let largest = usize::try_from(store.policy().max_event_bytes).unwrap_or(usize::MAX);
        let max_bytes = BYTES.max(largest.saturating_add(OVERHEAD));
        while self.wanted(over).await {
            let most = self.waiting().clamp(1, MOST);
            let mut batch = batch::waiting(store, consumer, (most, max_bytes)).await?;
            while let Some(message) = batch.next().await {
                self.arrived().push_back((message, Instant::now()));
                self.came.notify_one();
            }
            if batch.broke_off() {
                batch::is_there(consumer).await?;
            }
            if self.waiting() == 0 {
                self.nak_left(sources).await;
            }
        }
        Ok(())
    }

    /// Has the store deliver again what nobody took. What a queue subscription received is never delivered again: it stays for
    /// the next fetch.
    async fn nak_left(&self, sources: &Sources) {
        if !sources.is_settled() {
            return;
        }
        let left = std::mem::take(&mut *self.arrived());
        for (message, _) in left {
            acknowledge(&message, Acknowledgement::Nak(Duration::ZERO)).await;
        }
    }

    fn waiting(&self) -> usize {
        *self.waiting.borrow()
    }

    fn arrived(&self) -> MutexGuard<'_, VecDeque<(Message, Instant)>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Messages as a fetch takes them, with leases that begin about now.
async fn taken(store: &Store, arrived: impl IntoIterator<Item = (Message, Instant)>) -> Taken {
    let since = store.now() - FRESH;
    let mut messages = Vec::new();
    for (message, at) in arrived {
        if at.elapsed() > FRESH {
            acknowledge(&message, Acknowledgement::Progress).await;
        }
        messages.push(message);
    }
    Taken { messages, since }
}
