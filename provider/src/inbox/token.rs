//! Tokens, which stand for delivery handles outside of the bus. A token is sealed: only an instance of this bus can make or
//! read one, and only for the caller that fetched. Instances share the secret through the store, so that any of them can
//! settle what another delivered, and can tell another's request from anybody else's.

use bytes::Bytes;
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{hkdf, hmac};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::delivery::DeliveryHandle;
use crate::jetstream::SECRET_BYTES;

/// Each token has a key of its own, made from the secret and this many random bytes: no nonce can come twice.
const SALT_BYTES: usize = 32;
/// Bytes of the proof that a token is a caller's.
const TAG_BYTES: usize = 32;
/// The longest token that is opened. An edge's holds one of its bus's.
const MAX_BYTES: usize = 2_048;
/// The longest request. A settlement's holds the reason of a rejection.
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// What is sealed. What is sealed as one kind is never opened as another.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static [u8],
    /// The longest that is opened.
    max_bytes: usize,
}

const TOKEN: Kind = Kind {
    name: b"fanout inbox token",
    max_bytes: MAX_BYTES,
};
const REQUEST: Kind = Kind {
    name: b"fanout instance request",
    max_bytes: MAX_REQUEST_BYTES,
};

/// Seals and opens tokens.
pub(crate) struct Seal {
    secret: hkdf::Prk,
    random: SystemRandom,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal([redacted])")
    }
}

/// The system has no randomness to give.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub(crate) struct NoRandomness;

/// A fresh secret, for the instance that is the first to need one.
pub(crate) fn fresh_secret() -> Result<[u8; SECRET_BYTES], NoRandomness> {
    let mut secret = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut secret).map_err(|_| NoRandomness)?;
    Ok(secret)
}

impl Seal {
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self {
            secret: hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret),
            random: SystemRandom::new(),
        }
    }

    /// A token of a handle, for one caller.
    pub(crate) fn seal(&self, caller: &str, handle: &DeliveryHandle) -> Result<Bytes, NoRandomness> {
        self.seal_as(TOKEN, caller, handle)
    }

    /// What a token stands for; `None` when it is not this bus's and this caller's.
    pub(crate) fn open(&self, caller: &str, token: &[u8]) -> Option<DeliveryHandle> {
        self.open_as(TOKEN, caller, token)
    }

    /// A request to the instance of the bus at an address, by another one.
    pub(crate) fn seal_request(&self, to: &str, request: &impl Serialize) -> Result<Bytes, NoRandomness> {
        self.seal_as(REQUEST, to, request)
    }

    /// A request to this instance; `None` when none of the bus's has made it.
    pub(crate) fn open_request<T: DeserializeOwned>(&self, me: &str, sealed: &[u8]) -> Option<T> {
        self.open_as(REQUEST, me, sealed)
    }

    fn seal_as(&self, kind: Kind, reader: &str, value: &impl Serialize) -> Result<Bytes, NoRandomness> {
        // It is made of strings and numbers: it always has this form.
        let mut sealed = serde_json::to_vec(value).map_err(|_| NoRandomness)?;
        let mut token = vec![0; SALT_BYTES];
        self.random.fill(&mut token).map_err(|_| NoRandomness)?;
        let key = self.key(kind, &token).ok_or(NoRandomness)?;
        key.seal_in_place_append_tag(nonce(), Aad::from(reader), &mut sealed)
            .map_err(|_| NoRandomness)?;
        token.extend_from_slice(&sealed);
        Ok(token.into())
    }

    fn open_as<T: DeserializeOwned>(&self, kind: Kind, reader: &str, token: &[u8]) -> Option<T> {
        if token.len() > kind.max_bytes {
            return None;
        }
        let (salt, sealed) = token.split_at_checked(SALT_BYTES)?;
        let mut sealed = sealed.to_vec();
        let key = self.key(kind, salt)?;
        let opened = key.open_in_place(nonce(), Aad::from(reader), &mut sealed).ok()?;
        serde_json::from_slice(opened).ok()
    }

    /// Another bus's token, for one caller of this edge. It is sealed already; only whose it is has to be proved.
    pub(crate) fn sign(&self, caller: &str, token: &[u8]) -> Result<Bytes, NoRandomness> {
        let key = self.signing_key().ok_or(NoRandomness)?;
        let tag = hmac::sign(&key, &owned_by(caller, token));
        Ok([token, tag.as_ref()].concat().into())
    }

    /// Another bus's token, if [`Seal::sign`] gave it to this caller.
    pub(crate) fn signed(&self, caller: &str, signed: &Bytes) -> Option<Bytes> {
        let length = signed
            .len()
            .checked_sub(TAG_BYTES)
            .filter(|_| signed.len() <= MAX_BYTES)?;
        let token = signed.slice(..length);
        hmac::verify(&self.signing_key()?, &owned_by(caller, &token), &signed[length..]).ok()?;
        Some(token)
    }

    fn signing_key(&self) -> Option<hmac::Key> {
        let info = [&b"fanout edge token"[..]];
        let key = self.secret.expand(&info, hmac::HMAC_SHA256).ok()?;
        Some(hmac::Key::from(key))
    }

    fn key(&self, kind: Kind, salt: &[u8]) -> Option<LessSafeKey> {
        let info = [kind.name, salt];
        let key = self.secret.expand(&info, &aead::CHACHA20_POLY1305).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(key)))
    }
}

