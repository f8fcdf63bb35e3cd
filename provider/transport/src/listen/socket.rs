//! Sockets that bring one byte stream a connection: TCP and Unix, and what is spoken on TCP besides.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, lookup_host};

use crate::endpoint::Authority;
use crate::listen::shared::Key;
use crate::listen::stream::Stream;
use tokio_rustls::TlsAcceptor;
use wrpc_websockets::ServerBuilder;

use crate::endpoint::UrlPath;
use crate::{Identity, tls, websocket};

/// A socket that listens.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

/// A connection that was just accepted.
#[derive(Debug)]
pub(crate) enum Raw {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What has to be agreed on before a connection is a byte stream.
#[derive(Clone, Default)]
pub(crate) struct Upgrade {
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) web: Option<UrlPath>,
}

impl Upgrade {
    /// The byte stream of a connection, and how its peer is known. The caller bounds its time.
    pub(crate) async fn run(self, raw: Raw, identity: Identity) -> io::Result<(Stream, Identity)> {
        match (raw, self.tls) {
            (Raw::Tcp(tcp), Some(acceptor)) => {
                let stream = acceptor.accept(tcp).await?;
                let identity = tls::identity(stream.get_ref().1.peer_certificates());
                Ok((byte_stream(self.web, stream).await?, identity))
            }
            (Raw::Tcp(tcp), None) if self.web.is_some() => Ok((byte_stream(self.web, tcp).await?, identity)),
            (raw, _) => Ok((raw.into(), identity)),
        }
    }
}

async fn byte_stream<T>(web: Option<UrlPath>, stream: T) -> io::Result<Stream>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some(path) = web else {
        return Ok(Stream::of(stream));
    };
    let accepted = ServerBuilder::new().limits(websocket::limits()).accept(stream).await;
    let (request, socket) = accepted.map_err(io::Error::other)?;
    if request.uri().path() != path.as_str() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "nothing is served on that path",
        ));
    }
    // A page in a browser calls on behalf of whoever looks at it: on the loopback it could reach what only this
    // machine may.
    if request.headers().contains_key("origin") {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "pages in a browser are not served",
        ));
    }
    Ok(websocket::stream(socket))
}

/// Binds the first address of a name. `beyond_loopback` tells whether it may be more than this machine's.
pub(crate) async fn resolve(authority: &Authority, beyond_loopback: bool) -> io::Result<SocketAddr> {
    let mut addresses = lookup_host((authority.host(), authority.port())).await?;
    let address = addresses
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?;
    if !beyond_loopback && !address.ip().is_loopback() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the name stands for {}, which is not the loopback", address.ip()),
        ));
    }
    Ok(address)
}

impl Socket {
    /// The next connection, and whose it is.
    pub(crate) async fn accept(&self) -> io::Result<(Raw, Key, Identity)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Small answers go out at once; they are gathered here already. A peer that is gone is noticed later.
                stream.set_nodelay(true).ok();
                Ok((Raw::Tcp(stream), Key::Address(address.ip()), Identity::Anonymous))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.socket.accept().await?;
                // Of this connection, not of the socket.
                let unknown = |error| io::Error::new(io::ErrorKind::ConnectionAborted, error);
                let peer = stream.peer_cred().map_err(unknown)?;
                let identity = Identity::Unix {
                    uid: peer.uid(),
                    gid: peer.gid(),
                    pid: peer.pid(),
                };
                Ok((Raw::Unix(stream), Key::User(peer.uid()), identity))
            }
        }
    }
}

impl Stream {
    /// A byte stream whose halves can't be told apart otherwise.
    pub(crate) fn of<T>(stream: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader: Box::new(reader),
            writer: Box::new(writer),
            delivered: None,
        }
    }
}

impl From<Raw> for Stream {
    fn from(raw: Raw) -> Self {
        match raw {
            Raw::Tcp(stream) => {
                let (reader, writer) = stream.into_split();
                Self {
                    reader: Box::new(reader),
                    writer: Box::new(writer),
                    delivered: None,
                }
            }
            Raw::Unix(stream) => {
                let (reader, writer) = stream.into_split();
                Self {
                    reader: Box::new(reader),
                    writer: Box::new(writer),
                    delivered: None,
                }
            }
        }
    }
}

/// A Unix socket, whose path is removed on drop if it is still ours.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    socket: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl UnixSocket {
    /// Binds a path. A socket that nobody listens on any more, as a killed server leaves it, is replaced; anything else
    /// that is there stays.
    pub(crate) async fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            match UnixStream::connect(path).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens on it")),
                Err(error) => return Err(error),
            }
        }
        // Bound aside, and put in its place once it has its permissions: nobody can open it before.
        let aside = path.with_extension(format!("{}.new", std::process::id()));
        if std::fs::symlink_metadata(&aside).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(&aside)?;
        }
        let socket = UnixListener::bind(&aside)?;
        let placed = std::fs::set_permissions(&aside, Permissions::from_mode(mode))
            .and_then(|()| std::fs::symlink_metadata(&aside))
            .and_then(|placed| std::fs::hard_link(&aside, path).map(|()| placed.ino()));
        std::fs::remove_file(&aside)?;
        Ok(Self {
            socket,
            inode: placed?,
            path: std::path::absolute(path)?,
        })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a socket's path stays behind");
        }
    }
}
