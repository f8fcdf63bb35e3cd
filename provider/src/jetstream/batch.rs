//! Pulls from a consumer of the log, and how they end when deliveries stop.
//!
//! What the store delivers at that moment must not get lost between it and here: it would come again only after
//! `delivery.ack-wait`, and under an order all that is behind it would wait for that. So a pull is read until the server ends
//! it, and only then is anything nak'ed. Nobody else can end it without a loss: what the server sends until it knows of an
//! unsubscription reaches nobody, by async-nats' `drain` too (0.51), which forgets the subscription before the server has
//! answered. So a pull stays at the server for a second and no longer.

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
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

use super::{Store, StoreError, Tenure};

/// What a pull brings.
pub(crate) struct Batch {
    messages: BoxStream<'static, jetstream::Message>,
    broke_off: Arc<AtomicBool>,
}

impl Batch {
    /// Whether the pull ended otherwise than by what was asked of it: by a restart, say, or because there is nothing any
    /// more to pull from. Whoever goes on pulling asks whether [its consumer is there](is_there) first.
    pub(crate) fn broke_off(&self) -> bool {
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
pub(crate) type Pulled = Result<Batch, StoreError>;

/// The most messages of a pull, and the most bytes of all of them.
pub(crate) type Most = (usize, usize);

/// Bytes of a pull whose reader bounds what it keeps by itself: what waits to be read.
pub(crate) const BYTES: usize = 64 << 20;

/// How the server ends a pull that has a bound of bytes, with the same 409 as for a consumer that is gone: its number is
/// reached, or the next message does not fit (nats-server 2.15).
const DONE: [&str; 2] = ["Batch Completed", "Message Size Exceeds MaxBytes"];

/// How many of a pull's messages the server leaves where it ends the pull in order. The messages of a consumer with replicas
/// wait for a quorum before they are sent, and this word does not: it comes before them (nats-server 2.15).
const PENDING_MESSAGES: &str = "Nats-Pending-Messages";

/// How long a pull waits at the server for events, and deliveries that are to stop for its end.
const WAIT: Duration = Duration::from_secs(1);

/// It waits for no less: the server refuses a wait of nothing.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// How much later a pull is given up whose end the server did not report: it was restarted, or delivers nothing more and
/// does not report that to a pull that does not wait (nats-server 2.15).
const SLACK: Duration = Duration::from_secs(2);

/// How long after a pull that broke off the next one is made.
const BROKE_OFF_WAIT: Duration = Duration::from_millis(50);

/// One pull.
struct Pull {
    inbox: Subscriber,
    store: Store,
    left: usize,
    asked: usize,
    waits: bool,
    ends_at: Instant,
    broke_off: Arc<AtomicBool>,
}

/// Up to `most` messages: what is there, and what comes within a while.
pub(crate) async fn waiting(store: &Store, consumer: &PullConsumer, most: Most) -> Pulled {
    waiting_for(store, consumer, (most, WAIT)).await
}

/// The same for an owner: the pull does not stay at the server for longer than its ownership lasts by then.
pub(crate) async fn owned(store: &Store, consumer: &PullConsumer, (most, tenure): (Most, &Tenure)) -> Pulled {
    let wait = tenure.left().clamp(SHORTEST_WAIT, WAIT);
    waiting_for(store, consumer, (most, wait)).await
}

async fn waiting_for(store: &Store, consumer: &PullConsumer, ((most, max_bytes), wait): (Most, Duration)) -> Pulled {
    let request = BatchConfig {
        batch: most,
        max_bytes,
        expires: Some(wait),
        ..BatchConfig::default()
    };
    pull(store, consumer, request).await
}

/// Up to `most` messages of those that are there.
pub(crate) async fn at_once(store: &Store, consumer: &PullConsumer, (most, max_bytes): Most) -> Pulled {
    let request = BatchConfig {
        batch: most,
        max_bytes,
        no_wait: true,
        ..BatchConfig::default()
    };
    pull(store, consumer, request).await
}

async fn pull(store: &Store, consumer: &PullConsumer, request: BatchConfig) -> Pulled {
    let client = store.nats();
    let address = client.new_inbox();
    let inbox = client.subscribe(address.clone()).await;
    let broke_off = Arc::new(AtomicBool::new(false));
    let pull = Pull {
        broke_off: Arc::clone(&broke_off),
        inbox: inbox.map_err(StoreError::when("deliver events"))?,
        store: store.clone(),
        left: request.batch,
        asked: request.batch,
        waits: request.expires.is_some(),
        ends_at: Instant::now() + request.expires.unwrap_or_default() + SLACK,
    };
    let asked = consumer.request_batch(request, address.into()).await;
    asked.map_err(StoreError::when("deliver events"))?;
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
pub(crate) async fn is_there(consumer: &PullConsumer) -> Result<(), StoreError> {
    let info = consumer.get_info().await;
    info.map(drop).map_err(StoreError::when("deliver events"))
}

impl Pull {
    async fn next(&mut self) -> Option<jetstream::Message> {
        while self.left > 0 {
            let message = tokio::select! {
                // What is here already is taken, whatever the time.
                biased;
                message = self.inbox.next() => message?,
                () = sleep_until(self.ends_at) => {
                    // A pull that waits is ended by the server; one that does not wait may go unanswered.
                    self.broke_off.store(self.waits, Ordering::Relaxed);
                    break;
                }
            };
            match message.status {
                None | Some(StatusCode::OK) => {
                    self.left -= 1;
                    return Some(self.store.settleable(message));
                }
                Some(StatusCode::IDLE_HEARTBEAT) => {}
                Some(StatusCode::NOT_FOUND) => break,
                Some(status) if status == StatusCode::TIMEOUT || is_done(&message) => {
                    // The others are still on their way.
                    let pending = pending_messages(&message).unwrap_or(self.left);
                    self.left = self.left.saturating_sub(pending);
                    if status != StatusCode::TIMEOUT && pending == self.asked {
                        // The first does not fit beside what is in flight; it does once that is settled.
                        sleep(BROKE_OFF_WAIT).await;
                    }
                }
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

/// Whether the server ends the pull because its number or its bytes are reached.
fn is_done(message: &async_nats::Message) -> bool {
    message.description.as_deref().is_some_and(|text| DONE.contains(&text))
}

/// How many messages of the pull the server leaves, where it ends the pull.
fn pending_messages(message: &async_nats::Message) -> Option<usize> {
    message.headers.as_ref()?.get(PENDING_MESSAGES)?.as_str().parse().ok()
}
