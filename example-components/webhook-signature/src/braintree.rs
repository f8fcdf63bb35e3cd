//! Braintree: the form fields `bt_signature` and `bt_payload` in the body.
//! <https://developer.paypal.com/braintree/docs/guides/webhooks/parse>
//!
//! `bt_payload` is XML in base64. `bt_signature` is `PUBLIC-KEY|HEX`, several joined by `&`: HMAC-SHA1, by Braintree's
//! specification, over the payload as it is written in the field, with the SHA-1 of the private key as the key. HMAC is
//! not weakened by what is known against SHA-1's resistance to collisions. A key is written `PUBLIC-KEY:PRIVATE-KEY`.
//!
//! The answer to a challenge is a signature by the same key, for anyone who asks. What has the form of a challenge is therefore
//! never a payload, whoever signed it.
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
    headers: &[],
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
    strength: usize,
}

type Tag = [u8; 20];

impl Pair {
    /// How many bytes of the private key count.
    pub(crate) fn strength(&self) -> usize {
        self.strength
    }

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
        // Its SHA-1 is the key: no byte of it is padding.
        strength: private.len(),
    })))
}

/// The answer to the challenge, `bt_challenge`, that Braintree sends in the query of a GET when a destination is set up.
///
/// The answer is what the endpoint returns as its body. It is made with the first key. None if the challenge is not in
/// Braintree's form: nothing else may be signed for whoever asks. Also none for keys of another scheme.
pub fn answer_challenge(keys: &Keys, challenge: &str) -> Option<String> {
    if !is_challenge(challenge) {
        return None;
    }
    match keys.iter().next() {
        Some(Key::Braintree(pair)) => Some(pair.signature(challenge)),
        _ => None,
    }
}

/// Whether a text is a challenge, which is signed for whoever asks, and so is never a webhook's payload: its digits are those of
/// base64 too, and the answer is a signature by the same key.
fn is_challenge(text: &str) -> bool {
    let digits = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (20..=32).contains(&text.len()) && text.bytes().all(digits)
}

