//! TCP: a connection for each byte stream, neither encrypted nor authenticated.

use std::io;
use std::net::SocketAddr;

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use tokio::net::{TcpListener, TcpStream, lookup_host};

use crate::Identity;
use crate::endpoint::Authority;
use crate::stream::accept::{Accepted, Socket};
use crate::stream::byte_stream::ByteStream;
use crate::stream::connection_slots::PeerKey;
use crate::stream::proof::Proof;
#[cfg(feature = "testing")]
use crate::testing::network;

/// A port that is listened on.
#[derive(Debug)]
pub(crate) struct TcpSocket(TcpListener);

impl TcpSocket {
    /// Binds the first address of a name. With `beyond_loopback` it may be more than this machine's.
    pub(crate) async fn bind(at: &Authority, beyond_loopback: bool) -> io::Result<Self> {
        Ok(Self(TcpListener::bind(resolve_own(at, beyond_loopback).await?).await?))
    }

    pub(crate) fn port(&self) -> io::Result<u16> {
        Ok(self.0.local_addr()?.port())
    }

    /// The next connection, and where it is from.
    pub(crate) async fn next(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, address) = self.0.accept().await?;
        // Small answers go out at once; they are gathered here already. A peer that is gone is noticed later.
        stream.set_nodelay(true).ok();
        Ok((stream, address))
    }
}

impl Socket for TcpSocket {
    fn accept(&self) -> BoxFuture<'_, io::Result<Accepted>> {
        let accepted = async {
            let (stream, address) = self.next().await?;
            let (reader, writer) = stream.into_split();
            Ok(accepted_from(address, ByteStream::new(reader, writer)))
        };
        accepted.boxed()
    }
}

#[cfg(feature = "testing")]
impl Socket for Box<dyn network::NetworkListener> {
    fn accept(&self) -> BoxFuture<'_, io::Result<Accepted>> {
        let accepted = async {
            let (stream, address) = (**self).accept().await?;
            Ok(accepted_from(address, stream.into_stream()))
        };
        accepted.boxed()
    }
}

/// A connection whose peer is known by its address alone.
fn accepted_from(address: SocketAddr, stream: ByteStream) -> Accepted {
    let identity = Identity::of_address(address.ip());
    let upgraded = (stream, Proof::from(identity.clone()));
    Accepted {
        key: PeerKey::of_address(address.ip()),
        identity,
        handshake: ready(Ok(upgraded)).boxed(),
    }
}

/// Listens as [`TcpSocket::bind`]; with the port.
pub(crate) async fn listen(at: &Authority, beyond_loopback: bool) -> io::Result<(Box<dyn Socket>, u16)> {
    #[cfg(feature = "testing")]
    if let Some(listening) = network::listen(at) {
        let listener = listening.await?;
        let port = listener.port();
        return Ok((Box::new(listener), port));
    }
    let socket = TcpSocket::bind(at, beyond_loopback).await?;
    let port = socket.port()?;
    Ok((Box::new(socket), port))
}

/// Connects to a port.
pub(crate) async fn connect(at: &Authority) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((at.host(), at.port())).await?;
    // Calls are gathered into writes here already.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A new byte stream.
pub(crate) async fn dial(at: &Authority) -> io::Result<ByteStream> {
    #[cfg(feature = "testing")]
    if let Some(dialled) = network::dial(at) {
        return Ok(dialled.await?.into_stream());
    }
    let (reader, writer) = connect(at).await?.into_split();
    Ok(ByteStream::new(reader, writer))
}

/// The first address of a name.
pub(crate) async fn resolve(at: &Authority) -> io::Result<SocketAddr> {
    let first = lookup_host((at.host(), at.port())).await?.next();
    first.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// The first address of a name that is to be listened on.
pub(crate) async fn resolve_own(at: &Authority, beyond_loopback: bool) -> io::Result<SocketAddr> {
    let address = resolve(at).await?;
    if !beyond_loopback && !address.ip().is_loopback() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the name stands for {}, which is not the loopback", address.ip()),
        ));
    }
    Ok(address)
}
