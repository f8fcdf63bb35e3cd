//! Durable and backfill subscriptions: pulls from the log's consumer no more than can be worked on, invokes the
//! subscriber, and settles each event.
//!
//! Several instances of the provider pull from the one consumer; the server gives each event to one of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self, AckKind};
use fanout_plan::partition::Partition;
use fanout_plan::subscription::Reach;
use fanout_plan::{Code, Problem};
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::debug;

use super::Context;
use super::incoming::{self, Place, Wanted};
use super::settle::{Held, Settler};
use super::turns;
use crate::jetstream::StoreError;
use crate::wrpc::CallFailure;

/// How long a pull waits at the server for events. Also bounds how long deliveries stand still after the server was
/// restarted, since a pull does not survive that.
const PULL_WAIT: Duration = Duration::from_secs(3);

/// What the pulls of one subscription share: they read several partitions, and hold no more together than one would.
struct Shared {
    /// Events that may be held.
    room: Arc<Semaphore>,
    /// Invocations at once.
    calls: Arc<Semaphore>,
}

/// Delivers until stopped.
pub(super) async fn run(context: Arc<Context>) {
    let subscription = &context.registered.subscription;
    let shared = Arc::new(Shared {
        room: Arc::new(Semaphore::new(subscription.max_unsettled() as usize)),
        calls: Arc::new(Semaphore::new(subscription.concurrency as usize)),
    });
    let mut pulls = JoinSet::new();
    for partition in context.store.partitions_of(subscription) {
        pulls.spawn(read(Arc::clone(&context), Arc::clone(&shared), partition.clone()));
    }
    while pulls.join_next().await.is_some() {}
}

/// Delivers what is in one partition; comes back by itself when the store does.
async fn read(context: Arc<Context>, shared: Arc<Shared>, partition: Partition) {
    turns::come(&context, &partition).await;
    while !context.stop.is_cancelled() {
        let Err(error) = pull(&context, &shared, &partition).await else {
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

async fn pull(context: &Arc<Context>, shared: &Arc<Shared>, partition: &Partition) -> Result<(), StoreError> {
    let Some(consumer) = context.store.consumer(context.name(), partition).await? else {
        return Ok(());
    };
    let settler = Arc::new(Settler::new(context).await?);
    let subscription = &context.registered.subscription;
    let number = partition.number;
    let batch_size = subscription.batch_size as usize;
    // An idle partition must not hold room that a busy one needs: beside others, one waits for a first event without
    // room, and then takes what there is at once.
    let alone = context.store.partitions_of(subscription).count() == 1;
    let mut idle = !alone;
    let mut tasks = JoinSet::new();
    let spawn = |tasks: &mut JoinSet<()>, messages: Vec<_>, permit: Option<OwnedSemaphorePermit>| {
        let (context, settler, shared) = (Arc::clone(context), Arc::clone(&settler), Arc::clone(shared));
        tasks.spawn(async move {
            let _permit = permit;
            deliver(&context, &settler, &shared.calls, number, messages).await;
        });
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
            let messages: Vec<_> = chunk
                .into_iter()
                .filter_map(|m| m.map_err(log_pull_error).ok())
                .collect();
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
    Ok(batch.next().await.and_then(|m| m.map_err(log_pull_error).ok()))
}

fn log_pull_error(error: async_nats::Error) {
    // A pull that ends early (a restart, a heartbeat missed) is followed by the next.
    debug!(%error, "a pull ended early");
}

/// At least one free place, and all others that are free now.
async fn free_room(room: &Arc<Semaphore>) -> OwnedSemaphorePermit {
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
    let Ok(_call) = calls.acquire().await else { return };
    let ack_wait = context.store.policy().ack_wait;
    if received.elapsed() >= ack_wait {
        // They waited so long for their turn that the server has given them out again.
        return;
    }
    if received.elapsed() > ack_wait / 4 {
        for h in &held {
            h.settle(AckKind::Progress).await;
        }
    }
    for part in parts(held, context.store.nats().max_payload()) {
        invoke(context, settler, part).await;
    }
}

/// Sorts out what is not to be delivered, and learns of earlier attempts.
pub(crate) async fn admit(
    context: &Context,
    settler: &Settler,
    partition: u32,
    message: jetstream::Message,
) -> Option<Held> {
    let Some(place) = Place::of(&message, partition) else {
        debug!(subject = %message.subject, "a message without a place in the log was passed over");
        return None;
    };
    let template = context.store.template(partition);
    let attributes = match incoming::attributes(template, &message.subject, message.headers.as_ref()) {
        Ok(attributes) => attributes,
        Err(problem) => {
            settler.set_aside_unreadable(&message, &place, &problem).await;
            return None;
        }
    };
    match incoming::wanted(&context.registered, &attributes, &place) {
        Wanted::Yes => {}
        Wanted::No => {
            settler.skip(&message).await;
            return None;
        }
        Wanted::BeyondEnd => {
            context.health.passed_end(place.position);
            settler.skip(&message).await;
            return None;
        }
    }
    let failed = if place.given_out > 1 {
        match settler.earlier_attempts(place.position).await {
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
        message,
        delivery,
        failed,
    })
}

/// Bytes that an event's attributes may take on the wire besides its payload, counted generously.
const ATTRIBUTES_BYTES: usize = 4 << 10;

/// Splits so that the parameters of each invocation stay below the server's `max_payload`: a stock host's client loses
/// the first chunk of what is larger now and then (wrpc-transport-nats 0.29).
fn parts(held: Vec<Held>, max_payload: usize) -> Vec<Vec<Held>> {
    let mut parts: Vec<Vec<Held>> = Vec::new();
    let mut room = 0;
    for h in held {
        let size = h.delivery.data.len() + ATTRIBUTES_BYTES;
        match parts.last_mut() {
            Some(part) if size <= room => part.push(h),
            _ => {
                room = max_payload;
                parts.push(vec![h]);
            }
        }
        room = room.saturating_sub(size);
    }
    parts
}

async fn invoke(context: &Context, settler: &Settler, held: Vec<Held>) {
    let deliveries: Vec<_> = held.iter().map(|h| h.delivery.clone()).collect();
    let reach = context.registered.subscription.reach;
    match context.subscriber.handle(reach, deliveries).await {
        Ok(results) => {
            context.health.works(context.name().as_str());
            for (h, result) in held.into_iter().zip(results) {
                settler.settle(h, result).await;
            }
        }
        Err(CallFailure::Unreachable) => {
            let wait = context.health.fails(Problem::new(
                Code::SubscriberUnreachable,
                format!(
                    "subscription {}: component {} can't be reached: start it, or look why it stopped; its events wait in the log",
                    context.name(),
                    context.registered.component
                ),
            ));
            for h in &held {
                h.settle(AckKind::Nak(Some(wait))).await;
            }
            tokio::time::sleep(wait).await;
        }
        Err(failure) if held.len() > 1 && reach == Reach::BatchHandler => {
            // One event may have failed all of them: each is tried alone, so that only its own attempt counts.
            debug!(subscription = %context.name(), %failure, "a batch failed and is delivered one by one");
            for h in held {
                h.settle(AckKind::Progress).await;
                Box::pin(invoke(context, settler, vec![h])).await;
            }
        }
        Err(failure) => {
            context.health.works(context.name().as_str());
            for h in held {
                settler.settle(h, Err(failure.as_rejection())).await;
            }
        }
    }
}
