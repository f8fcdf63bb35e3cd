//! Who is connected, and what each peer may hold: slots for connections, of which few are for those that have not
//! proved yet who they are, or begun a call.
//!
//! Shares are not numbers that are set for each peer, but what the others leave: a peer gets one more while it has
//! less than is free. So one alone gets half, two a third each, and one that comes new finds a slot whoever came
//! before.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Identity;
use crate::budget::{Budget, Permits};
use crate::caller::CertificateNames;
use crate::counts::Counters;
use crate::stream::listen_options::ListenOptions;
use crate::stream::open_files::{self, OpenFile};

/// A connection that has sent nothing for this time gives its slot to one that comes new. A handshake takes a few round trips.
const GRACE: Duration = Duration::from_secs(1);
/// A network of IPv6 that one customer gets at least (RFC 6177): its addresses are one peer.
const IPV6_PREFIX_BITS: u32 = 64;
/// What a window may be, in bytes, from the most to the least.
const WINDOWS: [usize; 6] = [8 << 20, 4 << 20, 2 << 20, 1 << 20, 512 << 10, 256 << 10];

/// Whose connections count together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PeerKey {
    /// Of an address, or of a network of IPv6, that has not shown a certificate.
    Address(IpAddr),
    User(u32),
    /// Wherever it comes from.
    Certificate(Arc<CertificateNames>),
    /// By its SHA-256. It holds calls, and no connection.
    Token([u8; 32]),
}

impl PeerKey {
    pub(crate) fn of_address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let prefix = !0 << (u128::BITS - IPV6_PREFIX_BITS);
                IpAddr::V6((address.to_bits() & prefix).into())
            }
        })
    }
}

/// What the connections of one peer may hold together.
#[derive(Debug)]
pub(crate) struct PeerLimits {
    pub(crate) calls: Arc<Semaphore>,
    /// Of parameters.
    pub(crate) budget: Budget,
    /// Of results that wait to be sent.
    pub(crate) unsent: Budget,
    windows: Budget,
}

/// The peers of one listener.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionSlots {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: ListenOptions,
    counts: &'static Counters,
    /// Of everybody.
    windows: Budget,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connections: usize,
    peers: HashMap<PeerKey, Counts>,
    /// Those that have not begun a call, the oldest first.
    silent: BTreeMap<u64, Silent>,
    next: u64,
}

#[derive(Debug)]
struct Counts {
    connections: usize,
    silent: usize,
    /// Calls of its own on connections of others.
    guests: usize,
    limits: Arc<PeerLimits>,
}

#[derive(Debug)]
struct Silent {
    key: PeerKey,
    since: Instant,
    evicted: CancellationToken,
}

/// A connection that is counted; given back on drop.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    inner: Arc<Inner>,
    number: u64,
    key: PeerKey,
    pub(crate) limits: Arc<PeerLimits>,
    evicted: CancellationToken,
    begun: CancellationToken,
    file: Option<OpenFile>,
    windows: Permits,
}

/// A peer that is known by its calls; given back on drop.
#[derive(Debug)]
pub(crate) struct Guest {
    inner: Arc<Inner>,
    key: PeerKey,
    pub(crate) limits: Arc<PeerLimits>,
}

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSlot {
    #[error("its peer has as many connections as it may have")]
    Peer,
    #[error("its peer has as many connections as may be silent")]
    Silent,
    #[error("its peer has as many bytes of windows as it may have")]
    Windows,
    #[error("there are as many connections as there may be")]
    All,
}

/// What carries a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// A socket of its own.
    Socket,
    /// One socket for all, and buffers in this process, of `bytes` before a call has begun.
    Quic { bytes: usize },
}

