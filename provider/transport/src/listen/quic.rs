//! Connections that bring many byte streams each: QUIC and WebTransport.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, Incoming, ServerConfig};
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::task::TaskTracker;
use wtransport::endpoint::IncomingSessionFuture;

use crate::budget::Room;
use crate::endpoint::UrlPath;
use crate::listen::places::{Carrier, Key};
use crate::listen::shared::{LAST_WORDS, Peer, Shared};
use crate::listen::socket::{Known, unreadable};
use crate::listen::stream::Stream;
use crate::listen::{Accepting, ListenOptions, settle, stream};
use crate::quic::{self, DONE, EXPIRED, Side, TOO_MANY};
use crate::tls::{self, Holder, ServerTls};
use crate::{CodecError, Error, Identity};

/// Handshakes at a time, and bytes that wait for each.
const HANDSHAKES: usize = 256;
const HANDSHAKE_BYTES: u64 = 16 << 10;
/// How often a connection that can't be closed is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// A QUIC endpoint that listens. With a path it speaks WebTransport.
#[derive(Debug)]
pub(crate) struct QuicListener {
    endpoint: Endpoint,
    config: ServerConfig,
    web: Option<UrlPath>,
    /// Whoever has no certificate of an authority is refused.
    certificates: bool,
}

/// A connection whose handshake is done.
enum Connected {
    Quic(Connection),
    Web(wtransport::Connection),
}

impl QuicListener {
    pub(crate) fn bind(
        address: SocketAddr,
        tls: &ServerTls,
        web: Option<UrlPath>,
        options: &ListenOptions,
    ) -> Result<io::Result<Self>, Error> {
        let config = match web {
            Some(_) => tls::server(tls, &[wtransport::tls::WEBTRANSPORT_ALPN])?,
            None => tls::server(tls, &tls::ALPN)?,
        };
        let crypto = QuicServerConfig::try_from(config).map_err(|error| Error::Tls {
            what: "TLS".to_owned(),
            source: error.into(),
        })?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        let certificates = tls.client_ca.is_some();
        config
            .transport_config(Arc::new(quic::transport(
                Side::Server,
                options.idle_deadline,
                web.is_some(),
            )))
            // Where an address is all that is known of a peer, it stays what it was.
            .migration(certificates)
            .max_incoming(HANDSHAKES)
            .incoming_buffer_size(HANDSHAKE_BYTES)
            .incoming_buffer_size_total(HANDSHAKES as u64 * HANDSHAKE_BYTES);
        Ok(Endpoint::server(config.clone(), address).map(|endpoint| Self {
            endpoint,
            config,
            web,
            certificates,
        }))
    }

    pub(crate) fn port(&self) -> io::Result<u16> {
        Ok(self.endpoint.local_addr()?.port())
    }

    pub(super) async fn run(self, accepting: Accepting) {
        let shared = &accepting.shared;
        loop {
            tokio::select! {
                biased;
                () = shared.drain.cancelled() => break,
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.take(incoming, &accepting),
                    None => return,
                },
            }
        }
        // New ones are refused; those that are connected are served to their end.
        self.endpoint.set_server_config(None);
        accepting.connections.close();
        tokio::select! {
            () = accepting.connections.wait() => {}
            () = async { shared.cut_off().await; tokio::time::sleep(LAST_WORDS).await } => {}
        }
        self.endpoint.close(DONE, b"the server left");
        if timeout(LAST_WORDS, self.endpoint.wait_idle()).await.is_err() {
            tracing::debug!("a peer did not see that the server left");
        }
    }

    fn take(&self, incoming: Incoming, accepting: &Accepting) {
        let since = Instant::now();
        let shared = &accepting.shared;
        if accepting.peers.crowded() && !incoming.remote_address_validated() {
            // It comes back with a proof, which costs it a round trip and us nothing.
            if incoming.retry().is_err() {
                tracing::debug!("a connection could not be asked for a proof of its address");
            }
            return;
        }
        let address = incoming.remote_address().ip();
        let carrier = Carrier::Quic {
            bytes: quic::first_bytes(self.web.is_some()),
        };
        let place = match accepting.peers.admit(Key::of_address(address), carrier) {
            Ok(place) => place,
            Err(why) => {
                shared.strangers.refused.count(|| format!("of {address}: {why}"));
                incoming.refuse();
                return;
            }
        };
        let (shared, web, certificates) = (Arc::clone(shared), self.web.clone(), self.certificates);
        // Of its own, so that it ends with the connection.
        let config = Arc::new(self.config.clone());
        let alive = Arc::downgrade(&config);
        accepting.connections.spawn(async move {
            let handshakes = &shared.strangers.handshakes;
            let deadline = since + shared.options.first_call_deadline;
            let connected = async {
                match web {
                    Some(path) => web_session(incoming, config, &path).await,
                    None => Ok::<_, CodecError>(Connected::Quic(incoming.accept_with(config)?.await?)),
                }
            };
            let evicted = place.evicted();
            let connected = tokio::select! {
                connected = timeout_at(deadline, connected) => match connected {
                    Ok(Ok(connection)) => Ok(connection),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("it took too long".to_owned()),
                },
                () = evicted => Err("it gave way to a newer one".to_owned()),
                () = shared.hurry() => return,
            };
            let connection = match connected {
                Ok(connection) => connection,
                Err(why) => {
                    handshakes.count(|| format!("of {address}: {why}"));
                    // wtransport (0.7) closes no connection whose handshake is given up: it keeps its place.
                    tokio::select! {
                        () = gone(alive) => {}
                        () = shared.hurry() => {}
                    }
                    drop(place);
                    return;
                }
            };
            let known = match certificates {
                true => match connection.holder() {
                    Some(holder) => Known::By(holder),
                    None => return handshakes.count(|| format!("of {address}: {}", unreadable())),
                },
                false => Known::As(Identity::of_address(address)),
            };
            match settle(known, place, &shared.options) {
                Ok(peer) => serve(shared, connection, peer, deadline).await,
                Err(why) => {
                    connection.quic().close(TOO_MANY, why.as_bytes());
                    shared.strangers.refused.count(|| why);
                }
            }
        });
    }
}

