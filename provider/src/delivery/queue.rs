//! Queue subscriptions: each stored event is announced once on the bus's live subjects, and the queue group gives it to
//! one instance, which hands it to the subscriber at once. Nothing is kept and nothing is tried again: what is missed is
//! counted and logged.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use fanout_plan::journal::Outcome;
use fanout_plan::policy::Journaled;
use fanout_plan::subscription::Reach;
use fanout_plan::{Attributes, Code, Position, Problem};
use fanout_transport::Tally;
use futures::StreamExt as _;
use futures::stream::select_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::incoming::{self, Metadata, Wanted};
use super::journaled::Call;
use super::permits::in_flight_bytes;
use super::processing::Processing;
use super::target::CallFailure;
use super::{Context, Delivery, Health};
use crate::jetstream::read;

/// Whoever publishes can cause a miss: a line for each would be a log that they write.
static MISSED: LazyLock<Tally> =
    LazyLock::new(|| Tally::new("events were not handled, and a queue subscription does not try again"));

/// Delivers until stopped.
pub(super) async fn run(context: Arc<Context>) {
    let prefix: Arc<str> = context.store.policy().names().live_prefix().into();
    let mut events = loop {
        let error = match listen(&context, &prefix).await {
            Ok(subscriptions) => break select_all(subscriptions),
            Err(error) => error,
        };
        let wait = context.health.fails(Problem::new(
            Code::StoreUnavailable,
            format!(
                "subscription {}: it can't listen: {error}; it is tried again",
                context.name()
            ),
        ));
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    };
    let calls = Arc::new(Semaphore::new(context.registered.subscription.concurrency as usize));
    // In invocations and waiting for one. What comes beyond them is missed: a subscriber that is slower than its events come
    // must not fill the memory of all.
    let most_bytes = in_flight_bytes(context.store.policy().max_event_bytes);
    let bytes_free = Arc::new(Semaphore::new(most_bytes));
    let mut waiting: VecDeque<(Delivery, OwnedSemaphorePermit)> = VecDeque::new();
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        tokio::select! {
            () = context.stop.cancelled() => break,
            message = events.next() => {
                let Some(message) = message else { break };
                // Read whether or not there is a call free: what waits in the client's buffer is bounded by number alone.
                let bytes = u32::try_from(message.length).unwrap_or(u32::MAX);
                // What is none of its events takes nothing from those that are.
                let Some(delivery) = announced(&context, &prefix, message).await else { continue };
                match Arc::clone(&bytes_free).try_acquire_many_owned(bytes) {
                    Ok(permit) => waiting.push_back((delivery, permit)),
                    Err(_) => {
                        let reason = format!("{most_bytes} bytes of earlier events wait for its subscriber: it is slower than they come");
                        missed(&context, delivery.position, &reason);
                    }
                }
            }
            call = Arc::clone(&calls).acquire_owned(), if !waiting.is_empty() => {
                let (Ok(call), Some((delivery, permit))) = (call, waiting.pop_front()) else { break };
                let context = Arc::clone(&context);
                tasks.spawn(async move {
                    deliver(&context, delivery).await;
                    drop((call, permit));
                });
            }
        }
    }
    for (delivery, _) in waiting {
        missed(&context, delivery.position, "its deliveries stop");
    }
    while tasks.join_next().await.is_some() {}
}

/// Listens for what is announced on all of the subscription's subjects, or on none.
async fn listen(context: &Context, prefix: &str) -> Result<Vec<Subscriber>, async_nats::SubscribeError> {
    let group = format!("fanout.{}.{}", context.store.policy().bus, context.name());
    let filter = &context.registered.subscription.filter;
    let announced = context.store.announced().into_iter();
    let mut subscriptions = Vec::new();
    for filter in announced.flat_map(|template| filter.subject_filters(template)) {
        let subject = format!("{prefix}{filter}");
        let subscription = context.store.nats().queue_subscribe(subject, group.clone()).await?;
        subscriptions.push(subscription);
    }
    Ok(subscriptions)
}

/// An event as the store announces it; `None` for what is none of the subscription's.
async fn announced(context: &Context, prefix: &str, mut message: Message) -> Option<Delivery> {
    let metadata = metadata(context, &message);
    let subject = message.subject.strip_prefix(prefix).unwrap_or(&message.subject);
    let template = context.store.template(metadata.position.partition);
    match read::event(template, subject, &mut message.headers, &mut message.payload) {
        Ok(attributes) => wanted(context, attributes, (&message.headers, message.payload), &metadata).await,
        Err(problem) => {
            missed(context, metadata.position, &format!("not an event: {problem}"));
            None
        }
    }
}

