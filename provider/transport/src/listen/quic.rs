//! Connections that bring many byte streams each: QUIC and WebTransport.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, Incoming, ServerConfig};
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;
use wtransport::endpoint::IncomingSessionFuture;

use crate::endpoint::UrlPath;
use crate::listen::shared::{Key, LAST_WORDS, Peer, Place, Shared};
use crate::listen::stream::Stream;
use crate::listen::{Accepting, ListenOptions, stream};
use crate::quic::{self, DONE, Side};
use crate::tls::{self, ServerTls};
use crate::{Error, Identity};

/// Handshakes at a time, and bytes that wait for each.
const HANDSHAKES: usize = 256;
const HANDSHAKE_BYTES: u64 = 16 << 10;
/// A peer whose address is not proved gets no more than this share of the places for connections.
const UNPROVED_SHARE: usize = 4;

/// A QUIC endpoint that listens. With a path it speaks WebTransport.
#[derive(Debug)]
pub(crate) struct QuicListener {
    endpoint: Endpoint,
    web: Option<UrlPath>,
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
        let side = Side::Server {
            streams: options.calls_per_connection,
        };
        config
            .transport_config(Arc::new(quic::transport(side, options.idle_deadline, web.is_some())))
            .max_incoming(HANDSHAKES)
            .incoming_buffer_size(HANDSHAKE_BYTES)
            .incoming_buffer_size_total(HANDSHAKES as u64 * HANDSHAKE_BYTES);
        Ok(Endpoint::server(config, address).map(|endpoint| Self { endpoint, web }))
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
        let crowded = accepting.peers.connections() > shared.options.connections / UNPROVED_SHARE;
        if crowded && !incoming.remote_address_validated() {
            // It comes back with a proof, which costs it a round trip and us nothing.
            if incoming.retry().is_err() {
                tracing::debug!("a connection could not be asked for a proof of its address");
            }
            return;
        }
        let key = Key::Address(incoming.remote_address().ip());
        let Some(place) = accepting.peers.admit(key, &shared.options) else {
            tracing::debug!(?key, "a connection is refused: the limit is reached");
            incoming.refuse();
            return;
        };
        let (shared, web) = (Arc::clone(shared), self.web.clone());
        accepting.connections.spawn(async move {
            let deadline = since + shared.options.first_call_deadline;
            let connected = async {
                match web {
                    Some(path) => web_session(incoming, &path).await,
                    None => Some(Connected::Quic(incoming.await.ok()?)),
                }
            };
            let connected = tokio::select! {
                connected = timeout_at(deadline, connected) => connected,
                () = shared.hurry() => Ok(None),
            };
            match connected {
                Ok(Some(connection)) => serve(shared, connection, &place).await,
                Ok(None) => tracing::debug!(?key, "a handshake failed"),
                Err(_) => tracing::debug!(?key, "a handshake took too long"),
            }
            drop::<Place>(place);
        });
    }
}

async fn web_session(incoming: Incoming, path: &UrlPath) -> Option<Connected> {
    let request = IncomingSessionFuture::with_quic_incoming(incoming).await.ok()?;
    if request.path() != path.as_str() {
        request.not_found().await;
        return None;
    }
    // A page in a browser calls on behalf of whoever looks at it, and with that person's certificate.
    if request.origin().is_some() {
        request.forbidden().await;
        return None;
    }
    Some(Connected::Web(request.accept().await.ok()?))
}

impl Connected {
    fn quic(&self) -> &Connection {
        match self {
            Self::Quic(connection) => connection,
            Self::Web(connection) => connection.quic_connection(),
        }
    }

    fn identity(&self) -> Identity {
        let chain = self.quic().peer_identity();
        let chain = chain.and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
        tls::identity(chain.as_ref().map(|chain| chain.as_slice()))
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
async fn serve(shared: Arc<Shared>, connection: Connected, place: &Place) {
    let peer = Peer::new(connection.identity(), &place.share, &shared.options);
    let tasks = TaskTracker::new();
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            () = shared.drain.cancelled(), if !draining => {
                draining = true;
                tasks.close();
                connection.quic().set_max_concurrent_bi_streams(0_u8.into());
            }
            () = shared.cut_off() => break,
            stream = connection.accept() => {
                let Some(stream) = stream else {
                    // The peer is gone; its streams notice.
                    break;
                };
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
            () = tasks.wait(), if draining => break,
        }
    }
    tasks.close();
    if timeout(2 * LAST_WORDS, tasks.wait()).await.is_err() {
        tracing::debug!(peer = %peer.identity, "streams were cut off");
    }
    connection.quic().close(DONE, b"the server left");
}
