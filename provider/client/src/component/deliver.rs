//! Deliveries of one subscription: fetched, handed to the subscriber, settled. One task a subscription, bounded in
//! everything it holds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanout_wit::types::{CatchUp, Delivery, FetchedDeliveries, LeasedDelivery, Position, Problem, Rejection, Verdict};
use futures::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::State;
use crate::Subscription;
use crate::inbox::{Inbox, Trouble};
use crate::leases::Leases;
use crate::retry::Backoff;

/// How long a fetch waits for the first delivery. Short, because whoever stops waits for it: a fetch that is broken off
/// costs what it was about to bring one lease.
const WAIT: Duration = Duration::from_secs(2);
/// The most deliveries of one fetch.
const MOST: usize = 1_000;
/// The waits after a fetch that failed: the first, and the longest.
const FETCH_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The waits before a subscriber that can't be reached is tried again: the first, and the longest.
const SUBSCRIBER_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Why a subscriber gave no answer.
#[derive(Clone, Debug)]
pub enum Unhandled {
    /// It never saw the deliveries: this counts as no attempt.
    Unreachable(String),
    /// It had them and failed: a trap, a missed deadline. This counts as `retry`.
    Failed(String),
}

/// Where a backfill stands when it has caught up.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The subscription.
    pub subscription: String,
    /// The last position that was delivered here.
    pub reached: Option<Position>,
    /// As the bus says.
    pub caught_up: CatchUp,
}

/// A component that is given deliveries.
pub trait Subscriber: Send + Sync + 'static {
    /// Hands over deliveries; one answer for each, in order. There is more than one only if [`Plan::batch`] allows it.
    /// `traceparent` is the W3C trace context that the first was published in.
    fn handle(
        &self,
        deliveries: &[Delivery],
        traceparent: Option<&str>,
    ) -> impl Future<Output = Result<Vec<Result<(), Rejection>>, Unhandled>> + Send;

    /// Tells it that a backfill has caught up.
    fn caught_up(&self, progress: &Progress) -> impl Future<Output = Result<(), Unhandled>> + Send;
}

/// A subscription and how it is delivered here.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is asked of the bus.
    pub wanted: Subscription,
    /// The most deliveries handed over at once.
    pub batch: usize,
    /// The most such hand-overs under way.
    pub concurrency: usize,
    /// The subscriber wants to know when a backfill has caught up.
    pub tell_caught_up: bool,
}

