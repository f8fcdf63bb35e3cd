//! Refused events whose next attempt is due, where there is no order.
//!
//! The store of retries ([`crate::jetstream`]) delivers them beside the log: each instance takes what it has permits for.
//! Their invocations are among the subscription's own, and at most half of those, so that first attempts go on
//! whatever is due; and tenants take turns, so that one tenant's many hold up no other's few.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use fanout_plan::policy::Ordering;
use fanout_plan::retry;
use fanout_plan::sequence::Lane;
use fanout_plan::{Attributes, Code, Problem, TenantId};
use futures::StreamExt as _;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Context;
use super::dispatcher::Dispatcher;
use super::durable::unless_used_up;
use super::feed::{Item, Origin, without_payload};
use super::incoming::{self, Metadata, Wanted};
use super::permits::free_permits;
use super::settle::{InFlight, Settler, Source, nak};
use super::state::DeliveryState;
use crate::jetstream::{StoreError, Tenure, Waiting, batch, explained, read};

/// How often the store is checked for events that wait, besides when this instance stores one: another instance may have died.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// How long after they could not be read they are read again.
const AGAIN: Duration = Duration::from_secs(2);

/// How long nothing may be due before the store is asked whether anything waits.
const IDLE: Duration = Duration::from_secs(10);

/// The longest delay of one nak.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Due events that wait in memory at once.
const WAITING: usize = 1_000;

/// What is due and finds no permit comes again after this, and a second later for each of this many of its tenant.
const NO_PERMIT: (Duration, u32) = (Duration::from_secs(1), 500);

/// When what is of a partition that is not read yet comes again.
const UNREAD: Duration = Duration::from_secs(1);

