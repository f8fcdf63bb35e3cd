//! What a listener shows to callers, and whom it lets in.
//!
//! Credentials are replaced as a whole while their listener goes on: a handshake goes by those in force when it begins,
//! and an open connection is judged again by new ones. A resolver of certificates would replace the certificate alone,
//! and authorities and revocation lists change as well (docs/adr/0025).

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use quinn::crypto::rustls::QuicServerConfig;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use tokio::sync::watch;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use crate::Error;
use crate::stream::pem::{CALLERS_CA, Pem, REVOCATION_LIST, fault};
use crate::stream::proof::instant;
use crate::stream::tls_config::{ServerTls, provider};

/// The credentials of a listener, whatever they are at the moment.
pub(crate) type InForce = watch::Receiver<Arc<ServerCredentials>>;

/// One reading of a listener's certificate, key, authorities and revocation lists.
pub(crate) struct ServerCredentials {
    /// As TLS on a byte stream takes them.
    pub(crate) tls: Arc<ServerConfig>,
    /// As QUIC takes them.
    pub(crate) quic: Arc<QuicServerConfig>,
    /// `None` lets in callers without a certificate.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl ServerCredentials {
    /// Reads the files of a listener. `alpns` are the protocols that its peers may name.
    pub(crate) fn read(tls: &ServerTls, alpns: &[&[u8]]) -> Result<Self, Error> {
        let chain = tls.certificate.certificates("the certificate")?;
        let verifier = tls.client_ca.as_ref().map(|ca| verifier(ca, tls.client_crl.as_ref()));
        let verifier = verifier.transpose()?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| fault("the certificate", &tls.certificate, error))?;
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, tls.key.key()?)
            .map_err(|error| fault("the key", &tls.key, error))?;
        config.alpn_protocols = alpns.iter().map(|name| name.to_vec()).collect();
        // A session that is resumed is not verified again: its certificate may be over, or revoked.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let config = Arc::new(config);
        let quic = QuicServerConfig::try_from(Arc::clone(&config));
        Ok(Self {
            quic: Arc::new(quic.map_err(|error| fault("the certificate", &tls.certificate, error))?),
            tls: config,
            verifier,
        })
    }

    /// True if callers have to show a certificate.
    pub(crate) fn authenticate(&self) -> bool {
        self.verifier.is_some()
    }

    /// Whether a caller that showed this chain, which is empty for one that showed none, would be let in now.
    pub(crate) fn accept(&self, chain: &[CertificateDer<'_>]) -> bool {
        match (&self.verifier, chain.split_first()) {
            (None, None) => true,
            (Some(verifier), Some((own, intermediates))) => {
                verifier.verify_client_cert(own, intermediates, UnixTime::now()).is_ok()
            }
            _ => false,
        }
    }
}

/// Certificate, key, authorities and revocation lists that were read for a listener, and are not in force yet: see
/// [`crate::Serving::read_again`]. Dropping it changes nothing.
#[derive(Debug)]
#[must_use = "it changes nothing before it is applied"]
pub struct Renewal {
    /// `None` for a listener that shows no certificate.
    pub(crate) read: Option<(watch::Sender<Arc<ServerCredentials>>, ServerCredentials)>,
}

impl Renewal {
    /// Puts them in force. Handshakes from now on go by them; connections that are open go on, but for those whose
    /// callers would not be let in any more: what these have begun is answered, and they are notified to leave.
    pub fn apply(self) {
        if let Some((in_force, credentials)) = self.read {
            in_force.send_replace(Arc::new(credentials));
        }
    }
}

fn verifier(ca: &Pem, crl: Option<&Pem>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let roots = Arc::new(ca.authorities(CALLERS_CA)?);
    let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
    if let Some(crl) = crl {
        let lists = crl.revocation_lists()?;
        check_lists(&lists, crl, ca)?;
        verifier = verifier.with_crls(lists);
    }
    verifier.build().map_err(|error| fault(CALLERS_CA, ca, error))
}

/// Refuses lists that leave out an authority: each of its callers would be refused, one by one, without a reason that
/// anyone here sees. A list whose time is over is used all the same: what it revoked stays revoked.
fn check_lists(lists: &[CertificateRevocationListDer<'_>], crl: &Pem, ca: &Pem) -> Result<(), Error> {
    let mut listed = Vec::new();
    for list in lists {
        let parsed = CertificateRevocationList::from_der(list);
        let (_, list) = parsed.map_err(|_| fault(REVOCATION_LIST, crl, "it is no revocation list"))?;
        let over = |next: &x509_parser::time::ASN1Time| SystemTime::now() > instant(next.timestamp());
        if list.next_update().is_some_and(|next| over(&next)) {
            tracing::warn!(
                issuer = %list.issuer(), file = ?crl,
                "a revocation list is out of date: what was revoked since it was made is not known here"
            );
        }
        listed.push(list.issuer().as_raw().to_vec());
    }
    for authority in ca.certificates(CALLERS_CA)? {
        let parsed = X509Certificate::from_der(&authority);
        let (_, authority) = parsed.map_err(|_| fault(CALLERS_CA, ca, "it is no certificate"))?;
        if !listed.iter().any(|issuer| issuer == authority.subject().as_raw()) {
            let why = format!("it holds no revocation list of the authority {}", authority.subject());
            return Err(fault(REVOCATION_LIST, crl, why));
        }
    }
    Ok(())
}

impl fmt::Debug for ServerCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCredentials")
            .field("authenticate", &self.authenticate())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_used_is_named_without_its_content() {
        let tls = ServerTls {
            certificate: Pem::Text("secret".into()),
            key: Pem::Text("secret".into()),
            client_ca: None,
            client_crl: None,
        };
        let error = ServerCredentials::read(&tls, &[]).expect_err("no certificate");
        assert!(error.to_string().contains("the certificate"), "{error}");
        assert!(!format!("{error:?} {tls:?}").contains("secret"));
        let missing = Pem::File("/nowhere/at/all.pem".into());
        let error = ServerTls {
            certificate: missing,
            ..tls
        };
        let error = ServerCredentials::read(&error, &[]).expect_err("no file");
        assert!(error.to_string().contains("/nowhere/at/all.pem"), "{error}");
        assert_eq!(error.code(), "invalid-credentials");
    }
}
