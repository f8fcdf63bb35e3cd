//! Standard Webhooks 1.0.0: `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,BASE64[ v1,BASE64…][ v1a,BASE64…]`;
//! and Svix, whose headers begin with `svix-` and are the same otherwise.
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
//!
//! Signed is `ID.TIME.BODY`, so the id and the time are as trustworthy as the body. `v1` is HMAC-SHA256 with a key that
//! is written as `whsec_` and base64. `v1a` is Ed25519 with a public key that is written as `whpk_` and base64. A key is
//! only tried with signatures of its own version; signatures of other versions are passed over.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _};

use crate::{
    Coverage, InvalidKey, InvalidKeys, Keys, Proven, Refusal, Request, Scheme, Signed, SigningKey, Unsignable,
    Unsigned, Verified, encoding, header,
    key::{self, Key},
    mac::{MAX_TAGS, Tags},
    scheme::Rules,
    signing::{self, Material},
    time,
};

pub(crate) const RULES: Rules = Rules {
    name: "standard-webhooks",
    tolerance: Some(Duration::from_secs(300)),
    covers_id: true,
    covers_url: false,
    coverage: Coverage::Body,
    parameters: &[],
    keys: |secrets, _| key::each(secrets, read),
    signing_key,
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

/// `whsec_` marks a symmetric secret; the reference libraries take it without the mark too.
fn read(secret: &str) -> Result<Key, InvalidKey> {
    if secret.starts_with("whsk_") {
        return Err(InvalidKey::Private);
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

fn signing_key(secret: &str) -> Result<Material, InvalidKeys> {
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

const MALFORMED_KEY: InvalidKey = InvalidKey::Malformed {
    expected: "`whsec_` and base64, nor `whpk_` and an Ed25519 key in base64",
};

fn decode(encoded: &str) -> Result<Vec<u8>, InvalidKey> {
    // The decoder's error would quote a part of the secret.
    STANDARD.decode(encoded).map_err(|_| MALFORMED_KEY)
}

fn verify<'a>(keys: &Keys, request: &Request<'a>, _: i64) -> Result<Verified<'a>, Refusal> {
    // One set or the other, never parts of both: a proxy may have looked at the other one.
    let svix =
        header::is_present(request, SVIX_HEADERS.signature) && !header::is_present(request, STANDARD_HEADERS.signature);
    let names = if svix { SVIX_HEADERS } else { STANDARD_HEADERS };
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

/// The signatures that a header holds, by version.
struct Signatures {
    v1: Tags,
    v1a: Vec<Signature>,
}

impl Signatures {
    fn parse(text: &str, header: &'static str) -> Result<Self, Refusal> {
        let malformed = |problem| Refusal::MalformedHeader { header, problem };
        let mut v1 = Tags::default();
        let mut v1a = Vec::new();
        for element in text.split(' ') {
            let (version, value) = element.split_once(',').ok_or(malformed("an element has no `,`"))?;
            let has_room = match version {
                "v1" => v1.push(encoding::base64(value).ok_or(malformed("a `v1` is not 32 bytes in base64"))?),
                "v1a" => {
                    let bytes = encoding::base64(value).ok_or(malformed("a `v1a` is not 64 bytes in base64"))?;
                    v1a.push(Signature::from_bytes(&bytes));
                    v1a.len() <= MAX_TAGS
                }
                _ => true,
            };
            if !has_room {
                return Err(malformed("it holds too many signatures"));
            }
        }
        if v1.is_empty() && v1a.is_empty() {
            return Err(Refusal::NoSupportedSignature { header, version: "v1" });
        }
        Ok(Self { v1, v1a })
    }

    /// The first key that made one of the signatures over the concatenated `parts`.
    fn made_by(&self, keys: &Keys, parts: &[&[u8]]) -> Option<usize> {
        let symmetric = if self.v1.is_empty() {
            None
        } else {
            self.v1.made_by(keys, parts)
        };
        if symmetric.is_some() || self.v1a.is_empty() {
            return symmetric;
        }
        // Public keys and signatures are no secrets: nothing here needs to take the same time.
        let mut message = None;
        keys.iter().position(|key| {
            let Key::Ed25519(key) = key else { return false };
            let message = message.get_or_insert_with(|| parts.concat());
            // Strictly: else one signature would have several forms.
            self.v1a
                .iter()
                .any(|signature| key.verify_strict(message, signature).is_ok())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac::{self, Mac};

    const ID: &str = STANDARD_HEADERS.id;
    const TIMESTAMP: &str = STANDARD_HEADERS.timestamp;
    const SIGNATURE: &str = STANDARD_HEADERS.signature;

    // The vector of the specification's reference libraries and of Svix's documentation.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const MESSAGE_ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIME: i64 = 1_614_265_330;
    const BODY: &str = r#"{"test": 2432232314}"#;
    const GOOD: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    const WRONG: &str = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=";

    struct Webhook {
        secrets: &'static str,
        id: String,
        time: String,
        signature: String,
        body: String,
        now: i64,
    }

    fn good() -> Webhook {
        Webhook {
            secrets: SECRET,
            id: MESSAGE_ID.to_owned(),
            time: TIME.to_string(),
            signature: GOOD.to_owned(),
            body: BODY.to_owned(),
            now: TIME,
        }
    }

    fn check(webhook: &Webhook) -> Result<usize, Refusal> {
        let keys = Keys::parse(Scheme::StandardWebhooks, webhook.secrets).unwrap();
        let headers = [
            ("Webhook-Id", webhook.id.as_bytes()),
            ("Webhook-Timestamp", webhook.time.as_bytes()),
            ("Webhook-Signature", webhook.signature.as_bytes()),
        ];
        let request = Request::new(&headers, webhook.body.as_bytes());
        let tolerance = Duration::from_secs(300);
        let verified = crate::verify(&keys, &request, webhook.now, tolerance)?;
        assert_eq!((verified.id, verified.timestamp), (Some(MESSAGE_ID), Some(TIME)));
        Ok(verified.key)
    }

    #[test]
    fn the_published_vector_is_verified_and_made() {
        assert_eq!(check(&good()), Ok(0));
        let key = SigningKey::parse(Scheme::StandardWebhooks, SECRET).unwrap();
        let webhook = Unsigned {
            id: MESSAGE_ID,
            timestamp: TIME,
            body: BODY.as_bytes(),
            ..Unsigned::default()
        };
        let made = crate::sign(&key, &webhook).unwrap();
        assert_eq!(
            made.headers,
            [
                (ID, MESSAGE_ID.to_owned()),
                (TIMESTAMP, TIME.to_string()),
                (SIGNATURE, GOOD.to_owned())
            ]
        );
    }

    #[test]
    fn a_rotation_is_verified_from_both_sides() {
        let two_keys = "whsec_AAEC whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert_eq!(
            check(&Webhook {
                secrets: two_keys,
                ..good()
            }),
            Ok(1)
        );
        for signature in [
            format!("{WRONG} {GOOD}"),
            format!("{GOOD} {WRONG}"),
            format!("v1b,AAEC {GOOD}"),
        ] {
            assert_eq!(
                check(&Webhook {
                    signature: signature.clone(),
                    ..good()
                }),
                Ok(0),
                "{signature}"
            );
        }
    }

    // The vector of Svix's own server (svix-webhooks, worker.rs, test_asymmetric_key_signing), for the same webhook.
    const PRIVATE_KEY: &str =
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const PUBLIC_KEY: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    const GOOD_V1A: &str =
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

    fn asymmetric(secrets: &'static str, signature: &str) -> Webhook {
        Webhook {
            secrets,
            signature: signature.to_owned(),
            ..good()
        }
    }

    #[test]
    fn the_vectors_public_key_signature_is_verified_and_made() {
        assert_eq!(check(&asymmetric(PUBLIC_KEY, GOOD_V1A)), Ok(0));
        let webhook = Unsigned {
            id: MESSAGE_ID,
            timestamp: TIME,
            body: BODY.as_bytes(),
            ..Unsigned::default()
        };
        // With the public key behind the seed, and the seed alone.
        for key in [PRIVATE_KEY, "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc="] {
            let key = SigningKey::parse(Scheme::StandardWebhooks, key).unwrap();
            assert_eq!(
                crate::sign(&key, &webhook).unwrap().headers[2],
                (SIGNATURE, GOOD_V1A.to_owned())
            );
        }
    }

    #[test]
    fn keys_of_both_kinds_can_be_active_and_each_is_tried_with_its_own_version() {
        let both =
            "whsec_AAEC whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4= whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert_eq!(check(&asymmetric(both, GOOD_V1A)), Ok(1));
        assert_eq!(check(&asymmetric(both, GOOD)), Ok(2));
        assert_eq!(check(&asymmetric(both, &format!("{WRONG} {GOOD_V1A}"))), Ok(1));
        // One kind of key proves nothing of the other kind of signature: the public key is no shared secret.
        assert_eq!(check(&asymmetric(PUBLIC_KEY, GOOD)), Err(Refusal::SignatureMismatch));
        assert_eq!(check(&asymmetric(SECRET, GOOD_V1A)), Err(Refusal::SignatureMismatch));
        let key = Mac::new(&STANDARD.decode(PUBLIC_KEY.trim_start_matches("whpk_")).unwrap());
        let forged = key.tag(&[
            MESSAGE_ID.as_bytes(),
            b".",
            TIME.to_string().as_bytes(),
            b".",
            BODY.as_bytes(),
        ]);
        let forged = format!("v1,{}", STANDARD.encode(forged));
        assert_eq!(check(&asymmetric(PUBLIC_KEY, &forged)), Err(Refusal::SignatureMismatch));
    }

    #[test]
    fn a_public_key_signature_covers_the_same_as_the_other() {
        let good = || asymmetric(PUBLIC_KEY, GOOD_V1A);
        for webhook in [
            Webhook {
                id: "msg_other".to_owned(),
                ..good()
            },
            Webhook {
                time: (TIME + 1).to_string(),
                ..good()
            },
            Webhook {
                body: String::new(),
                ..good()
            },
            asymmetric(PUBLIC_KEY, &GOOD_V1A.replace("hnO3", "hnO4")),
            asymmetric("whpk_JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=", GOOD_V1A),
        ] {
            assert_eq!(check(&webhook), Err(Refusal::SignatureMismatch));
        }
    }

    #[test]
    fn svix_headers_are_read_and_never_mixed_with_the_others() {
        let keys = Keys::parse(Scheme::StandardWebhooks, SECRET).unwrap();
        let time = TIME.to_string();
        let svix = [
            ("svix-id", MESSAGE_ID.as_bytes()),
            ("svix-timestamp", time.as_bytes()),
            ("svix-signature", GOOD.as_bytes()),
        ];
        let check = |headers: &[(&str, &[u8])]| {
            verify(&keys, &Request::new(headers, BODY.as_bytes()), TIME).map(|verified| verified.id.map(str::to_owned))
        };
        assert_eq!(check(&svix), Ok(Some(MESSAGE_ID.to_owned())));
        let id_of_the_other = [svix[1], svix[2], (ID, MESSAGE_ID.as_bytes())];
        assert_eq!(
            check(&id_of_the_other),
            Err(Refusal::MissingHeader { header: "svix-id" })
        );
        // Both: the standard's own count, whole.
        let both = [svix[0], svix[1], svix[2], (SIGNATURE, GOOD.as_bytes())];
        assert_eq!(check(&both), Err(Refusal::MissingHeader { header: ID }));
        assert_eq!(check(&[]), Err(Refusal::MissingHeader { header: SIGNATURE }));
    }

    #[test]
    fn a_secret_has_the_form_of_its_kind() {
        assert_eq!(read("").err(), Some(InvalidKey::Empty));
        assert_eq!(read("whsec_").err(), Some(InvalidKey::Empty));
        assert_eq!(read(PRIVATE_KEY).err(), Some(InvalidKey::Private));
        // The last is the neutral element: with it as a key, signatures that nobody made would verify.
        for secret in [
            "whsec_!!!!",
            "whsec_AAE",
            "whpk_AAEC",
            "whpk_",
            "whpk_AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ] {
            assert_eq!(read(secret).err(), Some(MALFORMED_KEY), "{secret}");
        }
        assert!(read("AAEC").is_ok());
        for secret in ["whsk_AAEC", "whsk_", PUBLIC_KEY] {
            assert!(signing_key(secret).is_err(), "{secret}");
        }
    }

    #[test]
    fn what_was_not_signed_is_refused() {
        for webhook in [
            Webhook {
                secrets: "whsec_AAEC",
                ..good()
            },
            Webhook {
                id: "msg_other".to_owned(),
                ..good()
            },
            Webhook {
                time: (TIME + 1).to_string(),
                ..good()
            },
            Webhook {
                time: format!("0{TIME}"),
                ..good()
            },
            Webhook {
                signature: WRONG.to_owned(),
                ..good()
            },
            Webhook {
                body: r#"{"test": 2432232315}"#.to_owned(),
                ..good()
            },
            Webhook {
                body: String::new(),
                ..good()
            },
        ] {
            assert_eq!(check(&webhook), Err(Refusal::SignatureMismatch));
        }
    }

    #[test]
    fn the_time_is_checked_in_both_directions() {
        assert_eq!(
            check(&Webhook {
                now: TIME + 300,
                ..good()
            }),
            Ok(0)
        );
        assert_eq!(
            check(&Webhook {
                now: TIME - 300,
                ..good()
            }),
            Ok(0)
        );
        assert_eq!(
            check(&Webhook {
                now: TIME + 301,
                ..good()
            }),
            Err(Refusal::Stale {
                age_s: 301,
                tolerance_s: 300
            })
        );
        assert_eq!(
            check(&Webhook {
                now: TIME - 301,
                ..good()
            }),
            Err(Refusal::Future {
                ahead_s: 301,
                tolerance_s: 300
            })
        );
    }

    #[test]
    fn an_id_can_not_be_cut_in_another_place() {
        let key = SigningKey::parse(Scheme::StandardWebhooks, SECRET).unwrap();
        for id in ["a.1", "", "a b", "a\n", "é"] {
            let webhook = Unsigned {
                id,
                ..Unsigned::default()
            };
            assert_eq!(crate::sign(&key, &webhook), Err(Unsignable::InvalidId), "{id}");
        }
        // What would be signed for the id `a.1`, the time 2 and the body `{}`, is also what the id `a`, the time 1 and
        // the body `2.{}` sign: an id with a `.` is refused whoever signed it.
        let tag = key.mac().tag(&[b"a.1.2.{}"]);
        let signature = format!("v1,{}", STANDARD.encode(tag));
        let refusal = check(&Webhook {
            id: "a.1".to_owned(),
            time: "2".to_owned(),
            body: "{}".to_owned(),
            signature,
            ..good()
        });
        assert!(
            matches!(refusal, Err(Refusal::MalformedHeader { header: ID, .. })),
            "{refusal:?}"
        );
    }

    #[test]
    fn only_v1_counts() {
        for signature in [GOOD.replace("v1", "v2"), GOOD.replace("v1", "v1b"), "v0,".to_owned()] {
            let refusal = check(&Webhook {
                signature: signature.clone(),
                ..good()
            });
            let expected = Refusal::NoSupportedSignature {
                header: SIGNATURE,
                version: "v1",
            };
            assert_eq!(refusal, Err(expected), "{signature}");
        }
    }

    #[test]
    fn what_is_not_in_form_is_refused() {
        let signature = |signature: &str| Webhook {
            signature: signature.to_owned(),
            ..good()
        };
        for (header, webhook) in [
            (
                ID,
                Webhook {
                    id: String::new(),
                    ..good()
                },
            ),
            (
                ID,
                Webhook {
                    id: "a b".to_owned(),
                    ..good()
                },
            ),
            (
                ID,
                Webhook {
                    id: "a.b".to_owned(),
                    ..good()
                },
            ),
            (
                TIMESTAMP,
                Webhook {
                    time: String::new(),
                    ..good()
                },
            ),
            (
                TIMESTAMP,
                Webhook {
                    time: "2021-02-25T15:02:10Z".to_owned(),
                    ..good()
                },
            ),
            (
                TIMESTAMP,
                Webhook {
                    time: format!(" {TIME}"),
                    ..good()
                },
            ),
            (SIGNATURE, signature("")),
            (SIGNATURE, signature("v1")),
            (SIGNATURE, signature("v1,")),
            (SIGNATURE, signature("v1,bm9ldHU=")),
            (SIGNATURE, signature(&GOOD.replace('=', ""))),
            (SIGNATURE, signature(&GOOD.replace("OE=", "OF="))),
            (SIGNATURE, signature(&format!("{GOOD} "))),
            (SIGNATURE, signature(&format!("{GOOD}  {GOOD}"))),
            (SIGNATURE, signature(&[GOOD; mac::MAX_TAGS + 1].join(" "))),
        ] {
            let refusal = check(&webhook).unwrap_err();
            let named = matches!(refusal, Refusal::MalformedHeader { header: named, .. } if named == header);
            assert!(named, "{header}: {refusal:?}");
        }
    }

    #[test]
    fn every_header_is_needed() {
        let keys = Keys::parse(Scheme::StandardWebhooks, SECRET).unwrap();
        let time = TIME.to_string();
        let all = [
            (ID, MESSAGE_ID.as_bytes()),
            (TIMESTAMP, time.as_bytes()),
            (SIGNATURE, GOOD.as_bytes()),
        ];
        for missing in 0..all.len() {
            let mut headers = all.to_vec();
            let (header, _) = headers.remove(missing);
            let refusal = verify(&keys, &Request::new(&headers, BODY.as_bytes()), TIME);
            assert_eq!(refusal, Err(Refusal::MissingHeader { header }));
        }
    }
}
