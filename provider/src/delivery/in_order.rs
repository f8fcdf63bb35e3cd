//! Deliveries in order: of each key one at a time and as the log has them, across retries and instances.
//!
//! One instance owns the subscription ([`Lease`]). What waits for a retry is not given back to the store, which would
//! give it out again behind later events: the owner holds it, says so, and delivers others meanwhile ([`Sequencer`]).
//!
//! What is fetched, the owner lends to whoever asks for it, at whichever instance ([`Desk`]).
//!
//! The guarantee across owners: a new owner delivers nothing until every event that the last one had in its hands has
//! come back. The store gives such an event out again `delivery.ack-wait` after the last word of it, and the last owner
//! says that word before it starts an invocation, which is shorter: so none is under way any more.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanout_plan::policy::Ordering;
use fanout_plan::topology::LEASES_AGE;
use fanout_plan::{Code, Problem, SubscriptionId};
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info};

use super::Context;
use super::feed;
use super::isolation::Rooms;
use super::owner::Owner;
use super::retries;
use super::settle::Settler;
use crate::inbox::{Asked, Counter, Desk};
use crate::jetstream::{Contender, Lease, StoreError};

/// How often a subscription without an order is looked at for dead letters to redrive, besides when one is asked for.
const LOOK: Duration = Duration::from_secs(30);

/// How long an owner that was only made for redrives stays when there are none left.
const IDLE: Duration = Duration::from_secs(1);

/// How long the last events may take that the store gave out before an owner ended; and how long it may take to give back
/// what it holds.
const LAST_ITEMS: Duration = Duration::from_secs(3);

/// What is delivered in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// Everything, by the policy's `ordering`.
    Everything,
    /// Dead letters that are redriven, in each tenant's order; the log has no order.
    Redrives,
}

/// What the owner of a subscription's order owns.
pub(crate) fn owner_of(subscription: &SubscriptionId) -> String {
    format!("{subscription}=order")
}

