//! One declared subscription at an edge: fetched at the bus, handed to a component of the lattice, settled by its
//! answer.

use std::sync::Arc;
use std::time::Duration;

use fanout_client::{Bus as Upstream, Deliveries, End as ClientEnd, Start as ClientStart, Subscription as Asked};
use fanout_plan::retry::Rejection;
use fanout_plan::subscription::{End, Need, Reach, Start, Subscription};
use fanout_plan::{Attributes, Code, Position, Problem, RawEvent};
use futures::StreamExt as _;
use futures::stream::ReadyChunks;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Declared;
use crate::clock;
use crate::delivery::{Delivery, Health};
use crate::wrpc::{CallFailure, CaughtUp, Subscriber};

/// How long giving back what is not delivered may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often it is looked whether a backfill has caught up.
const LOOK: Duration = Duration::from_millis(200);

/// The deliveries of one subscription.
pub(super) struct Running {
    pub(super) declared: Declared,
    pub(super) health: Arc<Health>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// What its tasks share.
struct Context {
    subscription: Subscription,
    component: String,
    subscriber: Subscriber,
    health: Arc<Health>,
    stop: CancellationToken,
}

impl Running {
    pub(super) fn start(
        declared: Declared,
        upstream: Upstream,
        subscriber: Subscriber,
        stop: CancellationToken,
    ) -> Self {
        let health = Arc::new(Health::default());
        let context = Context {
            subscription: declared.subscription.clone(),
            component: declared.component.clone(),
            subscriber,
            health: Arc::clone(&health),
            stop: stop.clone(),
        };
        Self {
            declared,
            health,
            stop,
            task: tokio::spawn(run(Arc::new(context), upstream)),
        }
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            debug!(%error, "an edge's deliveries ended badly; what they held comes again");
        }
    }
}

