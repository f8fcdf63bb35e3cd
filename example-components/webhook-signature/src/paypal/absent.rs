//! The scheme in a build without it: it has a name, and no key can be read.

use crate::{
    InvalidKeys, Keys, Parameters, Refusal, Request, Scheme, Signed, SigningKey, Unsignable, Unsigned, Verified,
    key::Key, signing::Material,
};

const NOT_BUILT_IN: InvalidKeys = InvalidKeys::NotBuiltIn { scheme: Scheme::Paypal };

pub(super) fn keys(_: &[&str], _: &Parameters) -> Result<Vec<Key>, InvalidKeys> {
    Err(NOT_BUILT_IN)
}

pub(super) fn signing_key(_: &str) -> Result<Material, InvalidKeys> {
    Err(NOT_BUILT_IN)
}

pub(super) fn verify<'a>(_: &Keys, _: &Request<'a>, _: i64) -> Result<Verified<'a>, Refusal> {
    unreachable!("there are no keys to verify with")
}

pub(super) fn sign<'a>(_: &SigningKey, _: &Unsigned<'a>) -> Result<Signed<'a>, Unsignable> {
    unreachable!("there is no key to sign with")
}
