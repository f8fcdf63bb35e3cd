//! What all connections of one listener share: functions, limits, and who holds how much.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::budget::{Budget, Room};
use crate::functions::Functions;
use crate::service::Service;
use crate::{Identity, ListenOptions};

/// How long a server that leaves waits for peers to take what it sent them.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(1);

/// The state of one listener.
pub(crate) struct Shared {
    pub(crate) options: ListenOptions,
    pub(crate) functions: Functions,
    pub(crate) budget: Budget,
    /// Take no new calls.
    pub(crate) drain: CancellationToken,
    /// Cut off what is under way.
    pub(crate) stop: CancellationToken,
    in_flight: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// An invocation that was taken and is not answered yet.
#[derive(Debug)]
pub(crate) struct InFlight {
    count: Arc<AtomicUsize>,
    _of_peer: OwnedSemaphorePermit,
    _of_connection: OwnedSemaphorePermit,
}

/// One connection of a peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) identity: Identity,
    share: Arc<Share>,
    calls: Arc<Semaphore>,
}

impl Peer {
    pub(crate) fn new(identity: Identity, share: &Arc<Share>, options: &ListenOptions) -> Self {
        Self {
            identity,
            share: Arc::clone(share),
            calls: Arc::new(Semaphore::new(options.calls_per_connection)),
        }
    }
}

impl Shared {
    pub(crate) fn new(service: &Service, options: ListenOptions) -> Self {
        Self {
            functions: Functions::new(service, &options.limits),
            budget: Budget::new(options.limits.buffered_bytes),
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
            in_flight: Arc::default(),
            options,
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Ends when a server that leaves no longer waits for peers that have said nothing yet: what they send may be under
    /// way.
    pub(crate) async fn hurry(&self) {
        self.drain.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    }

    /// Ends when what was cut off has had its time to say so.
    pub(crate) async fn cut_off(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    }

    /// A place among the calls of a connection and its peer.
    pub(crate) fn begin(&self, peer: &Peer) -> Option<InFlight> {
        let of_connection = Arc::clone(&peer.calls).try_acquire_owned().ok()?;
        let of_peer = Arc::clone(&peer.share.calls).try_acquire_owned().ok()?;
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(InFlight {
            count: Arc::clone(&self.in_flight),
            _of_peer: of_peer,
            _of_connection: of_connection,
        })
    }

    /// Room for parameters, of the peer's share and of everybody's.
    pub(crate) fn room(&self, peer: &Peer, bytes: usize) -> Option<Room> {
        let mut room = peer.share.budget.try_take(bytes)?;
        room.merge_other(self.budget.try_take(bytes)?);
        Some(room)
    }

    /// For an invocation whose caller asks for `deadline_ms`; 0 if it does not.
    pub(crate) fn deadline(&self, deadline_ms: u32) -> Duration {
        let ours = self.options.limits.serve_deadline;
        match deadline_ms {
            0 => ours,
            theirs => ours.min(Duration::from_millis(theirs.into())),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whose connections count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Address(IpAddr),
    User(u32),
}

/// What the connections of one peer hold together.
#[derive(Debug)]
pub(crate) struct Share {
    connections: AtomicUsize,
    calls: Arc<Semaphore>,
    budget: Budget,
}

/// Who is connected.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    connections: usize,
    shares: HashMap<Key, Arc<Share>>,
}

/// A place among the connections.
#[derive(Debug)]
pub(crate) struct Place {
    state: Arc<Mutex<State>>,
    key: Key,
    pub(crate) share: Arc<Share>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    /// A place, unless all places, or all that one peer may have, are taken.
    pub(crate) fn admit(&self, key: Key, options: &ListenOptions) -> Option<Place> {
        let mut state = lock(&self.state);
        if state.connections >= options.connections {
            return None;
        }
        let share = Arc::clone(state.shares.entry(key).or_insert_with(|| {
            Arc::new(Share {
                connections: AtomicUsize::new(0),
                calls: Arc::new(Semaphore::new(options.calls_per_peer)),
                budget: Budget::new(options.bytes_per_peer),
            })
        }));
        // All changes are made under the lock.
        if share.connections.load(Ordering::Relaxed) >= options.connections_per_peer {
            return None;
        }
        share.connections.fetch_add(1, Ordering::Relaxed);
        state.connections += 1;
        Some(Place {
            state: Arc::clone(&self.state),
            key,
            share,
        })
    }

    pub(crate) fn connections(&self) -> usize {
        lock(&self.state).connections
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.connections -= 1;
        if self.share.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
            state.shares.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_can_not_take_the_places_of_another() {
        let options = ListenOptions {
            connections: 3,
            connections_per_peer: 2,
            ..ListenOptions::default()
        };
        let peers = Peers::default();
        let (one, other) = (Key::User(1), Key::User(2));
        let first = peers.admit(one, &options).expect("a place");
        let _second = peers.admit(one, &options).expect("a place");
        assert!(peers.admit(one, &options).is_none(), "its own limit");
        let _third = peers.admit(other, &options).expect("a place");
        assert!(peers.admit(other, &options).is_none(), "the limit of all");
        drop(first);
        assert_eq!(peers.connections(), 2);
        assert!(peers.admit(one, &options).is_some());
    }
}
