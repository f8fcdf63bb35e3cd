//! Durable and backfill subscriptions: pulls from the log's consumer no more than can be worked on, invokes the
//! subscriber, and settles each event.
//!
//! Several instances of the provider pull from the one consumer; the server gives each event to one of them.

use std::sync::Arc;
use std::time::Instant;

use async_nats::jetstream;
use fanout_plan::isolation::Reader;
use fanout_plan::partition::Partition;
use fanout_plan::{Code, Problem};
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::debug;

use super::Context;
use super::incoming;
use super::invoke::invoke;
use super::isolation::Rooms;
use super::pull::{self, free_room};
use super::settle::{Held, Next, Settler, Source};
use crate::jetstream::StoreError;

/// How many events are asked for at once where most are passed over, because their tenants are isolated.
const PASSED_OVER: usize = 1_000;

/// What the pulls of one subscription share: they read several partitions, and hold no more together than one would.
#[derive(Clone)]
struct Shared {
    /// Events that may be held. An isolated tenant has room of its own, so that it takes none from others.
    room: Arc<Semaphore>,
    /// Invocations at once; who waits for one has it in turn.
    calls: Arc<Semaphore>,
    /// Whether nobody else takes from the same room.
    alone: bool,
}

/// Delivers until stopped. Invocations under way have a place among `calls`.
pub(super) async fn run(context: Arc<Context>, calls: Arc<Semaphore>) {
    let subscription = &context.registered.subscription;
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
        let Err(error) = read_on(&context, &shared, &partition, &reader).await else {
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

async fn read_on(
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
    let passes_over = reader.tenant.is_none() && !context.registered.isolated.is_empty();
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
            let mut pulled = match pull::waiting(&context.store, &consumer, 1, &context.stop).await {
                Ok(pulled) => pulled,
                Err(e) => break Err(e),
            };
            first = pulled.next().await;
            if first.is_none() && !context.stop.is_cancelled() {
                if pulled.broke_off()
                    && let Err(e) = context.is_there(&consumer).await
                {
                    break Err(e);
                }
                continue;
            }
        }
        let permits = tokio::select! {
            biased;
            () = context.stop.cancelled() => {
                if let Some(message) = first {
                    pull::give_back(&message).await;
                }
                break Ok(());
            }
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
            pull::waiting(&context.store, &consumer, count, &context.stop).await
        } else {
            pull::at_once(&context.store, &consumer, count, &context.stop).await
        };
        let mut chunks = match batch {
            Ok(batch) => batch.ready_chunks(batch_size),
            Err(e) => break Err(e),
        };
        idle = !alone;
        let mut left = Vec::new();
        while let Some(messages) = chunks.next().await {
            if context.stop.is_cancelled() {
                left.extend(messages);
                continue;
            }
            idle = false;
            let permit = permits.as_mut().and_then(|p| p.split(messages.len()));
            spawn(&mut tasks, messages, permit);
        }
        for message in &left {
            pull::give_back(message).await;
        }
        drop(permits);
        if chunks.get_ref().broke_off()
            && let Err(e) = context.is_there(&consumer).await
        {
            break Err(e);
        }
        if context.health.is_failing() {
            // The tasks note what came of the probe; pulling on before they have would only pile up.
            while tasks.join_next().await.is_some() {}
        }
    };
    while tasks.join_next().await.is_some() {}
    ended
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
    let mut wait = None;
    for (held, next) in invoke(context, settler, (held, received), || context.stop.is_cancelled()).await {
        match next {
            Next::Gone | Next::Waits => {}
            Next::Again(delay) | Next::Stuck(delay) => held.give_back(delay).await,
            Next::Unreached(delay) => {
                held.give_back(delay).await;
                wait = Some(delay);
            }
        }
    }
    if let Some(wait) = wait {
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Sorts out what is not to be delivered, and learns of earlier attempts.
pub(crate) async fn admit(
    context: &Context,
    settler: &Settler,
    partition: u32,
    mut message: jetstream::Message,
) -> Option<Held> {
    let (place, attributes) = incoming::admit(context, settler, partition, &mut message).await?;
    let failed = if place.given_out > 1 {
        let known = async {
            if settler.waits(place.position).await? {
                return Ok(None);
            }
            settler.attempts_so_far(place.position).await.map(Some)
        };
        match Box::pin(known).await {
            Ok(Some(failed)) => failed,
            Ok(None) => {
                // It was stored among the retries, and a crash or a lost word kept the log from hearing of it.
                settler.skip(&message).await;
                return None;
            }
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