/// What is signed: neither a caller nor a token can be made longer at the other's cost.
fn owned_by(caller: &str, token: &[u8]) -> Vec<u8> {
    [&(caller.len() as u64).to_be_bytes()[..], caller.as_bytes(), token].concat()
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use fanout_plan::{Incarnation, Position, SubscriptionId, Timestamp};

    use super::*;

    fn handle() -> DeliveryHandle {
        DeliveryHandle {
            of: SubscriptionId {
                name: "invoicing".parse().unwrap(),
                incarnation: Incarnation::default(),
            },
            position: Position::undivided(7),
            attempt: 1,
            reply: "$JS.ACK.x".into(),
            lease_until: Timestamp::from_nanoseconds(9),
            redrive: None,
            redrive_lease: None,
            dispatched: None,
        }
    }

    #[test]
    fn a_token_that_an_edge_passes_on_is_its_fetchers_alone() {
        let seal = Seal::new(&[1; SECRET_BYTES]);
        let token = Bytes::from_static(b"the bus's own");
        let signed = seal.sign("invoicing", &token).unwrap();
        let another = Seal::new(&[1; SECRET_BYTES]);
        assert_eq!(another.signed("invoicing", &signed), Some(token.clone()));
        assert_eq!(seal.signed("thief", &signed), None);
        assert_eq!(seal.signed("invoicingt", &[&b"he"[..], &signed].concat().into()), None);
        assert_eq!(Seal::new(&[2; SECRET_BYTES]).signed("invoicing", &signed), None);
        assert_eq!(seal.signed("invoicing", &token), None);
        for i in 0..signed.len() {
            let mut altered = signed.to_vec();
            altered[i] ^= 1;
            assert_eq!(seal.signed("invoicing", &altered.into()), None, "byte {i}");
        }
    }

    #[test]
    fn a_request_is_one_instances_alone_and_no_token() {
        let seal = Seal::new(&[1; SECRET_BYTES]);
        let request = seal.seal_request("one", &handle()).unwrap();
        assert_eq!(seal.open_request("one", &request), Some(handle()));
        assert_eq!(seal.open_request::<DeliveryHandle>("another", &request), None);
        assert_eq!(seal.open("one", &request), None);
        let token = seal.seal("one", &handle()).unwrap();
        assert_eq!(seal.open_request::<DeliveryHandle>("one", &token), None);
        let stranger = Seal::new(&[2; SECRET_BYTES]).seal_request("one", &handle()).unwrap();
        assert_eq!(seal.open_request::<DeliveryHandle>("one", &stranger), None);
    }

    #[test]
    fn a_token_is_its_fetchers_alone() {
        let seal = Seal::new(&[1; SECRET_BYTES]);
        let token = seal.seal("invoicing", &handle()).unwrap();
        assert_eq!(seal.open("invoicing", &token), Some(handle()));
        assert_eq!(
            Seal::new(&[1; SECRET_BYTES]).open("invoicing", &token),
            Some(handle()),
            "another instance"
        );
        assert_eq!(seal.open("thief", &token), None);
        assert_eq!(Seal::new(&[2; SECRET_BYTES]).open("invoicing", &token), None);
        for i in 0..token.len() {
            let mut altered = token.to_vec();
            altered[i] ^= 1;
            assert_eq!(seal.open("invoicing", &altered), None, "byte {i}");
        }
        assert_eq!(seal.open("invoicing", &token[..20]), None);
        assert_eq!(seal.open("invoicing", &[0; 4096]), None);
        let text = String::from_utf8_lossy(&token);
        assert!(!text.contains("JS.ACK"), "nothing of it can be read");
    }
}
