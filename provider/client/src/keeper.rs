//! Keeps the holds of one subscription's deliveries, and settles them: many at a time in one call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fanout_wit::inbox;
use fanout_wit::types::{SettleError, Settlement, SettlementOutcome, Verdict};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connect::Wire;
use crate::retry::Backoff;
use crate::{Error, ErrorKind, Options};

/// The most settlements in one call, and the most that wait for one.
const MOST: usize = 1_000;
/// For how long one call may take.
const CALL: Duration = Duration::from_secs(5);
/// The least time between two words about holds: the bus may be away.
const BETWEEN_WORDS: Duration = Duration::from_millis(100);

/// A handle on the holds.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    holds: Arc<Mutex<Holds>>,
    /// Bounded in effect: each hold is asked about once, and holds are bounded by the prefetch.
    requests: mpsc::UnboundedSender<Request>,
}

#[derive(Debug, Default)]
struct Holds {
    next: u64,
    held: HashMap<u64, Hold>,
    /// Told of each new one.
    fresh: Arc<Notify>,
}

#[derive(Clone, Debug)]
struct Hold {
    token: Bytes,
    /// For how long the bus holds it from each word on.
    time: Duration,
    /// When it is over, counted from before the bus began to.
    until: Instant,
}

struct Request {
    id: u64,
    verdict: Verdict,
    /// Absent when nobody waits for it.
    answer: Option<oneshot::Sender<Result<(), Error>>>,
}

/// How the bus is told.
struct Way {
    wire: Wire,
    options: Arc<Options>,
}

impl Keeper {
    /// A keeper and its task, which ends once every handle is gone and everything is settled.
    pub(crate) fn start(wire: Wire, options: Arc<Options>) -> (Self, tokio::task::JoinHandle<()>) {
        let (requests, inbox) = mpsc::unbounded_channel();
        let holds = Arc::<Mutex<Holds>>::default();
        let keeper = Self {
            holds: Arc::clone(&holds),
            requests,
        };
        let way = Way { wire, options };
        (keeper, tokio::spawn(run(way, holds, inbox)))
    }

    /// Takes a hold that began at or after `since`.
    pub(crate) fn hold(&self, token: Bytes, time: Duration, since: Instant) -> u64 {
        let mut holds = lock(&self.holds);
        holds.next += 1;
        let id = holds.next;
        let until = since + time;
        holds.held.insert(id, Hold { token, time, until });
        holds.fresh.notify_one();
        id
    }

    /// Whether it still holds.
    pub(crate) fn holds(&self, id: u64) -> bool {
        lock(&self.holds)
            .held
            .get(&id)
            .is_some_and(|h| Instant::now() < h.until)
    }

