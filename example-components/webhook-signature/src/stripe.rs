//! Stripe: `Stripe-Signature: t=TIME,v1=HEX[,v1=HEX…][,v0=…]`; the whole secret, `whsec_` included, is the key.
//! <https://docs.stripe.com/webhooks#verify-manually>
//!
//! Signed is `TIME.BODY`, with the time as it is written in the header. Several `v1` come while a secret is being rolled.
//! Other versions are passed over, as Stripe's documentation demands: accepting `v0` would allow a downgrade.

use std::time::Duration;

use crate::{
    Coverage, Keys, Refusal, Request, Scheme, Signed, SigningKey, Unsignable, Unsigned, Verified, body, encoding,
    header, key, mac::Tags, scheme::Rules, signing, time,
};

const HEADER: &str = "stripe-signature";

pub(crate) const RULES: Rules = Rules {
    name: "stripe",
    tolerance: Some(Duration::from_secs(300)),
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
    let signature = Signature::parse(header::only(request, HEADER)?)?;
    let parts = [signature.time_text.as_bytes(), b".", request.body];
    let verified = body::proven(Scheme::Stripe, keys, request, &signature.tags, &parts)?;
    Ok(Verified {
        timestamp: Some(signature.time),
        ..verified
    })
}

fn sign<'a>(key: &SigningKey, webhook: &Unsigned<'a>) -> Result<Signed<'a>, Unsignable> {
    let time = time::write(webhook.timestamp)?;
    let tag = key.mac().tag(&[time.as_bytes(), b".", webhook.body]);
    let value = format!("t={time},v1={}", hex::encode(tag));
    Ok(Signed::headers(vec![(HEADER, value)], webhook))
}

struct Signature<'a> {
    time: i64,
    time_text: &'a str,
    tags: Tags,
}

