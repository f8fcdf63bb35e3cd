//! Listening on anything but the lattice: one way to serve, whatever carries the bytes.
//!
//! A connection that was accepted gets a task of its own at once, its handshakes included, so a silent peer holds up
//! nobody. [`stream`] tells what a byte stream wants, [`shared`] counts who holds how much.

mod options;
mod quic;
pub(crate) mod shared;
pub(crate) mod socket;
pub(crate) mod stream;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

pub use options::ListenOptions;
use quic::QuicListener;
use shared::{Key, Peer, Peers, Place, Shared};
use socket::{Raw, Socket, UnixSocket, Upgrade};

use crate::endpoint::{Authority, UrlPath};
use crate::tls::{self, ServerTls};
use crate::{Drained, Endpoint, Error, Identity, Service};

/// When the system has no more files for connections, how long until it is asked again.
const OUT_OF_FILES: Duration = Duration::from_millis(100);

/// An endpoint that is bound. Peers that connect wait until it serves: see [`Listener::serve`].
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    bound: Bound,
    options: ListenOptions,
}

enum Bound {
    /// A byte stream for each connection.
    Socket(Socket, Upgrade),
    /// Many of them.
    Quic(QuicListener),
}

/// A service that is served on one endpoint.
///
/// Dropping it stops it taking calls; those in flight go on to their deadline. [`Serving::drain`] loses none.
#[derive(Debug)]
pub struct Serving {
    endpoint: Endpoint,
    shared: Arc<Shared>,
    peers: Arc<Peers>,
    tasks: TaskTracker,
}

impl Listener {
    /// Binds an endpoint. Port 0 lets the system choose; [`Listener::local_endpoint`] tells which it is.
    ///
    /// # Errors
    /// [`Error::Unprotected`] for an endpoint beyond this machine whose peers nobody authenticates, unless the options
    /// allow it. [`Error::Misused`] for a `nats:` endpoint: the lattice is served by [`crate::Server`].
    /// [`Error::Options`], [`Error::Tls`] and [`Error::Listen`].
    pub async fn bind(endpoint: &Endpoint, options: ListenOptions) -> Result<Self, Error> {
        options.check()?;
        let authenticated = endpoint.has_tls() && options.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let anyone = authenticated || options.allow_unauthenticated_network_peers;
        if !anyone && endpoint.authority().is_some_and(|authority| !authority.is_loopback()) {
            return Err(Error::Unprotected {
                endpoint: endpoint.clone(),
            });
        }
        let binding = Binding {
            endpoint,
            options: &options,
            anyone,
        };
        let (bound, port) = match endpoint {
            Endpoint::Tcp(at) => binding.tcp(at, Upgrade::default()).await?,
            Endpoint::Tls(at) => {
                let tls = binding.acceptor(&tls::ALPN)?;
                binding.tcp(at, Upgrade { tls, web: None }).await?
            }
            Endpoint::WebSocket(at, path) => {
                let web = Some(path.clone());
                binding.tcp(at, Upgrade { tls: None, web }).await?
            }
            Endpoint::WebSocketTls(at, path) => {
                let (tls, web) = (binding.acceptor(&[b"http/1.1"])?, Some(path.clone()));
                binding.tcp(at, Upgrade { tls, web }).await?
            }
            Endpoint::Quic(at) => binding.quic(at, None).await?,
            Endpoint::WebTransport(at, path) => binding.quic(at, Some(path.clone())).await?,
            Endpoint::Unix(path) => {
                let socket = UnixSocket::bind(path, options.socket_mode).await;
                let socket = socket.map_err(|error| binding.failed(error))?;
                (Bound::Socket(Socket::Unix(socket), Upgrade::default()), 0)
            }
            Endpoint::Nats { .. } => {
                return Err(Error::Misused {
                    endpoint: endpoint.clone(),
                    why: "can't be listened on: the lattice is served by a provider's link",
                });
            }
        };
        Ok(Self {
            endpoint: endpoint.with_port(port),
            bound,
            options,
        })
    }

    /// What is bound, with the port that the system chose.
    #[must_use]
    pub fn local_endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Serves all functions of a service.
    #[must_use]
    pub fn serve(self, service: &Service) -> Serving {
        let shared = Arc::new(Shared::new(service, self.options));
        let peers = Arc::new(Peers::default());
        let tasks = TaskTracker::new();
        let accepting = Accepting {
            shared: Arc::clone(&shared),
            peers: Arc::clone(&peers),
            connections: TaskTracker::new(),
        };
        match self.bound {
            Bound::Socket(socket, upgrade) => tasks.spawn(accepting.run(socket, upgrade)),
            Bound::Quic(listener) => tasks.spawn(listener.run(accepting)),
        };
        Serving {
            endpoint: self.endpoint,
            shared,
            peers,
            tasks,
        }
    }
}

