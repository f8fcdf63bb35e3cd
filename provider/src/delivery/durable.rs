//! Durable and backfill subscriptions: pulls from the log's consumer no more than can be worked on, invokes the
//! subscriber, and settles each event.
//!
//! Several instances of the provider pull from the one consumer; the server gives each event to one of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self, AckKind};
use fanout_plan::apart::Reader;
use fanout_plan::partition::Partition;
use fanout_plan::{Code, Problem};
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::debug;

use super::Context;
use super::apart::Rooms;
use super::incoming;
use super::invoke::{invoke, parts};
use super::settle::{Held, Next, Settler, Source};
use crate::jetstream::StoreError;

/// How long a pull waits at the server for events. Also bounds how long deliveries stand still after the server was
/// restarted, since a pull does not survive that.
pub(super) const PULL_WAIT: Duration = Duration::from_secs(3);

/// How long after a pull that broke off the next one is made.
const BROKE_OFF_WAIT: Duration = Duration::from_millis(50);

/// How many events are asked for at once where most are passed over, because their tenants are read apart.
const PASSED_OVER: usize = 1_000;

/// What the pulls of one subscription share: they read several partitions, and hold no more together than one would.
#[derive(Clone)]
struct Shared {
    /// Events that may be held. A tenant apart has room of its own, so that it takes none from others.
    room: Arc<Semaphore>,
    /// Invocations at once; who waits for one has it in turn.
    calls: Arc<Semaphore>,
    /// Whether nobody else takes from the same room.
    alone: bool,
}

/// Delivers until stopped.
pub(super) async fn run(context: Arc<Context>) {
    let subscription = &context.registered.subscription;
    let calls = Arc::new(Semaphore::new(subscription.concurrency as usize));
    let rooms = Rooms::new(&context, subscription.max_unsettled());
    let mut pulls = JoinSet::new();
    for (partition, reader) in context.store.readers_of(&context.registered) {
        let shared = Shared {
            room: rooms.of(&reader),
            calls: Arc::clone(&calls),
            alone: rooms.is_alone(&reader),
        };
        pulls.spawn(read(Arc::clone(&context), shared, partition.clone(), reader));
    }
    while pulls.join_next().await.is_some() {}
}

