//! Deliveries in order: of each key one at a time and as the log has them, across retries and instances.
//!
//! One instance owns the subscription ([`Lease`]). What waits for a retry is not nak'ed, which would bring it behind later
//! events: the owner keeps it, renews its lease, and delivers others meanwhile ([`Sequencer`]).
//!
//! Where events are fetched, the owner dispatches them to fetches, which other instances forward to it ([`OrderOwner`]).
//!
//! The guarantee across owners: a new owner delivers nothing until every event that the last one had in flight has come
//! back. The store delivers such an event again `delivery.ack-wait` after its lease was renewed, which the last owner did
//! before it started an invocation, which is shorter: so none is in flight any more.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanout_plan::isolation::Reader;
use fanout_plan::policy::Ordering;
use fanout_plan::topology::LEASES_AGE;
use fanout_plan::{Code, Problem};
use futures::StreamExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Context;
use super::dispatcher::Dispatcher;
use super::feed;
use super::generation_order::Unread;
use super::order_owner::{FetchQueue, OrderOwner, WaitingFetch};
use super::retries;
use super::settle::Settler;
use crate::jetstream::{ConsumerState, Contender, Lease, StoreError, Tenure, order_of, redrives_of};

/// How often a subscription without an order is checked for dead letters to redrive, besides when one is asked for.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// How long an owner that was only made for redrives stays when there are none left.
const IDLE: Duration = Duration::from_secs(1);

/// How long the last events may take that the store delivered before an owner ended; and how long it may take to nak what
/// waits.
const LAST_ITEMS: Duration = Duration::from_secs(3);

/// What is delivered in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything, by the policy's `ordering`.
    Everything,
    /// Dead letters that are redriven, in each tenant's order; the log has no order.
    Redrives,
}

