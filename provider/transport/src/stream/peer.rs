//! One connection of a peer: who the peer is, until when, and how many calls it may make.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;

use crate::Identity;
use crate::stream::connection_slots::ConnectionSlot;
use crate::stream::listen_options::ListenOptions;
use crate::stream::proof::Proof;

/// The clock is looked at so often: a certificate may end in years, and the clock be set meanwhile.
const LOOK_AT_THE_CLOCK: Duration = Duration::from_secs(60);

/// One connection of a peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) identity: Identity,
    /// The end of the certificate that the identity is from.
    not_after: Option<SystemTime>,
    pub(crate) slot: Arc<ConnectionSlot>,
    pub(crate) calls: Arc<Semaphore>,
}

impl Peer {
    /// Gives a connection whose peer is known its slot among those of that peer; an error says why it has none.
    pub(crate) fn admit(proof: Proof, mut slot: ConnectionSlot, options: &ListenOptions) -> Result<Self, String> {
        let Proof { identity, not_after } = proof;
        slot.known_as(&identity)
            .map_err(|why| format!("of {identity}: {why}"))?;
        Ok(Self {
            identity,
            not_after,
            slot: Arc::new(slot),
            calls: Arc::new(Semaphore::new(options.calls_per_connection)),
        })
    }

    /// The peer has begun a call.
    pub(crate) fn begin(&self) {
        self.slot.begin(&self.identity);
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
