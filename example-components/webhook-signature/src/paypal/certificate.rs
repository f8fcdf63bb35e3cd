//! The certificate that PayPal signs with: whose name it bears, where it leads to, and when it is valid.

use std::time::Duration;

use rsa::{PublicKey, pkcs1::DecodeRsaPublicKey as _, pkcs1v15, signature::Verifier as _};
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, ServerName, SignatureVerificationAlgorithm, TrustAnchor,
    UnixTime, alg_id, pem::PemObject as _,
};
use sha2::{Sha256, Sha384};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::{CERTIFICATE_NAME, DEFAULT_NAME, ROOT, invalid};
use crate::{InvalidKeys, Keys, Parameters, Refusal, key::Key};

/// A certificate that bears PayPal's name, and what leads from it to a root.
#[derive(Clone)]
pub(crate) struct Certificate {
    certificate: CertificateDer<'static>,
    intermediates: Vec<CertificateDer<'static>>,
    roots: Vec<TrustAnchor<'static>>,
}

/// Reads certificates in PEM: those that bear the name are keys, the others lead to the root.
pub(super) fn keys(pems: &[&str], parameters: &Parameters) -> Result<Vec<Key>, InvalidKeys> {
    let name = parameters.get(CERTIFICATE_NAME).unwrap_or(DEFAULT_NAME);
    let name = ServerName::try_from(name).map_err(|_| InvalidKeys::InvalidParameter {
        name: CERTIFICATE_NAME,
        problem: "is no name of a host",
    })?;
    let certificates = certificates(&pems.join("\n"))
        .filter(|certificates| !certificates.is_empty())
        .ok_or(invalid("certificates in PEM"))?;
    let roots = roots(parameters.get(ROOT).unwrap_or_default())?;
    let (named, intermediates): (Vec<_>, Vec<_>) = certificates.into_iter().partition(|certificate| {
        let parsed = EndEntityCert::try_from(certificate);
        parsed.is_ok_and(|parsed| parsed.verify_is_valid_for_subject_name(&name).is_ok())
    });
    if named.is_empty() {
        return Err(invalid("a certificate that bears PayPal's name"));
    }
    let key = |certificate| {
        Key::Certificate(Box::new(Certificate {
            certificate,
            intermediates: intermediates.clone(),
            roots: roots.clone(),
        }))
    };
    Ok(named.into_iter().map(key).collect())
}

fn roots(pem: &str) -> Result<Vec<TrustAnchor<'static>>, InvalidKeys> {
    let invalid = InvalidKeys::InvalidParameter {
        name: ROOT,
        problem: "is not certificates in PEM",
    };
    let certificates = certificates(pem)
        .filter(|certificates| !certificates.is_empty())
        .ok_or(invalid.clone())?;
    certificates
        .iter()
        .map(|certificate| anchor_from_trusted_cert(certificate).map(|anchor| anchor.to_owned()))
        .collect::<Result<_, _>>()
        .map_err(|_| invalid)
}

fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .ok()
}

/// The first certificate whose key made the signature, if it is to be trusted now. The signature comes first: only who
/// holds a key learns what is wrong with its certificate.
pub(super) fn made_by(keys: &Keys, message: &[u8], signature: &[u8], now: i64) -> Result<usize, Refusal> {
    let mut refusal = Refusal::SignatureMismatch;
    for (index, key) in keys.iter().enumerate() {
        let Key::Certificate(key) = key else { continue };
        let Ok(certificate) = EndEntityCert::try_from(&key.certificate) else {
            continue;
        };
        if certificate.verify_signature(&RsaSha256, message, signature).is_err() {
            continue;
        }
        match key.check(&certificate, now) {
            Ok(()) => return Ok(index),
            Err(untrusted) => refusal = untrusted,
        }
    }
    Err(refusal)
}

/// Whether every certificate is to be trusted now.
pub(super) fn check(keys: &Keys, now: i64) -> Result<(), Refusal> {
    for key in keys.iter() {
        let Key::Certificate(key) = key else { continue };
        let certificate = EndEntityCert::try_from(&key.certificate).map_err(|_| Refusal::UntrustedCertificate {
            problem: "it can't be read",
        })?;
        key.check(&certificate, now)?;
    }
    Ok(())
}

impl Certificate {
    fn check(&self, certificate: &EndEntityCert<'_>, now: i64) -> Result<(), Refusal> {
        let untrusted = |problem| Refusal::UntrustedCertificate { problem };
        let now = u64::try_from(now).map_err(|_| untrusted("no certificate was valid before 1970"))?;
        let path = certificate.verify_for_usage(
            &[&RsaSha256, &RsaSha384],
            &self.roots,
            &self.intermediates,
            UnixTime::since_unix_epoch(Duration::from_secs(now)),
            KeyUsage::server_auth(),
            None,
            None,
        );
        match path {
            Ok(_) => Ok(()),
            Err(webpki::Error::CertExpired { .. }) => Err(untrusted("it has expired")),
            Err(webpki::Error::CertNotValidYet { .. }) => Err(untrusted("it is not valid yet")),
            Err(_) => Err(untrusted("it does not lead to a root that is configured")),
        }
    }
}

#[derive(Debug)]
struct RsaSha256;

#[derive(Debug)]
struct RsaSha384;

impl SignatureVerificationAlgorithm for RsaSha256 {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_ENCRYPTION
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_PKCS1_SHA256
    }

    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let key = pkcs1v15::VerifyingKey::<Sha256>::new(public_key(key)?);
        let signature = signature.try_into().map_err(|_| InvalidSignature)?;
        key.verify(message, &signature).map_err(|_| InvalidSignature)
    }
}

impl SignatureVerificationAlgorithm for RsaSha384 {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_ENCRYPTION
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_PKCS1_SHA384
    }

    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let key = pkcs1v15::VerifyingKey::<Sha384>::new(public_key(key)?);
        let signature = signature.try_into().map_err(|_| InvalidSignature)?;
        key.verify(message, &signature).map_err(|_| InvalidSignature)
    }
}

fn public_key(der: &[u8]) -> Result<PublicKey, InvalidSignature> {
    PublicKey::from_pkcs1_der(der).map_err(|_| InvalidSignature)
}
