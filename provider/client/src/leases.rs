//! The leases of one subscription's deliveries: renewed while the deliveries are worked on, and settled in the end, many at a
//! time in one call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fanout_wit::types::{SettleError, Settlement, SettlementOutcome, Verdict};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use crate::inbox::{Inbox, Trouble};
use crate::retry::Backoff;
use crate::{Error, ErrorKind};

/// The most settlements in one call, and the most that wait for one.
const MOST: usize = 1_000;
/// The shortest lease that is reckoned with, whatever the bus says; also the least time between two renewals.
const SHORTEST: Duration = Duration::from_millis(100);
/// For how long it is tried to settle, at least: `handled` is taken however late it comes.
const SETTLE_FOR: Duration = Duration::from_secs(10);

/// A handle on the leases.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    table: Arc<Mutex<LeaseTable>>,
    /// Bounded in effect: each lease is asked about once, and leases are bounded by what is fetched.
    requests: mpsc::UnboundedSender<Request>,
}

#[derive(Debug, Default)]
struct LeaseTable {
    next: u64,
    leases: HashMap<u64, Lease>,
    /// Notified of each new one.
    fresh: Arc<Notify>,
    /// Notified when some are lost.
    lost: Arc<Notify>,
}

#[derive(Clone, Debug)]
struct Lease {
    token: Bytes,
    /// How long the bus leases it for, from each renewal on.
    time: Duration,
    /// When it ends, counted from before the bus began to.
    until: Instant,
    /// The bus has said that it is over.
    is_lost: bool,
}

#[derive(Debug)]
struct Request {
    id: u64,
    verdict: Verdict,
    /// Absent when nobody waits for it.
    answer: Option<oneshot::Sender<Result<(), Error>>>,
}

impl Leases {
    /// Leases and the task that keeps them, which ends once every handle is gone and everything is settled.
    pub(crate) fn start(inbox: impl Inbox) -> (Self, tokio::task::JoinHandle<()>) {
        let (requests, asked) = mpsc::unbounded_channel();
        let table = Arc::<Mutex<LeaseTable>>::default();
        let leases = Self {
            table: Arc::clone(&table),
            requests,
        };
        (leases, tokio::spawn(run(inbox, table, asked)))
    }

    /// Takes a lease that a fetch brought which began at `fetching`.
    pub(crate) fn take(&self, token: Bytes, time: Duration, fetching: Instant) -> u64 {
        let time = time.max(SHORTEST);
        // The bus counts from when it took the deliveries from the log, which may be a whole wait after the fetch began; an
        // answer that was long under way leaves less. The first renewal makes up for either.
        let since = fetching.max(Instant::now().checked_sub(time / 4).unwrap_or(fetching));
        let mut table = lock(&self.table);
        table.next += 1;
        let id = table.next;
        let lease = Lease {
            token,
            time,
            until: since + time,
            is_lost: false,
        };
        table.leases.insert(id, lease);
        table.fresh.notify_one();
        id
    }

    /// Whether it still holds.
    pub(crate) fn holds(&self, id: u64) -> bool {
        let table = lock(&self.table);
        let lease = table.leases.get(&id);
        lease.is_some_and(|l| !l.is_lost && Instant::now() < l.until)
    }

