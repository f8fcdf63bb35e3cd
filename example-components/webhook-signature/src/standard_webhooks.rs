//! Standard Webhooks 1.0.0: `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,BASE64[ v1,BASE64…][ v1a,BASE64…]`;
//! and Svix, whose headers begin with `svix-` and are the same otherwise.
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
//!
//! A webhook has the headers of the one family or of the other; with a signature of each it is refused.
//!
//! Signed is `ID.TIME.BODY`, so the id and the time are as trustworthy as the body. `v1` is HMAC-SHA256 with a key that
//! is written as `whsec_` and base64. `v1a` is Ed25519 with a public key that is written as `whpk_` and base64. A key is
//! only tried with signatures of its own version; signatures of other versions are passed over.

mod secret;
mod signatures;

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::Signer as _;

use self::signatures::Signatures;
use crate::{
    Coverage, Keys, Proven, Refusal, Request, Scheme, Signed, SigningKey, Unsignable, Unsigned, Verified, header, key,
    scheme::Rules, signing::Material, time,
};

pub(crate) const RULES: Rules = Rules {
    name: "standard-webhooks",
    tolerance: Some(Duration::from_secs(300)),
    covers_id: true,
    covers_url: false,
    coverage: Coverage::Body,
    headers: &[
        STANDARD_HEADERS.id,
        STANDARD_HEADERS.timestamp,
        STANDARD_HEADERS.signature,
        SVIX_HEADERS.id,
        SVIX_HEADERS.timestamp,
        SVIX_HEADERS.signature,
    ],
    parameters: &[],
    keys: |secrets, _| key::each(secrets, secret::read),
    signing_key: secret::signing_key,
    verify,
    sign,
};

struct Headers {
    id: &'static str,
    timestamp: &'static str,
    signature: &'static str,
}

const STANDARD_HEADERS: Headers = Headers {
    id: "webhook-id",
    timestamp: "webhook-timestamp",
    signature: "webhook-signature",
};

const SVIX_HEADERS: Headers = Headers {
    id: "svix-id",
    timestamp: "svix-timestamp",
    signature: "svix-signature",
};

fn verify<'a>(keys: &Keys, request: &Request<'a>, _: i64) -> Result<Verified<'a>, Refusal> {
    // Which family it is, its signature says. Two signatures are refused: a proxy, or who reads the id, may have looked at
    // the other family. An id or a time of the other family by itself is what no signature covers, and decides nothing.
    let signature = header::one_of(request, &[STANDARD_HEADERS.signature, SVIX_HEADERS.signature])?;
    let names = if signature == SVIX_HEADERS.signature {
        SVIX_HEADERS
    } else {
        STANDARD_HEADERS
    };
    let signatures = header::only(request, names.signature)?;
    let id = header::only(request, names.id)?;
    let time_text = header::only(request, names.timestamp)?;

    if !is_id(id) {
        return Err(Refusal::MalformedHeader {
            header: names.id,
            problem: "it is empty, or holds a `.` or a space",
        });
    }
    let time = time::parse(time_text).ok_or(Refusal::MalformedHeader {
        header: names.timestamp,
        problem: "it is not a time in seconds",
    })?;
    let signatures = Signatures::parse(signatures, names.signature)?;
    let parts = [id.as_bytes(), b".", time_text.as_bytes(), b".", request.body];
    let key = signatures.made_by(keys, &parts).ok_or(Refusal::SignatureMismatch)?;
    Ok(Verified {
        scheme: Scheme::StandardWebhooks,
        key,
        id: Some(id),
        timestamp: Some(time),
        proven: Proven::Body(request.body),
    })
}

fn sign<'a>(key: &SigningKey, webhook: &Unsigned<'a>) -> Result<Signed<'a>, Unsignable> {
    if !is_id(webhook.id) {
        return Err(Unsignable::InvalidId);
    }
    let time = time::write(webhook.timestamp)?;
    let parts = [webhook.id.as_bytes(), b".", time.as_bytes(), b".", webhook.body];
    let signature = match &key.material {
        Material::Ed25519(key) => format!("v1a,{}", STANDARD.encode(key.sign(&parts.concat()).to_bytes())),
        _ => format!("v1,{}", STANDARD.encode(key.mac().tag(&parts))),
    };
    let headers = vec![
        (STANDARD_HEADERS.id, webhook.id.to_owned()),
        (STANDARD_HEADERS.timestamp, time),
        (STANDARD_HEADERS.signature, signature),
    ];
    Ok(Signed::headers(headers, webhook))
}

/// With a `.` in the id, the end of the id could be passed off as the time, and the time as the body's beginning.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'.')
}

#[cfg(test)]
mod tests;
