//! Drains a subscription's consumers: everything that was delivered is settled or in hand here, known by its offsets, and nothing
//! more is given to anybody.
//!
//! The server says how many events are not settled, and not which. So what was given back is taken here. Deliberately absent: what
//! becomes of it ([`super::hand_over`], [`super::migrate`]).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer};
use fanout_plan::Code;
use fanout_plan::isolation::Reader;
use fanout_plan::subscription::Registered;
use futures::StreamExt as _;
use tokio::time::sleep;

use super::acknowledgement::{Acknowledgement, acknowledge};
use super::hand_over::refused;
use super::refusal::there;
use super::{Store, StoreError, batch};

/// How long a consumer stays paused that nobody is to be given anything by.
pub(super) const FOR_GOOD: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);
/// How often it is looked whether everything is settled.
pub(super) const LOOKS_EVERY: Duration = Duration::from_millis(50);
/// Messages that are taken back at once.
const AT_ONCE: usize = 1_000;

/// What one consumer had given, and the messages that nobody has settled.
pub(super) struct Drained {
    pub(super) reader: Reader,
    pub(super) to: u64,
    pub(super) unsettled: Vec<jetstream::Message>,
    pub(super) except: Vec<u64>,
    /// Events among those that had been delivered before they were taken here: a subscriber has seen them.
    pub(super) comes_again: usize,
    /// How much it has given ever.
    pub(super) given: u64,
}

/// What was taken of a consumer that is drained.
#[derive(Default)]
struct Taken {
    messages: Vec<jetstream::Message>,
    offsets: BTreeSet<u64>,
    comes_again: usize,
}

impl Taken {
    /// Returns whether it is an event that was delivered before.
    fn add(&mut self, message: jetstream::Message) -> bool {
        let (offset, again) = match message.info() {
            Ok(info) => (Some(info.stream_sequence), info.delivered > 1),
            Err(_) => (None, false),
        };
        let is_new = offset.is_some_and(|offset| self.offsets.insert(offset));
        self.comes_again += usize::from(is_new && again);
        self.messages.push(message);
        again
    }

    /// Has all of it delivered again at once.
    async fn give_back(&mut self) {
        for message in std::mem::take(self).messages {
            acknowledge(&message, Acknowledgement::Nak(Duration::ZERO)).await;
        }
    }
}

impl Store {
    /// Awaits what is in flight at each of a subscription's consumers, and has none of them give anything more.
    pub(super) async fn drain_all(&self, seen: &Registered, until: Instant) -> Result<Vec<Drained>, StoreError> {
        let readers = self.readers_of(seen).map(|(_, reader)| reader);
        let drained = readers.map(|reader| self.drain(seen, reader, until));
        let drained: Vec<_> = futures::future::join_all(drained).await;
        let failed = drained.iter().any(Result::is_err);
        if failed {
            release(drained.iter().flatten().flatten()).await;
        }
        drained.into_iter().filter_map(Result::transpose).collect()
    }

    /// The same for one; `None` where there is no such consumer.
    async fn drain(&self, seen: &Registered, reader: Reader, until: Instant) -> Result<Option<Drained>, StoreError> {
        let name = seen.consumer_of(&reader);
        let log = self.log(reader.partition).await?;
        let action = || format!("hand over consumer {name} of partition {}", reader.partition);
        let info = || async { there(log.consumer_info(&name).await, action()) };
        if info().await?.is_none() {
            return Ok(None);
        }
        // Where it was interrupted, the consumer is paused.
        log.resume_consumer(&name).await.map_err(StoreError::when(action()))?;
        let consumer: consumer::PullConsumer = log.get_consumer(&name).await.map_err(StoreError::when(action()))?;
        let mut taken = Taken::default();
        let mut most = AT_ONCE;
        loop {
            let Some(now) = info().await? else { return Ok(None) };
            let missing = now.num_ack_pending.saturating_sub(taken.offsets.len());
            if missing > 0 {
                let mut came = batch::at_once(self, &consumer, (missing.min(most), batch::BYTES)).await?;
                let (mut some, mut only_again) = (false, true);
                while let Some(message) = came.next().await {
                    some = true;
                    only_again &= taken.add(message);
                }
                // What was given back comes before what nobody has had (nats-server 2.15). Where a backlog waits, no more of it is
                // taken than shows that nothing was given back.
                most = if only_again { AT_ONCE } else { 1 };
                if some && only_again && Instant::now() <= until {
                    continue;
                }
            } else if now.num_ack_pending < taken.offsets.len() {
                // Some of it was settled by whoever had it before.
                taken.give_back().await;
            } else {
                let at = async_nats::datetime::from_nanos((self.now() + FOR_GOOD).nanoseconds().into());
                let at = at.map_err(StoreError::when(action()))?;
                log.pause_consumer(&name, at)
                    .await
                    .map_err(StoreError::when(action()))?;
                let Some(now) = info().await? else { return Ok(None) };
                if now.num_ack_pending == taken.offsets.len() {
                    let floor = super::floors::settled_to(&now);
                    return Ok(Some(Drained {
                        to: now.delivered.stream_sequence.max(floor),
                        given: now.delivered.consumer_sequence,
                        reader,
                        unsettled: taken.messages,
                        except: taken.offsets.into_iter().filter(|offset| *offset > floor).collect(),
                        comes_again: taken.comes_again,
                    }));
                }
                // An instance that had not heard of it was given more.
                log.resume_consumer(&name).await.map_err(StoreError::when(action()))?;
            }
            if Instant::now() > until {
                let in_flight = now.num_ack_pending.saturating_sub(taken.offsets.len());
                taken.give_back().await;
                return Err(refused(
                    Code::StillInFlight,
                    format!(
                        "subscription {}: {in_flight} events of partition {} are in flight and were not settled in time: its deliveries go on where they were; run it again, or wait longer with `--within`",
                        seen.subscription.name, reader.partition
                    ),
                ));
            }
            sleep(LOOKS_EVERY).await;
        }
    }
}

/// Has what was taken back given out again at once.
pub(super) async fn release(drained: impl IntoIterator<Item = &Drained>) {
    for message in drained.into_iter().flat_map(|d| &d.unsettled) {
        acknowledge(message, Acknowledgement::Nak(Duration::ZERO)).await;
    }
}
