//! `fetch`: takes deliveries out of the log for one caller, and waits for the first when there are none.

use std::time::Duration;

use fanout_plan::subscription::{Need, Progress, Registered};
use tokio::time::Instant;

use super::{Ask, CaughtUp, DEFAULT_BYTES, Fetched, Hold, Inbox, MAX_BYTES, MAX_DELIVERIES, MAX_WAIT, admit_here};
use crate::clock;
use crate::delivery::{Delivery, Health};
use crate::jetstream::{LISTENS_FOR, StoreError, Taken};

/// Bytes of a message's subject and headers beyond its event, counted generously.
const OVERHEAD: u64 = 4 << 10;

/// How often a pull is begun anew because what it pulled from is gone.
const TRIES: u32 = 3;

impl Inbox {
    /// Takes deliveries. `registered` is how the subscription stands now.
    pub(crate) async fn fetch(&self, registered: &Registered, ask: Ask) -> Result<Fetched, StoreError> {
        let policy = self.context.store.policy();
        let mut fetched = Fetched {
            deliveries: Vec::new(),
            hold: policy.ack_wait,
            caught_up: caught_up(registered),
        };
        if registered.progress == Progress::Finished {
            return Ok(fetched);
        }
        let settler = self.settler().await?;
        let most = (ask.most as usize).clamp(1, MAX_DELIVERIES);
        // At least one event fits, whatever was asked for.
        let bytes = ask.max_bytes.unwrap_or(DEFAULT_BYTES).min(MAX_BYTES);
        let bytes = usize::try_from(bytes.max(policy.max_event_bytes + OVERHEAD)).unwrap_or(usize::MAX);
        let waiting = self.waiting.try_acquire().ok();
        let wait = waiting.as_ref().map_or(Duration::ZERO, |_| ask.wait.min(MAX_WAIT));
        let end = Instant::now() + wait;
        let mut failures = 0;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let taken = tokio::select! {
                biased;
                taken = self.take(most, bytes, left) => taken,
                // Paused, ended or stopping: what comes from now on is given to nobody.
                () = self.context.stop.cancelled() => return Ok(fetched),
            };
            let taken = match taken {
                Ok(taken) => taken,
                Err(error) => {
                    // The consumer may have been made anew; that of a queue subscription goes when nobody fetches, and
                    // that of a backfill once it is finished.
                    self.forget_consumers().await;
                    let name = &self.context.registered.subscription.name;
                    let now = self.context.store.registered(name).await?;
                    if let Some(now) = now.filter(|r| r.progress == Progress::Finished) {
                        fetched.caught_up = caught_up(&now);
                        return Ok(fetched);
                    }
                    failures += 1;
                    if failures < TRIES {
                        continue;
                    }
                    return Err(error);
                }
            };
            let until = taken.since.saturating_add(nanos(policy.ack_wait));
            for message in taken.messages {
                if self.is_queue() {
                    if let Some(delivery) = self.heard(message) {
                        let hold = self.hold(&delivery, String::new(), until);
                        fetched.deliveries.push((delivery, hold));
                    }
                } else if let Some(held) = admit_here(&self.context, settler, message).await {
                    let hold = self.hold(&held.delivery, held.reply(), until);
                    fetched.deliveries.push((held.delivery, hold));
                }
            }
            if !fetched.deliveries.is_empty() || Instant::now() >= end {
                self.context
                    .health
                    .works(self.context.registered.subscription.name.as_str());
                return Ok(fetched);
            }
        }
    }

    async fn take(&self, most: usize, max_bytes: usize, wait: Duration) -> Result<Taken, StoreError> {
        let consumers = self.consumers().await?;
        self.context.store.take(&consumers, most, max_bytes, wait).await
    }

    fn hold(&self, delivery: &Delivery, reply: String, until: i64) -> Hold {
        Hold {
            subscription: delivery.subscription.clone(),
            position: delivery.position,
            attempt: delivery.attempt,
            reply,
            until,
        }
    }

    /// An event of a queue subscription, unless it is too old to be called live.
    fn heard(&self, message: async_nats::jetstream::Message) -> Option<Delivery> {
        let delivery = crate::delivery::heard(&self.context, message)?;
        let age = clock::now().saturating_sub(delivery.published_at);
        if age > nanos(LISTENS_FOR) {
            Health::count(&self.context.health.missed);
            return None;
        }
        Health::count(&self.context.health.handled);
        Some(delivery)
    }
}

pub(super) fn nanos(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)
}

pub(crate) fn caught_up(registered: &Registered) -> Option<CaughtUp> {
    if !matches!(registered.subscription.need, Need::Backfill { .. }) {
        return None;
    }
    let finished = registered.progress == Progress::Finished;
    (finished || registered.progress == Progress::CaughtUp).then(|| CaughtUp {
        replayed: registered.replayed.sum(),
        finished,
    })
}