/// Running deliveries. Dropping them stops fetching at once; [`Deliveries::stop`] lets what is under way end.
#[derive(Debug)]
pub struct Deliveries {
    state: Arc<State>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Deliveries {
    /// Starts fetching.
    pub fn start<B: Inbox>(inbox: B, subscriber: Arc<impl Subscriber>, plan: Plan) -> Self {
        let state = Arc::new(State::default());
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (leases, _) = Leases::start(inbox.clone());
        let loop_ = Loop {
            places: Arc::new(Semaphore::new(plan.concurrency.max(1))),
            inbox,
            leases,
            subscriber,
            plan: Arc::new(plan),
            state: Arc::clone(&state),
            stop: stop.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn(loop_.run());
        Self { state, stop, tasks }
    }

    /// How they are doing.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }

    /// Fetches no more, gives back what comes of the fetch that is under way, and waits until what was handed over is
    /// settled; it is bounded by the subscriber's deadline.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Loop<B, S> {
    inbox: B,
    leases: Leases,
    subscriber: Arc<S>,
    plan: Arc<Plan>,
    places: Arc<Semaphore>,
    state: Arc<State>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl<B: Inbox, S: Subscriber> Loop<B, S> {
    async fn run(self) {
        let name = self.plan.wanted.name().to_owned();
        let batch = self.plan.batch.clamp(1, MOST);
        let mut pause = Backoff::between(FETCH_PAUSES.0, FETCH_PAUSES.1);
        let mut is_declared = false;
        let mut is_notified = !self.plan.tell_caught_up;
        let mut reached = None;
        while !self.stop.is_cancelled() {
            let Some(places) = self.free_places().await else { break };
            let since = Instant::now();
            let fetched = async {
                if !is_declared {
                    self.inbox.declare(&self.plan.wanted).await?;
                }
                let most = (places.len() * batch).min(MOST);
                self.inbox
                    .fetch(&name, u32::try_from(most).unwrap_or(u32::MAX), WAIT)
                    .await
            };
            let fetched = match fetched.await {
                Ok(fetched) => fetched,
                Err(trouble) => {
                    is_declared &= !matches!(trouble, Trouble::Unknown(_) | Trouble::Refused(_));
                    self.state.waits(trouble.problem().clone());
                    tokio::select! {
                        () = self.stop.cancelled() => {}
                        () = pause.wait() => {}
                    }
                    continue;
                }
            };
            is_declared = true;
            pause.reset();
            if fetched.deliveries.is_empty() && self.places.available_permits() + places.len() == self.plan.concurrency
            {
                // Nothing waits for the subscriber either.
                self.state.works(&name);
            }
            if self.stop.is_cancelled() {
                // Whoever stops may no longer be given them.
                self.give_back(fetched, since).await;
                break;
            }
            if let Some(last) = fetched.deliveries.last() {
                reached = Some(last.delivery.position);
            }
            self.hand_over(fetched.deliveries, batch, places, |token| {
                self.leases.take(token, Duration::from_millis(fetched.lease_ms), since)
            });
            let Some(caught_up) = fetched.caught_up else { continue };
            let finished = caught_up.finished;
            if !is_notified {
                let progress = Progress {
                    subscription: name.clone(),
                    reached,
                    caught_up,
                };
                is_notified = self.notify(&progress).await;
            }
            if finished && is_notified {
                self.state.finish();
                break;
            }
        }
    }

    /// Every place that is free now, and at least one; `None` when it is time to stop.
    async fn free_places(&self) -> Option<Vec<OwnedSemaphorePermit>> {
        let first = tokio::select! {
            () = self.stop.cancelled() => return None,
            place = Arc::clone(&self.places).acquire_owned() => place.ok()?,
        };
        let mut places = vec![first];
        while let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            places.push(place);
        }
        Some(places)
    }

    fn hand_over(
        &self,
        leased: Vec<LeasedDelivery>,
        batch: usize,
        mut places: Vec<OwnedSemaphorePermit>,
        lease: impl Fn(Bytes) -> u64,
    ) {
        let mut leased = leased.into_iter().peekable();
        while leased.peek().is_some() {
            let mut batched = Batched::default();
            for l in leased.by_ref().take(batch) {
                batched.deliveries.push(l.delivery);
                batched.traceparents.push(l.traceparent);
                // At most once: there is nothing to renew or to settle.
                if !self.plan.wanted.is_queue() {
                    batched.leases.push(lease(l.token));
                }
            }
            // There is one for each batch, by the number that was asked for; a bus that gives more only makes one wait.
            let place = places.pop();
            let one = One {
                subscriber: Arc::clone(&self.subscriber),
                leases: self.leases.clone(),
                plan: Arc::clone(&self.plan),
                state: Arc::clone(&self.state),
                stop: self.stop.clone(),
            };
            self.tasks.spawn(async move {
                one.deliver(batched).await;
                drop(place);
            });
        }
    }

    async fn give_back(&self, fetched: FetchedDeliveries, since: Instant) {
        if self.plan.wanted.is_queue() {
            return;
        }
        let time = Duration::from_millis(fetched.lease_ms);
        let given_back = fetched.deliveries.into_iter().map(|l| {
            let id = self.leases.take(l.token, time, since);
            self.leases.settle(id, Verdict::Released)
        });
        join_all(given_back).await;
    }

    async fn notify(&self, progress: &Progress) -> bool {
        match self.subscriber.caught_up(progress).await {
            Ok(()) => true,
            // The next fetch says it again.
            Err(Unhandled::Unreachable(why) | Unhandled::Failed(why)) => {
                self.state.waits(unreachable(&progress.subscription, &why));
                let mut pause = Backoff::between(SUBSCRIBER_PAUSES.1, SUBSCRIBER_PAUSES.1);
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = pause.wait() => {}
                }
                false
            }
        }
    }
}

/// What is handed over together.
#[derive(Default)]
struct Batched {
    deliveries: Vec<Delivery>,
    /// One for each.
    traceparents: Vec<Option<String>>,
    /// One for each, but for a queue subscription.
    leases: Vec<u64>,
}

/// One hand-over.
struct One<S> {
    subscriber: Arc<S>,
    leases: Leases,
    plan: Arc<Plan>,
    state: Arc<State>,
    stop: CancellationToken,
}

impl<S: Subscriber> One<S> {
    async fn deliver(&self, batched: Batched) {
        let Batched {
            deliveries,
            traceparents,
            leases,
        } = &batched;
        if self.plan.wanted.is_queue() {
            // At most once: no second try.
            match self.subscriber.handle(deliveries, first(traceparents)).await {
                Ok(answers) => answers.iter().for_each(|answer| self.state.count(answer.is_ok())),
                Err(why) => debug!(
                    subscription = self.plan.wanted.name(),
                    ?why,
                    "events of a queue subscription were not handled"
                ),
            }
            return;
        }
        let verdicts = tokio::select! {
            verdicts = self.verdicts(deliveries, traceparents) => verdicts,
            // Others are given these events now.
            () = self.leases.are_lost(leases) => leases.iter().map(|_| Verdict::Released).collect(),
        };
        for verdict in &verdicts {
            match verdict {
                Verdict::Handled => self.state.count(true),
                Verdict::Rejected(_) => self.state.count(false),
                Verdict::Released | Verdict::StillWorking => {}
            }
        }
        let settled = leases
            .iter()
            .zip(verdicts)
            .map(|(id, verdict)| self.leases.settle(*id, verdict));
        for error in join_all(settled).await.into_iter().filter_map(Result::err) {
            debug!(subscription = self.plan.wanted.name(), %error, "a delivery was not settled, and is delivered again");
        }
    }

