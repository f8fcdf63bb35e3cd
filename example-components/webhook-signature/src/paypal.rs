//! PayPal: `PAYPAL-TRANSMISSION-ID`, `-TIME` and `-SIG`, RSA (PKCS #1 1.5) with SHA-256 over
//! `ID|TIME|WEBHOOK-ID|CRC32`, the last the body's CRC-32 in decimal.
//! <https://developer.paypal.com/api/rest/webhooks/rest/#verify-messages-received-with-self-verification-method>
//!
//! The key is a certificate. It must lead to the configured root, be valid now, and bear PayPal's own name: a root that
//! everyone can buy a certificate from proves nothing without the name. Fetching it from `PAYPAL-CERT-URL` is the
//! caller's: ask [`is_trusted_cert_url`] first, and give what came as the secret.
//!
//! **CRC-32 is no cryptographic hash.** Who can see one signed webhook can make another body with the same CRC-32 in no
//! time, and the signature holds for it. So the signature proves who sent the id and the time; the body is proven only as
//! far as TLS keeps others from seeing a signed webhook within the tolerance. That is PayPal's specification; nothing
//! here can mend it.

use std::time::Duration;

use ::time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rsa::{
    PublicKey,
    pkcs1::DecodeRsaPublicKey as _,
    pkcs1v15,
    pkcs8::DecodePrivateKey as _,
    signature::{SignatureEncoding as _, Signer as _, Verifier as _},
};
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, ServerName, SignatureVerificationAlgorithm, TrustAnchor,
    UnixTime, alg_id, pem::PemObject as _,
};
use sha2::{Sha256, Sha384};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::{
    Coverage, InvalidKey, InvalidKeys, Keys, Parameter, Parameters, Proven, Refusal, Request, Scheme, Signed,
    SigningKey, Unsignable, Unsigned, Verified, header, key::Key, scheme::Rules, signing::Material,
};

const ID: &str = "paypal-transmission-id";
const TIME: &str = "paypal-transmission-time";
const SIGNATURE: &str = "paypal-transmission-sig";
const ALGORITHM: &str = "paypal-auth-algo";

const WEBHOOK_ID: &str = "webhook-id";
const ROOT: &str = "root";
const CERTIFICATE_NAME: &str = "certificate-name";
const DEFAULT_NAME: &str = "messageverificationcerts.paypal.com";

pub(crate) const RULES: Rules = Rules {
    name: "paypal",
    tolerance: Some(Duration::from_secs(300)),
    covers_id: true,
    covers_url: false,
    coverage: Coverage::Body,
    parameters: &[
        Parameter::required(WEBHOOK_ID, "the id that PayPal gave the webhook"),
        Parameter::required(
            ROOT,
            "the root certificates, in PEM, that the signing certificate must lead to",
        ),
        Parameter::optional(
            CERTIFICATE_NAME,
            "the name that the signing certificate must bear; by default that of PayPal's live environment",
        ),
    ],
    keys,
    signing_key,
    verify,
    sign,
};

/// Whether a URL, as `PAYPAL-CERT-URL` gives it, is one of PayPal's own, so that what it returns may be looked at.
///
/// Only `https`, only the hosts that serve PayPal's certificates, no user, no port, and nothing in the URL that two
/// parsers could take for two hosts.
pub fn is_trusted_cert_url(url: &str) -> bool {
    const HOSTS: [&str; 4] = [
        "api.paypal.com",
        "api-m.paypal.com",
        "api.sandbox.paypal.com",
        "api-m.sandbox.paypal.com",
    ];
    const PATH: &str = "/v1/notifications/certs/";
    let Some((host, path)) = url
        .strip_prefix("https://")
        .and_then(|rest| rest.split_at_checked(rest.find('/')?))
    else {
        return false;
    };
    let Some(name) = path.strip_prefix(PATH) else {
        return false;
    };
    let in_form = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    HOSTS.contains(&host) && (1..=128).contains(&name.len()) && name.bytes().all(in_form)
}

/// A certificate that bears PayPal's name, and what leads from it to a root.
#[derive(Clone)]
pub(crate) struct Certificate {
    certificate: CertificateDer<'static>,
    intermediates: Vec<CertificateDer<'static>>,
    roots: Vec<TrustAnchor<'static>>,
}

pub(crate) type PrivateKey = pkcs1v15::SigningKey<Sha256>;