/// Fetches until it is stopped. What the bus refuses is asked for again: its operator may be about to allow it.
async fn run(context: Arc<Context>, upstream: Upstream) {
    let name = &context.subscription.name;
    while !context.stop.is_cancelled() {
        let asked = tokio::select! {
            () = context.stop.cancelled() => return,
            asked = upstream.subscribe(asked(&context.subscription)) => asked,
        };
        let error = match asked {
            Ok(deliveries) => match deliver(&context, deliveries).await {
                Ok(()) => return,
                Err(error) => error,
            },
            Err(error) => error,
        };
        let wait = context.health.fails(Problem::new(
            Code::UpstreamRefused,
            format!("subscription {name}: the bus does not give it to this edge: {error}; its events wait there"),
        ));
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Ends without an error when it is stopped, or when a backfill is finished.
async fn deliver(context: &Arc<Context>, deliveries: Deliveries) -> Result<(), fanout_client::Error> {
    let calls = Arc::new(Semaphore::new(context.subscription.concurrency as usize));
    let mut tasks = JoinSet::new();
    let mut chunks = deliveries.ready_chunks(context.subscription.batch_size.max(1) as usize);
    let mut told = !context.subscription.tell_caught_up;
    let mut look = tokio::time::interval(LOOK);
    let ended = loop {
        while tasks.try_join_next().is_some() {}
        let chunk = tokio::select! {
            () = context.stop.cancelled() => break Ok(()),
            _ = look.tick(), if !told => {
                told = tell(context, &chunks).await;
                continue;
            }
            chunk = chunks.next() => chunk,
        };
        let Some(chunk) = chunk else { break Ok(()) };
        let mut held = Vec::with_capacity(chunk.len());
        let mut failed = None;
        for next in chunk {
            match next {
                Ok(delivery) => held.push(delivery),
                Err(error) => failed = Some(error),
            }
        }
        if !held.is_empty()
            && let Ok(call) = Arc::clone(&calls).acquire_owned().await
        {
            context.health.works(context.subscription.name.as_str());
            let context = Arc::clone(context);
            tasks.spawn(async move {
                hand_over(&context, held).await;
                drop(call);
            });
        }
        if let Some(error) = failed {
            break Err(error);
        }
    };
    while tasks.join_next().await.is_some() {}
    if ended.is_ok() && !told {
        tell(context, &chunks).await;
    }
    chunks.into_inner().stop(LAST_WORDS).await;
    ended
}

/// Tells the component that a backfill has caught up, if it has. Once for each life of the edge: the bus does not
/// remember whom an edge has told.
async fn tell(context: &Context, chunks: &ReadyChunks<Deliveries>) -> bool {
    let Some(caught_up) = chunks.get_ref().caught_up() else {
        return false;
    };
    let message = CaughtUp {
        subscription: context.subscription.name.clone(),
        reached: None,
        replayed: caught_up.replayed,
        at: clock::now(),
        finished: caught_up.finished,
    };
    match context.subscriber.tell_caught_up(message).await {
        Ok(()) => true,
        Err(failure) => {
            debug!(%failure, "the subscriber could not be told that it has caught up; it is told again");
            false
        }
    }
}

/// Calls the component with deliveries, and settles each by its answer. A component that can't be reached is called
/// again for as long as it takes: what is held for it uses up no attempts.
async fn hand_over(context: &Context, held: Vec<fanout_client::Delivery>) {
    let mut readable = Vec::with_capacity(held.len());
    for h in held {
        match read(&context.subscription, &h) {
            Ok(delivery) => readable.push((h, delivery)),
            Err(problem) => settled(h.dead_letter(format!("not an event: {problem}")).await),
        }
    }
    let reach = context.subscription.reach;
    while !readable.is_empty() {
        let deliveries = readable.iter().map(|(_, d)| d.clone()).collect();
        match context.subscriber.handle(reach, deliveries).await {
            Ok(results) => {
                context.health.works(context.subscription.name.as_str());
                for ((h, _), result) in readable.drain(..).zip(results) {
                    settle(context, h, result).await;
                }
                return;
            }
            Err(CallFailure::Unreachable) => {
                let wait = context.health.fails(Problem::new(
                    Code::SubscriberUnreachable,
                    format!(
                        "subscription {}: component {} can't be reached: start it, or look why it stopped; its events wait at the bus",
                        context.subscription.name, context.component
                    ),
                ));
                tokio::select! {
                    // Given back untried, by the end of their lives.
                    () = context.stop.cancelled() => {
                        for (h, _) in readable {
                            settled(h.release().await);
                        }
                        return;
                    }
                    () = tokio::time::sleep(wait) => {}
                }
            }
            Err(failure) if readable.len() > 1 && reach == Reach::BatchHandler => {
                debug!(%failure, "a batch failed and is delivered one by one");
                for (h, _) in readable {
                    Box::pin(hand_over(context, vec![h])).await;
                }
                return;
            }
            Err(failure) => {
                context.health.works(context.subscription.name.as_str());
                for (h, _) in readable {
                    settle(context, h, Err(failure.as_rejection())).await;
                }
                return;
            }
        }
    }
}

async fn settle(context: &Context, held: fanout_client::Delivery, answer: Result<(), Rejection>) {
    Health::count(match &answer {
        Ok(()) => &context.health.handled,
        Err(_) => &context.health.refused,
    });
    settled(match answer {
        Ok(()) => held.ack().await,
        Err(Rejection::Retry(reason)) => held.retry(reason).await,
        Err(Rejection::RetryNow(reason)) => held.retry_now(reason).await,
        Err(Rejection::RetryAfter(delay, reason)) => held.retry_after(delay, reason).await,
        Err(Rejection::DeadLetter(reason)) => held.dead_letter(reason).await,
    });
}

fn settled(done: Result<(), fanout_client::Error>) {
    if let Err(error) = done {
        debug!(%error, "a settlement did not reach the bus in time; the event comes again");
    }
}

fn read(subscription: &Subscription, held: &fanout_client::Delivery) -> Result<Delivery, Problem> {
    let e = held.event();
    let attributes = Attributes::try_from(RawEvent {
        tenant: e.tenant.clone(),
        event_type: e.event_type.clone(),
        id: e.id.clone(),
        source: e.source.clone(),
        subject: e.subject.clone(),
        time: e.time,
        data_content_type: e.data_content_type.clone(),
        data_schema: e.data_schema.clone(),
        extensions: e.extensions.clone(),
        ordering_key: e.ordering_key.clone(),
    })?;
    Ok(Delivery {
        subscription: subscription.name.clone(),
        attributes,
        data: e.data.clone(),
        position: position(held.position()),
        attempt: held.attempt(),
        replayed: held.replayed(),
        published_at: held.published_at(),
        traceparent: None,
    })
}

fn position(p: fanout_client::Position) -> Position {
    Position {
        partition: p.partition,
        offset: p.offset,
    }
}

fn theirs(p: Position) -> fanout_client::Position {
    fanout_client::Position {
        partition: p.partition,
        offset: p.offset,
    }
}

fn asked(s: &Subscription) -> Asked {
    let name = s.name.to_string();
    let asked = match s.need {
        Need::Queue => Asked::queue(name),
        Need::Durable => Asked::durable(name),
        Need::Backfill { start, end } => {
            let start = match start {
                Start::First => ClientStart::First,
                Start::Time(t) => ClientStart::Time(t),
                Start::Position(p) => ClientStart::Position(theirs(p)),
            };
            let asked = Asked::backfill(name, start);
            match end {
                None => asked,
                Some(End::Time(t)) => asked.until(ClientEnd::Time(t)),
                Some(End::Position(p)) => asked.until(ClientEnd::Position(theirs(p))),
            }
        }
    };
    asked
        .tenants(s.filter.tenants.iter().map(ToString::to_string))
        .event_types(s.filter.event_types.iter().map(ToString::to_string))
        .prefetch(s.max_unsettled())
}
