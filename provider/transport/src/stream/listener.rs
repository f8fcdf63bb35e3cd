//! Listening on anything but the lattice: one way to serve, whatever carries the bytes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::stream::accept::{Admission, Socket};
use crate::stream::connection_slots::ConnectionSlots;
use crate::stream::listen_options::ListenOptions;
use crate::stream::listener_state::{ListenerState, Speaks};
use crate::stream::multiplexed::{Protocol as _, QuicListener};
use crate::stream::quic::Quic;
use crate::stream::server_credentials::{Renewal, ServerCredentials};
use crate::stream::tcp::{self, TcpSocket, resolve_own};
use crate::stream::tls::TlsSocket;
use crate::stream::tls_config::{ALPN_HTTP, ALPNS, ServerTls};
use crate::stream::unix::UnixSocket;
use crate::stream::webtransport::WebTransport;
use crate::{Drained, Endpoint, Error, Service, counts};

/// An endpoint that is bound. Peers that connect wait until it serves: see [`Listener::serve`].
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    bound: Bound,
    options: ListenOptions,
    credentials: Option<Credentials>,
}

/// The credentials of a listener, and the protocols that its peers may name.
type Credentials = (watch::Sender<Arc<ServerCredentials>>, &'static [&'static [u8]]);

enum Bound {
    /// A byte stream for each connection.
    Socket(Box<dyn Socket>),
    Quic(QuicListener<Quic>),
    WebTransport(QuicListener<WebTransport>),
}

/// A service that is served on one endpoint.
///
/// Dropping it stops it taking calls; those in flight go on to their deadline. [`Serving::drain`] loses none.
#[derive(Debug)]
pub struct Serving {
    endpoint: Endpoint,
    listener: Arc<ListenerState>,
    slots: ConnectionSlots,
    tasks: TaskTracker,
    credentials: Option<Credentials>,
}

impl Listener {
    /// Binds an endpoint. Port 0 lets the system choose; [`Listener::local_endpoint`] has the choice.
    ///
    /// # Errors
    /// [`Error::Unprotected`] for an endpoint beyond this machine whose peers nobody authenticates, unless the options
    /// allow it. [`Error::Misused`] for a `nats:` endpoint: the lattice is served by [`crate::Server`].
    /// [`Error::Options`], [`Error::Tls`] and [`Error::Listen`].
    pub async fn bind(endpoint: &Endpoint, options: ListenOptions) -> Result<Self, Error> {
        options.check()?;
        let anyone = may_be_reached(endpoint, &options)?;
        let credentials = credentials(endpoint, &options)?;
        let in_force = || match &credentials {
            Some((sender, _)) => Ok(sender.subscribe()),
            None => Err(no_tls(endpoint)),
        };
        let failed = |source| Error::Listen {
            endpoint: endpoint.clone(),
            source,
        };
        let (bound, port) = match endpoint {
            Endpoint::Tcp(at) | Endpoint::Http(at) => {
                let (socket, port) = tcp::listen(at, anyone).await.map_err(failed)?;
                (Bound::Socket(socket), Ok(port))
            }
            Endpoint::Tls(at) | Endpoint::Https(at) => {
                let tcp = TcpSocket::bind(at, anyone).await.map_err(failed)?;
                let port = tcp.port();
                (Bound::Socket(Box::new(TlsSocket::new(tcp, in_force()?))), port)
            }
            Endpoint::Unix(path) => {
                let unix = UnixSocket::bind(path, options.socket_mode).await.map_err(failed)?;
                (Bound::Socket(Box::new(unix)), Ok(0))
            }
            Endpoint::Quic(at) => {
                let address = resolve_own(at, anyone).await.map_err(failed)?;
                let quic = QuicListener::bind(address, in_force()?, Quic, &options).map_err(failed)?;
                let port = quic.port();
                (Bound::Quic(quic), port)
            }
            Endpoint::WebTransport(at, path) => {
                let address = resolve_own(at, anyone).await.map_err(failed)?;
                let protocol = WebTransport(path.clone());
                let web = QuicListener::bind(address, in_force()?, protocol, &options).map_err(failed)?;
                let port = web.port();
                (Bound::WebTransport(web), port)
            }
            Endpoint::Nats { .. } => {
                return Err(Error::Misused {
                    endpoint: endpoint.clone(),
                    why: "can't be listened on: the lattice is served by a provider's link",
                });
            }
        };
        let port = port.map_err(failed)?;
        Ok(Self {
            endpoint: endpoint.with_port(port),
            bound,
            options,
            credentials,
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
        let counts = counts::of(self.endpoint.scheme());
        let slots = ConnectionSlots::new(&self.options, counts);
        let in_force = self.credentials.as_ref().map(|(sender, _)| sender.subscribe());
        let speaks = match self.endpoint.is_http() {
            true => Speaks::Http {
                encrypted: self.endpoint.has_tls(),
            },
            false => Speaks::Wrpc,
        };
        let listener = Arc::new(ListenerState::new(service, (speaks, counts), self.options, in_force));
        let tasks = TaskTracker::new();
        let admission = Admission {
            listener: Arc::clone(&listener),
            slots: slots.clone(),
            connections: TaskTracker::new(),
        };
        match self.bound {
            Bound::Socket(socket) => tasks.spawn(admission.run(socket)),
            Bound::Quic(quic) => tasks.spawn(quic.run(admission)),
            Bound::WebTransport(web) => tasks.spawn(web.run(admission)),
        };
        Serving {
            endpoint: self.endpoint,
            listener,
            slots,
            tasks,
            credentials: self.credentials,
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
        self.listener.in_flight()
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.slots.connections()
    }

    /// Bytes of bodies held.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.listener.budget.taken() + self.listener.results.taken()
    }

    /// Reads again what callers are shown and have to show, and judges whether the endpoint may be listened on like that;
    /// nothing changes before [`Renewal::apply`]. Of `options`, `tls` and `allow_unauthenticated_network_peers` count:
    /// other limits stay as they were bound.
    ///
    /// # Errors
    /// [`Error::Unprotected`], [`Error::Misused`] and [`Error::Tls`], as for [`Listener::bind`].
    pub fn read_again(&self, options: &ListenOptions) -> Result<Renewal, Error> {
        may_be_reached(&self.endpoint, options)?;
        let Some((in_force, alpns)) = &self.credentials else {
            return Ok(Renewal { read: None });
        };
        let read = ServerCredentials::read(tls(&self.endpoint, options)?, alpns)?;
        Ok(Renewal {
            read: Some((in_force.clone(), read)),
        })
    }

    /// Stops taking calls, and returns when those in flight are answered and their callers have the answer. What is
    /// not done `within` the time is cut off, and its caller is notified of a failure.
    pub async fn drain(self, within: Duration) -> Drained {
        self.listener.drain.cancel();
        self.tasks.close();
        let mut abandoned = 0;
        if timeout(within, self.tasks.wait()).await.is_err() {
            abandoned = self.listener.in_flight();
            self.listener.stop.cancel();
            self.tasks.wait().await;
        }
        Drained { abandoned }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.listener.drain.cancel();
        self.tasks.close();
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socket(_) => "Socket",
            Self::Quic(_) => "Quic",
            Self::WebTransport(_) => "WebTransport",
        })
    }
}

