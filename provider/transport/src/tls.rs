//! Certificates and keys, from files or memory, and what TLS is made of them: TLS 1.3 only.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, RootCertStore, ServerConfig};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, GeneralName, X509Certificate};

use crate::caller::CertificateNames;
use crate::{Error, Identity};

/// The protocols that a listener names to a TLS peer. One that names another is refused: it meant something else.
pub(crate) const ALPN: [&[u8]; 2] = [ALPN_SESSION, ALPN_STOCK];
/// What a caller of sessions names.
pub(crate) const ALPN_SESSION: &[u8] = b"fanout";
/// What a caller that speaks as stock wRPC names.
pub(crate) const ALPN_STOCK: &[u8] = b"wrpc";
/// Longest name of a certificate that identifies a caller: what SPIFFE allows an id.
const MAX_NAME_BYTES: usize = 2048;
/// Names of one kind that identify a caller; public authorities sign a hundred.
const MAX_NAMES: usize = 128;
/// What DER begins with, and PEM does not.
const DER_SEQUENCE: u8 = 0x30;
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
    /// the names of its certificate. Without it anyone may call, over an encrypted connection.
    pub client_ca: Option<Pem>,
    /// What those authorities have revoked: a list of each of them, as PEM or (in a file) DER. A caller whose
    /// authority has no list in it is refused.
    pub client_crl: Option<Pem>,
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

    fn revocation_lists(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
        const WHAT: &str = "client_crl";
        let bytes = self.read(WHAT)?;
        let lists = match bytes.first() {
            Some(&DER_SEQUENCE) => vec![CertificateRevocationListDer::from(bytes)],
            _ => {
                let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
                lists.map_err(|error| fault(WHAT, self, error))?
            }
        };
        match lists.is_empty() {
            true => Err(fault(WHAT, self, "it holds no revocation list in PEM or DER")),
            false => Ok(lists),
        }
    }
}

/// Refuses lists that leave out an authority: each of its callers would be refused, one by one, without a reason that
/// anyone here sees. A list whose time is over is used all the same: what it revoked stays revoked.
fn check_lists(lists: &[CertificateRevocationListDer<'_>], crl: &Pem, ca: &Pem) -> Result<(), Error> {
    let mut listed = Vec::new();
    for list in lists {
        let parsed = CertificateRevocationList::from_der(list);
        let (_, list) = parsed.map_err(|_| fault("client_crl", crl, "it is no revocation list"))?;
        let over = |next: &x509_parser::time::ASN1Time| SystemTime::now() > instant(next.timestamp());
        if list.next_update().is_some_and(|next| over(&next)) {
            tracing::warn!(
                issuer = %list.issuer(), file = ?crl,
                "a revocation list is out of date: what was revoked since it was made is not known here"
            );
        }
        listed.push(list.issuer().as_raw().to_vec());
    }
    for authority in ca.certificates("client_ca")? {
        let parsed = X509Certificate::from_der(&authority);
        let (_, authority) = parsed.map_err(|_| fault("client_ca", ca, "it is no certificate"))?;
        if !listed.iter().any(|issuer| issuer == authority.subject().as_raw()) {
            let why = format!("it holds no revocation list of the authority {}", authority.subject());
            return Err(fault("client_crl", crl, why));
        }
    }
    Ok(())
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
            let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            if let Some(crl) = &tls.client_crl {
                let lists = crl.revocation_lists()?;
                check_lists(&lists, crl, ca)?;
                verifier = verifier.with_crls(lists);
            }
            let verifier = verifier.build().map_err(|error| fault("client_ca", ca, error))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, tls.key.key()?)
        .map_err(|error| fault("the key", &tls.key, error))?;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // A session that is resumed is not verified again: its certificate may be over, or revoked.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
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

/// What a verified certificate proves, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) identity: Identity,
    /// The last moment at which the certificate holds.
    pub(crate) not_after: SystemTime,
}

/// The holder of a verified chain. A certificate without a usable name is nobody's; `None` for one that can't be read
/// here, whatever the verifier thought of it.
pub(crate) fn holder(chain: &[CertificateDer<'_>]) -> Option<Holder> {
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    let usable = |name: &&str| (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control);
    let mut names = CertificateNames::default();
    let alternative = certificate.subject_alternative_name().ok()?;
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        let (of_its_kind, name) = match name {
            GeneralName::URI(name) => (&mut names.uris, *name),
            GeneralName::DNSName(name) => (&mut names.dns, *name),
            _ => continue,
        };
        if usable(&name) && of_its_kind.len() < MAX_NAMES {
            of_its_kind.push(name.to_owned());
        }
    }
    let common_names = certificate.subject().iter_common_name();
    let common_names = common_names.filter_map(|name| name.as_str().ok()).filter(usable);
    names.common_names = common_names.take(MAX_NAMES).map(str::to_owned).collect();
    Some(Holder {
        identity: match names == CertificateNames::default() {
            true => Identity::Nobody,
            false => Identity::Certificate(Arc::new(names)),
        },
        not_after: instant(certificate.validity().not_after.timestamp()),
    })
}

/// A time before 1970 is over as much as 1970 is.
fn instant(unix_seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_seconds).unwrap_or(0))
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
    fn a_certificate_tells_every_name_by_its_kind() {
        let dns = |name: &str| SanType::DnsName(name.try_into().expect("a name"));
        let uri = |name: &str| SanType::URI(name.try_into().expect("a name"));
        let known = |certificate: CertificateDer<'static>| holder(&[certificate]).expect("it can be read").identity;
        let names = |uris: &[&str], dns: &[&str], common_names: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            Identity::Certificate(Arc::new(CertificateNames {
                uris: owned(uris),
                dns: owned(dns),
                common_names: owned(common_names),
            }))
        };
        assert_eq!(known(certificate(Some("orders"), &[])), names(&[], &[], &["orders"]));
        let all = [dns("a.example"), uri("spiffe://a"), dns("b.example"), uri("spiffe://b")];
        assert_eq!(
            known(certificate(Some("spiffe://c"), &all)),
            names(
                &["spiffe://a", "spiffe://b"],
                &["a.example", "b.example"],
                &["spiffe://c"]
            )
        );
        assert_eq!(
            known(certificate(None, &[uri("spiffe://a")])),
            names(&["spiffe://a"], &[], &[])
        );
        // Whoever has no name is nobody, not some process of this machine.
        for nameless in [
            certificate(None, &[]),
            certificate(Some(""), &[]),
            certificate(Some("two\nlines"), &[]),
            certificate(Some("nul\0.example"), &[]),
            certificate(None, &[SanType::IpAddress("127.0.0.1".parse().expect("an address"))]),
        ] {
            assert_eq!(known(nameless), Identity::Nobody);
        }
        assert_eq!(holder(&[CertificateDer::from(vec![1, 2, 3])]), None);
        assert_eq!(holder(&[]), None);
    }

    #[test]
    fn a_certificate_tells_when_it_ends() {
        let mut params = CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").into();
        let days = (2031 - 1970) * 365 + 15 + 31 + 2;
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
        assert_eq!(holder(&[certificate]).expect("it can be read").not_after, expected);
    }

    #[test]
    fn what_can_not_be_used_is_named_without_its_content() {
        let tls = ServerTls {
            certificate: Pem::Text("secret".into()),
            key: Pem::Text("secret".into()),
            client_ca: None,
            client_crl: None,
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
