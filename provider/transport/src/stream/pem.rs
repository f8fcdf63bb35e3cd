//! Certificates, keys and revocation lists in PEM, from files or memory.

use std::fmt;
use std::path::PathBuf;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::Error;

/// What DER begins with, and PEM does not.
const DER_SEQUENCE: u8 = 0x30;

/// PEM, in a file or in memory.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// Read when a listener is bound, by [`crate::Serving::read_again`], and when a connection is made.
    File(PathBuf),
    /// The text itself.
    Text(String),
}

impl From<PathBuf> for Pem {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

/// Without the text: it may be a key.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Text(_) => f.write_str("[in memory]"),
        }
    }
}

/// What a [`Pem`] is, for messages.
pub(crate) const CALLERS_CA: &str = "the authority of callers' certificates";
pub(crate) const SERVER_CA: &str = "the authority of the server's certificate";
pub(crate) const REVOCATION_LIST: &str = "the list of revoked certificates";

pub(crate) fn fault(what: &str, pem: &Pem, source: impl Into<crate::CodecError>) -> Error {
    Error::Tls {
        what: format!("{what} {pem:?}"),
        source: source.into(),
    }
}

impl Pem {
    fn read(&self, what: &str) -> Result<Vec<u8>, Error> {
        match self {
            Self::File(path) => std::fs::read(path).map_err(|error| fault(what, self, error)),
            Self::Text(text) => Ok(text.clone().into_bytes()),
        }
    }

    pub(crate) fn certificates(&self, what: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.read(what)?).collect();
        let certificates = certificates.map_err(|error| fault(what, self, error))?;
        match certificates.is_empty() {
            true => Err(fault(what, self, "it holds no certificate in PEM")),
            false => Ok(certificates),
        }
    }

    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        // The parser's error names at most a line's label.
        PrivateKeyDer::from_pem_slice(&self.read("the key")?).map_err(|error| fault("the key", self, error))
    }

    pub(crate) fn authorities(&self, what: &str) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(what)? {
            roots.add(certificate).map_err(|error| fault(what, self, error))?;
        }
        Ok(roots)
    }

    pub(crate) fn revocation_lists(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
        let bytes = self.read(REVOCATION_LIST)?;
        let lists = match bytes.first() {
            Some(&DER_SEQUENCE) => vec![CertificateRevocationListDer::from(bytes)],
            _ => {
                let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
                lists.map_err(|error| fault(REVOCATION_LIST, self, error))?
            }
        };
        match lists.is_empty() {
            true => Err(fault(
                REVOCATION_LIST,
                self,
                "it holds no revocation list in PEM or DER",
            )),
            false => Ok(lists),
        }
    }
}
