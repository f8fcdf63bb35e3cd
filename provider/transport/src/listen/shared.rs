//! What all connections of one listener share: functions, limits, and what is told of strangers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::budget::{Budget, Room};
use crate::functions::Functions;
use crate::listen::places::Place;
use crate::service::Service;
use crate::tls::Holder;
use crate::{Identity, ListenOptions, Tally};

/// How long a server that leaves waits for peers to take what it sent them.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(1);

/// The clock is looked at so often: a certificate may end in years, and the clock be set meanwhile.
const LOOK_AT_THE_CLOCK: Duration = Duration::from_secs(60);

/// What a listener's strangers cause, counted.
#[derive(Clone, Debug)]
pub(crate) struct Strangers {
    pub(crate) refused: Tally,
    pub(crate) handshakes: Tally,
    pub(crate) faults: Tally,
    pub(crate) calls: Tally,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            refused: Tally::new("connections are refused"),
            handshakes: Tally::new("handshakes failed"),
            faults: Tally::new("connections ended with a fault of their peer"),
            calls: Tally::new("invocations failed"),
        }
    }
}

/// The state of one listener.
pub(crate) struct Shared {
    pub(crate) options: ListenOptions,
    pub(crate) functions: Functions,
    pub(crate) budget: Budget,
    pub(crate) strangers: Strangers,
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
    /// The end of the certificate that the identity is from.
    not_after: Option<SystemTime>,
    pub(crate) place: Arc<Place>,
    calls: Arc<Semaphore>,
}

impl Peer {
    pub(crate) fn new(identity: Identity, place: Place, options: &ListenOptions) -> Self {
        Self {
            identity,
            not_after: None,
            place: Arc::new(place),
            calls: Arc::new(Semaphore::new(options.calls_per_connection)),
        }
    }

    /// The holder of a certificate, for as long as it holds.
    pub(crate) fn holder(holder: Holder, place: Place, options: &ListenOptions) -> Self {
        Self {
            not_after: Some(holder.not_after),
            ..Self::new(holder.identity, place, options)
        }
    }

    /// It has begun a call.
    pub(crate) fn begin(&self) {
        self.place.begin(&self.identity);
    }

    /// Ends when the peer's certificate does.
    pub(crate) async fn expired(&self) {
        let Some(not_after) = self.not_after else {
            return std::future::pending().await;
        };
        // It holds through its last second.
        let end = not_after + Duration::from_secs(1);
        while let Ok(left) = end.duration_since(SystemTime::now())
            && !left.is_zero()
        {
            tokio::time::sleep(left.min(LOOK_AT_THE_CLOCK)).await;
        }
    }
}

impl Shared {
    pub(crate) fn new(service: &Service, options: ListenOptions) -> Self {
        Self {
            functions: Functions::new(service, &options.limits),
            budget: Budget::new(options.limits.buffered_bytes),
            strangers: Strangers::default(),
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
        let of_peer = Arc::clone(&peer.place.share.calls).try_acquire_owned().ok()?;
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(InFlight {
            count: Arc::clone(&self.in_flight),
            _of_peer: of_peer,
            _of_connection: of_connection,
        })
    }

    /// Room for a result, of the peer's share and of everybody's, once there is some. The caller bounds the wait.
    pub(crate) async fn room_for_result(&self, peer: &Peer, bytes: usize) -> Room {
        let mut room = peer.place.share.unsent.take(bytes).await;
        room.merge_other(self.budget.take(bytes).await);
        room
    }

    /// Room for parameters, of the peer's share and of everybody's.
    pub(crate) fn room(&self, peer: &Peer, bytes: usize) -> Option<Room> {
        let mut room = peer.place.share.budget.try_take(bytes)?;
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
