//! What PayPal signs, and the headers that carry it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use rsa::{
    pkcs1v15,
    pkcs8::DecodePrivateKey as _,
    signature::{SignatureEncoding as _, Signer as _},
};
use sha2::Sha256;

use super::{WEBHOOK_ID, certificate, invalid};
use crate::{
    InvalidKeys, Keys, Proven, Refusal, Request, Scheme, Signed, SigningKey, Unsignable, Unsigned, Verified, header,
    signing::Material,
};

const ID: &str = "paypal-transmission-id";
const TIME: &str = "paypal-transmission-time";
const SIGNATURE: &str = "paypal-transmission-sig";
const ALGORITHM: &str = "paypal-auth-algo";

pub(crate) type PrivateKey = pkcs1v15::SigningKey<Sha256>;

pub(super) fn signing_key(pem: &str) -> Result<Material, InvalidKeys> {
    PrivateKey::from_pkcs8_pem(pem)
        .map(|key| Material::Rsa(Box::new(key)))
        .map_err(|_| invalid("an RSA private key in PEM (PKCS #8)"))
}

pub(super) fn verify<'a>(keys: &Keys, request: &Request<'a>, now: i64) -> Result<Verified<'a>, Refusal> {
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
    let time: Timestamp = time_text
        .parse()
        .map_err(|_| malformed(TIME, "it is not a time as of RFC 3339"))?;
    let signature = STANDARD
        .decode(signature)
        .map_err(|_| malformed(SIGNATURE, "it is not base64"))?;
    let webhook_id = keys.parameter(WEBHOOK_ID).unwrap_or_default();
    let message = message(id, time_text, webhook_id, request.body);
    let key = certificate::made_by(keys, message.as_bytes(), &signature, now)?;
    Ok(Verified {
        scheme: Scheme::Paypal,
        key,
        id: Some(id),
        timestamp: Some(time.as_second()),
        proven: Proven::Checksum(request.body),
    })
}

pub(super) fn message(id: &str, time: &str, webhook_id: &str, body: &[u8]) -> String {
    format!("{id}|{time}|{webhook_id}|{}", crc32fast::hash(body))
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'|')
}

pub(super) fn sign<'a>(key: &SigningKey, webhook: &Unsigned<'a>) -> Result<Signed<'a>, Unsignable> {
    let Material::Rsa(private) = &key.material else {
        unreachable!("paypal reads no other key")
    };
    if !is_id(webhook.id) {
        return Err(Unsignable::InvalidId);
    }
    let time = Timestamp::from_second(webhook.timestamp).map_err(|_| Unsignable::InvalidTime)?;
    let time = time.to_string();
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
