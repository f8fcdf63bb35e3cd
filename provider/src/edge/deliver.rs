//! One subscription at an edge: fetched at the bus, handed to a component of the lattice, settled by its answer.

use std::sync::Arc;

use fanout_client::component::{Deliveries, Plan, Progress, State, Subscriber as Given, Unhandled};
use fanout_client::{Inbox as _, Subscription as Wanted, Trouble, Upstream};
use fanout_plan::Position;
use fanout_plan::subscription::{Reach, Subscription};
use fanout_wit::types::{Delivery, Rejection};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Served, TRY_EVERY};
use crate::clock;
use crate::delivery::{CallFailure, CaughtUp, Target as _};
use crate::edge::memory::Memory;
use crate::target::Subscriber;

/// What keeps one subscription going.
pub(super) struct Running {
    pub(super) served: Served,
    how: How,
}

enum How {
    /// It is handed to a component.
    Handed(Deliveries),
    /// It is fetched: it only has to be made.
    Made(CancellationToken, tokio::task::JoinHandle<()>),
}

impl Running {
    pub(super) fn start(served: Served, upstream: Upstream, subscriber: Subscriber, memory: Arc<Memory>) -> Self {
        let wanted = Wanted::from(&served.subscription);
        if served.subscription.reach == Reach::Inbox {
            let stop = CancellationToken::new();
            let task = tokio::spawn(make(upstream, wanted, stop.clone()));
            return Self {
                served,
                how: How::Made(stop, task),
            };
        }
        let plan = Plan::from(&served.subscription);
        let component = Component {
            subscription: served.subscription.clone(),
            subscriber,
            memory,
        };
        Self {
            served,
            how: How::Handed(Deliveries::start(upstream, Arc::new(component), plan)),
        }
    }

    /// How its deliveries are doing; `None` when it has none.
    pub(super) fn state(&self) -> Option<Arc<State>> {
        match &self.how {
            How::Handed(deliveries) => Some(deliveries.state()),
            How::Made(..) => None,
        }
    }

    pub(super) async fn stop(self) {
        match self.how {
            How::Handed(deliveries) => deliveries.stop().await,
            How::Made(stop, task) => {
                stop.cancel();
                // It can only have been cut off.
                task.await.ok();
            }
        }
    }
}

/// Makes a subscription at the bus, however long that takes, so that its events are kept before the first fetch.
async fn make(upstream: Upstream, wanted: Wanted, stop: CancellationToken) {
    let mut said = None;
    loop {
        let made = tokio::select! {
            () = stop.cancelled() => return,
            made = upstream.declare(&wanted) => made,
        };
        let Err(trouble) = made else { return };
        if let Trouble::Refused(problem) = &trouble
            && said.as_ref() != Some(&problem.code)
        {
            warn!(code = problem.code, subscription = wanted.name(), "{}", problem.message);
            said = Some(problem.code.clone());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TRY_EVERY) => {}
        }
    }
}

/// A component of the lattice.
struct Component {
    subscription: Subscription,
    subscriber: Subscriber,
    memory: Arc<Memory>,
}

impl Given for Component {
    async fn handle(
        &self,
        deliveries: &[Delivery],
        traceparent: Option<&str>,
    ) -> Result<Vec<Result<(), Rejection>>, Unhandled> {
        let traceparent = traceparent.map(str::to_owned);
        let answers = self
            .subscriber
            .hand_over(self.subscription.reach, deliveries, traceparent)
            .await;
        answers.map_err(|failure| self.unhandled(&failure))
    }

    async fn caught_up(&self, progress: &Progress) -> Result<(), Unhandled> {
        if self.memory.is_notified(&self.subscription) {
            return Ok(());
        }
        let message = CaughtUp {
            subscription: self.subscription.name.clone(),
            reached: progress.reached.as_ref().map(|p| Position {
                partition: p.partition,
                offset: p.offset,
            }),
            replayed: progress.caught_up.replayed,
            at: clock::now(),
            finished: progress.caught_up.finished,
        };
        let notified = self.subscriber.tell_caught_up(message).await;
        notified.map_err(|failure| self.unhandled(&failure))?;
        self.memory.note_notified(&self.subscription).await;
        Ok(())
    }
}

impl Component {
    fn unhandled(&self, failure: &CallFailure) -> Unhandled {
        match failure {
            CallFailure::Unreachable => Unhandled::Unreachable(format!(
                "component {} can't be reached: start it, or find out why it stopped",
                self.subscriber.component()
            )),
            failed => Unhandled::Failed(failed.to_string()),
        }
    }
}