/// Reads certificates in PEM: those that bear the name are keys, the others lead to the root.
fn keys(pems: &[&str], parameters: &Parameters) -> Result<Vec<Key>, InvalidKeys> {
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

fn signing_key(pem: &str) -> Result<Material, InvalidKeys> {
    PrivateKey::from_pkcs8_pem(pem)
        .map(|key| Material::Rsa(Box::new(key)))
        .map_err(|_| invalid("an RSA private key in PEM (PKCS #8)"))
}

fn invalid(expected: &'static str) -> InvalidKeys {
    InvalidKeys::Key {
        place: 1,
        source: InvalidKey::Malformed { expected },
    }
}

fn verify<'a>(keys: &Keys, request: &Request<'a>, now: i64) -> Result<Verified<'a>, Refusal> {
    let id = header::only(request, ID)?;
    let time_text = header::only(request, TIME)?;
    let signature = header::only(request, SIGNATURE)?;
    let malformed = |header, problem| Refusal::MalformedHeader { header, problem };
    if header::only(request, ALGORITHM)? != "SHA256withRSA" {
        return Err(Refusal::NoSupportedSignature {
            header: ALGORITHM,
            version: "SHA256withRSA",
        });
    }
    if !is_id(id) {
        return Err(malformed(ID, "it is empty, or holds a `|` or a space"));
    }
    let time =
        OffsetDateTime::parse(time_text, &Rfc3339).map_err(|_| malformed(TIME, "it is not a time as of RFC 3339"))?;
    let signature = STANDARD
        .decode(signature)
        .map_err(|_| malformed(SIGNATURE, "it is not base64"))?;
    let webhook_id = keys.parameter(WEBHOOK_ID).unwrap_or_default();
    let message = message(id, time_text, webhook_id, request.body);
    let key = made_by(keys, message.as_bytes(), &signature, now)?;
    Ok(Verified {
        scheme: Scheme::Paypal,
        key,
        id: Some(id),
        timestamp: Some(time.unix_timestamp()),
        proven: Proven::Body(request.body),
    })
}

/// The first certificate whose key made the signature, if it is to be trusted now. The signature comes first: only who
/// holds a key learns what is wrong with its certificate.
fn made_by(keys: &Keys, message: &[u8], signature: &[u8], now: i64) -> Result<usize, Refusal> {
    let mut refusal = Refusal::SignatureMismatch;
    for (index, key) in keys.iter().enumerate() {
        let Key::Certificate(key) = key else { continue };
        let untrusted = |problem| Refusal::UntrustedCertificate { problem };
        let Ok(certificate) = EndEntityCert::try_from(&key.certificate) else {
            continue;
        };
        if certificate.verify_signature(&RsaSha256, message, signature).is_err() {
            continue;
        }
        let Ok(now) = u64::try_from(now) else {
            return Err(untrusted("no certificate was valid before 1970"));
        };
        let path = certificate.verify_for_usage(
            &[&RsaSha256, &RsaSha384],
            &key.roots,
            &key.intermediates,
            UnixTime::since_unix_epoch(Duration::from_secs(now)),
            KeyUsage::server_auth(),
            None,
            None,
        );
        match path {
            Ok(_) => return Ok(index),
            Err(webpki::Error::CertExpired { .. }) => refusal = untrusted("it has expired"),
            Err(webpki::Error::CertNotValidYet { .. }) => refusal = untrusted("it is not valid yet"),
            Err(_) => refusal = untrusted("it does not lead to a root that is configured"),
        }
    }
    Err(refusal)
}

fn message(id: &str, time: &str, webhook_id: &str, body: &[u8]) -> String {
    format!("{id}|{time}|{webhook_id}|{}", crc32fast::hash(body))
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'|')
}

fn sign<'a>(key: &SigningKey, webhook: &Unsigned<'a>) -> Result<Signed<'a>, Unsignable> {
    let Material::Rsa(private) = &key.material else {
        unreachable!("paypal reads no other key")
    };
    if !is_id(webhook.id) {
        return Err(Unsignable::InvalidId);
    }
    let time = OffsetDateTime::from_unix_timestamp(webhook.timestamp)
        .ok()
        .and_then(|time| time.to_offset(UtcOffset::UTC).format(&Rfc3339).ok())
        .ok_or(Unsignable::InvalidTime)?;
    let webhook_id = key.parameters.get(WEBHOOK_ID).unwrap_or_default();
    let signature = private.sign(message(webhook.id, &time, webhook_id, webhook.body).as_bytes());
    let headers = vec![
        (ID, webhook.id.to_owned()),
        (TIME, time),
        (SIGNATURE, STANDARD.encode(signature.to_bytes())),
        (ALGORITHM, "SHA256withRSA".to_owned()),
    ];
    Ok(Signed::headers(headers, webhook))
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
