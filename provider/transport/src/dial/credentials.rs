//! What a caller shows and trusts, read again when its files have changed: a certificate ends while a connection is
//! to be made again years later.

use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;

use crate::tls::{self, ClientTls, Pem};
use crate::{CodecError, Error};

/// Credentials in the form that a connection takes.
pub(super) struct Credentials<C> {
    tls: ClientTls,
    alpn: Vec<Vec<u8>>,
    into: fn(ClientConfig) -> Result<C, CodecError>,
    current: Mutex<Current<C>>,
}

struct Current<C> {
    config: C,
    files: Vec<Option<Stamp>>,
}

/// Device, inode, length and time of change of a file.
type Stamp = (u64, u64, u64, i64, i64);

impl<C: Clone> Credentials<C> {
    pub(super) fn new(
        tls: &ClientTls,
        alpn: &[&[u8]],
        into: fn(ClientConfig) -> Result<C, CodecError>,
    ) -> Result<Self, Error> {
        let files = stamps(tls);
        let config = make(tls, alpn, into)?;
        Ok(Self {
            tls: tls.clone(),
            alpn: alpn.iter().map(|name| name.to_vec()).collect(),
            into,
            current: Mutex::new(Current { config, files }),
        })
    }

    /// Those in force. Files that can't be used, as in the middle of a renewal, leave the old ones in force, and are
    /// tried again by the next connection.
    pub(super) fn current(&self) -> C {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let files = stamps(&self.tls);
        if files != current.files {
            let alpn: Vec<_> = self.alpn.iter().map(Vec::as_slice).collect();
            match make(&self.tls, &alpn, self.into) {
                Ok(config) => *current = Current { config, files },
                Err(error) => {
                    let why = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, why, "changed credentials can't be used: the old ones are shown");
                }
            }
        }
        current.config.clone()
    }
}

fn make<C>(tls: &ClientTls, alpn: &[&[u8]], into: fn(ClientConfig) -> Result<C, CodecError>) -> Result<C, Error> {
    into(tls::client(tls, alpn)?).map_err(|source| Error::Tls {
        what: "TLS".to_owned(),
        source,
    })
}

fn stamps(tls: &ClientTls) -> Vec<Option<Stamp>> {
    let identity = tls.identity.iter().flat_map(|it| [&it.certificate, &it.key]);
    let files = std::iter::once(&tls.server_ca).chain(identity);
    files
        .map(|pem| {
            let Pem::File(path) = pem else { return None };
            let found = std::fs::metadata(path).ok()?;
            Some((found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
        })
        .collect()
}

impl<C> std::fmt::Debug for Credentials<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// As TLS on a byte stream takes them.
pub(super) fn for_socket(config: ClientConfig) -> Result<Arc<ClientConfig>, CodecError> {
    Ok(Arc::new(config))
}