/// Delivers what is in one partition; comes back by itself when the store does.
async fn read(context: Arc<Context>, shared: Shared, partition: Partition, reader: Reader) {
    while !context.stop.is_cancelled() {
        let Err(error) = pull(&context, &shared, &partition, &reader).await else {
            return;
        };
        let wait = context.health.fails(Problem::new(
            Code::StoreUnavailable,
            format!("subscription {}: {error}; its events wait in the log", context.name()),
        ));
        debug!(subscription = %context.name(), ?error, "pulling failed");
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn pull(
    context: &Arc<Context>,
    shared: &Shared,
    partition: &Partition,
    reader: &Reader,
) -> Result<(), StoreError> {
    let Some(consumer) = context.store.consumer(&context.registered, partition, reader).await? else {
        return Ok(());
    };
    let settler = Arc::new(Settler::new(context).await?);
    let subscription = &context.registered.subscription;
    let number = partition.number;
    let batch_size = subscription.batch_size as usize;
    // An idle partition must not hold room that a busy one needs: beside others, one waits for a first event without
    // room, and then takes what there is at once.
    let alone = shared.alone;
    let mut idle = !alone;
    let passes_over = reader.tenant.is_none() && !context.registered.apart.is_empty();
    let mut tasks = JoinSet::new();
    let spawn = |tasks: &mut JoinSet<()>, messages: Vec<_>, permit: Option<OwnedSemaphorePermit>| {
        let (context, settler, shared) = (Arc::clone(context), Arc::clone(&settler), shared.clone());
        // Boxed: the runtime moves what it is given, and this is kilobytes.
        tasks.spawn(Box::pin(async move {
            let _permit = permit;
            deliver(&context, &settler, &shared.calls, number, messages).await;
        }));
    };
    let ended = loop {
        while tasks.try_join_next().is_some() {}
        let mut first = None;
        if idle {
            let pulled = tokio::select! {
                () = context.stop.cancelled() => break Ok(()),
                pulled = one(&consumer) => pulled,
            };
            first = match pulled {
                Ok(None) => continue,
                Ok(first) => first,
                Err(e) => break Err(e),
            };
        }
        let permits = tokio::select! {
            () = context.stop.cancelled() => break Ok(()),
            permits = free_room(&shared.room) => permits,
        };
        let mut permits = Some(permits);
        if let Some(message) = first {
            let permit = permits.as_mut().and_then(|p| p.split(1));
            spawn(&mut tasks, vec![message], permit);
        }
        // While the subscriber does not answer, one batch is enough to learn when it does again.
        let most = if context.health.is_failing() {
            batch_size
        } else {
            usize::MAX
        };
        let count = permits.as_ref().map_or(0, OwnedSemaphorePermit::num_permits).min(most);
        if count == 0 {
            continue;
        }
        // The server never has more under way than the subscription may hold.
        let count = if passes_over && most == usize::MAX {
            count.max(PASSED_OVER)
        } else {
            count
        };
        let batch = if alone {
            let batch = consumer.batch().max_messages(count).expires(PULL_WAIT).messages();
            batch.await.map_err(StoreError::when("be pulled from"))
        } else {
            let batch = consumer.fetch().max_messages(count).messages();
            batch.await.map_err(StoreError::when("be pulled from"))
        };
        let mut chunks = match batch {
            Ok(batch) => batch.ready_chunks(batch_size),
            Err(e) => break Err(e),
        };
        idle = !alone;
        loop {
            let chunk = tokio::select! {
                () = context.stop.cancelled() => break,
                chunk = chunks.next() => chunk,
            };
            let Some(chunk) = chunk else { break };
            let mut messages = Vec::with_capacity(chunk.len());
            for message in chunk {
                messages.extend(pulled(message).await);
            }
            if messages.is_empty() {
                continue;
            }
            idle = false;
            let permit = permits.as_mut().and_then(|p| p.split(messages.len()));
            spawn(&mut tasks, messages, permit);
        }
        drop(permits);
        if context.health.is_failing() {
            // The tasks note what came of the probe; pulling on before they have would only pile up.
            while tasks.join_next().await.is_some() {}
        }
    };
    while tasks.join_next().await.is_some() {}
    ended
}

/// Waits a while for one event.
async fn one(consumer: &PullConsumer) -> Result<Option<jetstream::Message>, StoreError> {
    let batch = consumer.batch().max_messages(1).expires(PULL_WAIT).messages();
    let mut batch = batch.await.map_err(StoreError::when("be pulled from"))?;
    match batch.next().await {
        Some(message) => Ok(pulled(message).await),
        None => Ok(None),
    }
}

/// A message of a pull; `None` where the pull broke off, after a wait.
pub(super) async fn pulled(message: Result<jetstream::Message, async_nats::Error>) -> Option<jetstream::Message> {
    match message {
        Ok(message) => Some(message),
        Err(error) => {
            // A restart, a heartbeat missed: the next pull follows. Where the consumer is gone, the server says so at once
            // each time.
            debug!(%error, "a pull ended early");
            tokio::time::sleep(BROKE_OFF_WAIT).await;
            None
        }
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

/// Invokes the subscriber with the events of a chunk and settles each.
async fn deliver(
    context: &Context,
    settler: &Settler,
    calls: &Semaphore,
    partition: u32,
    messages: Vec<jetstream::Message>,
) {
    let received = Instant::now();
    let mut held = Vec::with_capacity(messages.len());
    for message in messages {
        held.extend(admit(context, settler, partition, message).await);
    }
    if held.is_empty() {
        return;
    }
    let Ok(_call) = calls.acquire().await else { return };
    let ack_wait = context.store.policy().ack_wait;
    if received.elapsed() >= ack_wait {
        // They waited so long for their turn that the server has given them out again.
        return;
    }
    if received.elapsed() > ack_wait / 4 {
        for h in &held {
            h.source.tell(AckKind::Progress).await;
        }
    }
    for part in parts(held, context.store.nats().max_payload()) {
        let mut wait = None;
        for (held, next) in invoke(context, settler, part).await {
            match next {
                Next::Gone => {}
                Next::Again(delay) | Next::Stuck(delay) => held.give_back(delay).await,
                Next::Unreached(delay) => {
                    held.give_back(delay).await;
                    wait = Some(delay);
                }
            }
        }
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Sorts out what is not to be delivered, and learns of earlier attempts.
pub(crate) async fn admit(
    context: &Context,
    settler: &Settler,
    partition: u32,
    message: jetstream::Message,
) -> Option<Held> {
    let (place, attributes) = incoming::admit(context, settler, partition, &message).await?;
    let failed = if place.given_out > 1 {
        match Box::pin(settler.attempts_so_far(place.position)).await {
            Ok(failed) => failed,
            Err(error) => {
                settler.wait_for_store(&message, &error).await;
                return None;
            }
        }
    } else {
        Vec::new()
    };
    let delivery = incoming::delivery(
        &context.registered,
        attributes,
        (&message.headers, message.payload.clone()),
        &place,
        &failed,
    );
    Some(Held {
        source: Source::Log(message),
        delivery,
        failed,
    })
}