/// Waits until a connection is gone, which alone holds its configuration.
async fn gone(alive: Weak<ServerConfig>) {
    while alive.strong_count() > 0 {
        sleep(LOOK).await;
    }
}

async fn web_session(incoming: Incoming, config: Arc<ServerConfig>, path: &UrlPath) -> Result<Connected, CodecError> {
    let request = IncomingSessionFuture::with_quic_connecting(incoming.accept_with(config)?).await?;
    if request.path() != path.as_str() {
        request.not_found().await;
        return Err("nothing is served on its path".into());
    }
    // A page in a browser calls on behalf of whoever looks at it, and with that person's certificate.
    if request.origin().is_some() {
        request.forbidden().await;
        return Err("a page in a browser is not served".into());
    }
    Ok(Connected::Web(request.accept().await?))
}

impl Connected {
    fn quic(&self) -> &Connection {
        match self {
            Self::Quic(connection) => connection,
            Self::Web(connection) => connection.quic_connection(),
        }
    }

    fn holder(&self) -> Option<Holder> {
        let chain = self.quic().peer_identity()?;
        tls::holder(chain.downcast_ref::<Vec<CertificateDer<'static>>>()?)
    }

    async fn accept(&self) -> Option<Stream> {
        match self {
            Self::Quic(connection) => {
                let (writer, reader) = connection.accept_bi().await.ok()?;
                Some(quic::stream(writer, reader))
            }
            Self::Web(connection) => {
                let (writer, reader) = connection.accept_bi().await.ok()?;
                Some(quic::web_stream(writer, reader))
            }
        }
    }
}

/// Serves each stream of a connection in a task of its own.
async fn serve(shared: Arc<Shared>, connection: Connected, peer: Peer, first_deadline: Instant) {
    let tasks = TaskTracker::new();
    let (mut draining, mut begun) = (false, false);
    let mut expired = None;
    // What its windows hold, until it ends.
    let mut windows = Room::default();
    let close = |code, why: &'static str| connection.quic().close(code, why.as_bytes());
    let evicted = peer.place.evicted();
    tokio::pin!(evicted);
    loop {
        tokio::select! {
            biased;
            () = shared.drain.cancelled(), if !draining => {
                draining = true;
                tasks.close();
                connection.quic().set_max_concurrent_bi_streams(0_u8.into());
            }
            () = peer.expired(), if expired.is_none() => {
                tracing::info!(peer = %peer.identity, "a connection ends with the certificate of its caller");
                expired = Some(Instant::now() + shared.options.limits.serve_deadline);
                tasks.close();
                connection.quic().set_max_concurrent_bi_streams(0_u8.into());
            }
            () = sleep_until(expired.unwrap_or(first_deadline)), if expired.is_some() => break,
            () = shared.cut_off() => break,
            () = &mut evicted => {
                shared.strangers.refused.count(|| format!("of {}: it gave way to a newer one", peer.identity));
                return close(TOO_MANY, "a connection that began no call gives way to newer ones");
            }
            () = peer.place.begun(), if !begun => {
                begun = true;
                if !draining && expired.is_none() {
                    let (bytes, room) = peer.place.widen();
                    windows = room;
                    quic::widen(connection.quic(), bytes, shared.options.calls_per_connection);
                }
            }
            () = sleep_until(first_deadline), if !begun && !draining && expired.is_none() => {
                shared.strangers.faults.count(|| format!("of {}: it began no call", peer.identity));
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
                let (shared, peer) = (Arc::clone(&shared), peer.clone());
                let closed = connection.quic().clone();
                tasks.spawn(async move {
                    tokio::select! {
                        () = stream::serve(shared, peer, stream, Instant::now()) => {}
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
        close(EXPIRED, "the certificate that this caller showed has ended");
    }
    if timeout(2 * LAST_WORDS, tasks.wait()).await.is_err() {
        tracing::debug!(peer = %peer.identity, "streams were cut off");
    }
    close(DONE, "the server left");
    drop(windows);
}
