//! Stores together what is published at once, so that one write to the disk serves all of it: JetStream's atomic
//! batches (nats-server 2.12). What comes while a batch is under way waits and is the next batch; a single event waits
//! for nothing. After a batch its publishers come back with their next events one by one, so the next batch waits a
//! little, until as many are there again.
//!
//! A batch is stored whole or not at all. One that is refused is halved until each event has an answer of its own, so
//! that one event (a repeat, or one too many for the log) does not take others along.
//!
//! Server behaviour, nats-server 2.15.1: a batch has at most 1,000 messages (10199); one that holds a message id twice,
//! or one that is stored already, is refused whole (10201), and none of its ids is remembered; only the last message is
//! answered, with the offset of the last, and offsets within it follow each other. A batch makes the server write to
//! its disk about as often as eight single messages do, whatever its size.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::header::{NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE};
use async_nats::header::{NATS_EXPECTED_STREAM, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, publish::PublishAck};
use fanout_plan::Position;
use tokio::sync::{mpsc, oneshot};

use super::unstored::{answer, unstored};
use super::{Placed, Stored, Unstored};

/// The most events in a batch: the server's limit.
const MAX_EVENTS: usize = 1_000;

/// Fewer than this are cheaper for the server by themselves.
const FEWEST_EVENTS: usize = 8;

/// The longest that a batch waits for as many events as the last one had.
const LONGEST_WAIT: Duration = Duration::from_millis(10);

/// The most bytes in a batch: the server holds them until the batch is complete.
const MAX_BYTES: u64 = 4 << 20;

/// The most events that wait for one stream; more wait in line.
const MAX_WAITING: usize = 4_096;

/// One line of events for each stream.
#[derive(Debug, Default)]
pub(in crate::jetstream) struct Together {
    lanes: Mutex<HashMap<String, mpsc::Sender<Waiting>>>,
}

/// An event whose publisher waits.
struct Waiting {
    placed: Placed,
    answer: oneshot::Sender<Result<Stored, Unstored>>,
}

impl Waiting {
    fn answer(self, what: Result<Stored, Unstored>) {
        // Who no longer waits has its answer by the deadline of its call.
        drop(self.answer.send(what));
    }
}

impl Together {
    /// Puts an event in line.
    pub(super) async fn send(
        &self,
        js: &jetstream::Context,
        placed: Placed,
    ) -> Result<oneshot::Receiver<Result<Stored, Unstored>>, Unstored> {
        let lane = self.lane(js, &placed.stream);
        let (answer, answered) = oneshot::channel();
        match lane.send(Waiting { placed, answer }).await {
            Ok(()) => Ok(answered),
            Err(_) => Err(Unstored::Stopped),
        }
    }

    /// The line of a stream. It ends with the last store that may put something in it.
    fn lane(&self, js: &jetstream::Context, stream: &str) -> mpsc::Sender<Waiting> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(stream) {
            return lane.clone();
        }
        let (lane, waiting) = mpsc::channel(MAX_WAITING);
        tokio::spawn(run(js.clone(), waiting));
        lanes.insert(stream.to_owned(), lane.clone());
        lane
    }
}

async fn run(js: jetstream::Context, mut lane: mpsc::Receiver<Waiting>) {
    let mut waiting = VecDeque::new();
    let (mut last, mut took) = (1, Duration::ZERO);
    loop {
        if waiting.is_empty() {
            match lane.recv().await {
                Some(w) => waiting.push_back(w),
                None => return,
            }
        }
        let patience = tokio::time::sleep((took / 2).min(LONGEST_WAIT));
        tokio::pin!(patience);
        while waiting.len() < MAX_EVENTS {
            match lane.try_recv() {
                Ok(w) => waiting.push_back(w),
                Err(_) if waiting.len() >= last => break,
                Err(_) => tokio::select! {
                    () = &mut patience => break,
                    more = lane.recv() => match more {
                        Some(w) => waiting.push_back(w),
                        None => break,
                    },
                },
            }
        }
        let batch = next_batch(&mut waiting);
        let started = Instant::now();
        last = batch.len();
        store(&js, batch).await;
        took = started.elapsed();
    }
}