impl ConnectionSlots {
    pub(crate) fn new(options: &ListenOptions, counts: &'static Counters) -> Self {
        Self {
            inner: Arc::new(Inner {
                windows: Budget::new(options.window_bytes),
                state: Mutex::default(),
                options: options.clone(),
                counts,
            }),
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.inner.state().connections
    }

    /// True when too many have sent nothing yet: a new one should prove its address.
    pub(crate) fn crowded(&self) -> bool {
        let state = self.inner.state();
        state.silent.len() > self.inner.silent_slots(&state, Carrier::Quic { bytes: 0 }) / 4
    }

    /// A slot for a connection that has sent nothing yet. Where only one that sent nothing for long is in the way,
    /// that one is closed.
    pub(crate) fn admit(&self, key: PeerKey, carrier: Carrier) -> Result<ConnectionSlot, NoSlot> {
        let slot = self.take(key, carrier);
        match &slot {
            Ok(_) => self.inner.counts.opened(),
            Err(_) => self.inner.counts.connection_refused(),
        }
        slot
    }

    fn take(&self, key: PeerKey, carrier: Carrier) -> Result<ConnectionSlot, NoSlot> {
        let inner = &self.inner;
        let mut state = inner.state();
        let slots = inner.slots(&state, carrier);
        let (of_peer, silent_of_peer) = state.counts(&key);
        if state.connections >= slots {
            return Err(NoSlot::All);
        }
        if !inner.has_slot(&state, of_peer, slots) {
            return Err(NoSlot::Peer);
        }
        let silent_slots = inner.silent_slots(&state, carrier);
        if silent_of_peer >= silent_slots.saturating_sub(state.silent.len()) && !state.evict(&key, silent_slots) {
            return Err(NoSlot::Silent);
        }
        let limits = state.limits(&key, &inner.options);
        let windows = match carrier {
            Carrier::Socket => Some(Permits::default()),
            Carrier::Quic { bytes } => inner.windows_of(&limits, bytes),
        };
        let Some(windows) = windows else {
            state.forget(&key);
            return Err(NoSlot::Windows);
        };
        let number = state.next;
        state.next += 1;
        let evicted = CancellationToken::new();
        let silent = Silent {
            key: key.clone(),
            since: Instant::now(),
            evicted: evicted.clone(),
        };
        state.silent.insert(number, silent);
        state.connections += 1;
        if let Some(counts) = state.peers.get_mut(&key) {
            counts.connections += 1;
            counts.silent += 1;
        }
        Ok(ConnectionSlot {
            inner: Arc::clone(inner),
            number,
            key,
            limits,
            evicted,
            begun: CancellationToken::new(),
            file: (carrier == Carrier::Socket).then(OpenFile::take),
            windows,
        })
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that this listener may have.
    fn slots(&self, state: &State, carrier: Carrier) -> usize {
        match carrier {
            Carrier::Socket => self
                .options
                .connections
                .min(open_files::for_connections(state.connections)),
            Carrier::Quic { .. } => self.options.connections,
        }
    }

    /// Those among them that may be silent.
    fn silent_slots(&self, state: &State, carrier: Carrier) -> usize {
        self.options
            .silent_connections
            .min(self.slots(state, carrier).div_ceil(2))
    }

    fn has_slot(&self, state: &State, of_peer: usize, slots: usize) -> bool {
        of_peer < self.options.connections_per_peer && of_peer < slots.saturating_sub(state.connections)
    }

    /// Bytes of windows, of the peer's and of everybody's, of which a peer leaves as much as it has.
    fn windows_of(&self, limits: &PeerLimits, bytes: usize) -> Option<Permits> {
        if limits.windows.taken() + bytes > self.windows.free() {
            return None;
        }
        let mut permits = limits.windows.try_take(bytes)?;
        permits.merge_other(self.windows.try_take(bytes)?);
        Some(permits)
    }
}

impl State {
    fn counts(&self, key: &PeerKey) -> (usize, usize) {
        self.peers
            .get(key)
            .map_or((0, 0), |counts| (counts.connections, counts.silent))
    }

    fn limits(&mut self, key: &PeerKey, options: &ListenOptions) -> Arc<PeerLimits> {
        let counts = self.peers.entry(key.clone()).or_insert_with(|| Counts {
            connections: 0,
            silent: 0,
            guests: 0,
            limits: Arc::new(PeerLimits {
                calls: Arc::new(Semaphore::new(options.calls_per_peer)),
                budget: Budget::new(options.bytes_per_peer),
                unsent: Budget::new(options.unsent_per_peer()),
                windows: Budget::new(options.window_bytes_per_peer),
            }),
        });
        Arc::clone(&counts.limits)
    }

    /// Forgets a peer without connections and without calls of its own.
    fn forget(&mut self, key: &PeerKey) {
        let unused = |counts: &Counts| counts.connections == 0 && counts.guests == 0;
        if self.peers.get(key).is_some_and(unused) {
            self.peers.remove(key);
        }
    }

    /// Takes the slot of a silent connection that has had its time: of the same peer, or of anyone where this peer
    /// has none and all slots are taken.
    fn evict(&mut self, key: &PeerKey, silent_slots: usize) -> bool {
        let (_, own) = self.counts(key);
        let all_taken = own == 0 && self.silent.len() >= silent_slots;
        let overdue = |silent: &Silent| silent.since.elapsed() >= GRACE;
        let mut candidates = self.silent.iter().take_while(|(_, silent)| overdue(silent));
        let found = candidates.find(|(_, silent)| all_taken || silent.key == *key);
        let Some(number) = found.map(|(&number, _)| number) else {
            return false;
        };
        if let Some(silent) = self.not_silent(number) {
            silent.evicted.cancel();
        }
        true
    }

    /// Takes a connection from the silent ones.
    fn not_silent(&mut self, number: u64) -> Option<Silent> {
        let silent = self.silent.remove(&number)?;
        if let Some(counts) = self.peers.get_mut(&silent.key) {
            counts.silent -= 1;
        }
        Some(silent)
    }
}

impl ConnectionSlot {
    /// Ends when the slot goes to somebody else.
    pub(crate) fn evicted(&self) -> impl Future<Output = ()> + Send + use<> {
        self.evicted.clone().cancelled_owned()
    }

    /// The peer has shown who it is: from now on it counts with its own connections, wherever they come from.
    pub(crate) fn known_as(&mut self, identity: &Identity) -> Result<(), NoSlot> {
        let Identity::Certificate(names) = identity else {
            return Ok(());
        };
        let key = PeerKey::Certificate(Arc::clone(names));
        let inner = Arc::clone(&self.inner);
        let mut state = inner.state();
        let (of_peer, _) = state.counts(&key);
        let carrier = match self.file {
            Some(_) => Carrier::Socket,
            None => Carrier::Quic { bytes: 0 },
        };
        // It has a slot among all already.
        if !inner.has_slot(&state, of_peer, inner.slots(&state, carrier) + 1) {
            return Err(NoSlot::Peer);
        }
        let limits = state.limits(&key, &inner.options);
        let bytes = self.windows.bytes();
        let Some(of_peer) = limits.windows.try_take(bytes) else {
            state.forget(&key);
            return Err(NoSlot::Windows);
        };
        self.windows.replace_first(of_peer);
        let was_silent = match state.silent.get_mut(&self.number) {
            Some(silent) => {
                silent.key = key.clone();
                1
            }
            None => 0,
        };
        if let Some(counts) = state.peers.get_mut(&self.key) {
            counts.connections -= 1;
            counts.silent -= was_silent;
        }
        state.forget(&self.key);
        if let Some(counts) = state.peers.get_mut(&key) {
            counts.connections += 1;
            counts.silent += was_silent;
        }
        self.key = key;
        self.limits = limits;
        Ok(())
    }

    /// A peer that one of this connection's calls is of.
    pub(crate) fn guest(&self, token: [u8; 32]) -> Guest {
        let key = PeerKey::Token(token);
        let mut state = self.inner.state();
        let limits = state.limits(&key, &self.inner.options);
        if let Some(counts) = state.peers.get_mut(&key) {
            counts.guests += 1;
        }
        Guest {
            inner: Arc::clone(&self.inner),
            key,
            limits,
        }
    }

    /// The peer has begun a call: it is silent no more. Whoever is nobody stays among those that give way.
    pub(crate) fn begin(&self, identity: &Identity) {
        if self.begun.is_cancelled() {
            return;
        }
        self.begun.cancel();
        if *identity != Identity::Nobody {
            drop(self.inner.state().not_silent(self.number));
        }
    }

    /// Ends when the peer has begun a call.
    pub(crate) fn begun(&self) -> impl Future<Output = ()> + Send + use<> {
        self.begun.clone().cancelled_owned()
    }

    /// Larger windows for a peer that has begun to call. Half of all is left to connections that are still to come.
    pub(crate) fn widen(&self) -> (usize, Permits) {
        for bytes in WINDOWS {
            let leaves_half = |budget: &Budget| bytes <= budget.free().saturating_sub(budget.total() / 2);
            if leaves_half(&self.limits.windows)
                && leaves_half(&self.inner.windows)
                && let Some(permits) = self.inner.windows_of(&self.limits, bytes)
            {
                return (bytes, permits);
            }
        }
        (0, Permits::default())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        if let Some(counts) = state.peers.get_mut(&self.key) {
            counts.guests -= 1;
        }
        state.forget(&self.key);
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.inner.counts.closed();
        let mut state = self.inner.state();
        drop(state.not_silent(self.number));
        state.connections -= 1;
        if let Some(counts) = state.peers.get_mut(&self.key) {
            counts.connections -= 1;
        }
        state.forget(&self.key);
    }
}

#[cfg(test)]
mod tests;
