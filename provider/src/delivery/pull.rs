//! Pulls from a consumer of the log, and how they end when deliveries stop.
//!
//! What the store delivers at that moment must not get lost between it and here: it would come again only after
//! `delivery.ack-wait`, and under an order all that is behind it would wait for that. So a pull is read until nothing comes
//! any more, and ended in a way that the store knows of before anything is nak'ed: a pull that is merely dropped (async-nats
//! 0.51) may still be there then, and catch what nobody reads.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::{StatusCode, Subscriber};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::jetstream::{Store, StoreError, Tenure};

/// What a pull brings.
pub(super) struct Batch {
    messages: BoxStream<'static, jetstream::Message>,
    broke_off: Arc<AtomicBool>,
}

impl Batch {
    /// Whether the pull ended otherwise than by what was asked of it: by a restart, say, or because there is nothing any
    /// more to pull from. Whoever goes on pulling asks whether [its consumer is there](is_there) first.
    pub(super) fn broke_off(&self) -> bool {
        self.broke_off.load(Ordering::Relaxed)
    }
}

impl Stream for Batch {
    type Item = jetstream::Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.messages.poll_next_unpin(context)
    }
}

/// A pull that was begun.
pub(super) type Pulled = Result<Batch, StoreError>;

/// How long a pull waits at the server for events.
const WAIT: Duration = Duration::from_secs(3);

/// It waits for no less: the server refuses a wait of nothing.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// How much later a pull is given up whose end the server did not report: it was restarted, or delivers nothing more and
/// does not report that to a pull that does not wait (nats-server 2.15).
const SLACK: Duration = Duration::from_secs(2);

/// How long after a pull that broke off the next one is made.
const BROKE_OFF_WAIT: Duration = Duration::from_millis(50);

/// When deliveries stop, a pull is read until nothing has come for this time,
const GRACE: Duration = Duration::from_millis(50);

/// and at most for this time.
const LONGEST_GRACE: Duration = Duration::from_secs(2);

/// One pull.
struct Pull {
    inbox: Subscriber,
    store: Store,
    left: usize,
    waits: bool,
    ends_at: Instant,
    stop: CancellationToken,
    stopping: bool,
    broke_off: Arc<AtomicBool>,
}

/// Up to `most` messages: what is there, and what comes within a while.
pub(super) async fn waiting(store: &Store, consumer: &PullConsumer, most: usize, stop: &CancellationToken) -> Pulled {
    waiting_for(store, consumer, (most, WAIT), stop).await
}

/// The same for an owner: the pull does not stay at the server for longer than its ownership lasts by then.
pub(super) async fn owned(
    store: &Store,
    consumer: &PullConsumer,
    (most, tenure): (usize, &Tenure),
    stop: &CancellationToken,
) -> Pulled {
    let wait = tenure.left().clamp(SHORTEST_WAIT, WAIT);
    waiting_for(store, consumer, (most, wait), stop).await
}

async fn waiting_for(
    store: &Store,
    consumer: &PullConsumer,
    (most, wait): (usize, Duration),
    stop: &CancellationToken,
) -> Pulled {
    let request = BatchConfig {
        batch: most,
        expires: Some(wait),
        ..BatchConfig::default()
    };
    pull(store, consumer, request, stop).await
}

/// Up to `most` messages of those that are there.
pub(super) async fn at_once(store: &Store, consumer: &PullConsumer, most: usize, stop: &CancellationToken) -> Pulled {
    let request = BatchConfig {
        batch: most,
        no_wait: true,
        ..BatchConfig::default()
    };
    pull(store, consumer, request, stop).await
}

async fn pull(store: &Store, consumer: &PullConsumer, request: BatchConfig, stop: &CancellationToken) -> Pulled {
    let client = store.nats();
    let address = client.new_inbox();
    let inbox = client.subscribe(address.clone()).await;
    let broke_off = Arc::new(AtomicBool::new(false));
    let pull = Pull {
        broke_off: Arc::clone(&broke_off),
        inbox: inbox.map_err(StoreError::when("be pulled from"))?,
        store: store.clone(),
        left: request.batch,
        waits: request.expires.is_some(),
        ends_at: Instant::now() + request.expires.unwrap_or_default() + SLACK,
        stop: stop.clone(),
        stopping: false,
    };
    let asked = consumer.request_batch(request, address.into()).await;
    asked.map_err(StoreError::when("be pulled from"))?;
    let messages = stream::unfold(pull, |mut pull| async move {
        let message = pull.next().await?;
        Some((message, pull))
    });
    Ok(Batch {
        messages: messages.boxed(),
        broke_off,
    })
}

/// Whether a consumer can be pulled from.
///
/// # Errors
/// When it is gone, or the server that has it.
pub(super) async fn is_there(consumer: &PullConsumer) -> Result<(), StoreError> {
    let info = consumer.get_info().await;
    info.map(drop).map_err(StoreError::when("be pulled from"))
}

impl Pull {
    async fn next(&mut self) -> Option<jetstream::Message> {
        while self.left > 0 {
            if self.stop.is_cancelled() && !self.stopping {
                self.stopping = true;
                self.ends_at = self.ends_at.min(Instant::now() + LONGEST_GRACE);
            }
            let message = tokio::select! {
                // What is here already is taken, whatever the time.
                biased;
                message = self.inbox.next() => message?,
                () = quiet(&self.stop) => break,
                () = sleep_until(self.ends_at) => {
                    // A pull that waits is ended by the server; one that does not wait may go unanswered.
                    self.broke_off.store(self.waits && !self.stopping, Ordering::Relaxed);
                    break;
                }
            };
            match message.status {
                None | Some(StatusCode::OK) => {
                    self.left -= 1;
                    return Some(self.store.settleable(message));
                }
                Some(StatusCode::IDLE_HEARTBEAT) => {}
                Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => break,
                Some(status) => {
                    // A restart, a consumer that is gone: the next pull follows. The server says so at once each time.
                    debug!(%status, description = ?message.description, "a pull ended early");
                    self.broke_off.store(true, Ordering::Relaxed);
                    sleep(BROKE_OFF_WAIT).await;
                    break;
                }
            }
        }
        self.left = 0;
        if let Err(error) = self.inbox.unsubscribe().await {
            debug!(%error, "the connection is closed");
        }
        None
    }
}

/// When deliveries are to stop, and nothing has come since for a moment.
async fn quiet(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(GRACE).await;
}

/// One permit.
pub(super) async fn free_permit(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    match Arc::clone(permits).acquire_owned().await {
        Ok(permit) => permit,
        // The semaphore is never closed: a closed one would mean no permit, for ever.
        Err(_) => std::future::pending().await,
    }
}

/// At least one permit, and all others that are free now.
pub(super) async fn free_permits(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    let mut taken = free_permit(permits).await;
    let more = u32::try_from(permits.available_permits()).unwrap_or(u32::MAX);
    if more > 0
        && let Ok(others) = Arc::clone(permits).try_acquire_many_owned(more)
    {
        taken.merge(others);
    }
    taken
}
