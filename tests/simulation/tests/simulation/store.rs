//! The fake bus's store: an in-memory log with subscriptions and leases. It outlives the host that serves it, as a real
//! one does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fanout_wit::types::{Event, Rejection, Verdict};
use tokio::sync::Notify;

use crate::history::now;

/// How long a delivery is leased for.
pub const LEASE: Duration = Duration::from_millis(1_000);
/// How long a refused one waits.
const RETRY: Duration = Duration::from_millis(150);
/// A refusal more makes a dead letter.
const ATTEMPTS: u32 = 5;
/// Bytes of the payloads of one fetch: what is leased and can't be sent is leased again for ever.
const FETCHED_BYTES: usize = 128 << 10;

/// The store. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Store(Arc<Mutex<Kept>>);

/// What is stored.
#[derive(Debug, Default)]
pub struct Kept {
    log: Vec<Event>,
    positions: HashMap<(String, String), u64>,
    subscriptions: BTreeMap<String, Kind>,
    leases: BTreeMap<u64, Lease>,
    next_lease: u64,
    /// How often each call of the transport's own function has run.
    pub ran: BTreeMap<u64, u32>,
    changed: Arc<Notify>,
}

/// A subscription.
#[derive(Debug)]
struct Kind {
    is_ordered: bool,
    /// What is not settled yet.
    open: BTreeMap<u64, Open>,
    dead: BTreeSet<u64>,
}

/// An event that a subscription has to be given.
#[derive(Debug, Default)]
struct Open {
    refused: u32,
    not_before: Duration,
    lease: Option<u64>,
}

/// A lease.
#[derive(Clone, Debug)]
pub struct Lease {
    subscription: String,
    offset: u64,
    /// When it ends, unless it is renewed.
    pub until: Duration,
    /// Renewed once at least.
    pub is_renewed: bool,
    is_over: bool,
}

/// A delivery that was leased.
#[derive(Clone, Debug)]
pub struct Leased {
    /// The lease.
    pub lease: u64,
    /// The event's position.
    pub offset: u64,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The event.
    pub event: Event,
}

/// What became of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It counts.
    Done,
    /// The lease goes on.
    Extended,
    /// The lease was over.
    Expired,
    /// There was no such lease.
    Unknown,
}

impl Store {
    /// What is stored, now.
    pub fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }
}

impl Kept {
    /// Where an event is stored.
    pub fn position(&self, tenant: &str, id: &str) -> Option<u64> {
        self.positions.get(&(tenant.to_owned(), id.to_owned())).copied()
    }

    /// Stores an event; its position, and whether it was there.
    pub fn publish(&mut self, event: &Event) -> (u64, bool) {
        if let Some(offset) = self.position(&event.tenant, &event.id) {
            return (offset, true);
        }
        self.log.push(event.clone());
        let offset = self.log.len() as u64;
        self.positions.insert((event.tenant.clone(), event.id.clone()), offset);
        for kind in self.subscriptions.values_mut() {
            kind.open.insert(offset, Open::default());
        }
        self.changed.notify_waiters();
        (offset, false)
    }

    /// How often an id stands in the log.
    pub fn copies(&self, id: &str) -> usize {
        self.log.iter().filter(|event| event.id == id).count()
    }

    /// Makes a subscription; the same twice is one.
    pub fn subscribe(&mut self, name: &str) {
        let made = || Kind {
            is_ordered: name.starts_with("ordered"),
            open: BTreeMap::new(),
            dead: BTreeSet::new(),
        };
        self.subscriptions.entry(name.to_owned()).or_insert_with(made);
    }

    /// Whether there is such a subscription.
    pub fn knows(&self, name: &str) -> bool {
        self.subscriptions.contains_key(name)
    }

