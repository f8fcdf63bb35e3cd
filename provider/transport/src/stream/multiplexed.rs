//! Admits connections of QUIC, which bring many byte streams each, on one port for all.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use quinn::{Connecting, Connection, Endpoint, Incoming, ServerConfig};
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use crate::budget::Permits;
use crate::stream::accept::Admission;
use crate::stream::byte_stream::ByteStream;
use crate::stream::connection_slots::{Carrier, PeerKey};
use crate::stream::dispatch;
use crate::stream::listen_options::ListenOptions;
use crate::stream::listener_state::{LAST_WORDS, ListenerState};
use crate::stream::peer::{Peer, UNPROVEN};
use crate::stream::proof::{Proof, unreadable};
use crate::stream::quic_limits::{self, DONE, EXPIRED, Side, TOO_MANY};
use crate::stream::server_credentials::InForce;
use crate::{CodecError, Identity};

/// Handshakes at a time, and bytes that wait for each.
const HANDSHAKES: usize = 256;
const HANDSHAKE_BYTES: u64 = 16 << 10;
/// How often a connection that can't be closed is checked.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// What is spoken on a connection before its byte streams.
pub(crate) trait Protocol: Clone + Send + Sync + 'static {
    /// A connection whose handshake is done.
    type Connection: Multiplexed;
    /// The names that a peer may call the protocol by.
    const ALPNS: &'static [&'static [u8]];
    /// HTTP/3, which has streams and datagrams of its own.
    const HTTP: bool;

    /// Ends the handshake. The caller bounds its time.
    fn handshake(self, connecting: Connecting) -> impl Future<Output = Result<Self::Connection, CodecError>> + Send;
}

/// A connection that brings byte streams.
pub(crate) trait Multiplexed: Send + Sync + 'static {
    /// What carries it.
    fn quic(&self) -> &Connection;
    /// The next stream; `None` once the connection is lost.
    fn accept(&self) -> impl Future<Output = Option<ByteStream>> + Send;
}

/// A port that is listened on.
#[derive(Debug)]
pub(crate) struct QuicListener<P> {
    endpoint: Endpoint,
    config: ServerConfig,
    protocol: P,
    credentials: InForce,
}

impl<P: Protocol> QuicListener<P> {
    pub(crate) fn bind(
        address: SocketAddr,
        credentials: InForce,
        protocol: P,
        options: &ListenOptions,
    ) -> io::Result<Self> {
        let crypto = Arc::clone(&credentials.borrow().quic);
        let mut config = ServerConfig::with_crypto(crypto);
        let transport = quic_limits::transport(Side::Server, options.idle_deadline, P::HTTP);
        config
            .transport_config(Arc::new(transport))
            .max_incoming(HANDSHAKES)
            .incoming_buffer_size(HANDSHAKE_BYTES)
            .incoming_buffer_size_total(HANDSHAKES as u64 * HANDSHAKE_BYTES);
        Ok(Self {
            endpoint: Endpoint::server(config.clone(), address)?,
            config,
            protocol,
            credentials,
        })
    }

    pub(crate) fn port(&self) -> io::Result<u16> {
        Ok(self.endpoint.local_addr()?.port())
    }

    /// Serves connections until the listener drains and all of them have ended.
    pub(crate) async fn run(self, admission: Admission) {
        let listener = &admission.listener;
        loop {
            tokio::select! {
                biased;
                () = listener.drain.cancelled() => break,
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.take(incoming, &admission),
                    None => return,
                },
            }
        }
        // New ones are refused; those that are connected are served to their end.
        self.endpoint.set_server_config(None);
        admission.connections.close();
        tokio::select! {
            () = admission.connections.wait() => {}
            () = async { listener.cut_off().await; sleep(LAST_WORDS).await } => {}
        }
        self.endpoint.close(DONE, b"the server left");
        if timeout(LAST_WORDS, self.endpoint.wait_idle()).await.is_err() {
            tracing::debug!("a peer did not see that the server left");
        }
    }

    fn take(&self, incoming: Incoming, admission: &Admission) {
        let since = Instant::now();
        let listener = &admission.listener;
        if admission.slots.crowded() && !incoming.remote_address_validated() {
            // It comes back with a proof, which costs it a round trip and us nothing.
            if incoming.retry().is_err() {
                tracing::debug!("a proof of an address could not be requested");
            }
            return;
        }
        let address = incoming.remote_address().ip();
        let carrier = Carrier::Quic {
            bytes: quic_limits::first_bytes(P::HTTP),
        };
        let slot = match admission.slots.admit(PeerKey::of_address(address), carrier) {
            Ok(slot) => slot,
            Err(why) => {
                listener.tallies.refused.count(|| format!("of {address}: {why}"));
                incoming.refuse();
                return;
            }
        };
        let (listener, protocol) = (Arc::clone(listener), self.protocol.clone());
        let credentials = Arc::clone(&self.credentials.borrow());
        let mut config = self.config.clone();
        // Where an address is all that is known of a peer, it stays what it was.
        config.migration(credentials.authenticate());
        let crypto = Arc::clone(&credentials.quic);
        config.crypto = crypto;
        // Of its own, so that it ends with the connection.
        let config = Arc::new(config);
        let alive = Arc::downgrade(&config);
        admission.connections.spawn(async move {
            let handshakes = &listener.tallies.handshakes;
            let deadline = since + listener.options.first_call_deadline;
            let connected = async { protocol.handshake(incoming.accept_with(config)?).await };
            let evicted = slot.evicted();
            let connected = tokio::select! {
                connected = timeout_at(deadline, connected) => match connected {
                    Ok(Ok(connection)) => Ok(connection),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("it took too long".to_owned()),
                },
                () = evicted => Err("it gave way to a newer one".to_owned()),
                () = listener.hurry() => return,
            };
            let connection = match connected {
                Ok(connection) => connection,
                Err(why) => {
                    handshakes.count(|| format!("of {address}: {why}"));
                    // wtransport (0.7) closes no connection whose handshake is given up: it keeps its slot.
                    tokio::select! {
                        () = gone(alive) => {}
                        () = listener.hurry() => {}
                    }
                    drop(slot);
                    return;
                }
            };
            let proof = match credentials.authenticate() {
                true => match proof_of(connection.quic()) {
                    Some(proof) => proof,
                    None => return handshakes.count(|| format!("of {address}: {}", unreadable())),
                },
                false => Identity::of_address(address).into(),
            };
            match Peer::admit(proof, slot, &listener) {
                Ok(peer) => serve(listener, connection, peer, deadline).await,
                Err(why) => {
                    connection.quic().close(TOO_MANY, why.as_bytes());
                    listener.tallies.refused.count(|| why);
                }
            }
        });
    }
}