/// The delivery of an event, if it is one of the subscription's.
async fn wanted(
    context: &Context,
    attributes: Attributes,
    (headers, data): (&Option<HeaderMap>, Bytes),
    metadata: &Metadata,
) -> Option<Delivery> {
    match incoming::wanted(&context.registered, &attributes, &data, metadata).await {
        Wanted::Yes => {}
        Wanted::LeftOut => {
            Health::count(&context.health.left_out);
            return None;
        }
        Wanted::No | Wanted::BeyondEnd => return None,
    }
    let event = (headers, data);
    Some(incoming::delivery(
        &context.registered,
        attributes,
        event,
        metadata,
        &[],
    ))
}

async fn deliver(context: &Context, delivery: Delivery) {
    let position = delivery.position;
    // Without its payload.
    let is_journaled = context.journal.kept() != Journaled::Off;
    let journaled = is_journaled.then(|| Delivery {
        data: Bytes::new(),
        ..delivery.clone()
    });
    let mut call = Call::begin();
    let mut deliveries = vec![delivery];
    let mut processing = Processing::begin(context, &mut deliveries);
    let handled = context.target.handle(Reach::Handler, deliveries).await;
    processing.ended(&handled);
    let missed = match handled {
        Ok(results) => {
            context.health.works(context.name().as_str());
            match results.into_iter().next() {
                Some(Ok(())) => None,
                Some(Err(rejection)) => Some(rejection.reason().to_owned()),
                None => Some("no result".to_owned()),
            }
        }
        Err(failure) => {
            call.code = Some(failure.code());
            if matches!(failure, CallFailure::Unreachable) {
                context.health.fails(Problem::new(
                    Code::SubscriberUnreachable,
                    format!(
                        "subscription {}: component {} can't be reached: start it, or find out why it stopped; a queue subscription keeps nothing for it",
                        context.name(),
                        context.registered.component
                    ),
                ));
            }
            Some(failure.to_string())
        }
    };
    match &missed {
        None => Health::count(&context.health.handled),
        // It is said once, for all of them.
        Some(_) if call.code == Some(Code::SubscriberUnreachable.as_str()) => Health::count(&context.health.missed),
        Some(reason) => count_missed(context, position, reason),
    }
    if let Some(delivery) = &journaled {
        let at = context.store.in_its_log(position);
        let outcome = match missed {
            None => Outcome::Handled,
            Some(_) => Outcome::Missed,
        };
        context.journal.note(missed.is_none(), || {
            context.entry(delivery, at, (&call, call.took()), (outcome, missed.as_deref()))
        });
    }
}

/// A message that a fetch took from the log, for a queue subscription; `None` for what is none of its events.
pub(crate) async fn fetched(context: &Context, message: async_nats::jetstream::Message) -> Option<Delivery> {
    let partition = context.store.partition_of(message.info().ok()?.stream)?;
    let metadata = Metadata::of(&message, partition)?;
    let mut message = message.message;
    let template = context.store.template(partition);
    match read::event(template, &message.subject, &mut message.headers, &mut message.payload) {
        Ok(attributes) => wanted(context, attributes, (&message.headers, message.payload), &metadata).await,
        Err(problem) => {
            missed(context, metadata.position, &format!("not an event: {problem}"));
            None
        }
    }
}

/// An event that was given to nobody.
fn missed(context: &Context, position: Position, reason: &str) {
    let why = Some((Code::Rejected, reason));
    context.note(context.store.in_its_log(position), 0, (Outcome::Missed, why));
    count_missed(context, position, reason);
}

fn count_missed(context: &Context, position: Position, reason: &str) {
    Health::count(&context.health.missed);
    MISSED.count(|| format!("{position} of subscription {}: {reason}", context.name()));
}

/// As the server announces it (`Nats-Stream`, `Nats-Sequence`, `Nats-Time-Stamp`; nats-server 2.15).
fn metadata(context: &Context, message: &Message) -> Metadata {
    let header = |name: &str| message.headers.as_ref().and_then(|h| h.get(name));
    let offset = header("Nats-Sequence")
        .and_then(|v| v.as_str().parse().ok())
        .unwrap_or(0);
    Metadata {
        position: Position::new(
            header("Nats-Stream")
                .and_then(|v| context.store.partition_of(v.as_str()))
                .unwrap_or(0),
            offset,
        ),
        published_at: header("Nats-Time-Stamp")
            .and_then(|v| v.as_str().parse().ok())
            .unwrap_or_else(|| context.store.now()),
        deliveries: 1,
    }
}
