//! Pulls from a consumer of the log, and how they end when deliveries stop.
//!
//! What the store gives out at that moment must not get lost between it and here: it would come again only after its
//! hold, and under an order all that is behind it would wait for that. So a pull is heard out for a moment, and what it
//! brings is given back; the store gives it out again only when no pull of this instance is left to catch it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::Batch;
use async_nats::jetstream::{self, AckKind};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::jetstream::StoreError;

/// What a pull brings.
pub(super) type Pulled = Result<BoxStream<'static, jetstream::Message>, StoreError>;

/// How long a pull waits at the server for events. Also bounds how long deliveries stand still after the server was
/// restarted, since a pull does not survive that.
const WAIT: Duration = Duration::from_secs(3);

/// How long after a pull that broke off the next one is made.
const BROKE_OFF_WAIT: Duration = Duration::from_millis(50);

/// For how long a pull is heard out when deliveries stop.
const GRACE: Duration = Duration::from_millis(50);

/// What is given back is given out again after this: more than the grace, and than the server takes to hear that the
/// pull has ended.
const GIVEN_BACK_FOR: Duration = Duration::from_millis(200);

/// Up to so many messages: what is there, and what comes within a while.
pub(super) async fn waiting(consumer: &PullConsumer, most: usize, stop: &CancellationToken) -> Pulled {
    let batch = consumer.batch().max_messages(most).expires(WAIT).messages();
    Ok(until_soon_after(
        stop,
        batch.await.map_err(StoreError::when("be pulled from"))?,
    ))
}

/// Up to so many messages of those that are there.
pub(super) async fn at_once(consumer: &PullConsumer, most: usize, stop: &CancellationToken) -> Pulled {
    let batch = consumer.fetch().max_messages(most).messages();
    Ok(until_soon_after(
        stop,
        batch.await.map_err(StoreError::when("be pulled from"))?,
    ))
}

fn until_soon_after(stop: &CancellationToken, batch: Batch) -> BoxStream<'static, jetstream::Message> {
    let stop = stop.clone();
    let heard_out = async move {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    batch.filter_map(pulled).take_until(heard_out).boxed()
}

/// A message of a pull; `None` where the pull broke off, after a wait.
async fn pulled(message: Result<jetstream::Message, async_nats::Error>) -> Option<jetstream::Message> {
    match message {
        Ok(message) => Some(message),
        Err(error) => {
            // A restart, a heartbeat missed: the next pull follows. Where the consumer is gone, the server says so at
            // once each time.
            debug!(%error, "a pull ended early");
            tokio::time::sleep(BROKE_OFF_WAIT).await;
            None
        }
    }
}

/// Gives back an event that is not delivered any more because deliveries stop.
pub(super) async fn give_back(message: &jetstream::Message) {
    if let Err(error) = message.ack_with(AckKind::Nak(Some(GIVEN_BACK_FOR))).await {
        debug!(%error, "an event was not given back; it comes again by itself");
    }
}

/// At least one free place, and all others that are free now.
pub(super) async fn free_room(room: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    // The semaphore is never closed: a closed one would mean no room, for ever.
    let Ok(mut permits) = Arc::clone(room).acquire_owned().await else {
        return std::future::pending().await;
    };
    let more = u32::try_from(room.available_permits()).unwrap_or(u32::MAX);
    if more > 0
        && let Ok(others) = Arc::clone(room).try_acquire_many_owned(more)
    {
        permits.merge(others);
    }
    permits
}