fn proof_of(connection: &Connection) -> Option<Proof> {
    let chain = connection.peer_identity()?;
    Proof::of_chain(chain.downcast_ref::<Vec<CertificateDer<'static>>>()?)
}

/// Waits until a connection is gone, which alone holds its configuration.
async fn gone(alive: Weak<ServerConfig>) {
    while alive.strong_count() > 0 {
        sleep(CHECK_EVERY).await;
    }
}

/// Serves each stream of a connection in a task of its own.
async fn serve<C: Multiplexed>(listener: Arc<ListenerState>, connection: C, peer: Peer, first_deadline: Instant) {
    let tasks = TaskTracker::new();
    let (mut draining, mut begun) = (false, false);
    let mut expired = None;
    // Of its windows, until it ends.
    let mut windows = Permits::default();
    let close = |code, why: &'static str| connection.quic().close(code, why.as_bytes());
    let evicted = peer.slot.evicted();
    let unproven = peer.unproven();
    tokio::pin!(evicted, unproven);
    loop {
        tokio::select! {
            biased;
            () = listener.drain.cancelled(), if !draining => {
                draining = true;
                tasks.close();
                connection.quic().set_max_concurrent_bi_streams(0_u8.into());
            }
            () = &mut unproven, if expired.is_none() => {
                tracing::info!(peer = %peer.identity, "a connection ends: its caller proves its identity no longer");
                expired = Some(Instant::now() + listener.options.limits.serve_deadline);
                tasks.close();
                connection.quic().set_max_concurrent_bi_streams(0_u8.into());
            }
            () = sleep_until(expired.unwrap_or(first_deadline)), if expired.is_some() => break,
            () = listener.cut_off() => break,
            () = &mut evicted => {
                listener.tallies.refused.count(|| format!("of {}: it gave way to a newer one", peer.identity));
                return close(TOO_MANY, "a connection that began no call gives way to newer ones");
            }
            () = peer.slot.begun(), if !begun => {
                begun = true;
                if !draining && expired.is_none() {
                    let (bytes, permits) = peer.slot.widen();
                    windows = permits;
                    quic_limits::widen(connection.quic(), bytes, listener.options.calls_per_connection);
                }
            }
            () = sleep_until(first_deadline), if !begun && !draining && expired.is_none() => {
                listener.tallies.faults.count(|| format!("of {}: it began no call", peer.identity));
                return close(DONE, "no call began in time");
            }
            stream = connection.accept() => {
                let Some(stream) = stream else {
                    // The peer is gone; its streams notice.
                    break;
                };
                if expired.is_some() {
                    continue;
                }
                let (listener, peer) = (Arc::clone(&listener), peer.clone());
                let closed = connection.quic().clone();
                tasks.spawn(async move {
                    tokio::select! {
                        () = dispatch::serve(listener, peer, stream, Instant::now()) => {}
                        // Nobody waits for an answer any more.
                        _ = closed.closed() => {}
                    }
                });
            }
            () = tasks.wait(), if draining || expired.is_some() => break,
        }
    }
    tasks.close();
    if expired.is_some() {
        close(EXPIRED, UNPROVEN);
    }
    if timeout(2 * LAST_WORDS, tasks.wait()).await.is_err() {
        tracing::debug!(peer = %peer.identity, "streams were cut off");
    }
    close(DONE, "the server left");
    drop(windows);
}
