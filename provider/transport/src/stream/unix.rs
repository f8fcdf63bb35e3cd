//! Unix sockets: a connection for each byte stream, of a peer whose user the kernel knows.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use tokio::net::{UnixListener, UnixStream};

use crate::Identity;
use crate::stream::accept::{Accepted, Socket};
use crate::stream::byte_stream::ByteStream;
use crate::stream::connection_slots::PeerKey;
use crate::stream::proof::Proof;

/// What the kernel calls a user that it does not know.
const NO_USER: u32 = u32::MAX;

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

impl Socket for UnixSocket {
    fn accept(&self) -> BoxFuture<'_, io::Result<Accepted>> {
        let accepted = async {
            let (stream, _) = self.socket.accept().await?;
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
            let (reader, writer) = stream.into_split();
            let upgraded = (ByteStream::new(reader, writer), Proof::from(identity.clone()));
            Ok(Accepted {
                key: PeerKey::User(peer.uid()),
                identity,
                handshake: ready(Ok(upgraded)).boxed(),
            })
        };
        accepted.boxed()
    }
}

/// A new byte stream.
pub(crate) async fn dial(path: &Path) -> io::Result<ByteStream> {
    let (reader, writer) = UnixStream::connect(path).await?.into_split();
    Ok(ByteStream::new(reader, writer))
}
