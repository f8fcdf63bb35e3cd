//! Hands events to subscribers and settles them: one task a subscription, bounded in everything it holds.
//!
//! The guarantee: an event of a durable or backfill subscription leaves it only after its handler returned success, or
//! after a dead letter with its payload and the reason of each attempt was stored. A crash anywhere in between delivers
//! it again.

mod caught_up;
mod dead_letter;
mod dispatcher;
mod durable;
mod feed;
mod generation_order;
mod health;
mod in_order;
mod incoming;
mod invoke;
mod isolation;
mod journaled;
mod lease;
mod order_owner;
mod permits;
mod processing;
mod queue;
mod reading;
mod recovery;
mod redrive_leases;
mod retries;
mod settle;
mod state;
mod target;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use bytes::Bytes;
use fanout_plan::policy::QueueDelivery;
use fanout_plan::subscription::{Need, Progress, Reach, Registered};
use fanout_plan::{Attributes, Position, RetrySchedule, SubscriptionId, SubscriptionName, Timestamp};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub(crate) use durable::{admit, put_off};
pub(crate) use feed::redriven;
pub(crate) use health::Health;
pub(crate) use lease::{DeliveryHandle, Dispatched, Leased, Verdict};
pub(crate) use order_owner::{OrderOwner, SettleReply};
pub(crate) use processing::settle_fetched;
pub(crate) use queue::fetched;
pub(crate) use retries::admit as admit_retry;
pub(crate) use settle::{InFlight, Settler};
pub(crate) use state::DeliveryState;
pub(crate) use target::{CallFailure, CaughtUp, Target};

use crate::jetstream::{Store, StoreError, batch};
use crate::journal::Journal;

/// Bytes of a delivery beyond its event's attributes and payload, counted generously: names, lengths, its position, trace
/// and token.
const BESIDE: usize = 4 << 10;

/// One attempt to hand an event to a subscriber.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) subscription: SubscriptionName,
    pub(crate) attributes: Attributes,
    pub(crate) data: Bytes,
    pub(crate) position: Position,
    pub(crate) attempt: u32,
    pub(crate) replayed: bool,
    pub(crate) published_at: Timestamp,
    pub(crate) traceparent: Option<String>,
}

impl Delivery {
    /// Bytes that it takes on the way to a subscriber, at most: its event's, and [`BESIDE`] for what goes with it.
    pub(crate) fn bytes(&self) -> usize {
        self.data.len() + self.attributes.bytes() + BESIDE
    }
}

/// What the tasks of one subscription share.
pub(crate) struct Context {
    pub(crate) registered: Registered,
    pub(crate) store: Store,
    /// This instance of the bus.
    pub(crate) instance: Arc<str>,
    pub(crate) target: Arc<dyn Target>,
    pub(crate) health: Arc<Health>,
    /// Where deliveries are written down, if the policy wants that.
    pub(crate) journal: Journal,
    /// When a refused delivery is tried again: a change of it is taken over while they run.
    pub(crate) retry: Mutex<Arc<RetrySchedule>>,
    /// Told when the registry changed in a way that the planner must see.
    pub(crate) replan: Arc<Notify>,
    pub(crate) stop: CancellationToken,
    /// The end of the deliveries that the subscription had here before: no event is taken until then.
    pub(crate) after: Option<CancellationToken>,
}

impl Context {
    pub(crate) fn name(&self) -> &SubscriptionName {
        &self.registered.subscription.name
    }

    /// The subscription, and none that had its name before.
    pub(crate) fn id(&self) -> SubscriptionId {
        self.registered.id()
    }

    /// Whether a consumer of the log can be pulled from. One that is gone is the planner's to make again.
    async fn is_there(&self, consumer: &PullConsumer) -> Result<(), StoreError> {
        let there = batch::is_there(consumer).await;
        if there.is_err() {
            self.replan.notify_one();
        }
        there
    }

