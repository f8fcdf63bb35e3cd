//! Admits the connections of a listening socket, each in a task of its own, its handshake included: a silent peer holds
//! up nobody.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::TaskTracker;

use crate::Identity;
use crate::stream::byte_stream::ByteStream;
use crate::stream::connection_slots::{Carrier, ConnectionSlot, ConnectionSlots, PeerKey};
use crate::stream::dispatch;
use crate::stream::listener_state::ListenerState;
use crate::stream::peer::Peer;
use crate::stream::proof::Proof;

/// When the system has no more files for connections, how long until the next attempt: twice as long each time.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A socket that listens, whose connections bring one byte stream each.
pub(crate) trait Socket: Send + Sync {
    /// The next connection.
    fn accept(&self) -> BoxFuture<'_, io::Result<Accepted>>;
}

/// A connection that was just accepted.
pub(crate) struct Accepted {
    pub(crate) key: PeerKey,
    /// How its peer is known before the handshake.
    pub(crate) identity: Identity,
    /// The byte stream, and what it proves of its peer. Whoever awaits it bounds its time.
    pub(crate) handshake: BoxFuture<'static, io::Result<(ByteStream, Proof)>>,
}

/// The system has no file for a connection.
struct OutOfFiles;

/// What admits connections.
pub(crate) struct Admission {
    pub(crate) listener: Arc<ListenerState>,
    pub(crate) slots: ConnectionSlots,
    pub(crate) connections: TaskTracker,
}

impl Admission {
    /// Serves the connections of a socket until the listener drains and all of them have ended.
    pub(crate) async fn run(self, socket: Box<dyn Socket>) {
        let mut wait = FIRST_WAIT;
        loop {
            tokio::select! {
                biased;
                () = self.listener.drain.cancelled() => break,
                accepted = socket.accept() => match self.take(accepted) {
                    Ok(()) => wait = FIRST_WAIT,
                    // This listener's alone: the others find out for themselves.
                    Err(OutOfFiles) => {
                        tokio::select! {
                            () = self.listener.drain.cancelled() => break,
                            () = sleep(wait) => wait = LONGEST_WAIT.min(2 * wait),
                        }
                    }
                },
            }
        }
        // These are connected as far as their callers know.
        while let Some(accepted @ Ok(_)) = socket.accept().now_or_never() {
            if self.take(accepted).is_err() {
                break;
            }
        }
        drop(socket);
        self.connections.close();
        self.connections.wait().await;
    }

    fn take(&self, accepted: io::Result<Accepted>) -> Result<(), OutOfFiles> {
        let since = Instant::now();
        let refused = &self.listener.tallies.refused;
        match accepted {
            Ok(accepted) => match self.slots.admit(accepted.key.clone(), Carrier::Socket) {
                Ok(slot) => {
                    let connection = serve(Arc::clone(&self.listener), accepted, slot, since);
                    drop(self.connections.spawn(connection));
                }
                Err(why) => refused.count(|| format!("of {}: {why}", accepted.identity)),
            },
            Err(error) if is_of_one_connection(&error) => tracing::debug!(%error, "a connection ended at once"),
            Err(error) => {
                refused.count(|| format!("no connection can be accepted at the moment: {error}"));
                return Err(OutOfFiles);
            }
        }
        Ok(())
    }
}

async fn serve(listener: Arc<ListenerState>, accepted: Accepted, slot: ConnectionSlot, since: Instant) {
    let handshakes = &listener.tallies.handshakes;
    let evicted = slot.evicted();
    tokio::pin!(evicted);
    let who = accepted.identity;
    let handshake = timeout_at(since + listener.options.first_call_deadline, accepted.handshake);
    let upgraded = tokio::select! {
        upgraded = handshake => upgraded,
        () = &mut evicted => return handshakes.count(|| format!("of {who}: it gave way to a newer one")),
        () = listener.hurry() => return,
    };
    let (stream, proof) = match upgraded {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(error)) => return handshakes.count(|| format!("of {who}: {error}")),
        Err(_) => return handshakes.count(|| format!("of {who}: it took too long")),
    };
    let peer = match Peer::admit(proof, slot, &listener) {
        Ok(peer) => peer,
        Err(why) => return listener.tallies.refused.count(|| why),
    };
    tokio::select! {
        () = dispatch::serve(Arc::clone(&listener), peer.clone(), stream, since) => {}
        () = evicted => {
            let refused = &listener.tallies.refused;
            refused.count(|| format!("of {who}: it sent nothing, and gave way to a newer one"));
        }
        () = listener.cut_off() => {}
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotConnected
            | io::ErrorKind::Interrupted
    )
}