/// The events at the front that can be one batch: no id twice, not too much.
fn next_batch(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut ids = HashSet::new();
    let mut bytes = 0;
    let mut n = 0;
    for w in waiting.iter().take(MAX_EVENTS) {
        bytes += w.placed.event.size;
        let fits = n == 0 || bytes <= MAX_BYTES;
        if !fits || !ids.insert(w.placed.event.id.as_str()) {
            break;
        }
        n += 1;
    }
    waiting.drain(..n).collect()
}

/// Stores a batch in order, in parts where the server refuses it as a whole.
async fn store(js: &jetstream::Context, batch: Vec<Waiting>) {
    let mut parts = vec![batch];
    while let Some(mut part) = parts.pop() {
        if part.len() < FEWEST_EVENTS {
            if let Some(moved) = one_by_one(js, part).await {
                // They go on behind it.
                fail(parts.drain(..).flatten(), &moved);
            }
            continue;
        }
        match commit(js, &part).await {
            Ok(ack) => {
                let first = ack.sequence.saturating_sub(part.len() as u64 - 1);
                for (offset, w) in (first..).zip(part) {
                    let partition = w.placed.partition;
                    w.answer(Ok(Stored {
                        position: Position::new(partition, offset),
                        duplicate: false,
                    }));
                }
            }
            // The server has said no, so that nothing of it is stored.
            Err(e) if answer(&e).is_some() => {
                let second = part.split_off(part.len() / 2);
                parts.push(second);
                parts.push(part);
            }
            Err(e) => {
                let e = unstored(e);
                fail(part.into_iter(), &e);
                if e.has_moved() {
                    fail(parts.drain(..).flatten(), &e);
                }
            }
        }
    }
}

fn fail(events: impl Iterator<Item = Waiting>, e: &Unstored) {
    events.for_each(|w| w.answer(Err(e.clone())));
}

/// Sends events by themselves, in order, and then waits for their answers; says so if the place of one is gone.
async fn one_by_one(js: &jetstream::Context, part: Vec<Waiting>) -> Option<Unstored> {
    let mut moved = None;
    let mut sent = Vec::with_capacity(part.len());
    for Waiting { placed, answer } in part {
        let partition = placed.partition;
        let ack = js.send_publish(placed.subject.clone(), placed.message()).await;
        sent.push((partition, ack, answer));
    }
    for (partition, ack, answer) in sent {
        let stored = match ack {
            Ok(ack) => ack.await,
            Err(e) => Err(e),
        };
        let stored = stored.map(|ack| Stored {
            position: Position::new(partition, ack.sequence),
            duplicate: ack.duplicate,
        });
        let stored = stored.map_err(unstored);
        if let Err(e) = &stored
            && e.has_moved()
        {
            moved = Some(e.clone());
        }
        // As in `Waiting::answer`.
        drop(answer.send(stored));
    }
    moved
}

/// Sends a batch of two events or more. If the connection is lost in the middle, the server finds a gap in the batch
/// and stores nothing of it.
async fn commit(js: &jetstream::Context, batch: &[Waiting]) -> Result<PublishAck, PublishError> {
    let client = js.client();
    // Unique, and at most 64 characters.
    let id = client.new_inbox();
    let id = id.rsplit('.').next().unwrap_or(&id);
    let last = batch.len() - 1;
    for (i, w) in batch.iter().enumerate() {
        let event = &w.placed.event;
        let mut headers = event.headers.clone();
        part_of(&mut headers, id, i + 1);
        headers.insert(NATS_MESSAGE_ID, event.id.as_str());
        headers.insert(NATS_EXPECTED_STREAM, w.placed.stream.as_str());
        if i < last {
            client
                .publish_with_headers(w.placed.subject.clone(), headers, event.data.clone())
                .await
                .map_err(|e| PublishError::with_source(PublishErrorKind::BrokenPipe, e))?;
            continue;
        }
        headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
        let message = PublishMessage::build().headers(headers).payload(event.data.clone());
        return js.send_publish(w.placed.subject.clone(), message).await?.await;
    }
    Err(PublishError::new(PublishErrorKind::Other))
}

fn part_of(headers: &mut HeaderMap, batch: &str, sequence: usize) {
    headers.insert(NATS_BATCH_ID, batch);
    headers.insert(NATS_BATCH_SEQUENCE, sequence.to_string());
}