impl Serving {
    /// What is served on, with the port that the system chose.
    #[must_use]
    pub fn local_endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Invocations that were taken and are not answered yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight()
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.peers.connections()
    }

    /// Bytes of bodies held.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.shared.budget.taken()
    }

    /// Stops taking calls, and returns when those in flight are answered and their callers have the answer. What is
    /// not done `within` the time is cut off, and its caller told of a failure.
    pub async fn drain(self, within: Duration) -> Drained {
        self.shared.drain.cancel();
        self.tasks.close();
        let mut abandoned = 0;
        if timeout(within, self.tasks.wait()).await.is_err() {
            abandoned = self.shared.in_flight();
            self.shared.stop.cancel();
            self.tasks.wait().await;
        }
        Drained { abandoned }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.shared.drain.cancel();
        self.tasks.close();
    }
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(socket, _) => f.debug_tuple("Socket").field(socket).finish_non_exhaustive(),
            Self::Quic(listener) => f.debug_tuple("Quic").field(listener).finish(),
        }
    }
}

/// What is being bound.
struct Binding<'a> {
    endpoint: &'a Endpoint,
    options: &'a ListenOptions,
    /// It may be reached from beyond this machine.
    anyone: bool,
}

impl Binding<'_> {
    fn failed(&self, source: io::Error) -> Error {
        Error::Listen {
            endpoint: self.endpoint.clone(),
            source,
        }
    }

    fn tls(&self) -> Result<&ServerTls, Error> {
        self.options.tls.as_ref().ok_or_else(|| Error::Misused {
            endpoint: self.endpoint.clone(),
            why: "needs a certificate and a key: set tls",
        })
    }

    fn acceptor(&self, alpn: &[&[u8]]) -> Result<Option<TlsAcceptor>, Error> {
        let config = tls::server(self.tls()?, alpn)?;
        Ok(Some(TlsAcceptor::from(Arc::new(config))))
    }

    async fn tcp(&self, at: &Authority, upgrade: Upgrade) -> Result<(Bound, u16), Error> {
        let bind = async {
            let address = socket::resolve(at, self.anyone).await?;
            let listener = TcpListener::bind(address).await?;
            let port = listener.local_addr()?.port();
            Ok((Bound::Socket(Socket::Tcp(listener), upgrade), port))
        };
        bind.await.map_err(|error| self.failed(error))
    }

    async fn quic(&self, at: &Authority, web: Option<UrlPath>) -> Result<(Bound, u16), Error> {
        let tls = self.tls()?;
        let address = socket::resolve(at, self.anyone)
            .await
            .map_err(|error| self.failed(error))?;
        let listener = QuicListener::bind(address, tls, web, self.options)?;
        let listener = listener.map_err(|error| self.failed(error))?;
        let port = listener.port().map_err(|error| self.failed(error))?;
        Ok((Bound::Quic(listener), port))
    }
}

/// What takes connections.
struct Accepting {
    shared: Arc<Shared>,
    peers: Arc<Peers>,
    connections: TaskTracker,
}

impl Accepting {
    async fn run(self, socket: Socket, upgrade: Upgrade) {
        loop {
            tokio::select! {
                biased;
                () = self.shared.drain.cancelled() => break,
                accepted = socket.accept() => self.take(accepted, &upgrade).await,
            }
        }
        // These are connected as far as their callers know.
        while let Some(accepted @ Ok(_)) = socket.accept().now_or_never() {
            self.take(accepted, &upgrade).await;
        }
        drop(socket);
        self.connections.close();
        self.connections.wait().await;
    }

    async fn take(&self, accepted: io::Result<(Raw, Key, Identity)>, upgrade: &Upgrade) {
        let since = Instant::now();
        match accepted {
            Ok((raw, key, identity)) => match self.peers.admit(key, &self.shared.options) {
                Some(place) => {
                    let upgrade = upgrade.clone();
                    drop(
                        self.connections
                            .spawn(self.connection(raw, upgrade, identity, place, since)),
                    );
                }
                None => tracing::debug!(?key, "a connection is refused: the limit is reached"),
            },
            Err(error) if is_of_one_connection(&error) => tracing::debug!(%error, "a connection ended at once"),
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted at the moment");
                sleep(OUT_OF_FILES).await;
            }
        }
    }

    fn connection(
        &self,
        raw: Raw,
        upgrade: Upgrade,
        identity: Identity,
        place: Place,
        since: Instant,
    ) -> impl Future<Output = ()> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        async move {
            let upgrade = timeout_at(since + shared.options.first_call_deadline, upgrade.run(raw, identity));
            let upgraded = tokio::select! {
                upgraded = upgrade => upgraded,
                () = shared.hurry() => return,
            };
            let (stream, identity) = match upgraded {
                Ok(Ok(upgraded)) => upgraded,
                Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
                Err(_) => return tracing::debug!("a handshake took too long"),
            };
            let peer = Peer::new(identity, &place.share, &shared.options);
            tokio::select! {
                () = stream::serve(Arc::clone(&shared), peer, stream, since) => {}
                () = shared.cut_off() => {}
            }
            drop(place);
        }
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