    /// One for each delivery. Those that were not tried when it is time to stop are released.
    async fn verdicts(&self, deliveries: &[Delivery], traceparents: &[Option<String>]) -> Vec<Verdict> {
        let mut pause = Backoff::between(SUBSCRIBER_PAUSES.0, SUBSCRIBER_PAUSES.1);
        loop {
            match self.subscriber.handle(deliveries, first(traceparents)).await {
                Ok(mut answers) => {
                    self.state.works(self.plan.wanted.name());
                    answers.resize_with(deliveries.len(), || {
                        Err(Rejection::Retry("the subscriber gave too few results".to_owned()))
                    });
                    let verdicts = answers.into_iter().map(|answer| match answer {
                        Ok(()) => Verdict::Handled,
                        Err(rejection) => Verdict::Rejected(rejection),
                    });
                    return verdicts.collect();
                }
                Err(Unhandled::Unreachable(why)) => {
                    self.state.waits(unreachable(self.plan.wanted.name(), &why));
                    tokio::select! {
                        () = self.stop.cancelled() => return deliveries.iter().map(|_| Verdict::Released).collect(),
                        () = pause.wait() => {}
                    }
                }
                Err(Unhandled::Failed(why)) if deliveries.len() == 1 => {
                    return vec![Verdict::Rejected(Rejection::Retry(why))];
                }
                // One bad event must not take its batch along.
                Err(Unhandled::Failed(_)) => {
                    let mut verdicts = Vec::with_capacity(deliveries.len());
                    for (delivery, traceparent) in deliveries.chunks(1).zip(traceparents.chunks(1)) {
                        if self.stop.is_cancelled() {
                            verdicts.push(Verdict::Released);
                            continue;
                        }
                        verdicts.extend(Box::pin(self.verdicts(delivery, traceparent)).await);
                    }
                    return verdicts;
                }
            }
        }
    }
}

fn first(traceparents: &[Option<String>]) -> Option<&str> {
    traceparents.first()?.as_deref()
}

fn unreachable(subscription: &str, why: &str) -> Problem {
    Problem {
        code: "subscriber-unreachable".to_owned(),
        message: format!("subscription {subscription}: {why}; its deliveries wait, and count as no attempt"),
    }
}

#[cfg(test)]
mod tests;