/// Delivers while this instance is the owner, until stopped; what is fetched, over its desk.
pub(super) async fn run(context: Arc<Context>, of: Of, desk: Option<Arc<Desk>>) {
    let name = match of {
        Of::Everything => owner_of(&context.id()),
        Of::Redrives => format!("{}=redrive", context.id()),
    };
    let who = match &desk {
        Some(desk) => desk.address().to_owned(),
        None => std::process::id().to_string(),
    };
    let term = term(&context);
    while !context.stop.is_cancelled() {
        let result = async {
            if of == Of::Redrives && !wait_for_redrives(&context).await? {
                return Ok(());
            }
            let Some(mut lease) = contend(&context, (&name, &who), term).await? else {
                return Ok(());
            };
            info!(subscription = %context.name(), "this instance delivers in order");
            let owned = own(&context, of, &mut lease, desk.as_ref()).await;
            lease.release().await;
            owned
        };
        let Err(error) = result.await else { continue };
        let wait = context.health.fails(Problem::new(
            Code::StoreUnavailable,
            format!("subscription {}: {error}; its events wait in the log", context.name()),
        ));
        debug!(subscription = %context.name(), ?error, "delivering in order broke off");
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// The lease's term. Its entry must not be forgotten while its owner is one.
fn term(context: &Context) -> Duration {
    let ack_wait = context.store.policy().ack_wait;
    ack_wait.clamp(Duration::from_secs(1), LEASES_AGE)
}

/// Waits until there is something to redrive; `false` when stopped.
async fn wait_for_redrives(context: &Context) -> Result<bool, StoreError> {
    let mut heard = context.store.hear_redrives(&context.id()).await?;
    loop {
        if context.store.has_redrives(&context.id()).await? {
            return Ok(true);
        }
        tokio::select! {
            () = context.stop.cancelled() => return Ok(false),
            _ = heard.next() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Waits for its turn to own the subscription; `None` when stopped.
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

/// Delivers as the owner. Ends when stopped, when the lease is lost, or when there is nothing left to redrive.
async fn own(context: &Arc<Context>, of: Of, lease: &mut Lease, desk: Option<&Arc<Desk>>) -> Result<(), StoreError> {
    let policy = context.store.policy();
    let settler = Arc::new(Settler::new(context).await?);
    let most = context.registered.subscription.max_unsettled_under(policy);
    let tenure = lease.tenure();
    let mut keeping = pin!(lease.keep());
    let (out, mut items) = mpsc::channel(256);
    let mut feeds = JoinSet::new();
    let closing = context.stop.child_token();
    let from_log = of == Of::Everything;
    if from_log {
        let rooms = Rooms::new(context, most);
        for (partition, reader) in context.store.readers_of(&context.registered) {
            let (context, settler) = (Arc::clone(context), Arc::clone(&settler));
            let (partition, room) = (partition.clone(), rooms.of(&reader));
            let (out, closing, owned) = (out.clone(), closing.clone(), (room, tenure.clone()));
            feeds.spawn(async move { feed::log(&context, (&partition, &reader), &settler, owned, out, closing).await });
        }
    }
    if from_log {
        let (context, settler) = (Arc::clone(context), Arc::clone(&settler));
        let (out, closing) = (out.clone(), closing.clone());
        feeds.spawn(async move { retries::left_over(&context, &settler, out, closing).await });
    }
    {
        let (context, closing) = (Arc::clone(context), closing.clone());
        feeds.spawn(async move { feed::redrives(&context, out, closing).await });
    }
    let mut counter = desk.map(Desk::open);
    if let Some(desk) = desk {
        let (context, desk) = (Arc::clone(context), Arc::clone(desk));
        feeds.spawn(async move { desk.serve(&context.store.nats()).await });
    }
    let mut owner = Owner::new(context, settler, tenure.clone());
    let mut recovered = !from_log;
    let mut hold = tokio::time::interval(policy.ack_wait / 3);
    hold.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut idle_since = Instant::now();
    let ended = loop {
        if !tenure.is_valid() {
            info!(subscription = %context.name(), "another instance may deliver in order now");
            break Ok(());
        }
        match &counter {
            Some(counter) => owner.lend(counter, recovered),
            None if recovered => owner.deliver(),
            None => {}
        }
        if from_log {
            context.health.rest(owner.line.resting());
        }
        if owner.line.held() > 0 || from_log {
            idle_since = Instant::now();
        } else if idle_since.elapsed() > IDLE && !context.store.has_redrives(&context.id()).await? {
            break Ok(());
        }
        let wake = owner.wakes_at().min(Instant::now() + Duration::from_millis(500));
        tokio::select! {
            () = context.stop.cancelled() => break Ok(()),
            Some(item) = items.recv() => owner.take(item),
            Some(asked) = next(&mut counter) => owner.asked.push_back(asked),
            Some(done) = owner.calls.join_next() => owner.done(done.unwrap_or_default()),
            Some(fed) = feeds.join_next() => match fed {
                Ok(Err(error)) => break Err(error),
                // A feed ends only with the owner.
                _ => break Ok(()),
            },
            // It is another's, as is seen at once.
            () = &mut keeping => {}
            () = tokio::time::sleep_until(owner.recovery.look_at().into()), if !recovered => {
                recovered = owner.has_recovered().await?;
            }
            _ = hold.tick() => owner.hold().await,
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    };
    context.health.rest(0);
    // Invocations under way end within their deadline; the lease is released after them. What is lent stays in its
    // holders' hands, and the next owner waits for it.
    drop(counter);
    closing.cancel();
    let last = async {
        while let Some(item) = items.recv().await {
            owner.take(item);
        }
    };
    if tokio::time::timeout(LAST_ITEMS, last).await.is_err() {
        debug!(subscription = %context.name(), "what the store gave out last comes again when its hold is over");
    }
    feeds.abort_all();
    while let Some(done) = owner.calls.join_next().await {
        owner.done(done.unwrap_or_default());
    }
    // Also where the ownership was lost: the next owner waits for it.
    if tokio::time::timeout(LAST_ITEMS, owner.give_back()).await.is_err() {
        debug!(subscription = %context.name(), "what was not given back comes again when its hold is over");
    }
    ended
}

/// The next fetch at the desk; where there is none, never.
async fn next(counter: &mut Option<Counter>) -> Option<Asked> {
    match counter {
        Some(counter) => counter.asked().await,
        None => std::future::pending().await,
    }
}

/// Whether a subscription's events have an order.
pub(super) fn is_asked_for(context: &Context) -> bool {
    context.store.policy().ordering != Ordering::None
}
