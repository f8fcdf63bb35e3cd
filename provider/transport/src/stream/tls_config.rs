//! What TLS is made of: certificates, keys, authorities and revocation lists become TLS 1.3, and no version before it.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use crate::Error;
use crate::stream::pem::{Pem, fault};
use crate::stream::proof::instant;

/// The protocols that a listener names to a TLS peer. One that names another is refused: it meant something else.
pub(crate) const ALPNS: [&[u8]; 2] = [ALPN_SESSION, ALPN_STOCK];
/// What a caller of sessions names.
pub(crate) const ALPN_SESSION: &[u8] = b"fanout";
/// What a caller that speaks as stock wRPC names.
const ALPN_STOCK: &[u8] = b"wrpc";

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
pub(crate) fn client(tls: &ClientTls, alpn: &[u8]) -> Result<ClientConfig, Error> {
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
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
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
