//! Hands events to subscribers and settles them: one task a subscription, bounded in everything it holds.
//!
//! The guarantee: an event of a durable or backfill subscription leaves it only after its handler returned success, or
//! after a dead letter with its payload and the reason of each attempt was stored. A crash anywhere in between delivers
//! it again.

mod apart;
mod caught_up;
mod durable;
mod feed;
mod health;
mod in_order;
mod incoming;
mod invoke;
mod owner;
mod pull;
mod queue;
mod recovery;
mod retries;
mod settle;
mod turns;

use std::sync::Arc;

use bytes::Bytes;
use fanout_plan::policy::QueueDelivery;
use fanout_plan::subscription::{Need, Progress, Reach, Registered};
use fanout_plan::{Attributes, Policy, Position, SubscriptionId, SubscriptionName};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use durable::admit;
pub(crate) use feed::redriven;
pub(crate) use health::Health;
pub(crate) use in_order::owner_of;
pub(crate) use queue::heard;
pub(crate) use retries::admit as admit_retry;
pub(crate) use settle::{Held, Next, Settler};

use crate::inbox::{self, Desk, Inbox};
use crate::jetstream::Store;
use crate::wrpc::Subscriber;

/// One attempt to hand an event to a subscriber.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) subscription: SubscriptionName,
    pub(crate) attributes: Attributes,
    pub(crate) data: Bytes,
    pub(crate) position: Position,
    pub(crate) attempt: u32,
    pub(crate) replayed: bool,
    /// Nanoseconds since the Unix epoch.
    pub(crate) published_at: i64,
    pub(crate) traceparent: Option<String>,
}

/// What the tasks of one subscription share.
pub(crate) struct Context {
    pub(crate) registered: Registered,
    pub(crate) store: Store,
    pub(crate) subscriber: Subscriber,
    pub(crate) health: Arc<Health>,
    /// Told when the registry changed in a way that the planner must see.
    pub(crate) replan: Arc<Notify>,
    pub(crate) stop: CancellationToken,
}

impl Context {
    pub(crate) fn name(&self) -> &SubscriptionName {
        &self.registered.subscription.name
    }

    /// The subscription, and none that had its name before.
    pub(crate) fn id(&self) -> SubscriptionId {
        self.registered.id()
    }
}

/// The running deliveries of one subscription.
pub(crate) struct Running {
    /// What they were started for.
    pub(crate) registered: Registered,
    /// Under which policy.
    pub(crate) policy: Policy,
    /// What they read, and queue subscriptions hear.
    places: Vec<(Option<u32>, String)>,
    pub(crate) health: Arc<Health>,
    /// For a subscription that is fetched: nothing is delivered to it otherwise.
    pub(crate) inbox: Option<Arc<Inbox>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Starts what gives out the log, and redriven dead letters beside it. What is fetched without an order needs no more than
/// the store.
fn logged(context: &Arc<Context>, desk: Option<Arc<Desk>>, tasks: &mut JoinSet<()>) {
    if in_order::is_asked_for(context) {
        tasks.spawn(in_order::run(Arc::clone(context), in_order::Of::Everything, desk));
    } else if context.registered.subscription.reach == Reach::Inbox {
        tasks.spawn(inbox::redrive::make_turns(Arc::clone(context)));
    } else {
        let calls = Arc::new(Semaphore::new(context.registered.subscription.concurrency as usize));
        tasks.spawn(durable::run(Arc::clone(context), Arc::clone(&calls)));
        tasks.spawn(retries::run(Arc::clone(context), calls));
        tasks.spawn(in_order::run(Arc::clone(context), in_order::Of::Redrives, None));
    }
    tasks.spawn(apart::watch(Arc::clone(context)));
}

impl Running {
    /// Starts delivering.
    pub(crate) fn start(context: Context) -> Self {
        let context = Arc::new(context);
        let mut tasks = JoinSet::new();
        let subscription = &context.registered.subscription;
        let fetched = subscription.reach == Reach::Inbox;
        let is_lent = fetched && subscription.need != Need::Queue && in_order::is_asked_for(&context);
        let desk = is_lent.then(|| Arc::new(Desk::new(&context)));
        match subscription.need {
            Need::Queue if fetched => {}
            Need::Queue if context.store.policy().queue_delivery == QueueDelivery::AtMostOnce => {
                tasks.spawn(queue::run(Arc::clone(&context)));
            }
            Need::Queue | Need::Durable => logged(&context, desk.clone(), &mut tasks),
            Need::Backfill { .. } => {
                logged(&context, desk.clone(), &mut tasks);
                if context.registered.progress != Progress::CaughtUp {
                    tasks.spawn(caught_up::run(Arc::clone(&context)));
                }
            }
        }
        Self {
            registered: context.registered.clone(),
            policy: context.store.policy().clone(),
            places: places(&context.store, &context.registered),
            health: Arc::clone(&context.health),
            inbox: fetched.then(|| Arc::new(Inbox::new(&context, desk))),
            stop: context.stop.clone(),
            tasks,
        }
    }

    /// Whether these deliveries still are what the registry asks for. What a backfill has reached meanwhile does not
    /// matter to them.
    pub(crate) fn serves(&self, registered: &Registered) -> bool {
        let mine = &self.registered;
        mine.subscription == registered.subscription
            && mine.component == registered.component
            && mine.incarnation == registered.incarnation
            && mine.rewound == registered.rewound
            && mine.head == registered.head
            && mine.apart == registered.apart
            && mine.joined == registered.joined
    }

    /// Whether the partitions that they read still are those that hold the subscription's events.
    pub(crate) fn reads(&self, store: &Store) -> bool {
        self.places == places(store, &self.registered)
    }

    /// Stops taking events and lets the invocations under way end; they are bounded by their deadline.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Each partition that is read, with its subjects. Who hears announcements hears all partitions at once, and is not
/// interrupted by a new one.
fn places(store: &Store, registered: &Registered) -> Vec<(Option<u32>, String)> {
    let subscription = &registered.subscription;
    if !subscription.keeps_a_place(store.policy()) && subscription.reach != Reach::Inbox {
        let templates = store.announced();
        return templates.into_iter().map(|t| (None, t.to_string())).collect();
    }
    let partitions = store.partitions_of(subscription);
    partitions.map(|p| (Some(p.number), p.template.to_string())).collect()
}
