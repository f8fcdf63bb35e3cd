//! Certificates and keys, from files or memory, and what TLS is made of them: TLS 1.3 only.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::{Error, Identity};

/// The protocols that a listener names to a TLS peer. One that names another is refused: it meant something else.
pub(crate) const ALPN: [&[u8]; 2] = [ALPN_SESSION, ALPN_STOCK];
/// What a caller of sessions names.
pub(crate) const ALPN_SESSION: &[u8] = b"fanout";
/// What a caller that speaks as stock wRPC names.
pub(crate) const ALPN_STOCK: &[u8] = b"wrpc";
/// Longest name of a certificate that identifies a caller.
const MAX_NAME_BYTES: usize = 256;
/// QUIC's codes for TLS alerts begin here.
const QUIC_ALERTS: std::ops::Range<u64> = 0x100..0x200;

/// PEM, in a file or in memory.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// Read when a listener is bound, or a connection is made: a new file is taken then.
    File(PathBuf),
    /// The text itself.
    Text(String),
}

/// What a listener shows, and whom it takes.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The chain, the listener's own certificate first.
    pub certificate: Pem,
    /// The key of the first.
    pub key: Pem,
    /// The authorities of callers. With it a caller without a certificate of theirs is refused, and each call tells
    /// the name of its certificate. Without it anyone may call, over an encrypted connection.
    pub client_ca: Option<Pem>,
}

/// Whom a caller trusts, and what it shows.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// The authorities of servers.
    pub server_ca: Pem,
    /// What this caller shows, if the server asks for it.
    pub identity: Option<ClientIdentity>,
    /// The name that the server's certificate must have, where it is not the endpoint's host.
    pub server_name: Option<String>,
}

/// A caller's certificate.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// The chain, the caller's own certificate first.
    pub certificate: Pem,
    /// The key of the first.
    pub key: Pem,
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

fn fault(what: &str, pem: &Pem, source: impl Into<crate::CodecError>) -> Error {
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

    fn certificates(&self, what: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.read(what)?).collect();
        let certificates = certificates.map_err(|error| fault(what, self, error))?;
        match certificates.is_empty() {
            true => Err(fault(what, self, "it holds no certificate in PEM")),
            false => Ok(certificates),
        }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        // The parser's error names at most a line's label.
        PrivateKeyDer::from_pem_slice(&self.read("the key")?).map_err(|error| fault("the key", self, error))
    }

    fn authorities(&self, what: &str) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(what)? {
            roots.add(certificate).map_err(|error| fault(what, self, error))?;
        }
        Ok(roots)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What a listener speaks.
