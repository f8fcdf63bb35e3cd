//! HTTP Basic, as Chargebee sends it: `Authorization: Basic BASE64` of `USER:PASSWORD`.
//! <https://www.chargebee.com/docs/2.0/webhook_settings.html> and <https://datatracker.ietf.org/doc/html/rfc7617>
//!
//! Nothing is signed. Who knows the password can send anything, so that what is proven is who sends, as far as TLS keeps
//! the password secret.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    Coverage, InvalidKey, InvalidKeys, Keys, Proven, Refusal, Request, Scheme, Signed, SigningKey, Unsignable,
    Unsigned, Verified, header,
    key::{self, Key},
    mac::Found,
    scheme::Rules,
    signing::Material,
};

const HEADER: &str = "authorization";

pub(crate) const RULES: Rules = Rules {
    name: "basic",
    tolerance: None,
    covers_id: false,
    covers_url: false,
    coverage: Coverage::Sender,
    parameters: &[],
    keys: |secrets, _| key::each(secrets, read),
    signing_key: |secret| match read(secret) {
        Ok(_) => Ok(Material::Credential(secret.into())),
        Err(source) => Err(InvalidKeys::Key { place: 1, source }),
    },
    verify,
    sign,
};

/// The hash of a user and a password: of one length whatever their lengths, to be compared in constant time.
#[derive(Clone, Copy)]
pub(crate) struct Credential([u8; 32]);

impl Credential {
    fn new(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }
}

fn read(secret: &str) -> Result<Key, InvalidKey> {
    match secret.split_once(':') {
        Some((_, "")) => Err(InvalidKey::Empty),
        Some(_) => Ok(Key::Credential(Credential::new(secret.as_bytes()))),
        None => Err(InvalidKey::Malformed {
            expected: "`USER:PASSWORD`",
        }),
    }
}

fn verify<'a>(keys: &Keys, request: &Request<'a>, _: i64) -> Result<Verified<'a>, Refusal> {
    let given = header::only(request, HEADER)?;
    let given = given
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Basic"))
        .and_then(|(_, credential)| STANDARD.decode(credential).ok())
        .ok_or(Refusal::MalformedHeader {
            header: HEADER,
            problem: "it is not `Basic ` and base64",
        })?;
    let given = Credential::new(&given);
    let mut found = Found::default();
    for (index, key) in (0_u32..).zip(keys.iter()) {
        if let Key::Credential(credential) = key {
            found.note(index, credential.0.ct_eq(&given.0));
        }
    }
    Ok(Verified {
        scheme: Scheme::Basic,
        key: found.index().ok_or(Refusal::SignatureMismatch)?,
        id: None,
        timestamp: None,
        proven: Proven::Sender,
    })
}

fn sign<'a>(key: &SigningKey, webhook: &Unsigned<'a>) -> Result<Signed<'a>, Unsignable> {
    let Material::Credential(credential) = &key.material else {
        unreachable!("basic reads no other key")
    };
    let value = format!("Basic {}", STANDARD.encode(credential.as_bytes()));
    Ok(Signed::headers(vec![(HEADER, value)], webhook))
}