    /// When a refused delivery is tried again.
    pub(crate) fn retry(&self) -> Arc<RetrySchedule> {
        Arc::clone(&self.retry.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How much longer than one invocation deliveries may take to end: their last settlements reach the store in it.
const LAST_SETTLEMENTS: Duration = Duration::from_secs(5);

/// The running deliveries of one subscription.
pub(crate) struct Running {
    context: Arc<Context>,
    /// What they read, or receive announcements of.
    reads: Vec<(Option<u32>, String)>,
    /// Where events are fetched in an order, through whom this instance dispatches them as its owner.
    order: Option<Arc<OrderOwner>>,
    tasks: JoinSet<()>,
}

/// Starts a task of a subscription's deliveries, once those before are over.
fn spawn(tasks: &mut JoinSet<()>, context: &Arc<Context>, task: impl Future<Output = ()> + Send + 'static) {
    let context = Arc::clone(context);
    tasks.spawn(async move {
        if let Some(before) = &context.after {
            tokio::select! {
                biased;
                () = context.stop.cancelled() => return,
                () = before.cancelled() => {}
            }
        }
        task.await;
    });
}

/// Starts what delivers the log, and redriven dead letters beside it. What is fetched without an order needs no more than
/// the store.
fn logged(context: &Arc<Context>, order: Option<Arc<OrderOwner>>, tasks: &mut JoinSet<()>) {
    let own = || Arc::clone(context);
    if in_order::is_asked_for(context) {
        spawn(tasks, context, in_order::run(own(), in_order::Scope::Everything, order));
    } else if context.registered.subscription.reach == Reach::Inbox {
        spawn(tasks, context, redrive_leases::make(own()));
    } else {
        let calls = Arc::new(Semaphore::new(context.registered.subscription.concurrency as usize));
        spawn(tasks, context, durable::run(own(), Arc::clone(&calls)));
        spawn(tasks, context, retries::run(own(), calls));
        spawn(tasks, context, in_order::run(own(), in_order::Scope::Redrives, None));
    }
    spawn(tasks, context, isolation::watch(own()));
}

impl Running {
    /// Starts delivering. Nothing of a paused subscription is delivered; what its fetchers hold is settled all the same.
    pub(crate) fn start(context: Context) -> Self {
        let context = Arc::new(context);
        let mut tasks = JoinSet::new();
        let subscription = &context.registered.subscription;
        let fetched = subscription.reach == Reach::Inbox;
        let is_dispatched = fetched && subscription.need != Need::Queue && in_order::is_asked_for(&context);
        let order = is_dispatched.then(|| Arc::new(OrderOwner::new(&context)));
        match subscription.need {
            _ if !context.registered.delivers() => {}
            Need::Queue if fetched => {}
            Need::Queue if context.store.policy().queue_delivery == QueueDelivery::AtMostOnce => {
                spawn(&mut tasks, &context, queue::run(Arc::clone(&context)));
            }
            Need::Queue | Need::Durable => logged(&context, order.clone(), &mut tasks),
            Need::Backfill { .. } => {
                logged(&context, order.clone(), &mut tasks);
                if context.registered.progress != Progress::CaughtUp {
                    spawn(&mut tasks, &context, caught_up::run(Arc::clone(&context)));
                }
            }
        }
        Self {
            reads: reads(&context.store, &context.registered),
            order,
            context,
            tasks,
        }
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn order(&self) -> Option<&Arc<OrderOwner>> {
        self.order.as_ref()
    }

    /// Starts another task of them.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        spawn(&mut self.tasks, &self.context, task);
    }

    /// Whether events are delivered.
    pub(crate) fn delivers(&self) -> bool {
        self.context.registered.delivers()
    }

    /// How they are doing.
    pub(crate) fn health(&self) -> &Arc<Health> {
        &self.context.health
    }

    /// Whether they go on as they are for a subscription under a store's policy. What is changed of it that concerns only
    /// what comes next is taken over.
    pub(crate) fn goes_on(&self, registered: &Registered, store: &Store) -> bool {
        let goes_on = self.context.store.policy().delivers_like(store.policy())
            && self.reads(store)
            && registered.progress != Progress::Finished
            && self.serves(registered);
        if goes_on {
            let mut retry = self.context.retry.lock().unwrap_or_else(PoisonError::into_inner);
            if **retry != store.policy().retries.schedule {
                *retry = Arc::new(store.policy().retries.schedule.clone());
            }
        }
        goes_on
    }

    /// Whether these deliveries still are what the registry asks for. What a backfill has reached meanwhile does not
    /// matter to them.
    fn serves(&self, registered: &Registered) -> bool {
        let mine = &self.context.registered;
        mine.subscription == registered.subscription
            && mine.component == registered.component
            && mine.incarnation == registered.incarnation
            && mine.rewound == registered.rewound
            && mine.head == registered.head
            && mine.delivered_before == registered.delivered_before
            && mine.isolated == registered.isolated
            && mine.rejoined == registered.rejoined
            && mine.delivers() == registered.delivers()
    }

    /// Whether the partitions that they read still are those that hold the subscription's events.
    fn reads(&self, store: &Store) -> bool {
        self.reads == reads(store, &self.context.registered)
    }

    /// Stops taking events, at once; invocations under way go on.
    pub(crate) fn cancel(&self) {
        self.context.stop.cancel();
    }

    /// Waits until the invocations under way have ended, which have a deadline. What has not ended by then is cut off: its
    /// events come again.
    pub(crate) async fn join(mut self) {
        let policy = self.context.store.policy();
        let longest = policy.delivery.deadline + LAST_SETTLEMENTS;
        let joined = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(longest, joined).await.is_err() {
            let (subscription, seconds) = (self.context.name(), longest.as_secs());
            warn!(%subscription, "deliveries had not ended {seconds} s after they were to, and are cut off: their events come again");
            self.tasks.shutdown().await;
        }
        if let Some(before) = &self.context.after {
            before.cancelled().await;
        }
    }
}

/// Each partition that is read, with its subjects. Who receives announcements receives those of all partitions, and is not
/// interrupted by a new one.
fn reads(store: &Store, registered: &Registered) -> Vec<(Option<u32>, String)> {
    let subscription = &registered.subscription;
    if !subscription.keeps_a_place(store.policy()) && subscription.reach != Reach::Inbox {
        let templates = store.announced();
        return templates.into_iter().map(|t| (None, t.to_string())).collect();
    }
    let partitions = store.partitions_of(subscription);
    // In another log each offset means another event.
    partitions
        .map(|p| (Some(p.number), format!("{} {}", p.template, p.log)))
        .collect()
}
