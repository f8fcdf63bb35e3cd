//! The secrets of Standard Webhooks: symmetric ones, and either half of an Ed25519 pair.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    InvalidKey, InvalidKeys,
    key::Key,
    signing::{self, Material},
};

/// `whsec_` marks a symmetric secret; the reference libraries take it without the mark too.
pub(super) fn read(secret: &str) -> Result<Key, InvalidKey> {
    if secret.starts_with("whsk_") {
        return Err(InvalidKey::Private);
    }
    // As some senders show it; `v1` is the version of the signatures.
    for before in ["v1,", "v1a,"] {
        if secret.starts_with(before) {
            return Err(InvalidKey::Prefixed { before });
        }
    }
    let Some(encoded) = secret.strip_prefix("whpk_") else {
        return Key::mac(&decode(secret.strip_prefix("whsec_").unwrap_or(secret))?);
    };
    let bytes: Option<[u8; 32]> = decode(encoded)?.try_into().ok();
    bytes
        .and_then(|bytes| ed25519_dalek::VerifyingKey::from_bytes(&bytes).ok())
        // A weak key would verify signatures that nobody made.
        .filter(|key| !key.is_weak())
        .map(|key| Key::Ed25519(Box::new(key)))
        .ok_or(MALFORMED_KEY)
}

pub(super) fn signing_key(secret: &str) -> Result<Material, InvalidKeys> {
    let Some(encoded) = secret.strip_prefix("whsk_") else {
        return signing::symmetric(read(secret));
    };
    let decoded = decode(encoded).and_then(|bytes| match bytes.len() {
        // The seed, with or without the public key behind it.
        32 | 64 => bytes[..32].try_into().map_err(|_| MALFORMED_KEY),
        _ => Err(MALFORMED_KEY),
    });
    match decoded {
        Ok(seed) => Ok(Material::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(
            &seed,
        )))),
        Err(source) => Err(InvalidKeys::Key { place: 1, source }),
    }
}

pub(super) const MALFORMED_KEY: InvalidKey = InvalidKey::Malformed {
    expected: "`whsec_` and base64, nor `whpk_` and an Ed25519 key in base64",
};

fn decode(encoded: &str) -> Result<Vec<u8>, InvalidKey> {
    // The decoder's error would quote a part of the secret.
    STANDARD.decode(encoded).map_err(|_| MALFORMED_KEY)
}