/// Whether peers beyond this machine may reach an endpoint, which they may if they are authenticated, or by permission.
fn may_be_reached(endpoint: &Endpoint, options: &ListenOptions) -> Result<bool, Error> {
    let by_certificate = endpoint.has_tls() && options.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    // A request without a token is refused there, before any work.
    let by_token = matches!(endpoint, Endpoint::Https(_));
    let anyone = by_certificate || by_token || options.allow_unauthenticated_network_peers;
    if !anyone && endpoint.authority().is_some_and(|authority| !authority.is_loopback()) {
        return Err(Error::Unprotected {
            endpoint: endpoint.clone(),
        });
    }
    Ok(anyone)
}

/// The first credentials of an endpoint, if it speaks TLS.
fn credentials(endpoint: &Endpoint, options: &ListenOptions) -> Result<Option<Credentials>, Error> {
    let alpns: &[&[u8]] = match endpoint {
        Endpoint::Tls(_) | Endpoint::Quic(_) => &ALPNS,
        Endpoint::WebTransport(..) => WebTransport::ALPNS,
        Endpoint::Https(_) => &[ALPN_HTTP],
        Endpoint::Tcp(_) | Endpoint::Unix(_) | Endpoint::Http(_) | Endpoint::Nats { .. } => return Ok(None),
    };
    let read = ServerCredentials::read(tls(endpoint, options)?, alpns)?;
    Ok(Some((watch::Sender::new(Arc::new(read)), alpns)))
}

fn tls<'a>(endpoint: &Endpoint, options: &'a ListenOptions) -> Result<&'a ServerTls, Error> {
    options.tls.as_ref().ok_or_else(|| no_tls(endpoint))
}

fn no_tls(endpoint: &Endpoint) -> Error {
    Error::Misused {
        endpoint: endpoint.clone(),
        why: "needs a certificate and a key: set tls",
    }
}
