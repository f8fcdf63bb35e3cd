//! Watches a backfill, tells its subscriber once when it has caught up, and ends it when it has reached its end.
//!
//! Several instances watch; the registry's compare-and-swap lets one of them tell. When that one crashes between telling
//! and noting it, another tells again after a while: at least once, and once unless something crashed.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
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
    let states = context.store.consumer_states(&context.registered).await?;
    let Some(registered) = context.store.registered(context.name()).await? else {
        return Ok(Some(Progress::Finished));
    };
    if registered.id() != context.id() || registered.rewound != context.registered.rewound {
        // It was put back meanwhile, or ended and made again: this watch is of an earlier round.
        return Ok(Some(registered.progress));
    }
    let now = clock::now();
    match registered.progress {
        Progress::CaughtUp | Progress::Finished => return Ok(Some(registered.progress)),
        Progress::Telling(since) if now - since < TELLING_MAX => return Ok(None),
        Progress::Telling(_) | Progress::Replaying => {}
    }
    let (reached, done) = match end(context) {
        None => (
            states.iter().all(|(p, s)| has_caught_up(context, *p, s)),
            Progress::CaughtUp,
        ),
        Some(end) => (
            states.iter().all(|(p, s)| has_finished(context, *p, s, end)),
            Progress::Finished,
        ),
    };
    if !reached || retries_wait(context).await? {
        return Ok(None);
    }
    let finished = done == Progress::Finished;
    let telling = Progress::Telling(now);
    if !context.store.advance(&registered, registered.progress, telling).await? {
        return Ok(None);
    }
    if context.registered.subscription.tell_caught_up {
        let message = CaughtUp {
            subscription: context.name().clone(),
            reached: last_settled(&states),
            replayed: registered.replayed.sum(),
            at: now,
            finished,
        };
        if let Err(failure) = context.subscriber.tell_caught_up(message).await {
            debug!(subscription = %context.name(), %failure, "the subscriber could not be told that it has caught up; it is told again");
            context.store.advance(&registered, telling, Progress::Replaying).await?;
            return Ok(None);
        }
    }
    context.store.advance(&registered, telling, done).await?;
    info!(subscription = %context.name(), replayed = registered.replayed.sum(), finished, "caught up");
    Ok(Some(done))
}

/// Whether an event that belongs to what is replayed was refused and waits for its next attempt.
async fn retries_wait(context: &Context) -> Result<bool, StoreError> {
    let waiting = context.store.retries_by_position(&context.registered).await?;
    let belongs = |(partition, (_, first)): (&u32, &(u64, u64))| {
        end(context).is_some() || *first <= context.registered.head.of(*partition)
    };
    Ok(waiting.iter().any(belongs))
}

fn end(context: &Context) -> Option<End> {
    match context.registered.subscription.need {
        Need::Backfill { end, .. } => end,
        Need::Queue | Need::Durable => None,
    }
}

/// The last place in the newest partition in which anything is settled.
fn last_settled(states: &BTreeMap<u32, ConsumerState>) -> Option<Position> {
    let (partition, state) = states.iter().rev().find(|(_, s)| s.settled_to > 0)?;
    Some(Position {
        partition: *partition,
        offset: state.settled_to,
    })
}

/// Everything that was in the partition when the subscription was made is settled.
fn has_caught_up(context: &Context, partition: u32, state: &ConsumerState) -> bool {
    state.settled_to >= context.registered.head.of(partition) || (state.pending == 0 && state.unsettled == 0)
}

/// Everything before the end is settled in the partition, and nothing more can come before it.
fn has_finished(context: &Context, partition: u32, state: &ConsumerState, end: End) -> bool {
    if context.health.has_passed_end(partition, state.settled_to) {
        return true;
    }
    let idle = state.pending == 0 && state.unsettled == 0;
    match end {
        // A newer partition lies beyond the end, and an older one before it: that takes nothing new.
        End::Position(p) => match partition.cmp(&p.partition) {
            Ordering::Less => idle,
            Ordering::Equal => state.settled_to >= p.offset || (idle && state.log_head >= p.offset),
            Ordering::Greater => true,
        },
        End::Time(t) => idle && clock::now() >= t,
    }
}