fn verify<'a>(keys: &Keys, request: &Request<'a>, _: i64) -> Result<Verified<'a>, Refusal> {
    let (signature, payload) = fields(request.body)?;
    if is_challenge(&payload) {
        return Err(Refusal::MalformedField {
            field: PAYLOAD,
            problem: "it is a challenge, which is signed for whoever asks",
        });
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Checked};

    /// The keys of Braintree's own libraries' tests. The webhook is made as their test helpers make one (which put the time
    /// of the run into it), with Python's `hmac`: the base64 in lines of 60.
    const SECRET: &str = "integration_public_key:integration_private_key";
    const XML: &str = r#"<notification><timestamp type="datetime">2012-01-01T00:00:00Z</timestamp><kind>check</kind><subject><check type="boolean">true</check></subject></notification>"#;
    const FORM: &str = include_str!("../tests/vectors/braintree.form");
    const TAG: &str = "4adabccaa618701a677836cf0fc96f54d11a881e";

    fn good() -> Case {
        Case::new(Scheme::Braintree, SECRET, &[], FORM)
    }

    fn form(fields: &[(&str, &str)]) -> Case {
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        good().with_body(body)
    }

    fn payload() -> String {
        let (_, payload) = fields(FORM.as_bytes()).unwrap();
        payload.into_owned()
    }

    fn signed_by(signature: &str) -> Result<Checked, Refusal> {
        form(&[(SIGNATURE, signature), (PAYLOAD, payload().as_str())]).check()
    }

    /// The vector of Braintree's own libraries (braintree_python, test_webhooks.py, and the others).
    #[test]
    fn the_challenge_is_answered_as_the_vendors_libraries_do() {
        let keys = Keys::parse(Scheme::Braintree, &format!("{SECRET}\nother:another_private_key")).unwrap();
        let answer = answer_challenge(&keys, "20f9f8ed05f77439fe955c977e4c8a53");
        assert_eq!(
            answer.as_deref(),
            Some("integration_public_key|d9b899556c966b3f06945ec21311865d35df3ce4")
        );
        for challenge in [
            "",
            "bad challenge",
            "20f9f8ed05f77439fe9",
            "20f9f8ed05f77439fe955c977e4c8a530",
            "20F9F8ED05F77439FE955C977E4C8A53",
            "20f9f8ed05f77439fe955c977e4c8a5\n",
        ] {
            assert_eq!(answer_challenge(&keys, challenge), None, "{challenge:?}");
        }
        let other_scheme = Keys::parse(Scheme::Stripe, SECRET).unwrap();
        assert_eq!(
            answer_challenge(&other_scheme, "20f9f8ed05f77439fe955c977e4c8a53"),
            None
        );
    }

    /// Everyone may have a challenge signed: what comes of it is no webhook, in whatever way the form is written.
    #[test]
    fn the_answer_to_a_challenge_signs_no_webhook() {
        let keys = Keys::parse(Scheme::Braintree, SECRET).unwrap();
        for length in 20..=32 {
            // Also without the padding that base64 would need, and with what decodes to text.
            for digits in [
                "20f9f8ed05f77439fe955c977e4c8a53",
                "00000000000000000000000000000000",
                "3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c",
            ] {
                let challenge = &digits[..length];
                let answer = answer_challenge(&keys, challenge).unwrap();
                let raw = format!("bt_signature={answer}&bt_payload={challenge}").replace('|', "%7c");
                let escaped: String = challenge.bytes().map(|byte| format!("%{byte:02x}")).collect();
                for body in [raw.clone(), raw.replace(challenge, &escaped), format!("x=y&{raw}")] {
                    let refused = good().with_body(body.clone()).check();
                    assert!(
                        matches!(refused, Err(Refusal::MalformedField { field: PAYLOAD, .. })),
                        "{body}: {refused:?}"
                    );
                }
                // Nor with the line break that a payload may have lost, or has.
                for payload in [
                    format!("{challenge}\n"),
                    format!("\n{challenge}"),
                    challenge.to_uppercase(),
                ] {
                    let case = form(&[(SIGNATURE, &answer), (PAYLOAD, &payload)]);
                    assert!(case.check().is_err(), "{payload:?}");
                }
            }
        }
    }

    #[test]
    fn a_webhook_is_verified_and_its_payload_is_what_is_proven() {
        let verified = good().check().unwrap();
        assert_eq!((verified.key, verified.timestamp), (0, None));
        assert_eq!(verified.proven.as_deref(), Some(XML.as_bytes()));
    }

    #[test]
    fn what_is_made_is_verified() {
        let unsigned = good().with_body(XML);
        let made = unsigned.sign(SECRET, "", 0);
        assert_eq!(
            made.headers,
            [("content-type", "application/x-www-form-urlencoded".to_owned())]
        );
        let verified = good().with_body(made.body.into_owned()).check().unwrap();
        assert_eq!(verified.proven.as_deref(), Some(XML.as_bytes()));
    }

    #[test]
    fn a_payload_that_lost_its_last_line_break_is_verified() {
        let signature = format!("integration_public_key|{TAG}");
        let stripped = payload();
        let case = form(&[(SIGNATURE, signature.as_str()), (PAYLOAD, stripped.trim_end())]);
        assert_eq!(case.check().unwrap().proven.as_deref(), Some(XML.as_bytes()));
    }

    #[test]
    fn the_way_the_form_is_written_does_not_matter_and_other_fields_do_not() {
        let signature = format!("integration_public_key|{TAG}");
        let case = form(&[
            ("x", "y"),
            (PAYLOAD, payload().as_str()),
            (SIGNATURE, signature.as_str()),
        ]);
        assert_eq!(case.check(), good().check());
        let lower = FORM.replace("%7C", "%7c");
        assert_ne!(lower, FORM);
        assert_eq!(good().with_body(lower).check(), good().check());
    }

    #[test]
    fn the_public_key_chooses_among_signatures_and_keys() {
        let wrong = "0".repeat(40);
        let signature = format!("other_key|{wrong}&integration_public_key|{TAG}");
        assert_eq!(signed_by(&signature).unwrap().key, 0);
        let case = form(&[(SIGNATURE, signature.as_str()), (PAYLOAD, payload().as_str())]);
        assert_eq!(
            case.with_secrets(&["other_key:another_private_key", SECRET])
                .check()
                .unwrap()
                .key,
            1
        );
        // The right tag under another public key is no signature of ours.
        assert_eq!(signed_by(&format!("other_key|{TAG}")), Err(Refusal::SignatureMismatch));
        assert_eq!(
            signed_by(&format!("integration_public_key|{wrong}")),
            Err(Refusal::SignatureMismatch)
        );
    }

    #[test]
    fn what_was_not_signed_is_refused() {
        for secret in ["integration_public_key:other", "other:integration_private_key"] {
            assert_eq!(
                good().with_secrets(&[secret]).check(),
                Err(Refusal::SignatureMismatch),
                "{secret}"
            );
        }
        let signature = format!("integration_public_key|{TAG}");
        for payload in [
            payload().replacen('P', "Q", 1),
            format!("{}\n", payload()),
            String::new(),
        ] {
            let case = form(&[(SIGNATURE, signature.as_str()), (PAYLOAD, payload.as_str())]);
            assert_eq!(case.check(), Err(Refusal::SignatureMismatch), "{payload}");
        }
    }

    #[test]
    fn each_field_is_needed_once_and_in_form() {
        let signature = format!("integration_public_key|{TAG}");
        let (signature, payload) = ((SIGNATURE, signature.as_str()), payload());
        let payload = (PAYLOAD, payload.as_str());
        let refusal = |fields: &[(&str, &str)]| form(fields).check().unwrap_err();
        assert_eq!(refusal(&[payload]), Refusal::MissingField { field: SIGNATURE });
        assert_eq!(refusal(&[signature]), Refusal::MissingField { field: PAYLOAD });
        assert_eq!(
            refusal(&[signature, payload, payload]),
            Refusal::RepeatedField { field: PAYLOAD }
        );
        assert_eq!(
            refusal(&[signature, payload, signature]),
            Refusal::RepeatedField { field: SIGNATURE }
        );
        for text in ["not base64!", "é", "PHg+ ", "PHg+\r\n"] {
            let refusal = refusal(&[signature, (PAYLOAD, text)]);
            assert!(
                matches!(refusal, Refusal::MalformedField { field: PAYLOAD, .. }),
                "{text:?}: {refusal:?}"
            );
        }
        let upper = TAG.to_uppercase();
        let many = [signature.1; MAX_TAGS + 1].join("&");
        for text in [
            "",
            "|",
            "a",
            TAG,
            &format!("a|{}", &TAG[2..]),
            &format!("a|{upper}"),
            &format!("a|{TAG}&"),
            &many,
        ] {
            let refusal = refusal(&[(SIGNATURE, text), payload]);
            assert!(
                matches!(refusal, Refusal::MalformedField { field: SIGNATURE, .. }),
                "{text:?}: {refusal:?}"
            );
        }
    }

    #[test]
    fn a_signed_payload_that_is_no_base64_is_refused() {
        let Ok(Key::Braintree(pair)) = read(SECRET) else {
            panic!("the secret is one")
        };
        let signature = pair.signature("PHg");
        let case = form(&[(SIGNATURE, signature.as_str()), (PAYLOAD, "PHg")]);
        assert!(matches!(
            case.check(),
            Err(Refusal::MalformedField { field: PAYLOAD, .. })
        ));
    }

    #[test]
    fn a_secret_is_a_public_and_a_private_key() {
        assert_eq!(read("public:").err(), Some(InvalidKey::Empty));
        for secret in ["public", ":private", "a|b:c", "a&b:c", "a b:c"] {
            assert!(matches!(read(secret), Err(InvalidKey::Malformed { .. })), "{secret}");
        }
    }
}