pub(crate) fn server(tls: &ServerTls, alpn: &[&[u8]]) -> Result<ServerConfig, Error> {
    let chain = tls.certificate.certificates("the certificate")?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| fault("the certificate", &tls.certificate, error))?;
    let builder = match &tls.client_ca {
        Some(ca) => {
            let roots = Arc::new(ca.authorities("client_ca")?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|error| fault("client_ca", ca, error))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, tls.key.key()?)
        .map_err(|error| fault("the key", &tls.key, error))?;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// What a caller speaks.
pub(crate) fn client(tls: &ClientTls, alpn: &[&[u8]]) -> Result<ClientConfig, Error> {
    let roots = tls.server_ca.authorities("server_ca")?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| fault("server_ca", &tls.server_ca, error))?
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
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// How the holder of a verified chain is known. A certificate without a usable name is nobody's.
pub(crate) fn identity(chain: Option<&[CertificateDer<'_>]>) -> Identity {
    chain
        .and_then(<[_]>::first)
        .and_then(|certificate| name(certificate))
        .map_or(Identity::Anonymous, Identity::Certificate)
}

fn name(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
    let mut named = names.filter_map(|name| match name {
        GeneralName::URI(name) | GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    named
        .next()
        .or_else(|| certificate.subject().iter_common_name().next()?.as_str().ok())
        .filter(|name| (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control))
        .map(str::to_owned)
}

/// Which side did not accept the other, if that is what an error is about. Under TLS 1.3 a caller whose certificate is
/// refused learns of it after its own handshake, by what it reads first.
pub(crate) fn rejection(error: &(dyn StdError + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        // What an I/O error holds is not among its sources.
        return rejection(error.get_ref()?);
    }
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return match error {
            rustls::Error::AlertReceived(alert) => Some(refused_by_server(u8::from(*alert))),
            rustls::Error::InvalidCertificate(why) => Some(refused_by_caller(why)),
            rustls::Error::NoApplicationProtocol => Some("it speaks another protocol".to_owned()),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<wtransport::error::ConnectingError>() {
        return web_rejection(error);
    }
    match error.downcast_ref::<quinn::ConnectionError>() {
        Some(quinn::ConnectionError::ConnectionClosed(close)) => quic_alert(close.error_code).map(refused_by_server),
        Some(quinn::ConnectionError::TransportError(error)) if quic_alert(error.code).is_some() => {
            Some(refused_by_caller(&error.reason))
        }
        _ => rejection(error.source()?),
    }
}

/// This crate keeps QUIC's error to itself, and shows its text alone.
fn web_rejection(error: &wtransport::error::ConnectingError) -> Option<String> {
    use wtransport::error::{ConnectingError, ConnectionError};
    let alert = |text: &str| {
        let (_, code) = text.rsplit_once("handshake failed: error ")?;
        code.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    match error {
        ConnectingError::ConnectionError(ConnectionError::ConnectionClosed(close)) => {
            alert(&close.to_string()).map(refused_by_server)
        }
        ConnectingError::ConnectionError(ConnectionError::QuicProto(error)) => {
            let text = error.to_string();
            text.contains("certificate").then(|| refused_by_caller(&text))
        }
        ConnectingError::SessionRejected => Some("it serves nothing on that path".to_owned()),
        _ => None,
    }
}

fn quic_alert(code: quinn::TransportErrorCode) -> Option<u8> {
    let code = u64::from(code);
    QUIC_ALERTS
        .contains(&code)
        .then(|| u8::try_from(code - QUIC_ALERTS.start).ok())
        .flatten()
}

fn refused_by_server(alert: u8) -> String {
    match AlertDescription::from(alert) {
        AlertDescription::CertificateRequired => {
            "it requires a certificate of its client_ca, and this caller shows none".to_owned()
        }
        AlertDescription::NoApplicationProtocol => "it speaks another protocol".to_owned(),
        alert => format!("it refused this caller's certificate ({alert:?})"),
    }
}

fn refused_by_caller(why: &dyn fmt::Display) -> String {
    format!("its certificate is not accepted here: {why}")
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common_name: Option<&str>, alternatives: &[SanType]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names = alternatives.to_vec();
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").into()
    }

    #[test]
    fn a_caller_is_known_by_its_first_name() {
        let dns = SanType::DnsName("orders.example".try_into().expect("a name"));
        let uri = SanType::URI("spiffe://example/orders".try_into().expect("a name"));
        let known = |certificate: CertificateDer<'static>| identity(Some(&[certificate]));
        let by = |name: &str| Identity::Certificate(name.to_owned());
        assert_eq!(known(certificate(Some("orders"), &[])), by("orders"));
        assert_eq!(
            known(certificate(Some("orders"), std::slice::from_ref(&dns))),
            by("orders.example")
        );
        assert_eq!(known(certificate(None, &[uri, dns])), by("spiffe://example/orders"));
        assert_eq!(known(certificate(None, &[])), Identity::Anonymous);
        assert_eq!(known(certificate(Some("two\nlines"), &[])), Identity::Anonymous);
        assert_eq!(identity(None), Identity::Anonymous);
    }

    #[test]
    fn what_can_not_be_used_is_named_without_its_content() {
        let tls = ServerTls {
            certificate: Pem::Text("secret".into()),
            key: Pem::Text("secret".into()),
            client_ca: None,
        };
        let error = server(&tls, &[]).expect_err("no certificate");
        assert!(error.to_string().contains("the certificate"), "{error}");
        assert!(!format!("{error:?} {tls:?}").contains("secret"));
        let missing = Pem::File("/nowhere/at/all.pem".into());
        let error = ServerTls {
            certificate: missing,
            ..tls
        };
        let error = server(&error, &[]).expect_err("no file");
        assert!(error.to_string().contains("/nowhere/at/all.pem"), "{error}");
        assert_eq!(error.code(), "invalid-credentials");
    }
}
