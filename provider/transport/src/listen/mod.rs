//! Listening on anything but the lattice: one way to serve, whatever carries the bytes.
//!
//! A connection that was accepted gets a task of its own at once, its handshakes included, so a silent peer holds up
//! nobody. [`stream`] tells what a byte stream wants, [`places`] counts who holds how much, [`files`] what all may
//! hold.

pub(crate) mod files;
mod options;
pub(crate) mod places;
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

pub use files::raise_open_files;
pub use options::ListenOptions;
use places::{Carrier, Key, Peers, Place};
use quic::QuicListener;
use shared::{Peer, Shared};
use socket::{Known, Raw, Socket, UnixSocket, Upgrade};

use crate::endpoint::{Authority, UrlPath};
use crate::tls::{self, ServerTls};
use crate::{Drained, Endpoint, Error, Identity, Service};

/// When the system has no more files for connections, how long until it is asked again: twice as long each time.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

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
    peers: Peers,
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
            Endpoint::Tls(at) => binding.tcp(at, binding.with_tls()?).await?,
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
        let peers = Peers::new(&self.options);
        let shared = Arc::new(Shared::new(service, self.options));
        let tasks = TaskTracker::new();
        let accepting = Accepting {
            shared: Arc::clone(&shared),
            peers: peers.clone(),
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

    fn with_tls(&self) -> Result<Upgrade, Error> {
        let tls = self.tls()?;
        let config = tls::server(tls, &tls::ALPN)?;
        Ok(Upgrade {
            tls: Some(TlsAcceptor::from(Arc::new(config))),
            certificates: tls.client_ca.is_some(),
        })
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
    peers: Peers,
    connections: TaskTracker,
}

impl Accepting {
    async fn run(self, socket: Socket, upgrade: Upgrade) {
        let mut wait = FIRST_WAIT;
        loop {
            tokio::select! {
                biased;
                () = self.shared.drain.cancelled() => break,
                accepted = socket.accept() => match self.take(accepted, &upgrade) {
                    Ok(()) => wait = FIRST_WAIT,
                    // This listener's alone: the others look for themselves.
                    Err(OutOfFiles) => {
                        tokio::select! {
                            () = self.shared.drain.cancelled() => break,
                            () = sleep(wait) => wait = LONGEST_WAIT.min(2 * wait),
                        }
                    }
                },
            }
        }
        // These are connected as far as their callers know.
        while let Some(accepted @ Ok(_)) = socket.accept().now_or_never() {
            if self.take(accepted, &upgrade).is_err() {
                break;
            }
        }
        drop(socket);
        self.connections.close();
        self.connections.wait().await;
    }

    fn take(&self, accepted: io::Result<(Raw, Key, Identity)>, upgrade: &Upgrade) -> Result<(), OutOfFiles> {
        let since = Instant::now();
        let strangers = &self.shared.strangers;
        match accepted {
            Ok((raw, key, identity)) => match self.peers.admit(key, Carrier::Socket) {
                Ok(place) => {
                    let upgrade = upgrade.clone();
                    drop(
                        self.connections
                            .spawn(self.connection(raw, upgrade, identity, place, since)),
                    );
                }
                Err(why) => strangers.refused.count(|| format!("of {identity}: {why}")),
            },
            Err(error) if is_of_one_connection(&error) => tracing::debug!(%error, "a connection ended at once"),
            Err(error) => {
                strangers
                    .refused
                    .count(|| format!("none can be accepted at the moment: {error}"));
                return Err(OutOfFiles);
            }
        }
        Ok(())
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
            let handshakes = &shared.strangers.handshakes;
            let evicted = place.evicted();
            tokio::pin!(evicted);
            let who = identity.clone();
            let upgrade = timeout_at(since + shared.options.first_call_deadline, upgrade.run(raw, identity));
            let upgraded = tokio::select! {
                upgraded = upgrade => upgraded,
                () = &mut evicted => return handshakes.count(|| format!("of {who}: it gave way to a newer one")),
                () = shared.hurry() => return,
            };
            let (stream, known) = match upgraded {
                Ok(Ok(upgraded)) => upgraded,
                Ok(Err(error)) => return handshakes.count(|| format!("of {who}: {error}")),
                Err(_) => return handshakes.count(|| format!("of {who}: it took too long")),
            };
            let peer = match settle(known, place, &shared.options) {
                Ok(peer) => peer,
                Err(why) => return shared.strangers.refused.count(|| why),
            };
            tokio::select! {
                () = stream::serve(Arc::clone(&shared), peer.clone(), stream, since) => {}
                () = evicted => {
                    let refused = &shared.strangers.refused;
                    refused.count(|| format!("of {who}: it said nothing, and gave way to a newer one"));
                }
                () = shared.cut_off() => {}
            }
        }
    }
}

/// The system has no file for a connection.
struct OutOfFiles;

/// Gives a connection whose peer is known its place among those of that peer.
fn settle(known: Known, mut place: Place, options: &ListenOptions) -> Result<Peer, String> {
    match known {
        Known::As(identity) => Ok(Peer::new(identity, place, options)),
        Known::By(holder) => match place.known_as(&holder.identity) {
            Ok(()) => Ok(Peer::holder(holder, place, options)),
            Err(why) => Err(format!("of {}: {why}", holder.identity)),
        },
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