/// A permit for one of the subscription's invocations, when it comes.
type Acquiring = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// Delivers until stopped. Invocations under way have a permit of `calls`.
pub(super) async fn run(context: Arc<Context>, calls: Arc<Semaphore>) {
    while !context.stop.is_cancelled() {
        let Err(error) = deliver(&context, &calls).await else {
            return;
        };
        context.health.retries_are_read(Err(problem(&context, &error)));
        debug!(subscription = %context.name(), ?error, "delivery of retries broke off");
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Why what waits for a retry is not delivered.
pub(super) fn problem(context: &Context, error: &StoreError) -> Problem {
    let why = explained(error);
    Problem::new(
        Code::RetriesFull,
        format!(
            "subscription {}: {why}: refused events stay in flight until their next attempt, and what waits for a retry already is delivered when that is mended",
            context.name()
        ),
    )
}

async fn deliver(context: &Arc<Context>, calls: &Arc<Semaphore>) -> Result<(), StoreError> {
    context.store.sweep_retries(&context.registered).await?;
    while come(context).await? {
        let consumer = context.store.retries_consumer(&context.registered).await?;
        context.health.retries_are_read(Ok(()));
        deliver_due(context, calls, &consumer).await?;
    }
    Ok(())
}

/// Feeds the owner of an order with what was refused before there was one: nothing is stored among the retries since.
pub(super) async fn left_over(
    context: &Context,
    settler: &Settler,
    unread: watch::Receiver<BTreeSet<u32>>,
    out: mpsc::Sender<Item>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    context.store.sweep_retries(&context.registered).await?;
    while !stop.is_cancelled() {
        if context.store.has_retries(&context.registered).await? {
            let consumer = context.store.retries_consumer(&context.registered).await?;
            let ordering = context.store.policy().ordering;
            return feed(context, settler, consumer, (ordering, Some(&unread)), out, stop).await;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            // An instance under an earlier policy may store one still.
            () = tokio::time::sleep(3 * CHECK_EVERY) => {}
        }
    }
    Ok(())
}

/// Returns when an event waits; `false` when deliveries are to stop.
async fn come(context: &Context) -> Result<bool, StoreError> {
    loop {
        // What waits goes on waiting while nothing is to be delivered.
        if context.stop.is_cancelled() {
            return Ok(false);
        }
        if context.store.has_retries(&context.registered).await? {
            return Ok(true);
        }
        context.health.retries_are_read(Ok(()));
        tokio::select! {
            () = context.stop.cancelled() => return Ok(false),
            () = context.health.retry_stored.notified() => {}
            () = tokio::time::sleep(CHECK_EVERY) => {}
        }
    }
}

/// Delivers what is due until nothing waits, or deliveries are to stop.
async fn deliver_due(
    context: &Arc<Context>,
    calls: &Arc<Semaphore>,
    consumer: &PullConsumer,
) -> Result<(), StoreError> {
    let closing = context.stop.child_token();
    let settler = Arc::new(Settler::new(context, closing.clone()).await?);
    let most = retry::at_once(context.registered.subscription.concurrency) as usize;
    let (out, mut due) = mpsc::channel(256);
    let mut feeds = JoinSet::new();
    {
        let (context, settler, closing) = (Arc::clone(context), Arc::clone(&settler), closing.clone());
        let consumer = consumer.clone();
        feeds.spawn(async move { feed(&context, &settler, consumer, (Ordering::None, None), out, closing).await });
    }
    let mut dispatcher = Dispatcher::new(context, settler, Tenure::endless(), Vec::new());
    let mut renew = tokio::time::interval(context.store.policy().delivery.ack_wait / 3);
    renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut acquiring: Option<Acquiring> = None;
    let mut idle_since = Instant::now();
    let ended = loop {
        // While the subscriber does not answer, one invocation is enough to learn when it does again.
        let most = if context.health.is_failing() { 1 } else { most };
        if dispatcher.is_ready() && dispatcher.in_flight() < most {
            acquiring.get_or_insert_with(|| Box::pin(Arc::clone(calls).acquire_owned()));
        } else {
            acquiring = None;
        }
        if dispatcher.sequencer.held() > 0 {
            idle_since = Instant::now();
        } else if idle_since.elapsed() > IDLE {
            match context.store.has_retries(&context.registered).await {
                // What waits may be due much later, or its consumer is gone.
                Ok(true) => match context.store.retries_consumer(&context.registered).await {
                    Ok(_) => idle_since = Instant::now(),
                    Err(error) => break Err(error),
                },
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        }
        let wake = dispatcher.wakes_at().min(Instant::now() + Duration::from_secs(1));
        tokio::select! {
            () = context.stop.cancelled() => break Ok(()),
            Some(item) = due.recv() => dispatcher.take(item),
            permit = acquire(&mut acquiring) => {
                acquiring = None;
                dispatcher.start(permit.ok());
            }
            Some(done) = dispatcher.calls.join_next() => dispatcher.done_without_order(done.unwrap_or_default()).await,
            Some(fed) = feeds.join_next() => match fed {
                Ok(Err(error)) => break Err(error),
                // It ends only with this.
                _ => break Ok(()),
            },
            _ = renew.tick() => dispatcher.renew().await,
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    };
    drop(acquiring);
    closing.cancel();
    // What the store delivered last is nak'ed with what waits here.
    while let Some(item) = due.recv().await {
        dispatcher.take(item);
    }
    while let Some(done) = dispatcher.calls.join_next().await {
        dispatcher.done_without_order(done.unwrap_or_default()).await;
    }
    dispatcher.release().await;
    ended
}

/// The permit that is waited for; where none is, never.
async fn acquire(acquiring: &mut Option<Acquiring>) -> Result<OwnedSemaphorePermit, AcquireError> {
    match acquiring {
        Some(acquiring) => acquiring.await,
        None => std::future::pending().await,
    }
}

/// Feeds with what is due, until stopped. What is of a partition that is not read yet waits until it is: others of its key may be
/// in flight there.
pub(super) async fn feed(
    context: &Context,
    settler: &Settler,
    mut consumer: PullConsumer,
    (ordering, unread): (Ordering, Option<&watch::Receiver<BTreeSet<u32>>>),
    out: mpsc::Sender<Item>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let permits = Arc::new(Semaphore::new(WAITING));
    let shares = Shares::new(WAITING);
    while !stop.is_cancelled() {
        let mut taken = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            taken = free_permits(&permits) => taken,
        };
        let mut batch = batch::waiting(&context.store, &consumer, (taken.num_permits(), batch::BYTES)).await?;
        while let Some(message) = batch.next().await {
            let Some((waiting, attributes)) = due(context, settler, &message).await else {
                continue;
            };
            if unread.is_some_and(|unread| unread.borrow().contains(&waiting.position.partition)) {
                nak(&message, UNREAD).await;
                continue;
            }
            let share = match shares.take(attributes.tenant()) {
                Ok(share) => share,
                Err(after) => {
                    nak(&message, after).await;
                    continue;
                }
            };
            let Some(permit) = taken.split(1) else { continue };
            let item = Item {
                lane: Lane::of(ordering, &attributes, waiting.position),
                position: waiting.position,
                reader: None,
                failed: None,
                has_lapsed: false,
                origin: Origin::Log {
                    payload: Some(message.payload.clone()),
                    message: without_payload(message),
                    metadata: metadata(&waiting),
                    attributes,
                    waited: Some(waiting.note.attempts),
                },
                state: DeliveryState::New,
                _permit: permit,
                _share: Some(share),
            };
            if out.send(item).await.is_err() {
                return Ok(());
            }
        }
        if batch.broke_off() && batch::is_there(&consumer).await.is_err() {
            consumer = context.store.retries_consumer(&context.registered).await?;
        }
    }
    Ok(())
}

/// How many events of each tenant may wait in memory, of `all` together.
#[derive(Clone, Debug)]
pub(super) struct Shares(Arc<Mutex<BTreeMap<TenantId, Counts>>>, usize);

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    held: usize,
    /// Events that found no share since there was one last.
    sent_away: u32,
}

/// One event's part of what its tenant may have in memory.
#[derive(Debug)]
pub(super) struct Share(Shares, TenantId);

impl Shares {
    pub(super) fn new(all: usize) -> Self {
        Self(Arc::default(), all)
    }

    /// A part for one event of a tenant, or when it is to come again.
    pub(super) fn take(&self, tenant: &TenantId) -> Result<Share, Duration> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = counts.len() - usize::from(counts.contains_key(tenant));
        let most = retry::held_of_one_tenant(self.1, others);
        let of_tenant = counts.entry(tenant.clone()).or_default();
        if of_tenant.held >= most {
            of_tenant.sent_away = of_tenant.sent_away.saturating_add(1);
            let (first, a_second) = NO_PERMIT;
            return Err(first + Duration::from_secs((of_tenant.sent_away / a_second).into()));
        }
        of_tenant.held += 1;
        of_tenant.sent_away = 0;
        Ok(Share(self.clone(), tenant.clone()))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_tenant) = counts.get_mut(&self.1) {
            of_tenant.held = of_tenant.held.saturating_sub(1);
            if of_tenant.held == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

/// An event that waited, once it is due. What is not due is nak'ed with the time that is left; what is no event is
/// dead-lettered.
async fn due(context: &Context, settler: &Settler, message: &jetstream::Message) -> Option<(Waiting, Attributes)> {
    let headers = message.headers.as_ref();
    let Some(waiting) = Waiting::read(context.store.names(), &message.subject, headers) else {
        warn!(subject = %message.subject, "a message among the retries was not written by Fanout, and is skipped");
        settler.skip(message).await;
        return None;
    };
    let left = waiting.note.due.since(context.store.now());
    if !left.is_zero() {
        nak(message, left.min(LONGEST)).await;
        return None;
    }
    let (metadata, note) = (metadata(&waiting), &waiting.note);
    let tenant = note.tenant.parse::<TenantId>();
    let event = tenant
        .clone()
        .and_then(|tenant| read::from_headers(&tenant, headers.unwrap_or(&HeaderMap::new())));
    match event {
        Ok(attributes) => match incoming::still_wanted(&context.registered, &attributes, &metadata) {
            Wanted::Yes => Some((waiting, attributes)),
            // Its filter was changed meanwhile.
            Wanted::No | Wanted::LeftOut | Wanted::BeyondEnd => {
                settler.skip(message).await;
                None
            }
        },
        Err(problem) => {
            let source = Source::Retry(message.clone());
            Box::pin(settler.dead_letter_unreadable(&source, (tenant.ok(), &metadata), &problem)).await;
            None
        }
    }
}

fn metadata(waiting: &Waiting) -> Metadata {
    Metadata {
        position: waiting.position,
        published_at: waiting.note.published_at,
        deliveries: 2,
    }
}

/// A message of the store of retries that was delivered for a fetch: the event, once it is due.
pub(crate) async fn admit(context: &Context, settler: &Settler, message: jetstream::Message) -> Option<InFlight> {
    let (waiting, attributes) = due(context, settler, &message).await?;
    let failed = match settler
        .attempts_of_waiting(waiting.position, &waiting.note.attempts)
        .await
    {
        Ok(failed) => failed,
        Err(error) => {
            settler.wait_for_store(&message, &error).await;
            return None;
        }
    };
    let event = (&message.headers, message.payload.clone());
    let delivery = incoming::delivery(&context.registered, attributes, event, &metadata(&waiting), &failed);
    unless_used_up(settler, InFlight::new(Source::Retry(message), delivery, failed)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_with_many_retries_leaves_room_for_others() {
        let (acme, globex): (TenantId, TenantId) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let shares = Shares::new(WAITING);
        let mut of_acme: Vec<_> = std::iter::from_fn(|| shares.take(&acme).ok()).collect();
        assert_eq!(of_acme.len(), WAITING / 2, "alone, it has half");
        assert!(shares.take(&acme).unwrap_err() >= Duration::from_secs(1));
        let of_globex: Vec<_> = std::iter::from_fn(|| shares.take(&globex).ok()).collect();
        assert!(of_globex.len() >= WAITING / 3, "{}", of_globex.len());
        of_acme.truncate(WAITING / 3);
        assert!(shares.take(&acme).is_err(), "beside another it has less");
        of_acme.clear();
        drop(of_globex);
        assert!(
            shares.0.lock().unwrap().is_empty(),
            "nothing is remembered of who holds nothing"
        );
    }

    #[test]
    fn who_finds_no_room_often_comes_again_late() {
        let acme: TenantId = "acme".parse().unwrap();
        let shares = Shares::new(WAITING);
        let held: Vec<_> = std::iter::from_fn(|| shares.take(&acme).ok()).collect();
        let waits: Vec<_> = (0..5_000).map(|_| shares.take(&acme).unwrap_err()).collect();
        assert!(
            waits.is_sorted() && waits[4_999] >= Duration::from_secs(10),
            "{:?}",
            waits[4_999]
        );
        drop(held);
        assert!(shares.take(&acme).is_ok());
    }
}
