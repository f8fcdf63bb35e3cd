//! Has the store of retries give out nothing of a subscription any more, once nobody holds anything of it.
//!
//! The server counts what is in flight, and does not tell what an instance or a fetcher holds from what was given back until it
//! is due. So what was given back is taken here, and what is not due yet is known by its note: whatever is left is in
//! somebody's hands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::consumer::{self, PullConsumer};
use fanout_plan::subscription::Registered;
use fanout_plan::{Code, Problem, Timestamp};
use futures::StreamExt as _;
use tokio::time::sleep;

use super::acknowledgement::{Acknowledgement, acknowledge};
use super::drained::{FOR_GOOD, LOOKS_EVERY};
use super::refusal::{found, there};
use super::retries::Waiting;
use super::{Store, StoreError, batch};

/// Messages that are taken at once.
const AT_ONCE: usize = 1_000;
/// An instance reads the time by its own clock: what is due this soon may be in its hands.
const CLOCKS_DIFFER: Duration = Duration::from_secs(2);

/// What of a subscription is in the store of retries and was given out.
#[derive(Default)]
struct There {
    all: BTreeSet<u64>,
    /// When each is due that is not yet.
    due: BTreeMap<u64, Timestamp>,
    read_to: u64,
}

/// A consumer of retries that gives out nothing any more.
pub(super) struct StillRetries {
    pub(super) consumer: String,
    /// How much it has given out ever.
    pub(super) given: u64,
    /// What was taken here, without its payload.
    pub(super) in_hand: Vec<jetstream::Message>,
}

impl StillRetries {
    /// Gives back what was taken.
    pub(super) async fn release(&self) {
        for message in &self.in_hand {
            acknowledge(message, Acknowledgement::Nak(Duration::ZERO)).await;
        }
    }
}

impl Store {
    /// Awaits what is held of a subscription's retries, and pauses their consumer. `None` where there is none.
    pub(super) async fn still_retries(
        &self,
        seen: &Registered,
        until: Instant,
    ) -> Result<Option<StillRetries>, StoreError> {
        let name = super::retries::retries_consumer_name(seen);
        let stream = self.retry_stream().await?;
        let action = || format!("have consumer {name} of the retries stand still");
        let info = || async { there(stream.consumer_info(&name).await, action()) };
        if info().await?.is_none() {
            return Ok(None);
        }
        // Where this was interrupted, it is paused.
        stream
            .resume_consumer(&name)
            .await
            .map_err(StoreError::when(action()))?;
        let consumer: PullConsumer = stream.get_consumer(&name).await.map_err(StoreError::when(action()))?;
        let mut mine: BTreeMap<u64, jetstream::Message> = BTreeMap::new();
        let mut seen_there = There::default();
        loop {
            let before = mine.len();
            let mut came = batch::at_once(self, &consumer, (AT_ONCE, batch::BYTES)).await?;
            while let Some(mut message) = came.next().await {
                message.message.payload = bytes::Bytes::new();
                if let Ok(sequence) = message.info().map(|info| info.stream_sequence) {
                    mine.insert(sequence, message);
                }
            }
            let Some(now) = info().await? else { return Ok(None) };
            let held = self.held(seen, &now, (&mine, &mut seen_there)).await?;
            if held == 0 {
                let at = async_nats::datetime::from_nanos((self.now() + FOR_GOOD).nanoseconds().into());
                let at = at.map_err(StoreError::when(action()))?;
                stream
                    .pause_consumer(&name, at)
                    .await
                    .map_err(StoreError::when(action()))?;
                let Some(then) = info().await? else { return Ok(None) };
                if then.delivered.consumer_sequence == now.delivered.consumer_sequence {
                    self.remove_settled(&mine, &seen_there).await?;
                    return Ok(Some(StillRetries {
                        consumer: name,
                        given: then.delivered.consumer_sequence,
                        in_hand: mine.into_values().collect(),
                    }));
                }
                // An instance that had not heard of it was given more.
                stream
                    .resume_consumer(&name)
                    .await
                    .map_err(StoreError::when(action()))?;
            }
            if Instant::now() > until {
                let given_up = StillRetries {
                    consumer: name,
                    given: 0,
                    in_hand: mine.into_values().collect(),
                };
                given_up.release().await;
                return Err(StoreError::Refused(vec![Problem::new(
                    Code::StillInFlight,
                    format!(
                        "subscription {}: {held} events that were refused before are in flight again and were not settled in time: its deliveries go on where they were; run it again, or wait longer",
                        seen.subscription.name
                    ),
                )]));
            }
            if mine.len() == before {
                sleep(LOOKS_EVERY).await;
            }
        }
    }

    /// How many of those that count as in flight are neither taken here nor wait until they are due.
    async fn held(
        &self,
        seen: &Registered,
        now: &consumer::Info,
        (mine, there): (&BTreeMap<u64, jetstream::Message>, &mut There),
    ) -> Result<usize, StoreError> {
        let stream = self.retry_stream().await?;
        let filter = self.retries_of(seen);
        let action = "read the events that wait for a retry";
        while there.read_to < now.delivered.stream_sequence {
            let next = stream
                .get_first_raw_message_by_subject(filter.clone(), there.read_to + 1)
                .await;
            let Some(next) = found(next, action)?.filter(|m| m.sequence <= now.delivered.stream_sequence) else {
                there.read_to = now.delivered.stream_sequence;
                break;
            };
            there.read_to = next.sequence;
            there.all.insert(next.sequence);
            if let Some(waiting) = Waiting::read(&self.names, &next.subject, Some(&next.headers)) {
                there.due.insert(next.sequence, waiting.note.due);
            }
        }
        let soon = self.now() + CLOCKS_DIFFER;
        there.due.retain(|_, due| *due > soon);
        let waits = there.due.keys().filter(|sequence| !mine.contains_key(sequence)).count();
        let pending = now.num_ack_pending.saturating_sub(mine.len());
        Ok(pending.saturating_sub(waits))
    }

    /// Removes what was given out and is settled: nobody holds it, it is not taken here, and it does not wait. A work queue that is
    /// mirrored keeps a message that was settled before its mirror had it (nats-server 2.15.1).
    async fn remove_settled(&self, mine: &BTreeMap<u64, jetstream::Message>, there: &There) -> Result<(), StoreError> {
        let stream = self.retry_stream().await?;
        let unsettled = |sequence: &u64| mine.contains_key(sequence) || there.due.contains_key(sequence);
        for sequence in there.all.iter().filter(|sequence| !unsettled(sequence)) {
            let action = "remove a refused event that is settled";
            if found(stream.get_raw_message(*sequence).await, action)?.is_some() {
                stream
                    .delete_message(*sequence)
                    .await
                    .map_err(StoreError::when(action))?;
            }
        }
        Ok(())
    }
}
