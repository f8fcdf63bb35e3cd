//! Braintree: the form fields `bt_signature` and `bt_payload` in the body.
//! <https://developer.paypal.com/braintree/docs/guides/webhooks/parse>
//!
//! `bt_payload` is XML in base64. `bt_signature` is `PUBLIC-KEY|HEX`, several joined by `&`: HMAC-SHA1, by Braintree's
//! specification, over the payload as it is written in the field, with the SHA-1 of the private key as the key. HMAC is
//! not weakened by what is known against SHA-1's resistance to collisions. A key is written `PUBLIC-KEY:PRIVATE-KEY`.
//!
//! What is proven is the decoded payload, not the body: other fields and another way to write the same form go unnoticed
//! and do not matter. The payload holds a `timestamp` that the signature covers, but it is the event's and this crate does
//! not read XML.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::{Digest as _, Sha1};
use subtle::{Choice, ConstantTimeEq as _};

use crate::{
    Coverage, InvalidKey, Keys, Proven, Refusal, Request, Scheme, Signed, SigningKey, Unsignable, Unsigned, Verified,
    encoding,
    key::{self, Key},
    mac::{Found, MAX_TAGS},
    scheme::Rules,
    signing::{self, Material},
};

const SIGNATURE: &str = "bt_signature";
const PAYLOAD: &str = "bt_payload";

pub(crate) const RULES: Rules = Rules {
    name: "braintree",
    tolerance: None,
    covers_id: false,
    covers_url: false,
    coverage: Coverage::Payload,
    parameters: &[],
    keys: |secrets, _| key::each(secrets, read),
    signing_key: |secret| signing::symmetric(read(secret)),
    verify,
    sign,
};

/// A public key, which is a name and nothing more, and the private key.
#[derive(Clone)]
pub(crate) struct Pair {
    public: Box<str>,
    private: Hmac<Sha1>,
}

type Tag = [u8; 20];

impl Pair {
    fn tag(&self, parts: &[&[u8]]) -> Tag {
        let mut mac = self.private.clone();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    fn signature(&self, text: &str) -> String {
        format!("{}|{}", self.public, hex::encode(self.tag(&[text.as_bytes()])))
    }
}

fn read(secret: &str) -> Result<Key, InvalidKey> {
    let malformed = InvalidKey::Malformed {
        expected: "`PUBLIC-KEY:PRIVATE-KEY`",
    };
    let (public, private) = secret.split_once(':').ok_or(malformed)?;
    if private.is_empty() {
        return Err(InvalidKey::Empty);
    }
    if public.is_empty()
        || !public
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"|&".contains(&byte))
    {
        return Err(malformed);
    }
    let key = Sha1::digest(private.as_bytes());
    Ok(Key::Braintree(Box::new(Pair {
        public: public.into(),
        private: Hmac::new_from_slice(&key).expect("HMAC takes a key of any length"),
    })))
}

/// The answer to the challenge, `bt_challenge`, that Braintree sends in the query of a GET when a destination is set up.
///
/// The answer is what the endpoint returns as its body. It is made with the first key. None if the challenge is not in
/// Braintree's form: nothing else may be signed for whoever asks. Also none for keys of another scheme.
pub fn answer_challenge(keys: &Keys, challenge: &str) -> Option<String> {
    let digits = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !(20..=32).contains(&challenge.len()) || !challenge.bytes().all(digits) {
        return None;
    }
    match keys.iter().next() {
        Some(Key::Braintree(pair)) => Some(pair.signature(challenge)),
        _ => None,
    }
}

fn verify<'a>(keys: &Keys, request: &Request<'a>, _: i64) -> Result<Verified<'a>, Refusal> {
    let (signature, payload) = fields(request.body)?;
    let signatures = parse(&signature)?;
    // The reference libraries accept a payload that has lost its last line break on the way.
    let mut found = Found::default();
    for (index, key) in (0_u32..).zip(keys.iter()) {
        let Key::Braintree(pair) = key else { continue };
        let made = [&b""[..], b"\n"].map(|end| pair.tag(&[payload.as_bytes(), end]));
        let matches = signatures
            .iter()
            .filter(|(public, _)| *public == &*pair.public)
            .fold(Choice::from(0), |matches, (_, tag)| {
                matches | made[0].ct_eq(tag) | made[1].ct_eq(tag)
            });
        found.note(index, matches);
    }
    let key = found.index().ok_or(Refusal::SignatureMismatch)?;
    let payload: Vec<u8> = payload.bytes().filter(|byte| *byte != b'\n').collect();
    let payload = STANDARD.decode(payload).map_err(|_| Refusal::MalformedField {
        field: PAYLOAD,
        problem: "it is not base64",
    })?;
    Ok(Verified {
        scheme: Scheme::Braintree,
        key,
        id: None,
        timestamp: None,
        proven: Proven::Payload(payload),
    })
}

/// Makes the form that holds the payload.
fn sign<'a>(key: &SigningKey, webhook: &Unsigned<'a>) -> Result<Signed<'a>, Unsignable> {
    let Material::Braintree(pair) = &key.material else {
        unreachable!("braintree reads no other key")
    };
    let payload = format!("{}\n", STANDARD.encode(webhook.body));
    let body = form_urlencoded::Serializer::new(String::new())
        .append_pair(SIGNATURE, &pair.signature(&payload))
        .append_pair(PAYLOAD, &payload)
        .finish();
    Ok(Signed {
        headers: vec![("content-type", "application/x-www-form-urlencoded".to_owned())],
        body: Cow::Owned(body.into_bytes()),
    })
}

/// The two fields, each there once.
fn fields(body: &[u8]) -> Result<(Cow<'_, str>, Cow<'_, str>), Refusal> {
    let mut signature = None;
    let mut payload = None;
    for (name, value) in form_urlencoded::parse(body) {
        let (field, place) = match &*name {
            SIGNATURE => (SIGNATURE, &mut signature),
            PAYLOAD => (PAYLOAD, &mut payload),
            _ => continue,
        };
        if place.replace(value).is_some() {
            return Err(Refusal::RepeatedField { field });
        }
    }
    let missing = |field| Refusal::MissingField { field };
    let payload = payload.ok_or(missing(PAYLOAD))?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=\n".contains(&byte);
    if !payload.bytes().all(allowed) {
        return Err(Refusal::MalformedField {
            field: PAYLOAD,
            problem: "it is not base64",
        });
    }
    Ok((signature.ok_or(missing(SIGNATURE))?, payload))
}

fn parse(text: &str) -> Result<Vec<(&str, Tag)>, Refusal> {
    let malformed = |problem| Refusal::MalformedField {
        field: SIGNATURE,
        problem,
    };
    let mut signatures = Vec::new();
    for element in text.split('&') {
        let (public, tag) = element.split_once('|').ok_or(malformed("an element has no `|`"))?;
        let tag = encoding::hex(tag).ok_or(malformed("a signature is not 40 lower-case hexadecimal digits"))?;
        signatures.push((public, tag));
        if signatures.len() > MAX_TAGS {
            return Err(malformed("it holds too many signatures"));
        }
    }
    Ok(signatures)
}
