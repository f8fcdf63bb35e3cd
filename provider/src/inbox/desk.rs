//! Where the owner of an order lends its events to those who fetch, at whichever instance they ask.
//!
//! The owner knows whose turn it is ([`crate::delivery`]). Another instance asks it over NATS, and is answered by
//! reference: with the holds, by which it reads the events themselves from the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::AckKind;
use bytes::Bytes;
use fanout_transport::{InboxPrefix, Inboxes};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::fetch::nanos;
use super::token::Lent;
use super::{Hold, Verdict};
use crate::delivery::{Context, Delivery, Held, Next, Settler};
use crate::jetstream::{Redrive, StoreError};

/// How long the owner may take to look at what is there.
const LOOKS_IN: Duration = Duration::from_secs(5);
/// Fetches of other instances that wait at once. One more is answered at once, with nothing.
const MAX_WAITING: usize = 256;
/// Questions of other instances that are under way at once, those fetches included.
const MAX_QUESTIONS: usize = 1_024;
/// Bytes of an answer that one hold takes, counted generously.
const HOLD_BYTES: usize = 1 << 10;

/// One subscription's, at one instance.
pub(crate) struct Desk {
    /// Where other instances ask.
    address: String,
    /// Open while this instance is the owner.
    counter: Mutex<Option<mpsc::Sender<Asked>>>,
    out: Mutex<HashMap<u64, mpsc::Sender<Said>>>,
    numbers: AtomicU64,
}

/// A fetch that waits at the desk.
pub(crate) struct Asked {
    places: usize,
    room: usize,
    given: usize,
    waits: bool,
    to: mpsc::UnboundedSender<(Delivery, Hold)>,
}

/// The owner's side of the desk. Closed when it is dropped.
pub(crate) struct Counter {
    desk: Arc<Desk>,
    asked: mpsc::Receiver<Asked>,
    /// Whoever still holds something then settles it without this owner.
    pub(crate) closed: CancellationToken,
}

/// What a fetcher says of what it was lent, on its way to it.
struct Said {
    verdict: Verdict,
    answer: oneshot::Sender<Answer>,
}

/// What came of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    Taken,
    /// Until then, nanoseconds since the Unix epoch.
    Held(i64),
    /// The store did not take what belongs to it.
    NotTaken,
    /// It is not lent under this number any more.
    Over,
}

/// What one instance asks of another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Question {
    Fetch { places: usize, room: usize, wait_ms: u64 },
    Settle { number: u64, verdict: Verdict },
}

impl Asked {
    /// Whether it could still be given something.
    pub(crate) fn waits(&self) -> bool {
        self.waits && self.given == 0 && !self.to.is_closed()
    }

    pub(crate) fn is_served(&self) -> bool {
        self.given >= self.places || self.to.is_closed()
    }

    /// Whether an event of so many bytes fits. One does, however large it is.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.given == 0 || bytes <= self.room
    }

    /// Where one more is given.
    pub(crate) fn give(&mut self, bytes: usize) -> mpsc::UnboundedSender<(Delivery, Hold)> {
        self.given += 1;
        self.room = self.room.saturating_sub(bytes);
        self.to.clone()
    }
}

impl Counter {
    /// The next fetch.
    pub(crate) async fn asked(&mut self) -> Option<Asked> {
        self.asked.recv().await
    }

