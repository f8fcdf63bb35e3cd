//! One connection of a peer: who the peer is, for how long, and how many calls and bytes it may have.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Identity;
use crate::budget::Permits;
use crate::stream::connection_slots::{ConnectionSlot, Guest, PeerLimits};
use crate::stream::listener_state::{Counted, ListenerState};
use crate::stream::proof::Proof;
use crate::stream::server_credentials::InForce;

/// Why a connection ends that was proved before.
pub(crate) const UNPROVEN: &str = "the certificate that this caller showed has ended, or is not accepted any more";
/// The clock is read this often: a certificate may end in years, and the clock be set meanwhile.
const CHECK_CLOCK_EVERY: Duration = Duration::from_secs(60);

/// One connection of a peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) identity: Identity,
    pub(crate) slot: Arc<ConnectionSlot>,
    /// Of a caller that is known by its call and not by its connection.
    guest: Option<Arc<Guest>>,
    proof: Arc<Proof>,
    /// What the proof was judged by, and has to be judged by again when it changes.
    credentials: Option<InForce>,
    calls: Arc<Semaphore>,
}

/// An invocation that was taken and is not answered yet.
#[derive(Debug)]
pub(crate) struct InFlight {
    _counted: Counted,
    _of_peer: OwnedSemaphorePermit,
    _of_connection: OwnedSemaphorePermit,
}

impl Peer {
    /// Gives a connection whose peer is known its slot among those of that peer; an error is why it has none.
    pub(crate) fn admit(proof: Proof, mut slot: ConnectionSlot, listener: &ListenerState) -> Result<Self, String> {
        let identity = proof.identity.clone();
        slot.known_as(&identity)
            .map_err(|why| format!("of {identity}: {why}"))?;
        Ok(Self {
            identity,
            slot: Arc::new(slot),
            guest: None,
            proof: Arc::new(proof),
            credentials: listener.credentials.clone(),
            calls: Arc::new(Semaphore::new(listener.options.calls_per_connection)),
        })
    }

    /// The peer has begun a call.
    pub(crate) fn begin(&self) {
        self.slot.begin(&self.identity);
    }

    /// Whether it showed a certificate that the listener's authority signed.
    pub(crate) fn has_certificate(&self) -> bool {
        !self.proof.chain.is_empty()
    }

    /// The same connection while it carries a call whose caller is known by the call: what the call holds counts with what
    /// else that caller holds, wherever its calls come from.
    pub(crate) fn known_by_call(&self, identity: Identity) -> Self {
        let guest = match &identity {
            Identity::Token(token) => Some(Arc::new(self.slot.guest(token.sha256))),
            _ => None,
        };
        Self {
            identity,
            guest,
            ..self.clone()
        }
    }

    fn limits(&self) -> &PeerLimits {
        self.guest.as_ref().map_or(&self.slot.limits, |guest| &guest.limits)
    }

    /// Permits for one call, of the connection and of its peer.
    pub(crate) fn call(&self, listener: &ListenerState) -> Option<InFlight> {
        let of_connection = Arc::clone(&self.calls).try_acquire_owned().ok()?;
        let of_peer = Arc::clone(&self.limits().calls).try_acquire_owned().ok()?;
        Some(InFlight {
            _counted: listener.count(),
            _of_peer: of_peer,
            _of_connection: of_connection,
        })
    }

    /// Permits for parameters, of the peer's share and of everybody's.
    pub(crate) fn permits(&self, listener: &ListenerState, bytes: usize) -> Option<Permits> {
        let mut permits = self.limits().budget.try_take(bytes)?;
        permits.merge_other(listener.budget.try_take(bytes)?);
        Some(permits)
    }

    /// Permits for a result, of the peer's share and of everybody's, once they are free. The caller bounds the wait.
    pub(crate) async fn permits_for_result(&self, listener: &ListenerState, bytes: usize) -> Permits {
        let mut permits = self.limits().unsent.take(bytes).await;
        permits.merge_other(listener.results.take(bytes).await);
        permits
    }

    /// Ends when the connection proves its peer no longer: the certificate has ended, or the listener's authorities and
    /// revocation lists are others and would not let the peer in.
    pub(crate) async fn unproven(&self) {
        let Some(mut credentials) = self.credentials.clone() else {
            return std::future::pending().await;
        };
        while let Some(left) = self.left() {
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                // A listener that is gone changes nothing any more.
                Ok(()) = credentials.changed() => {
                    if !credentials.borrow_and_update().accept(&self.proof.chain) {
                        return;
                    }
                }
            }
        }
    }

    /// Until the clock has to be read again; `None` once the certificate has ended.
    fn left(&self) -> Option<Duration> {
        let Some(not_after) = self.proof.not_after else {
            return Some(CHECK_CLOCK_EVERY);
        };
        // It holds through its last second.
        let end = not_after + Duration::from_secs(1);
        let left = end.duration_since(SystemTime::now()).ok()?;
        (!left.is_zero()).then(|| left.min(CHECK_CLOCK_EVERY))
    }
}
