//! Paddle: `Paddle-Signature: ts=TIME;h1=HEX[;h1=HEX…]`, HMAC-SHA256 over `TIME:BODY`.
//! <https://developer.paddle.com/webhooks/signature-verification>
//!
//! Several `h1` come while a secret is being rotated. Five seconds are what Paddle's own libraries allow; give more with
//! a clock that is not kept by NTP.

use std::time::Duration;

use crate::{
    Coverage, Keys, Refusal, Request, Scheme, Signed, SigningKey, Unsignable, Unsigned, Verified, body, encoding,
    header, key, mac::Tags, scheme::Rules, signing, time,
};

const HEADER: &str = "paddle-signature";

pub(crate) const RULES: Rules = Rules {
    name: "paddle",
    tolerance: Some(Duration::from_secs(5)),
    covers_id: false,
    covers_url: false,
    coverage: Coverage::Body,
    parameters: &[],
    keys: key::texts,
    signing_key: signing::text,
    verify,
    sign,
};

fn verify<'a>(keys: &Keys, request: &Request<'a>, _: i64) -> Result<Verified<'a>, Refusal> {
    let (time, time_text, tags) = parse(header::only(request, HEADER)?)?;
    let parts = [time_text.as_bytes(), b":", request.body];
    let verified = body::proven(Scheme::Paddle, keys, request, &tags, &parts)?;
    Ok(Verified {
        timestamp: Some(time),
        ..verified
    })
}

fn sign<'a>(key: &SigningKey, webhook: &Unsigned<'a>) -> Result<Signed<'a>, Unsignable> {
    let time = time::write(webhook.timestamp)?;
    let tag = key.mac().tag(&[time.as_bytes(), b":", webhook.body]);
    let value = format!("ts={time};h1={}", hex::encode(tag));
    Ok(Signed::headers(vec![(HEADER, value)], webhook))
}

fn parse(text: &str) -> Result<(i64, &str, Tags), Refusal> {
    let malformed = |problem| Refusal::MalformedHeader {
        header: HEADER,
        problem,
    };
    let mut time_text = None;
    let mut tags = Tags::default();
    for element in text.split(';') {
        let (name, value) = element.split_once('=').ok_or(malformed("an element has no `=`"))?;
        match name {
            "ts" if time_text.is_some() => return Err(malformed("it holds `ts` twice")),
            "ts" => time_text = Some(value),
            "h1" => {
                let tag = encoding::hex(value).ok_or(malformed("an `h1` is not 64 lower-case hexadecimal digits"))?;
                if !tags.push(tag) {
                    return Err(malformed("it holds too many `h1`"));
                }
            }
            _ => {}
        }
    }
    let time_text = time_text.ok_or(malformed("it holds no `ts`"))?;
    let time = time::parse(time_text).ok_or(malformed("`ts` is not a time in seconds"))?;
    if tags.is_empty() {
        return Err(Refusal::NoSupportedSignature {
            header: HEADER,
            version: "h1",
        });
    }
    Ok((time, time_text, tags))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mac::MAX_TAGS, testing::Case};

    /// The vector of Paddle's own library for Go (paddle-go-sdk, webhook_verifier_test.go).
    const SECRET: &str = "pdl_ntfset_01hsdn8d43dt7mezr1ef2jtbaw_hKkRiCGyyRhbFwIUuqiTBgI7gnWoV0Gr";
    const GOOD: &str = "ts=1710929255;h1=6c05ef8fa83c44d751be6d259ec955ce5638e2c54095bf128e408e2fce1589c8";
    const TIME: i64 = 1_710_929_255;
    const NAME: &str = "Paddle-Signature";
    const WRONG: &str = "h1=deadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef";

    fn good() -> Case {
        let body = include_str!("../tests/vectors/paddle.json");
        Case::new(Scheme::Paddle, SECRET, &[(NAME, GOOD)], body).at(TIME)
    }

    #[test]
    fn the_vendors_vector_is_verified_and_made() {
        good().has_what_all_have("abc");
        assert_eq!(good().check().unwrap().timestamp, Some(TIME));
        assert_eq!(good().sign(SECRET, "", TIME).headers, [(HEADER, GOOD.to_owned())]);
    }

    #[test]
    fn a_rotation_has_two_signatures() {
        for value in [format!("{GOOD};{WRONG}"), GOOD.replace(";h1", &format!(";{WRONG};h1"))] {
            assert_eq!(good().with_header(NAME, &value).check().unwrap().key, 0, "{value}");
        }
        let both = GOOD.replace(";h1", &format!(";{WRONG};h1"));
        assert_eq!(
            good()
                .with_header(NAME, &both)
                .with_secrets(&["abc", SECRET])
                .check()
                .unwrap()
                .key,
            1
        );
    }

    #[test]
    fn the_time_is_signed_and_checked_in_both_directions() {
        for value in [
            GOOD.replace("9255", "9256"),
            GOOD.replace("ts=", "ts=0"),
            GOOD.replace("h1=6", "h1=7"),
        ] {
            assert_eq!(
                good().with_header(NAME, &value).check(),
                Err(Refusal::SignatureMismatch),
                "{value}"
            );
        }
        let tolerance_s = 5;
        assert!(good().at(TIME + 5).check().is_ok() && good().at(TIME - 5).check().is_ok());
        assert_eq!(
            good().at(TIME + 6).check(),
            Err(Refusal::Stale { age_s: 6, tolerance_s })
        );
        assert_eq!(
            good().at(TIME - 6).check(),
            Err(Refusal::Future {
                ahead_s: 6,
                tolerance_s
            })
        );
        // The signature comes first: only who holds a key learns that a webhook is stale.
        assert_eq!(
            good().at(0).with_secrets(&["abc"]).check(),
            Err(Refusal::SignatureMismatch)
        );
    }

    #[test]
    fn other_versions_are_passed_over() {
        let other = GOOD.replace("h1=", "h2=");
        let no_version = Refusal::NoSupportedSignature {
            header: HEADER,
            version: "h1",
        };
        assert_eq!(good().with_header(NAME, &other).check(), Err(no_version));
        assert!(good().with_header(NAME, &format!("{GOOD};h2=new")).check().is_ok());
    }

    #[test]
    fn what_is_not_in_form_is_refused() {
        let many = format!("ts=1{}", format!(";{WRONG}").repeat(MAX_TAGS + 1));
        let values = [
            "",
            "ts=x;h1=y",
            WRONG,
            &format!("ts=;{WRONG}"),
            &format!("ts=-1;{WRONG}"),
            &format!("ts=1;ts=1;{WRONG}"),
            &format!("ts=1;{}", WRONG.to_uppercase().replace("H1", "h1")),
            &format!("{GOOD};"),
            &GOOD.replace(';', ","),
            "ts=1;h1=",
            &many,
        ];
        good().refuses_as_malformed(NAME, &values);
    }
}