impl<'a> Signature<'a> {
    fn parse(text: &'a str) -> Result<Self, Refusal> {
        let malformed = |problem| Refusal::MalformedHeader {
            header: HEADER,
            problem,
        };
        let mut time_text = None;
        let mut tags = Tags::default();
        for element in text.split(',') {
            let (name, value) = element.split_once('=').ok_or(malformed("an element has no `=`"))?;
            match name {
                "t" if time_text.is_some() => return Err(malformed("it holds `t` twice")),
                "t" => time_text = Some(value),
                "v1" => {
                    let tag =
                        encoding::hex(value).ok_or(malformed("a `v1` is not 64 lower-case hexadecimal digits"))?;
                    if !tags.push(tag) {
                        return Err(malformed("it holds too many `v1`"));
                    }
                }
                _ => {}
            }
        }
        let time_text = time_text.ok_or(malformed("it holds no `t`"))?;
        let time = time::parse(time_text).ok_or(malformed("`t` is not a time in seconds"))?;
        if tags.is_empty() {
            return Err(Refusal::NoSupportedSignature {
                header: HEADER,
                version: "v1",
            });
        }
        Ok(Self { time, time_text, tags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac;

    // The vector of Stripe's own library for .NET (stripe-dotnet, EventUtilityTest and event_test_signature.json).
    const SECRET: &str = "webhook_secret";
    const TIME: i64 = 1_533_204_620;
    const SIGNATURE: &str = "t=1533204620,v1=2220f87ef101a04665f11cdf770523143f875572008577fa0f20882ddb9cc3c7,\
                             v0=63f3a72374a733066c4be69ed7f8e5ac85c22c9f0a6a612ab9a025a9e4ee7eef";
    const BODY: &str = r#"{
  "id": "evt_123",
  "object": "event",
  "account": "acct_123",
  "api_version": "2017-05-25",
  "created": 1533204620,
  "data": {
    "object": {
      "id": "cus_123",
      "object": "customer",
      "created": 123456789,
      "email": "test@stripe.com",
      "livemode": false,
      "metadata": {}
    }
  },
  "livemode": false,
  "pending_webhooks": 1,
  "request": {
    "id": "req_123",
    "idempotency_key": "idempotency-key-123"
  },
  "type": "customer.created"
}
"#;
    const WRONG: &str = "deadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef";

    fn check_at(secrets: &str, signature: &str, body: &str, now: i64) -> Result<usize, Refusal> {
        let keys = Keys::parse(Scheme::Stripe, secrets).unwrap();
        let headers = [("Stripe-Signature", signature.as_bytes())];
        let request = Request::new(&headers, body.as_bytes());
        let verified = crate::verify(&keys, &request, now, Duration::from_secs(300))?;
        assert_eq!((verified.id, verified.timestamp), (None, Some(TIME)));
        assert_eq!(verified.proven.bytes(), Some(body.as_bytes()));
        Ok(verified.key)
    }

    fn check(signature: &str) -> Result<usize, Refusal> {
        check_at(SECRET, signature, BODY, TIME + 100)
    }

    #[test]
    fn the_vendors_vector_is_verified_and_made() {
        assert_eq!(check(SIGNATURE), Ok(0));
        let key = SigningKey::parse(Scheme::Stripe, SECRET).unwrap();
        let webhook = Unsigned {
            timestamp: TIME,
            body: BODY.as_bytes(),
            ..Unsigned::default()
        };
        let made = crate::sign(&key, &webhook).unwrap();
        let expected = SIGNATURE.split(",v0").next().unwrap().to_owned();
        assert_eq!((made.headers, &*made.body), (vec![(HEADER, expected)], BODY.as_bytes()));
    }

    #[test]
    fn a_rotation_is_verified_from_both_sides() {
        assert_eq!(check_at("new webhook_secret", SIGNATURE, BODY, TIME), Ok(1));
        assert_eq!(check(&format!("{SIGNATURE},v1={WRONG}")), Ok(0));
        assert_eq!(check(&SIGNATURE.replace(",v1", &format!(",v1={WRONG},v1"))), Ok(0));
    }

    #[test]
    fn what_was_not_signed_is_refused() {
        for (secrets, signature, body) in [
            ("other", SIGNATURE.to_owned(), BODY.to_owned()),
            (SECRET, SIGNATURE.replace("v1=2", "v1=3"), BODY.to_owned()),
            (
                SECRET,
                SIGNATURE.replace("t=1533204620", "t=1533204621"),
                BODY.to_owned(),
            ),
            (
                SECRET,
                SIGNATURE.replace("t=1533204620", "t=01533204620"),
                BODY.to_owned(),
            ),
            (SECRET, SIGNATURE.to_owned(), format!("{BODY} ")),
            (SECRET, SIGNATURE.to_owned(), String::new()),
        ] {
            let outcome = check_at(secrets, &signature, &body, TIME);
            assert_eq!(outcome, Err(Refusal::SignatureMismatch), "{secrets} {signature}");
        }
    }

    #[test]
    fn the_time_is_checked_in_both_directions_and_after_the_signature() {
        let at = |now| check_at(SECRET, SIGNATURE, BODY, now);
        assert_eq!(at(TIME + 300), Ok(0));
        assert_eq!(
            at(TIME + 301),
            Err(Refusal::Stale {
                age_s: 301,
                tolerance_s: 300
            })
        );
        assert_eq!(at(TIME - 300), Ok(0));
        assert_eq!(
            at(TIME - 301),
            Err(Refusal::Future {
                ahead_s: 301,
                tolerance_s: 300
            })
        );
        assert_eq!(
            check_at("other", SIGNATURE, BODY, TIME + 301),
            Err(Refusal::SignatureMismatch)
        );
    }

    #[test]
    fn only_v1_counts() {
        let v0 = SIGNATURE.replace("v1=", "v2=");
        assert_eq!(
            check(&v0),
            Err(Refusal::NoSupportedSignature {
                header: HEADER,
                version: "v1"
            })
        );
        // What is right under another version's name is no signature.
        let downgrade = format!("t={TIME},v0=2220f87ef101a04665f11cdf770523143f875572008577fa0f20882ddb9cc3c7");
        assert_eq!(
            check(&downgrade),
            Err(Refusal::NoSupportedSignature {
                header: HEADER,
                version: "v1"
            })
        );
    }

    #[test]
    fn what_is_not_in_form_is_refused() {
        let one = format!("v1={WRONG}");
        for signature in [
            "".to_owned(),
            ",,".to_owned(),
            "t".to_owned(),
            "t,v1=,v0=".to_owned(),
            format!("t=,{one}"),
            one.clone(),
            format!("t=1533204620,{one},"),
            format!("t=1533204620,t=1533204620,{one}"),
            format!("t=-1,{one}"),
            format!("t=1533204620, {one},v1"),
            "t=1533204620,v1=".to_owned(),
            "t=1533204620,v1=invalid".to_owned(),
            format!("t=1533204620,{}", one.to_uppercase().replace("V1", "v1")),
            format!("t=1533204620{}", format!(",{one}").repeat(mac::MAX_TAGS + 1)),
        ] {
            let refusal = check(&signature).unwrap_err();
            assert!(
                matches!(refusal, Refusal::MalformedHeader { header: HEADER, .. }),
                "{signature:?}: {refusal:?}"
            );
        }
    }
}
