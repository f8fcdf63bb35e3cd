//! Standard Webhooks 1.0.0: `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,BASE64[ v1,BASE64…]`.
//!
//! Signed is `ID.TIME.BODY`, so the id and the time are as trustworthy as the body. Signatures of other versions, such as
//! `v1a`, are passed over.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{Key, Keys, Refusal, Request, Scheme, Unsigned, Verified, header, mac, mac::Tags, time};

const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";

pub(crate) fn verify<'a>(keys: &Keys, request: &Request<'a>) -> Result<Verified<'a>, Refusal> {
    let signature = header::only(request, SIGNATURE)?;
    let id = header::only(request, ID)?;
    let time_text = header::only(request, TIMESTAMP)?;

    // With a `.` in the id, the end of the id could be passed off as the time, and the time as the body's beginning.
    if id.is_empty() || id.contains(['.', ' ']) {
        return Err(Refusal::MalformedHeader {
            header: ID,
            problem: "it is empty, or holds a `.` or a space",
        });
    }
    let time = time::parse(time_text).ok_or(Refusal::MalformedHeader {
        header: TIMESTAMP,
        problem: "it is not a time in seconds",
    })?;
    let tags = parse(signature)?;
    let key = tags
        .made_by(keys, &[id.as_bytes(), b".", time_text.as_bytes(), b".", request.body])
        .ok_or(Refusal::SignatureMismatch)?;
    Ok(Verified {
        scheme: Scheme::StandardWebhooks,
        key,
        id: Some(id),
        timestamp: Some(time),
    })
}

pub(crate) fn sign(key: &Key, webhook: &Unsigned<'_>) -> Vec<(&'static str, String)> {
    let time = webhook.timestamp.to_string();
    let tag = mac::tag(key, &[webhook.id.as_bytes(), b".", time.as_bytes(), b".", webhook.body]);
    vec![
        (ID, webhook.id.to_owned()),
        (TIMESTAMP, time),
        (SIGNATURE, format!("v1,{}", STANDARD.encode(tag))),
    ]
}

fn parse(text: &str) -> Result<Tags, Refusal> {
    let malformed = |problem| Refusal::MalformedHeader {
        header: SIGNATURE,
        problem,
    };
    let mut tags = Tags::default();
    for element in text.split(' ') {
        let (version, value) = element.split_once(',').ok_or(malformed("an element has no `,`"))?;
        if version == "v1" {
            let tag = decode(value).ok_or(malformed("a `v1` is not 32 bytes in base64"))?;
            if !tags.push(tag) {
                return Err(malformed("it holds too many `v1`"));
            }
        }
    }
    if tags.is_empty() {
        return Err(Refusal::NoSupportedSignature {
            header: SIGNATURE,
            version: "v1",
        });
    }
    Ok(tags)
}

fn decode(value: &str) -> Option<mac::Tag> {
    // One byte more than a tag: the decoder asks for room for whole groups.
    let mut buffer = [0; mac::TAG_LEN + 1];
    let len = STANDARD.decode_slice(value, &mut buffer).ok()?;
    if len == mac::TAG_LEN {
        buffer[..len].try_into().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
        let verified = crate::verify(Scheme::StandardWebhooks, &keys, &request, webhook.now, tolerance)?;
        assert_eq!((verified.id, verified.timestamp), (Some(MESSAGE_ID), Some(TIME)));
        Ok(verified.key)
    }

    #[test]
    fn the_published_vector_is_verified_and_made() {
        assert_eq!(check(&good()), Ok(0));
        let key = Key::new(Scheme::StandardWebhooks, SECRET).unwrap();
        let made = sign(
            &key,
            &Unsigned {
                id: MESSAGE_ID,
                timestamp: TIME,
                body: BODY.as_bytes(),
            },
        );
        assert_eq!(
            made,
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
            format!("v1a,AAEC {GOOD}"),
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
        // Signed as id `a.1`, time 2: the same bytes as id `a`, time 1, body `2.…`.
        let key = Key::new(Scheme::StandardWebhooks, SECRET).unwrap();
        let made = sign(
            &key,
            &Unsigned {
                id: "a.1",
                timestamp: 2,
                body: b"{}",
            },
        );
        for (id, time, body) in [("a", "1", "2.{}"), ("a.1", "2", "{}")] {
            let keys = Keys::from(key.clone());
            let headers = [
                (ID, id.as_bytes()),
                (TIMESTAMP, time.as_bytes()),
                (SIGNATURE, made[2].1.as_bytes()),
            ];
            let request = Request::new(&headers, body.as_bytes());
            let refusal = verify(&keys, &request);
            // The first is what a forger would send. That its bytes were signed is the signer's fault: the
            // specification forbids a `.` in an id, and an id that has one is refused here.
            assert_eq!(refusal.is_err(), id == "a.1", "{id}");
        }
    }

    #[test]
    fn only_v1_counts() {
        for signature in [GOOD.replace("v1", "v2"), GOOD.replace("v1", "v1a"), "v0,".to_owned()] {
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
            let refusal = verify(&keys, &Request::new(&headers, BODY.as_bytes()));
            assert_eq!(refusal, Err(Refusal::MissingHeader { header }));
        }
    }
}
