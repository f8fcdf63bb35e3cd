//! Sockets that bring one byte stream a connection: TCP and Unix, and what is spoken on TCP besides.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, lookup_host};
use tokio_rustls::TlsAcceptor;

use crate::Identity;
use crate::endpoint::Authority;
use crate::listen::places::Key;
use crate::listen::stream::Stream;
use crate::tls::{self, Holder};

/// What the kernel calls a user that it does not know.
const NO_USER: u32 = u32::MAX;

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
    /// Whoever has no certificate of an authority is refused.
    pub(crate) certificates: bool,
}

/// Whose a connection is.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    As(Identity),
    By(Holder),
}

impl Upgrade {
    /// The byte stream of a connection, and how its peer is known. `identity` is what is known without a certificate.
    /// The caller bounds its time.
    pub(crate) async fn run(self, raw: Raw, identity: Identity) -> io::Result<(Stream, Known)> {
        let (tcp, acceptor) = match (raw, self.tls) {
            (Raw::Tcp(tcp), Some(acceptor)) => (tcp, acceptor),
            (raw, _) => return Ok((raw.into(), Known::As(identity))),
        };
        let stream = acceptor.accept(tcp).await?;
        let known = match self.certificates {
            true => {
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                Known::By(tls::holder(chain).ok_or_else(unreadable)?)
            }
            false => Known::As(identity),
        };
        Ok((Stream::of(stream), known))
    }
}

pub(crate) fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its certificate can't be read")
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
                let (key, identity) = (Key::of_address(address.ip()), Identity::of_address(address.ip()));
                Ok((Raw::Tcp(stream), key, identity))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.socket.accept().await?;
                // Of this connection, not of the socket.
                let unknown = |error| io::Error::new(io::ErrorKind::ConnectionAborted, error);
                let peer = stream.peer_cred().map_err(unknown)?;
                let identity = match peer.uid() {
                    NO_USER => Identity::Nobody,
                    uid => Identity::Unix {
                        uid,
                        gid: peer.gid(),
                        pid: peer.pid(),
                    },
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
    /// Binds a path. A socket that nobody listens on any more, as a killed server leaves it, is replaced; anything
    /// else that is there stays.
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