/// Delivers while this instance is the owner, until stopped; where events are fetched, through `order`.
pub(super) async fn run(context: Arc<Context>, scope: Scope, order: Option<Arc<OrderOwner>>) {
    let name = match scope {
        Scope::Everything => order_of(&context.id()),
        Scope::Redrives => redrives_of(&context.id()),
    };
    let who = match &order {
        Some(order) => order.address().to_owned(),
        None => std::process::id().to_string(),
    };
    let term = term(&context);
    while !context.stop.is_cancelled() {
        let result = async {
            if scope == Scope::Redrives && !wait_for_redrives(&context).await? {
                return Ok(());
            }
            let Some(mut lease) = contend(&context, (&name, &who), term).await? else {
                return Ok(());
            };
            info!(subscription = %context.name(), "this instance owns the subscription's order");
            let owned = own(&context, scope, &mut lease, order.as_ref()).await;
            lease.release().await;
            owned
        };
        let Err(error) = result.await else { continue };
        let wait = context.health.fails(Problem::new(
            Code::StoreUnavailable,
            format!("subscription {}: {error}; its events wait in the log", context.name()),
        ));
        debug!(subscription = %context.name(), ?error, "ordered delivery broke off");
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// The lease's term. Its entry must not be forgotten while its owner is one.
fn term(context: &Context) -> Duration {
    let ack_wait = context.store.policy().delivery.ack_wait;
    ack_wait.clamp(Duration::from_secs(1), LEASES_AGE)
}

/// Waits until there is something to redrive; `false` when stopped.
async fn wait_for_redrives(context: &Context) -> Result<bool, StoreError> {
    let mut requests = context.store.redrive_requests(&context.id()).await?;
    loop {
        if context.store.has_redrives(&context.id()).await? {
            return Ok(true);
        }
        tokio::select! {
            () = context.stop.cancelled() => return Ok(false),
            _ = requests.next() => {}
            () = tokio::time::sleep(CHECK_EVERY) => {}
        }
    }
}

/// Waits until this instance owns the subscription; `None` when stopped.
async fn contend(context: &Context, name: (&str, &str), term: Duration) -> Result<Option<Lease>, StoreError> {
    let (name, who) = name;
    let mut contender = Contender::new(&context.store, name, who, term);
    let pause = (term / 8).clamp(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        if let Some(lease) = context.store.contend(&mut contender).await? {
            return Ok(Some(lease));
        }
        tokio::select! {
            () = context.stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Delivers as the owner, and keeps the lease beside all that this waits for: no request of it, however slow, may cost the
/// ownership.
async fn own(
    context: &Arc<Context>,
    scope: Scope,
    lease: &mut Lease,
    order: Option<&Arc<OrderOwner>>,
) -> Result<(), StoreError> {
    let (tenure, is_lost) = (lease.tenure(), CancellationToken::new());
    let mut delivering = pin!(deliver(context, scope, (&tenure, &is_lost), order));
    tokio::select! {
        ended = &mut delivering => return ended,
        () = lease.keep() => is_lost.cancel(),
    }
    delivering.await
}

/// Ends when stopped, when the lease is lost, or when there is nothing left to redrive; what is under way has ended then.
async fn deliver(
    context: &Arc<Context>,
    scope: Scope,
    (tenure, is_lost): (&Tenure, &CancellationToken),
    order: Option<&Arc<OrderOwner>>,
) -> Result<(), StoreError> {
    let policy = context.store.policy();
    let closing = context.stop.child_token();
    let settler = Arc::new(Settler::new(context, closing.clone()).await?);
    let (out, mut items) = mpsc::channel(256);
    let mut feeds = JoinSet::new();
    let from_log = scope == Scope::Everything;
    // After each check, whether all that the last owner had in flight has come back.
    let (checked, is_recovered) = watch::channel(!from_log);
    let unread = Unread::default();
    let is_unread = unread.subscribe();
    let readers: Vec<_> = match scope {
        Scope::Everything => context.store.readers_of(&context.registered).collect(),
        Scope::Redrives => Vec::new(),
    };
    let (began, mut beginning) = mpsc::channel(readers.len().max(1));
    let of_log = readers.iter().map(|(_, reader)| reader.clone());
    let mut dispatcher = Dispatcher::new(context, Arc::clone(&settler), tenure.clone(), of_log);
    if from_log {
        for (partition, reader) in readers {
            let (context, settler) = (Arc::clone(context), Arc::clone(&settler));
            let (partition, unread, tenure) = (partition.clone(), unread.clone(), tenure.clone());
            let (out, closing) = ((out.clone(), began.clone(), is_recovered.clone()), closing.clone());
            feeds.spawn(async move {
                feed::log(
                    &context,
                    (&partition, &reader),
                    &settler,
                    (&unread, tenure),
                    out,
                    closing,
                )
                .await
            });
        }
        let (context, settler, is_unread) = (Arc::clone(context), Arc::clone(&settler), unread.subscribe());
        let (out, closing) = (out.clone(), closing.clone());
        feeds.spawn(async move { retries::left_over(&context, &settler, is_unread, out, closing).await });
    }
    drop(began);
    {
        let (context, closing) = (Arc::clone(context), closing.clone());
        feeds.spawn(async move { feed::redrives(&context, out, closing).await });
    }
    let mut queue = order.map(OrderOwner::open);
    let mut recovered = !from_log;
    let mut asked = JoinSet::new();
    let mut renew = tokio::time::interval(policy.delivery.ack_wait / 3);
    renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut idle_since = Instant::now();
    let ended = loop {
        if !tenure.is_valid() {
            info!(subscription = %context.name(), "this instance's ownership of the order is over");
            break Ok(());
        }
        let is_over = dispatcher.recovery.is_over(&is_unread.borrow());
        if recovered != is_over {
            recovered = is_over;
            checked.send_replace(recovered);
        }
        match &queue {
            Some(queue) if recovered => dispatcher.serve_fetches(queue),
            Some(_) => dispatcher.forget_fetches(),
            None if recovered => dispatcher.deliver(),
            None => {}
        }
        if from_log {
            context.health.rest(dispatcher.sequencer.resting());
        }
        if dispatcher.sequencer.held() > 0 || from_log {
            idle_since = Instant::now();
        } else if idle_since.elapsed() > IDLE {
            match context.store.has_redrives(&context.id()).await {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        }
        let wake = dispatcher.wakes_at().min(Instant::now() + Duration::from_millis(500));
        tokio::select! {
            () = context.stop.cancelled() => break Ok(()),
            Some(item) = items.recv() => dispatcher.take(item),
            Some(fetch) = next(&mut queue) => dispatcher.fetches.push_back(fetch),
            Some(done) = dispatcher.calls.join_next() => dispatcher.done(done.unwrap_or_default()),
            Some(fed) = feeds.join_next() => match fed {
                Ok(Err(error)) => break Err(error),
                // A feed ends only with the owner.
                _ => break Ok(()),
            },
            // It is another's, as is seen at once.
            () = is_lost.cancelled() => {}
            Some(reader) = beginning.recv() => dispatcher.began(reader),
            () = tokio::time::sleep_until(dispatcher.recovery.check_at().into()), if asked.is_empty() && dispatcher.recovery.awaits_any() => {
                asked.spawn(in_flight(Arc::clone(context), dispatcher.recovery.awaited()));
            }
            Some(answer) = asked.join_next() => match answer {
                Ok(Ok((readers, states))) => {
                    dispatcher.answered(&readers, &states);
                    checked.send_replace(recovered);
                }
                Ok(Err(error)) => break Err(error),
                Err(error) => debug!(subscription = %context.name(), %error, "the store is asked again what is in flight"),
            },
            _ = renew.tick() => {
                debug!(subscription = %context.name(), recovered, ?dispatcher, "the order's owner at work");
                dispatcher.renew().await;
            }
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    };
    context.health.rest(0);
    // Invocations under way end within their deadline; the lease is released after them. What was dispatched to fetches stays
    // with its fetchers, and the next owner waits for it.
    drop(queue);
    closing.cancel();
    let last = async {
        while let Some(item) = items.recv().await {
            dispatcher.take(item);
        }
    };
    if tokio::time::timeout(LAST_ITEMS, last).await.is_err() {
        debug!(subscription = %context.name(), "events that the store delivered last are delivered again when their lease ends");
    }
    feeds.abort_all();
    while let Some(done) = dispatcher.calls.join_next().await {
        dispatcher.done(done.unwrap_or_default());
    }
    // Also where the ownership was lost: the next owner waits for it.
    if tokio::time::timeout(LAST_ITEMS, dispatcher.release()).await.is_err() {
        debug!(subscription = %context.name(), "events that were not nak'ed in time are delivered again when their lease ends");
    }
    ended
}

/// What the store counts as in flight of some readers.
async fn in_flight(
    context: Arc<Context>,
    awaited: Vec<Reader>,
) -> Result<(Vec<Reader>, Vec<(Reader, ConsumerState)>), StoreError> {
    let readers = context.store.readers_of(&context.registered);
    let readers = readers.filter(|(_, reader)| awaited.contains(reader));
    let readers = readers.map(|(partition, reader)| (partition.clone(), reader)).collect();
    let states = context.store.states_of(&context.registered, readers).await?;
    Ok((awaited, states))
}

/// The next fetch; where events are not fetched, never.
async fn next(queue: &mut Option<FetchQueue>) -> Option<WaitingFetch> {
    match queue {
        Some(queue) => queue.next().await,
        None => std::future::pending().await,
    }
}

/// Whether a subscription's events have an order.
pub(super) fn is_asked_for(context: &Context) -> bool {
    context.store.policy().ordering != Ordering::None
}
