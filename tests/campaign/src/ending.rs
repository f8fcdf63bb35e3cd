//! The end of a round: what the store holds and what the bus says, once all is quiet.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream::Stream};
use fanout_campaign_checker::history::{Event, EventId, Position, What};
use fanout_tests::{BusStatus, State};
use futures::StreamExt as _;
use serde_json::Value;

use crate::programs::{Operator, digest};
use crate::recorder::Recorder;
use crate::rules::RECOVERY;
use crate::world::{World, partitions};

const DEAD: &str = "fanout_payments_dead";
const SCHEDULED: &str = "fanout_payments_scheduled";
/// Messages that are read at a time.
const AT_ONCE: usize = 32;
/// Looks that must find nothing left, one after another: what was due is on its way for a moment.
const LOOKS: u32 = 6;

/// The longest time that it is waited for.
const AT_MOST: Duration = Duration::from_secs(600);

/// Waits until nothing is left, or until what is left has not become less for twice the bound of recoveries. It may become more
/// in between: a subscription that begins at the first event is seen before it has anything to read. What is not due yet is left,
/// too.
pub(crate) async fn drained(operator: &Operator, js: &jetstream::Context) -> Result<BusStatus> {
    let (began, mut found_nothing, mut before, mut since) = (Instant::now(), 0, u64::MAX, Instant::now());
    loop {
        let status = operator.status().await;
        let backlog = |status: &BusStatus| {
            let all = operator.subscriptions().into_iter();
            let all = all.map(|(under, _)| status.subscription(under).and_then(|s| s.backlog()));
            all.sum::<Option<u64>>()
        };
        let left = match (status.as_ref().ok().and_then(backlog), waiting_until_due(js).await) {
            (Some(backlog), Some(waiting)) => Some(backlog + waiting),
            _ => None,
        };
        found_nothing = if left == Some(0) { found_nothing + 1 } else { 0 };
        if let Some(left) = left {
            if left < before {
                since = Instant::now();
            }
            before = left;
        }
        if found_nothing >= LOOKS || since.elapsed() > 2 * RECOVERY || began.elapsed() > AT_MOST {
            return status;
        }
        // What could not be resumed while the store was away.
        let billing = status.as_ref().ok().and_then(|status| status.subscription("billing"));
        if billing.is_some_and(|billing| billing.state == State::Paused) {
            operator.operation("resume", "billing", &[]).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Events that are not published yet.
async fn waiting_until_due(js: &jetstream::Context) -> Option<u64> {
    let scheduled = js.get_stream(SCHEDULED).await.ok()?;
    Some(scheduled.cached_info().state.messages)
}

/// Writes all of it into the history.
pub(crate) async fn tell(world: &World, operator: &Operator, status: &BusStatus) -> Result<()> {
    let recorder = &world.recorder;
    for (under, subscription) in operator.subscriptions() {
        let Some(status) = status.subscription(under) else {
            continue;
        };
        let backlog = status.backlog().unwrap_or(u64::MAX);
        recorder.tell("operator", What::Left { subscription, backlog });
    }
    let js = jetstream::new(world.admin.clone());
    for (partition, stream) in partitions(&js).await? {
        let read = stored(&js, partition, &stream, recorder).await;
        read.with_context(|| format!("reading {stream}"))?;
    }
    letters(&js, operator, recorder).await.context("reading dead letters")?;
    recorder.flush()
}

/// Keeps what the store says of its consumers, where something is left: what is wrong is seen there, and gone with the round.
pub(crate) async fn keep_consumers(world: &World, status: &BusStatus, folder: &Path) -> Result<()> {
    if status.subscriptions.iter().all(|s| s.backlog() == Some(0)) {
        return Ok(());
    }
    let js = jetstream::new(world.admin.clone());
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for (_, stream) in partitions(&js).await? {
        let asked = js.request(format!("CONSUMER.LIST.{stream}"), &());
        all.insert(stream, asked.await.context("the consumers can't be listed")?);
    }
    let text = serde_json::to_vec_pretty(&(&all, status))?;
    std::fs::write(folder.join("left.json"), text).context("what is left can't be written")
}

async fn stored(js: &jetstream::Context, partition: u32, stream: &str, recorder: &Arc<Recorder>) -> Result<()> {
    let log = js.get_stream(stream).await?;
    let state = log.cached_info().state.clone();
    let log = &log;
    // A stream that never held anything says 0 of both, and has no such message.
    let offsets = futures::stream::iter(state.first_sequence.max(1)..=state.last_sequence);
    let mut messages = offsets
        .map(|offset| async move { (offset, message(log, offset).await) })
        .buffered(AT_ONCE);
    while let Some((offset, message)) = messages.next().await {
        let Some(message) = message? else { continue };
        let stored = recorder.at_wall(i64::try_from(message.time.unix_timestamp_nanos())?);
        let Some(event) = event(&message.headers, &message.payload) else {
            continue;
        };
        recorder.tell(
            "store",
            What::Stored {
                event,
                position: Position(partition, offset),
                stored,
            },
        );
    }
    Ok(())
}

async fn letters(js: &jetstream::Context, operator: &Operator, recorder: &Arc<Recorder>) -> Result<()> {
    let dead = js.get_stream(DEAD).await?;
    for letter in operator.dead_letters().await? {
        let number = letter["number"].as_u64().context("it has a number")?;
        let Some(message) = message(&dead, number).await? else {
            continue;
        };
        let Some(event) = event(&message.headers, &message.payload) else {
            continue;
        };
        let attempts: Vec<Value> = letter["attempts"].as_array().cloned().unwrap_or_default();
        let reasons = attempts
            .iter()
            .filter_map(|attempt| Some(attempt["reason"].as_str()?.to_owned()));
        let at = letter["position"]
            .as_str()
            .and_then(|at| at.parse::<fanout_client::Position>().ok());
        let at = at.context("it has a position")?;
        recorder.tell(
            "store",
            What::Letter {
                subscription: letter["subscription"].as_str().unwrap_or_default().to_owned(),
                event,
                position: Position(at.partition, at.offset),
                attempts: u32::try_from(attempts.len())?,
                reasons: reasons.collect(),
            },
        );
    }
    Ok(())
}

/// A message, or none where there is none.
async fn message(stream: &Stream, offset: u64) -> Result<Option<jetstream::message::StreamMessage>> {
    use async_nats::jetstream::stream::LastRawMessageErrorKind::NoMessageFound;
    let mut tries = 0;
    loop {
        match stream.get_raw_message(offset).await {
            Ok(message) => return Ok(Some(message)),
            Err(error) if error.kind() == NoMessageFound => return Ok(None),
            Err(error) if tries >= 20 => return Err(error).with_context(|| format!("message {offset}")),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The event of a message, as the history has it.
fn event(headers: &HeaderMap, payload: &[u8]) -> Option<Event> {
    let header = |name: &str| Some(headers.get(name)?.as_str().to_owned());
    Some(Event {
        id: EventId {
            tenant: header("ce-tenant")?,
            source: header("ce-source")?,
            id: header("ce-id")?,
        },
        event_type: header("ce-type")?,
        key: header("ce-partitionkey"),
        digest: digest(payload),
    })
}
