//! What a caller shows and trusts, read again for each connection: a certificate ends while a connection is to be made
//! again years later.

use std::sync::{Mutex, PoisonError};

use rustls::ClientConfig;
use rustls::version::TLS13;

use crate::stream::pem::{SERVER_CA, fault};
use crate::stream::tls_config::{ClientTls, provider};
use crate::{CodecError, Error};

/// Credentials in the form that a transport takes.
pub(crate) struct ClientCredentials<C> {
    tls: ClientTls,
    alpn: &'static [u8],
    into: fn(ClientConfig) -> Result<C, CodecError>,
    /// Those that could be used last.
    last: Mutex<C>,
}

impl<C: Clone> ClientCredentials<C> {
    pub(crate) fn new(
        tls: &ClientTls,
        alpn: &'static [u8],
        into: fn(ClientConfig) -> Result<C, CodecError>,
    ) -> Result<Self, Error> {
        Ok(Self {
            last: Mutex::new(read(tls, alpn, into)?),
            tls: tls.clone(),
            alpn,
            into,
        })
    }

    /// Credentials for one connection. Files that can't be used, as in the middle of a renewal, leave the last ones in
    /// force.
    pub(crate) fn current(&self) -> C {
        let read = read(&self.tls, self.alpn, self.into);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(credentials) => *last = credentials,
            Err(error) => {
                let why = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, why, "credentials can't be used: the last ones are shown");
            }
        }
        last.clone()
    }
}

fn read<C>(tls: &ClientTls, alpn: &[u8], into: fn(ClientConfig) -> Result<C, CodecError>) -> Result<C, Error> {
    into(config(tls, alpn)?).map_err(|source| Error::Tls {
        what: "TLS".to_owned(),
        source,
    })
}

fn config(tls: &ClientTls, alpn: &[u8]) -> Result<ClientConfig, Error> {
    let roots = tls.server_ca.authorities(SERVER_CA)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| fault(SERVER_CA, &tls.server_ca, error))?
        .with_root_certificates(roots);
    let mut config = match &tls.identity {
        Some(identity) => {
            let chain = identity.certificate.certificates("the certificate")?;
            builder
                .with_client_auth_cert(chain, identity.key.key()?)
                .map_err(|error| fault("the key", &identity.key, error))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

impl<C> std::fmt::Debug for ClientCredentials<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCredentials")
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}