    pub(crate) fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.closed.cancel();
        *self.desk.counter.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Desk {
    pub(crate) fn new(context: &Context) -> Self {
        let nats = context.store.nats();
        // An address is used once: what was lent by one that is gone is never taken for another's.
        let id = nats.new_inbox().replace(['.', '_'], "");
        Self {
            address: context.store.names().desk(context.name(), &id),
            counter: Mutex::default(),
            out: Mutex::default(),
            numbers: AtomicU64::new(0),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn is_open(&self) -> bool {
        self.counter.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Opens it: this instance is the owner from now on.
    pub(crate) fn open(self: &Arc<Self>) -> Counter {
        let (counter, asked) = mpsc::channel(MAX_WAITING);
        *self.counter.lock().unwrap_or_else(PoisonError::into_inner) = Some(counter);
        Counter {
            desk: Arc::clone(self),
            asked,
            closed: CancellationToken::new(),
        }
    }

    /// What is lent to a fetch, in the log's order; `None` while another instance is the owner.
    pub(super) async fn take(&self, places: usize, room: usize, wait: Duration) -> Option<Vec<(Delivery, Hold)>> {
        let counter = self.counter.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let (to, mut lent) = mpsc::unbounded_channel();
        let asked = Asked {
            places,
            room,
            given: 0,
            waits: !wait.is_zero(),
            to,
        };
        counter.send(asked).await.ok()?;
        let wait = if wait.is_zero() { LOOKS_IN } else { wait };
        let mut taken = Vec::new();
        match timeout(wait, lent.recv()).await {
            Ok(first) => taken.extend(first),
            // What was lent at this moment still comes.
            Err(_) => lent.close(),
        }
        while let Some(one) = lent.recv().await {
            taken.push(one);
        }
        taken.sort_unstable_by_key(|(delivery, _)| delivery.position);
        Some(taken)
    }

    /// Lends an event, and waits for what becomes of it; `None` once the desk is closed, and then it is its holder's
    /// until its hold ends.
    pub(crate) async fn lend(
        &self,
        context: &Context,
        settler: &Settler,
        (held, redrive): (&mut Held, Option<Redrive>),
        to: mpsc::UnboundedSender<(Delivery, Hold)>,
        closed: &CancellationToken,
    ) -> Option<Next> {
        let (said, mut verdicts) = mpsc::channel(1);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let _out = Out::enter(self, number, said);
        let ack_wait = context.store.policy().ack_wait;
        let lent = Lent {
            desk: self.address.clone(),
            number,
            redrive,
        };
        // The last word before it is lent: the store waits `delivery.ack-wait` from here.
        held.tell(AckKind::Progress).await;
        let (mut end, until) = (
            Instant::now() + ack_wait,
            context.store.now().saturating_add(nanos(ack_wait)),
        );
        let hold = Hold {
            of: context.id(),
            position: held.delivery.position,
            attempt: held.delivery.attempt,
            reply: held.reply(),
            until,
            redriven: None,
            lent: Some(lent),
        };
        if to.send((held.delivery.clone(), hold)).is_err() {
            return Some(Next::Again(Duration::ZERO));
        }
        drop(to);
        loop {
            let said = tokio::select! {
                biased;
                said = verdicts.recv() => said,
                () = closed.cancelled() => return None,
                () = sleep_until(end) => return Some(Next::Again(Duration::ZERO)),
            };
            let Said { verdict, answer } = said?;
            let (next, answered) = match verdict {
                Verdict::StillWorking => {
                    held.tell(AckKind::Progress).await;
                    end = Instant::now() + ack_wait;
                    let until = context.store.now().saturating_add(nanos(ack_wait));
                    // Whoever is not there to hear it asks again, or is too late.
                    answer.send(Answer::Held(until)).ok();
                    continue;
                }
                Verdict::Released => (Next::Again(Duration::ZERO), Answer::Taken),
                Verdict::Handled => taken(settler.settle(held, Ok(())).await),
                Verdict::Rejected(rejection) => taken(settler.settle(held, Err(rejection)).await),
            };
            answer.send(answered).ok();
            return Some(next);
        }
    }

    /// Says something of what was lent under a number.
    pub(super) async fn say(&self, number: u64, verdict: Verdict) -> Answer {
        let said = self
            .out
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&number)
            .cloned();
        let Some(said) = said else { return Answer::Over };
        let (answer, answered) = oneshot::channel();
        if said.send(Said { verdict, answer }).await.is_err() {
            return Answer::Over;
        }
        answered.await.unwrap_or(Answer::Over)
    }

    /// Answers other instances.
    pub(crate) async fn serve(&self, nats: &Client) -> Result<(), StoreError> {
        let questions = nats
            .subscribe(self.address.clone())
            .await
            .map_err(StoreError::when("listen for fetches of other instances"))?;
        let waiting = &Semaphore::new(MAX_WAITING);
        let inboxes = &Inboxes::with_those_of(nats, [InboxPrefix::default()]);
        questions
            .for_each_concurrent(MAX_QUESTIONS, |message| async move {
                // Instances have connections alike.
                let Some(reply) = inboxes.reply_to(&message) else {
                    return;
                };
                let answer = match serde_json::from_slice(&message.payload) {
                    Ok(question) => self.answer(question, waiting, nats.max_payload()).await,
                    Err(error) => {
                        debug!(%error, "a question of another instance is not readable");
                        return;
                    }
                };
                if let Err(error) = nats.publish(reply.into_subject(), answer).await {
                    debug!(%error, "another instance was not answered");
                }
            })
            .await;
        Ok(())
    }

    async fn answer(&self, question: Question, waiting: &Semaphore, max_payload: usize) -> Bytes {
        let answer = match question {
            Question::Fetch { places, room, wait_ms } => {
                let places = places.min(max_payload / HOLD_BYTES).max(1);
                let permit = waiting.try_acquire();
                let wait = permit.as_ref().map_or(0, |_| wait_ms);
                let taken = self.take(places, room, Duration::from_millis(wait)).await;
                let holds: Option<Vec<_>> = taken.map(|taken| taken.into_iter().map(|(_, hold)| hold).collect());
                serde_json::to_vec(&holds)
            }
            Question::Settle { number, verdict } => serde_json::to_vec(&self.say(number, verdict).await),
        };
        // They are made of strings and numbers: they always have this form.
        answer.unwrap_or_default().into()
    }
}

/// What came of a settlement, for the line and for who said it.
fn taken(next: Next) -> (Next, Answer) {
    let answer = match next {
        Next::Gone | Next::Waits | Next::Again(_) => Answer::Taken,
        Next::Stuck(_) | Next::Unreached(_) => Answer::NotTaken,
    };
    (next, answer)
}

/// An event that is out.
struct Out<'a>(&'a Desk, u64);

impl<'a> Out<'a> {
    fn enter(desk: &'a Desk, number: u64, said: mpsc::Sender<Said>) -> Self {
        desk.out
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, said);
        Self(desk, number)
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.0
            .out
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use fanout_transport::testing::NatsServer;
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn questions_are_answered_in_inboxes_alone() {
        let server = NatsServer::start().await;
        let nats = server.client().await;
        let desk = Arc::new(Desk {
            address: "fanout.desk.test".to_owned(),
            counter: Mutex::default(),
            out: Mutex::default(),
            numbers: AtomicU64::new(0),
        });
        let serving = tokio::spawn({
            let (desk, nats) = (Arc::clone(&desk), nats.clone());
            async move { desk.serve(&nats).await }
        });
        let peer = server.client().await;
        let mut victim = peer.subscribe("victim.>").await.unwrap();
        let question = Bytes::from_static(br#"{"settle":{"number":1,"verdict":"handled"}}"#);
        let answer = loop {
            // Nobody answers before the desk has subscribed.
            if let Ok(answer) = peer.request("fanout.desk.test", question.clone()).await {
                break answer;
            }
        };
        assert_eq!(answer.payload, "\"over\"");
        peer.publish_with_reply("fanout.desk.test", "victim.a", question.clone())
            .await
            .unwrap();
        peer.request("fanout.desk.test", question).await.unwrap();
        peer.flush().await.unwrap();
        assert!(victim.next().now_or_never().is_none(), "it is answered nowhere else");
        serving.abort();
    }
}
