//! A network that a test brings, in place of this machine's TCP: a simulated one, whose time and faults are the test's.
//!
//! It is that of the thread which set it: a simulation runs all its hosts on one. `tcp` and `http` endpoints are dialled
//! and listened on there; all others stay on this machine's network.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::endpoint::Authority;
use crate::stream::byte_stream::ByteStream;

thread_local! {
    static NETWORK: RefCell<Option<Rc<dyn Network>>> = const { RefCell::new(None) };
}

/// What carries byte streams between hosts.
pub trait Network: 'static {
    /// Connects to a port of a host.
    fn connect(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<NetworkStream>>;

    /// Listens on a port of the host that this runs on.
    fn listen(&self, port: u16) -> BoxFuture<'static, io::Result<Box<dyn NetworkListener>>>;
}

/// A port that is listened on.
pub trait NetworkListener: Send + Sync {
    /// The next connection, and where it is from.
    fn accept(&self) -> BoxFuture<'_, io::Result<(NetworkStream, SocketAddr)>>;

    /// The port.
    fn port(&self) -> u16;
}

/// Both directions of a connection.
pub struct NetworkStream(ByteStream);

impl NetworkStream {
    /// A connection of two halves.
    #[must_use]
    pub fn new(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        Self(ByteStream::new(reader, writer))
    }

    pub(crate) fn into_stream(self) -> ByteStream {
        self.0
    }
}

impl std::fmt::Debug for NetworkStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetworkStream").finish_non_exhaustive()
    }
}

/// Has this thread use a network from now on.
pub fn use_network(network: impl Network) {
    NETWORK.set(Some(Rc::new(network)));
}

/// Dials on the test's network, if there is one.
pub(crate) fn dial(at: &Authority) -> Option<BoxFuture<'static, io::Result<NetworkStream>>> {
    NETWORK.with_borrow(|network| network.as_ref().map(|network| network.connect(at.host(), at.port())))
}

/// Listens on the test's network, if there is one.
pub(crate) fn listen(at: &Authority) -> Option<BoxFuture<'static, io::Result<Box<dyn NetworkListener>>>> {
    NETWORK.with_borrow(|network| network.as_ref().map(|network| network.listen(at.port())))
}