    /// Waits until the bus has said of each that it is over: it delivers their events again. A bus that can't be reached
    /// says nothing, and may still take what is settled late.
    pub(crate) async fn are_lost(&self, ids: &[u64]) {
        let lost = Arc::clone(&lock(&self.table).lost);
        loop {
            let mut changed = std::pin::pin!(lost.notified());
            changed.as_mut().enable();
            let is_lost = |id| lock(&self.table).leases.get(id).is_none_or(|l| l.is_lost);
            if ids.iter().all(is_lost) {
                return;
            }
            changed.await;
        }
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

fn lock(table: &Mutex<LeaseTable>) -> MutexGuard<'_, LeaseTable> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn run(inbox: impl Inbox, table: Arc<Mutex<LeaseTable>>, mut requests: mpsc::UnboundedReceiver<Request>) {
    let fresh = Arc::clone(&lock(&table).fresh);
    // A call that takes long must not keep the others' leases from being renewed.
    let mut settling = JoinSet::new();
    let mut not_before = Instant::now();
    let mut backoff = Backoff::between(SHORTEST, Duration::from_secs(1));
    loop {
        while settling.try_join_next().is_some() {}
        let due = due(&table).map(|at| at.max(not_before));
        let mut batch = Vec::new();
        tokio::select! {
            taken = requests.recv_many(&mut batch, MOST) => {
                if taken == 0 {
                    break;
                }
                let (inbox, table) = (inbox.clone(), Arc::clone(&table));
                settling.spawn(async move { settle(&inbox, &table, batch).await });
            }
            () = fresh.notified() => {}
            () = at(due) => {
                let wait = match renew(&inbox, &table).await {
                    Ok(()) => {
                        backoff.reset();
                        SHORTEST
                    }
                    Err(_) => backoff.next(),
                };
                not_before = Instant::now() + wait;
            }
        }
    }
    // Nobody can settle any more; what was asked is still done.
    while settling.join_next().await.is_some() {}
}

/// When the next lease has to be renewed: a third of its time after it began, so that two renewals may be lost.
fn due(table: &Mutex<LeaseTable>) -> Option<Instant> {
    let table = lock(table);
    let leases = table.leases.values().filter(|l| !l.is_lost);
    leases.map(|l| l.until - l.time * 2 / 3).min()
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Renews every lease that is due, or soon will be.
async fn renew(inbox: &impl Inbox, table: &Mutex<LeaseTable>) -> Result<(), Trouble> {
    let now = Instant::now();
    let due: Vec<(u64, Bytes)> = lock(table)
        .leases
        .iter()
        .filter(|(_, l)| !l.is_lost && l.until.saturating_duration_since(now) < l.time * 3 / 4)
        .map(|(id, l)| (*id, l.token.clone()))
        .take(MOST)
        .collect();
    if due.is_empty() {
        return Ok(());
    }
    let settlements: Vec<_> = due
        .iter()
        .map(|(_, token)| Settlement {
            token: token.clone(),
            verdict: Verdict::StillWorking,
        })
        .collect();
    let answers = inbox.settle(&settlements).await?;
    let mut table = lock(table);
    for ((id, _), answer) in due.iter().zip(answers) {
        let Some(lease) = table.leases.get_mut(id) else {
            continue;
        };
        match answer {
            Ok(SettlementOutcome::Extended(token)) => {
                lease.token = token;
                lease.until = now + lease.time;
            }
            Ok(SettlementOutcome::Settled) | Err(SettleError::Unavailable(_)) => {}
            // What its holder says of it is refused, but for `handled`.
            Err(SettleError::LeaseExpired(p) | SettleError::InvalidToken(p) | SettleError::NotPermitted(p)) => {
                debug!(code = p.code, "{}", p.message);
                lease.is_lost = true;
            }
        }
    }
    table.lost.notify_waiters();
    Ok(())
}

/// Settles a batch; what the bus can't do now is tried until the lease is over, and for some seconds at least.
async fn settle(inbox: &impl Inbox, table: &Mutex<LeaseTable>, mut batch: Vec<Request>) {
    let mut backoff = Backoff::default();
    let at_least = Instant::now() + SETTLE_FOR;
    while !batch.is_empty() {
        let mut asked = Vec::new();
        let mut settlements = Vec::new();
        {
            let table = lock(table);
            for request in batch {
                let Some(lease) = table.leases.get(&request.id) else {
                    continue;
                };
                settlements.push(Settlement {
                    token: lease.token.clone(),
                    verdict: request.verdict.clone(),
                });
                asked.push((request, lease.until.max(at_least)));
            }
        }
        batch = Vec::new();
        if settlements.is_empty() {
            return;
        }
        let mut answers = match inbox.settle(&settlements).await {
            Ok(answers) => Ok(answers.into_iter()),
            Err(trouble) => Err(trouble),
        };
        for (request, until) in asked {
            let can_wait = Instant::now() < until;
            let answer = match &mut answers {
                Ok(answers) => match answers.next() {
                    Some(Err(SettleError::Unavailable(_))) | None if can_wait => None,
                    Some(Ok(_)) => Some(Ok(())),
                    Some(Err(e)) => Some(Err(e.into())),
                    None => Some(Err(gone())),
                },
                Err(_) if can_wait => None,
                Err(trouble) => Some(Err(Error::of(ErrorKind::OutcomeUnknown, trouble.problem().clone()))),
            };
            match answer {
                Some(answer) => done(table, request, answer),
                None => batch.push(request),
            }
        }
        if !batch.is_empty() {
            backoff.wait().await;
        }
    }
}

fn done(table: &Mutex<LeaseTable>, request: Request, answer: Result<(), Error>) {
    lock(table).leases.remove(&request.id);
    if let Some(waits) = request.answer {
        // Its caller may have given up.
        drop(waits.send(answer));
    }
}
