//! Watches a backfill, notifies its subscriber once when it has caught up, and ends it when it has reached its end.
//!
//! Several instances watch; the registry's compare-and-swap lets one of them notify it, which marks it as its own. When that one
//! crashes between notifying and noting it, another notifies again after a while: at least once, and once unless something
//! crashed. While the subscriber can't be notified, the mark stays, and the registry is left alone.
//!
//! No two clocks are compared: a mark is taken for a crashed instance's when it has not changed for a while by the clock of
//! who observes, and a backfill ends when the store says that it is so late.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanout_plan::subscription::{End, Need, Progress, Registered};
use fanout_plan::{LogPosition, Position, Timestamp};
use tracing::{debug, info};

use super::Context;
use super::target::CaughtUp;
use crate::backoff::Backoff;
use crate::jetstream::{ConsumerState, StoreError};

/// How often this instance checks whether it has settled anything, which costs the store nothing.
const TICK: Duration = Duration::from_millis(200);

/// How long it is until the store is asked again while this instance settles nothing: another may. At first, and at most.
const OBSERVE_EVERY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The wait before a subscriber is called again that could not be called: at first, and at most.
const NOTIFY_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long a mark of another instance may stay unchanged before it is taken for crashed.
const NOTIFYING_MAX: Duration = Duration::from_secs(60);

/// How often an instance that goes on notifying writes its mark anew.
const MARK_EVERY: Duration = Duration::from_secs(20);

/// What one watch knows.
struct Watch<'a> {
    context: &'a Context,
    /// What this instance had settled at the last observation.
    settled: u64,
    next_observation: Instant,
    pause: Backoff,
    theirs: Mark,
}

/// A mark of another instance, and when it was first seen. What is written in it says nothing but whether it is the same.
#[derive(Default)]
struct Mark(Option<(Timestamp, Instant)>);

impl Mark {
    /// Whether the instance that set it seems to have crashed.
    fn is_left_behind(&mut self, mark: Timestamp, now: Instant) -> bool {
        match self.0 {
            Some((seen, since)) if seen == mark => now.saturating_duration_since(since) >= NOTIFYING_MAX,
            _ => {
                self.0 = Some((mark, now));
                false
            }
        }
    }
}