    /// Notified when there may be something to fetch.
    pub fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// Leases what may be delivered now, at most so many.
    pub fn lease(&mut self, name: &str, most: usize) -> Vec<Leased> {
        let (now, mut bytes_left) = (now(), FETCHED_BYTES);
        let Some(kind) = self.subscriptions.get_mut(name) else {
            return Vec::new();
        };
        let mut keys = BTreeSet::new();
        let mut leased = Vec::new();
        for (&offset, open) in &mut kind.open {
            let event = &self.log[offset as usize - 1];
            // The first of a key that is not settled keeps the others of its key waiting.
            if kind.is_ordered && !keys.insert(event.ordering_key.clone()) {
                continue;
            }
            let is_leased = open.lease.is_some_and(|lease| self.leases[&lease].until > now);
            if is_leased || open.not_before > now || leased.len() >= most {
                continue;
            }
            // One fits, however large it is.
            if !leased.is_empty() && event.data.len() > bytes_left {
                break;
            }
            bytes_left = bytes_left.saturating_sub(event.data.len());
            if let Some(before) = open.lease.and_then(|lease| self.leases.get_mut(&lease)) {
                before.is_over = true;
            }
            self.next_lease += 1;
            open.lease = Some(self.next_lease);
            let lease = Lease {
                subscription: name.to_owned(),
                offset,
                until: now + LEASE,
                is_renewed: false,
                is_over: false,
            };
            self.leases.insert(self.next_lease, lease);
            leased.push(Leased {
                lease: self.next_lease,
                offset,
                attempt: open.refused + 1,
                event: event.clone(),
            });
        }
        leased
    }

    /// A lease.
    pub fn lease_of(&self, lease: u64) -> Option<&Lease> {
        self.leases.get(&lease)
    }

    /// When something may be delivered that may not be now, though nothing is published.
    pub fn next(&self, name: &str) -> Option<Duration> {
        let open = self.subscriptions.get(name)?.open.values();
        let times = open.map(|open| {
            let leased = open.lease.and_then(|lease| Some(self.leases.get(&lease)?.until));
            leased.unwrap_or_default().max(open.not_before)
        });
        times.filter(|at| *at > now()).min()
    }

    /// Settles a delivery, as the contract has it: `handled` is taken however late it comes.
    pub fn settle(&mut self, token: u64, verdict: &Verdict) -> Settled {
        let now = now();
        let Some(lease) = self.leases.get_mut(&token) else {
            return Settled::Unknown;
        };
        let Some(kind) = self.subscriptions.get_mut(&lease.subscription) else {
            return Settled::Unknown;
        };
        let offset = lease.offset;
        let is_open = kind.open.contains_key(&offset);
        if matches!(verdict, Verdict::Handled) {
            lease.is_over = true;
            kind.open.remove(&offset);
            self.changed.notify_waiters();
            return Settled::Done;
        }
        if lease.is_over || !is_open || lease.until <= now {
            return Settled::Expired;
        }
        if matches!(verdict, Verdict::StillWorking) {
            lease.until = now + LEASE;
            lease.is_renewed = true;
            return Settled::Extended;
        }
        lease.is_over = true;
        let Some(open) = kind.open.get_mut(&offset) else {
            return Settled::Expired;
        };
        open.lease = None;
        let is_dead = match verdict {
            Verdict::Rejected(Rejection::DeadLetter(_)) => true,
            Verdict::Rejected(_) => {
                open.refused += 1;
                open.not_before = now + RETRY;
                open.refused >= ATTEMPTS
            }
            _ => false,
        };
        if is_dead {
            kind.open.remove(&offset);
            kind.dead.insert(offset);
        }
        self.changed.notify_waiters();
        Settled::Done
    }

    /// Whether a subscription has settled an event.
    pub fn is_settled(&self, name: &str, offset: u64) -> bool {
        self.subscriptions
            .get(name)
            .is_some_and(|kind| !kind.open.contains_key(&offset))
    }

    /// What subscriptions have not settled, by name.
    pub fn open(&self) -> Vec<(String, Vec<u64>)> {
        let open = self.subscriptions.iter();
        open.map(|(name, kind)| (name.clone(), kind.open.keys().copied().collect::<Vec<_>>()))
            .filter(|(_, open)| !open.is_empty())
            .collect()
    }
}