    /// Settles a delivery and waits for the bus's answer.
    pub(crate) async fn settle(&self, id: u64, verdict: Verdict) -> Result<(), Error> {
        let (tx, rx) = oneshot::channel();
        let request = Request {
            id,
            verdict,
            answer: Some(tx),
        };
        if self.requests.send(request).is_err() {
            return Err(gone());
        }
        rx.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Settles a delivery without waiting.
    pub(crate) fn settle_later(&self, id: u64, verdict: Verdict) {
        let request = Request {
            id,
            verdict,
            answer: None,
        };
        // Without the task nobody holds it any more, and it comes again.
        drop(self.requests.send(request));
    }
}

fn gone() -> Error {
    Error::new(
        ErrorKind::OutcomeUnknown,
        "outcome-unknown",
        "the client was stopped before the bus answered: the event may come again",
    )
}

fn lock(holds: &Mutex<Holds>) -> MutexGuard<'_, Holds> {
    holds.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn run(way: Way, holds: Arc<Mutex<Holds>>, mut requests: mpsc::UnboundedReceiver<Request>) {
    let way = Arc::new(way);
    let fresh = Arc::clone(&lock(&holds).fresh);
    // A call that takes long must not keep the others' holds from being extended.
    let mut settling = JoinSet::new();
    let mut not_before = Instant::now();
    loop {
        while settling.try_join_next().is_some() {}
        let due = due(&holds).map(|at| at.max(not_before));
        let mut batch = Vec::new();
        tokio::select! {
            taken = requests.recv_many(&mut batch, MOST) => {
                if taken == 0 {
                    break;
                }
                let (way, holds) = (Arc::clone(&way), Arc::clone(&holds));
                settling.spawn(async move { settle(&way, &holds, batch).await });
            }
            () = fresh.notified() => {}
            () = at(due) => {
                extend(&way, &holds).await;
                not_before = Instant::now() + BETWEEN_WORDS;
            }
        }
    }
    // Nobody can settle any more; what was asked is still done.
    while settling.join_next().await.is_some() {}
}

/// When the next hold has to be extended: a third of its time after the last word, so that two words may be lost.
fn due(holds: &Mutex<Holds>) -> Option<Instant> {
    let now = Instant::now();
    let holds = lock(holds);
    let held = holds.held.values().filter(|h| now < h.until);
    held.map(|h| h.until - h.time * 2 / 3).min()
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Says of every hold that is due, or soon will be, that it goes on.
async fn extend(way: &Way, holds: &Mutex<Holds>) {
    let now = Instant::now();
    let due: Vec<(u64, Bytes)> = lock(holds)
        .held
        .iter()
        .filter(|(_, h)| now < h.until && h.until - now < h.time * 3 / 4)
        .map(|(id, h)| (*id, h.token.clone()))
        .take(MOST)
        .collect();
    if due.is_empty() {
        return;
    }
    let settlements: Vec<_> = due
        .iter()
        .map(|(_, token)| Settlement {
            token: token.clone(),
            verdict: Verdict::StillWorking,
        })
        .collect();
    // What fails here is tried at the next look.
    let Ok(answers) = inbox::settle(&way.wire, way.options.call(CALL), &settlements).await else {
        return;
    };
    let mut holds = lock(holds);
    for ((id, _), answer) in due.iter().zip(answers) {
        match answer {
            Ok(SettlementOutcome::Extended(token)) => {
                if let Some(hold) = holds.held.get_mut(id) {
                    hold.token = token;
                    hold.until = now + hold.time;
                }
            }
            Ok(SettlementOutcome::Settled) | Err(SettleError::Unavailable(_)) => {}
            Err(SettleError::LeaseExpired(_) | SettleError::InvalidToken(_) | SettleError::NotPermitted(_)) => {
                // It is lost; what its holder says of it is refused.
                if let Some(hold) = holds.held.get_mut(id) {
                    hold.until = now;
                }
            }
        }
    }
}

/// Settles a batch; what the bus can't do now is tried until its hold is over.
async fn settle(way: &Way, holds: &Mutex<Holds>, mut batch: Vec<Request>) {
    let mut backoff = Backoff::default();
    while !batch.is_empty() {
        let known: Vec<Option<Hold>> = {
            let holds = lock(holds);
            batch.iter().map(|r| holds.held.get(&r.id).cloned()).collect()
        };
        let mut asked = Vec::new();
        let mut settlements = Vec::new();
        for (request, hold) in batch.into_iter().zip(known) {
            let Some(hold) = hold else { continue };
            // Late or not, the bus is asked once: that an event is handled is taken however late it comes.
            settlements.push(Settlement {
                token: hold.token.clone(),
                verdict: request.verdict.clone(),
            });
            asked.push((request, hold));
        }
        batch = Vec::new();
        if settlements.is_empty() {
            return;
        }
        match inbox::settle(&way.wire, way.options.call(CALL), &settlements).await {
            Ok(answers) => {
                let mut answers = answers.into_iter();
                for (request, hold) in asked {
                    match answers.next() {
                        Some(Ok(_)) => done(holds, request, Ok(())),
                        Some(Err(SettleError::Unavailable(_))) if Instant::now() < hold.until => batch.push(request),
                        Some(Err(e)) => done(holds, request, Err(e.into())),
                        None => done(holds, request, Err(gone())),
                    }
                }
            }
            Err(error) => {
                let error = Error::transport(error);
                for (request, hold) in asked {
                    if Instant::now() < hold.until {
                        batch.push(request);
                    } else {
                        let error = Error::new(error.kind, error.code.clone(), error.message.clone());
                        done(holds, request, Err(error));
                    }
                }
            }
        }
        if !batch.is_empty() {
            tokio::time::sleep(backoff.next()).await;
        }
    }
}

fn done(holds: &Mutex<Holds>, request: Request, answer: Result<(), Error>) {
    lock(holds).held.remove(&request.id);
    if let Some(waits) = request.answer {
        // Its caller may have given up.
        drop(waits.send(answer));
    }
}