pub(super) async fn run(context: Arc<Context>) {
    let mut watch = Watch {
        context: &context,
        settled: 0,
        next_observation: Instant::now(),
        pause: Backoff::new(OBSERVE_EVERY.0, OBSERVE_EVERY.1),
        theirs: Mark::default(),
    };
    loop {
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        if !watch.is_due() {
            continue;
        }
        match watch.observe().await {
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

impl Watch<'_> {
    /// Whether the store is to be asked: this instance has settled something since, or it is long enough ago.
    fn is_due(&mut self) -> bool {
        let settled = self.context.health.settled();
        let now = Instant::now();
        if settled != self.settled {
            self.settled = settled;
            self.pause.reset();
        } else if now < self.next_observation {
            return false;
        }
        self.next_observation = now + self.pause.next();
        true
    }

    /// Observes once; returns the progress once nothing more will come of it.
    async fn observe(&mut self) -> Result<Option<Progress>, StoreError> {
        let context = self.context;
        // Before how far they have come: what is stored later than this is no reason to go on.
        let passed = self.passed_end_time().await?;
        let states = context.store.consumer_states(&context.registered).await?;
        let (reached, done) = match end(context) {
            None => (
                states
                    .iter()
                    .all(|(p, s)| s.has_caught_up(context.registered.head.of(*p))),
                Progress::CaughtUp,
            ),
            Some(end) => (
                states.iter().all(|(p, s)| has_finished(context, *p, s, end, &passed)),
                Progress::Finished,
            ),
        };
        if !reached || retries_wait(context).await? {
            return Ok(None);
        }
        let Some(registered) = context.store.registered(context.name()).await? else {
            return Ok(Some(Progress::Finished));
        };
        if registered.id() != context.id() || registered.rewound != context.registered.rewound {
            // It was put back meanwhile, or ended and made again: this watch is of an earlier round.
            return Ok(Some(registered.progress));
        }
        match registered.progress {
            Progress::CaughtUp | Progress::Finished => return Ok(Some(registered.progress)),
            Progress::Notifying(mark) if !self.theirs.is_left_behind(mark, Instant::now()) => return Ok(None),
            Progress::Notifying(_) | Progress::Replaying => {}
        }
        let caught_up = CaughtUp {
            subscription: context.name().clone(),
            reached: last_settled(&states),
            replayed: registered.replayed.sum(),
            at: context.store.now(),
            finished: done == Progress::Finished,
        };
        self.notify(&registered, caught_up, done).await
    }

    /// Whether the end of a backfill that ends at a time has passed in each partition, as the store says.
    async fn passed_end_time(&mut self) -> Result<BTreeMap<u32, bool>, StoreError> {
        let context = self.context;
        let mut passed = BTreeMap::new();
        if let Some(End::Time(end)) = end(context) {
            for partition in context.store.partitions_of(&context.registered.subscription) {
                let now = context.store.time_of(partition.number).await?;
                passed.insert(partition.number, now >= end);
                if now <= end {
                    let at = Instant::now() + end.since(now);
                    self.next_observation = self.next_observation.min(at.max(Instant::now() + TICK));
                }
            }
        }
        Ok(passed)
    }

    /// Tells the subscriber, however long that takes, if no other instance does.
    async fn notify(
        &mut self,
        registered: &Registered,
        mut caught_up: CaughtUp,
        done: Progress,
    ) -> Result<Option<Progress>, StoreError> {
        let context = self.context;
        let (store, name) = (&context.store, context.name());
        let mut mark = Progress::Notifying(store.now());
        if !store.advance(registered, registered.progress, mark).await? {
            return Ok(None);
        }
        let (mut marked, mut pause) = (Instant::now(), Backoff::new(NOTIFY_EVERY.0, NOTIFY_EVERY.1));
        loop {
            let notified = match context.registered.subscription.tell_caught_up {
                true => context.target.tell_caught_up(caught_up.clone()).await,
                false => Ok(()),
            };
            let Err(failure) = notified else { break };
            debug!(subscription = %name, %failure, "the subscriber was not notified that it has caught up; it is notified again");
            tokio::select! {
                () = context.stop.cancelled() => {
                    // Whoever comes next need not wait for it.
                    store.advance(registered, mark, Progress::Replaying).await?;
                    return Ok(None);
                }
                () = tokio::time::sleep(pause.next()) => {}
            }
            if marked.elapsed() >= MARK_EVERY {
                let next = Progress::Notifying(store.now());
                if !store.advance(registered, mark, next).await? {
                    // Another instance notifies it, or it was put back.
                    return Ok(None);
                }
                (mark, marked) = (next, Instant::now());
            }
            caught_up.at = store.now();
        }
        store.advance(registered, mark, done).await?;
        info!(subscription = %name, replayed = caught_up.replayed, finished = caught_up.finished, "caught up");
        Ok(Some(done))
    }
}

/// Whether an event that belongs to what is replayed was refused and waits for its next attempt.
async fn retries_wait(context: &Context) -> Result<bool, StoreError> {
    let waiting = context.store.retries_by_position(&context.registered).await?;
    let belongs =
        |(_, first): &(u64, LogPosition)| end(context).is_some() || context.registered.was_there(first.position);
    Ok(waiting.values().any(belongs))
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
    Some(Position::new(*partition, state.settled_to))
}

/// Everything before the end is settled in the partition, and nothing more can come before it.
fn has_finished(
    context: &Context,
    partition: u32,
    state: &ConsumerState,
    end: End,
    passed: &BTreeMap<u32, bool>,
) -> bool {
    if context.health.has_passed_end(partition, state.settled_to) {
        return true;
    }
    let idle = state.is_idle();
    match end {
        // A newer partition lies beyond the end, and an older one before it: that takes nothing new.
        End::Position(p) => match partition.cmp(&p.partition) {
            Ordering::Less => idle,
            Ordering::Equal => state.settled_to >= p.offset || (idle && state.log_head >= p.offset),
            Ordering::Greater => true,
        },
        End::Time(_) => idle && passed.get(&partition).is_some_and(|passed| *passed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_left_behind_when_it_stays_whatever_the_clock_that_wrote_it() {
        let began = Instant::now();
        for mark in [Timestamp::EPOCH, Timestamp::MAX, Timestamp::MIN] {
            let mut theirs = Mark::default();
            assert!(!theirs.is_left_behind(mark, began), "seen for the first time");
            assert!(!theirs.is_left_behind(mark, began + NOTIFYING_MAX / 2));
            assert!(theirs.is_left_behind(mark, began + NOTIFYING_MAX));
        }
    }

    #[test]
    fn a_mark_that_is_written_anew_is_not() {
        let began = Instant::now();
        let mut theirs = Mark::default();
        for round in 0..10 {
            let now = began + MARK_EVERY * round;
            assert!(!theirs.is_left_behind(Timestamp::EPOCH + MARK_EVERY * round, now));
        }
    }
}
