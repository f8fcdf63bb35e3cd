//! Watches a backfill, tells its subscriber once when it has caught up, and ends it when it has reached its end.
//!
//! Several instances watch; the registry's compare-and-swap lets one of them tell. When that one crashes between telling
//! and noting it, another tells again after a while: at least once, and once unless something crashed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fanout_plan::Position;
use fanout_plan::subscription::{End, Need, Progress};
use tracing::{debug, info};

use super::Context;
use crate::clock;
use crate::jetstream::{ConsumerState, StoreError};
use crate::wrpc::CaughtUp;

/// How often the consumer's state is read while a backfill replays.
const LOOK: Duration = Duration::from_millis(200);

/// How long another instance's telling may take before it is taken for crashed.
const TELLING_MAX: i64 = 60_000_000_000;

pub(super) async fn run(context: Arc<Context>) {
    loop {
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        match look(&context).await {
            Ok(Some(Progress::Finished)) => {
                // Its consumer goes with the next plan.
                context.replan.notify_one();
                return;
            }
            Ok(Some(_)) => return,
            Ok(None) => {}
            Err(error) => debug!(subscription = %context.name(), %error, "a backfill's progress is not known yet"),
        }
    }
}

/// One look; returns the progress once nothing more will come of looking.
async fn look(context: &Context) -> Result<Option<Progress>, StoreError> {
    let state = context.store.consumer_state(context.name()).await?;
    let Some(registered) = context.store.registered(context.name()).await? else {
        return Ok(Some(Progress::Finished));
    };
    let now = clock::now();
    match registered.progress {
        Progress::CaughtUp | Progress::Finished => return Ok(Some(registered.progress)),
        Progress::Telling(since) if now - since < TELLING_MAX => return Ok(None),
        Progress::Telling(_) | Progress::Replaying => {}
    }
    let (reached, done) = match end(context) {
        None => (has_caught_up(context, &state), Progress::CaughtUp),
        Some(end) => (has_finished(context, &state, end), Progress::Finished),
    };
    if !reached {
        return Ok(None);
    }
    let finished = done == Progress::Finished;
    let telling = Progress::Telling(now);
    if !context
        .store
        .advance(context.name(), registered.progress, telling)
        .await?
    {
        return Ok(None);
    }
    if context.registered.subscription.tell_caught_up {
        let message = CaughtUp {
            subscription: context.name().clone(),
            reached: Some(state.settled_to).filter(|o| *o > 0).map(Position::undivided),
            replayed: registered.replayed.unwrap_or(0),
            at: now,
            finished,
        };
        if let Err(failure) = context.subscriber.tell_caught_up(message).await {
            debug!(subscription = %context.name(), %failure, "the subscriber could not be told that it has caught up; it is told again");
            context
                .store
                .advance(context.name(), telling, Progress::Replaying)
                .await?;
            return Ok(None);
        }
    }
    context.store.advance(context.name(), telling, done).await?;
    info!(subscription = %context.name(), replayed = registered.replayed, finished, "caught up");
    Ok(Some(done))
}

fn end(context: &Context) -> Option<End> {
    match context.registered.subscription.need {
        Need::Backfill { end, .. } => end,
        Need::Queue | Need::Durable => None,
    }
}

/// Everything that was in the log when the subscription was made is settled.
fn has_caught_up(context: &Context, state: &ConsumerState) -> bool {
    state.settled_to >= context.registered.head || (state.pending == 0 && state.unsettled == 0)
}

/// Everything before the end is settled, and nothing more can come before it.
fn has_finished(context: &Context, state: &ConsumerState, end: End) -> bool {
    let passed = context.health.passed_end_at.load(Ordering::Relaxed);
    if passed > 0 && state.settled_to >= passed {
        return true;
    }
    let idle = state.pending == 0 && state.unsettled == 0;
    match end {
        End::Position(p) => state.settled_to >= p.offset || (idle && state.log_head >= p.offset),
        End::Time(t) => idle && clock::now() >= t,
    }
}
