//! What holds for every scheme.

mod samples;

use std::time::Duration;

use proptest::{prelude::*, sample::Index};
use samples::Sample;
use webhook_signature::{Coverage, Keys, Proven, Refusal, Request, Scheme, Unsigned, sign, verify};

const TOLERANCE: Duration = Duration::from_secs(300);

/// A signed webhook, in parts that a forger can change.
#[derive(Clone, Debug)]
struct Webhook {
    sample: Sample,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
    url: String,
    time: i64,
}

/// What was verified, without the body where that is what it is.
#[derive(Debug, PartialEq)]
struct Outcome {
    id: Option<String>,
    timestamp: Option<i64>,
    proven: Option<String>,
}

impl Webhook {
    fn check(&self, now: i64) -> Result<Outcome, Refusal> {
        let Ok(keys) = self.sample.keys() else {
            return Err(Refusal::SignatureMismatch);
        };
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_slice()))
            .collect();
        let request = Request::new(&headers, &self.body).with_url(&self.url);
        let verified = verify(&keys, &request, now, TOLERANCE)?;
        assert_eq!((verified.scheme, verified.key), (self.sample.scheme, 0));
        let proven = match &verified.proven {
            Proven::Body(body) | Proven::Checksum(body) => {
                assert_eq!(*body, self.body);
                None
            }
            other => Some(format!("{other:?}")),
        };
        Ok(Outcome {
            id: verified.id.map(str::to_owned),
            timestamp: verified.timestamp,
            proven,
        })
    }

    fn is_malformed_or_unproven(&self) -> bool {
        self.check(self.time).is_err()
    }
}

fn scheme() -> impl Strategy<Value = Scheme> {
    prop::sample::select(Scheme::ALL.to_vec())
}

/// Bodies that the scheme can sign.
fn body(scheme: Scheme) -> BoxedStrategy<Vec<u8>> {
    if scheme != Scheme::Adyen {
        return any::<Vec<u8>>().boxed();
    }
    let text = r#"[^:\x00-\x1f"\\]{0,12}"#;
    let item = (text, text, any::<i64>(), any::<bool>(), ".{0,12}").prop_map(
        |(reference, account, value, success, merchant_reference)| {
            serde_json::json!({ "NotificationRequestItem": {
                "pspReference": reference, "merchantAccountCode": account, "merchantReference": merchant_reference,
                "amount": { "value": value, "currency": "EUR" }, "eventCode": "CAPTURE", "success": success.to_string(),
                "reason": "not signed", "additionalData": { "x": "not signed" },
            } })
        },
    );
    prop::collection::vec(item, 1..4)
        .prop_map(|items| {
            serde_json::json!({ "notificationItems": items })
                .to_string()
                .into_bytes()
        })
        .boxed()
}

fn webhook_of(scheme: impl Strategy<Value = Scheme>) -> impl Strategy<Value = Webhook> {
    let parts = scheme.prop_flat_map(|scheme| {
        (
            Just(scheme),
            any::<bool>(),
            // As hexadecimal it ends in no zero byte, which would add nothing to a key.
            "[0-9a-f]{30}[1-9a-f]{2}",
            "[A-Za-z0-9_-]{1,40}",
            // PayPal's certificate begins in 2020.
            1_600_000_000..4_000_000_000_i64,
            body(scheme),
            "https://[a-z]{1,9}\\.example/[a-z]{0,9}",
        )
    });
    parts.prop_map(|(scheme, asymmetric, seed, id, time, body, url)| {
        let sample = match scheme {
            Scheme::StandardWebhooks if asymmetric => Sample::asymmetric(),
            _ => Sample::new(scheme, &seed),
        };
        let webhook = Unsigned {
            id: &id,
            timestamp: time,
            body: &body,
            url: Some(&url),
        };
        let signed = sign(&sample.signing_key(), &webhook).expect("each of them can be signed");
        let headers = signed.headers.into_iter().filter(|(name, _)| *name != "content-type");
        Webhook {
            headers: headers.map(|(name, value)| (name, value.into_bytes())).collect(),
            body: signed.body.into_owned(),
            sample,
            url,
            time,
        }
    })
}

fn webhook() -> impl Strategy<Value = Webhook> {
    webhook_of(scheme())
}

/// Of the schemes whose signature stands in a header.
fn webhook_with_header() -> impl Strategy<Value = Webhook> {
    let with_header = |scheme: &Scheme| !matches!(scheme, Scheme::Adyen | Scheme::Braintree);
    let schemes: Vec<_> = Scheme::ALL.into_iter().filter(with_header).collect();
    webhook_of(prop::sample::select(schemes))
}

fn flip(bytes: &mut [u8], at: Index) -> bool {
    if bytes.is_empty() {
        return false;
    }
    let bit = at.index(bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    true
}

/// What was changed in the body is refused where the body is what is proven. Elsewhere it is refused, or it changes
/// nothing of what is proven.
fn body_changed(webhook: &Webhook, before: &Outcome) -> Result<(), TestCaseError> {
    let after = webhook.check(webhook.time);
    match webhook.sample.scheme.coverage() {
        // Neither of these changes is one that CRC-32 overlooks.
        Coverage::Body | Coverage::Checksum => prop_assert_eq!(after, Err(Refusal::SignatureMismatch)),
        _ => prop_assert!(after.as_ref().is_err() || after.as_ref() == Ok(before), "{:?}", after),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_signed_verifies_within_the_tolerance_and_not_outside(webhook in webhook(), distance in -300..=300_i64) {
        let scheme = webhook.sample.scheme;
        let verified = webhook.check(webhook.time + distance).unwrap();
        prop_assert_eq!(verified.timestamp, scheme.signs_time().then_some(webhook.time));
        prop_assert_eq!(verified.id.is_some(), scheme.covers_id());
        prop_assert_eq!(verified.proven.is_none(), matches!(scheme.coverage(), Coverage::Body | Coverage::Checksum));
        for now in [webhook.time - 301, webhook.time + 301] {
            prop_assert_eq!(webhook.check(now).is_err(), scheme.signs_time());
        }
    }

    #[test]
    fn any_changed_bit_of_the_body_is_refused_or_proves_nothing_else(mut webhook in webhook(), at in any::<Index>()) {
        let before = webhook.check(webhook.time).unwrap();
        prop_assume!(flip(&mut webhook.body, at));
        body_changed(&webhook, &before)?;
    }

    #[test]
    fn any_change_of_the_bodys_length_is_refused_or_proves_nothing_else(
        mut webhook in webhook(),
        more in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let before = webhook.check(webhook.time).unwrap();
        if cut {
            prop_assume!(webhook.body.pop().is_some());
        } else {
            webhook.body.push(more);
        }
        body_changed(&webhook, &before)?;
    }

    #[test]
    fn any_changed_bit_of_any_header_is_refused(
        mut webhook in webhook_with_header(),
        which in any::<Index>(),
        at in any::<Index>(),
    ) {
        let which = which.index(webhook.headers.len());
        let header = &mut webhook.headers[which].1;
        let before = header.clone();
        prop_assume!(flip(header, at));
        // The name of HTTP's scheme has no case.
        prop_assume!(!(before.starts_with(b"Basic ") && before.eq_ignore_ascii_case(header) && before[6..] == header[6..]));
        prop_assert!(webhook.is_malformed_or_unproven());
    }

    #[test]
    fn any_missing_or_repeated_header_is_refused(mut webhook in webhook_with_header(), which in any::<Index>()) {
        let header = webhook.headers[which.index(webhook.headers.len())].clone();
        webhook.headers.push(header.clone());
        if webhook.sample.scheme != Scheme::Mollie {
            prop_assert_eq!(webhook.check(webhook.time), Err(Refusal::RepeatedHeader { header: header.0 }));
        }
        webhook.headers.retain(|(name, _)| *name != header.0);
        prop_assert_eq!(webhook.check(webhook.time), Err(Refusal::MissingHeader { header: header.0 }));
    }

    #[test]
    fn any_changed_character_of_the_secret_is_refused(mut webhook in webhook(), at in any::<Index>(), with in "[0-9a-f]") {
        let sample = &mut webhook.sample;
        let secret = match sample.scheme {
            Scheme::Paypal => &mut sample.parameters[0].1,
            _ => &mut sample.verifies_with,
        };
        let at = at.index(secret.len());
        prop_assume!(secret[at..=at] != with);
        secret.replace_range(at..=at, &with);
        prop_assert!(webhook.is_malformed_or_unproven());
    }

    #[test]
    fn any_changed_bit_of_a_url_that_is_signed_is_refused(mut webhook in webhook(), at in any::<Index>(), bit in 0..7_u8) {
        let before = webhook.check(webhook.time).unwrap();
        let mut url = webhook.url.clone().into_bytes();
        let at = at.index(url.len());
        url[at] ^= 1_u8 << bit;
        webhook.url = String::from_utf8(url).unwrap();
        let after = webhook.check(webhook.time);
        if webhook.sample.scheme.covers_url() {
            prop_assert_eq!(after, Err(Refusal::SignatureMismatch));
        } else {
            prop_assert_eq!(after, Ok(before));
        }
    }

    #[test]
    fn a_parameter_takes_the_place_of_the_requests_url(mut webhook in webhook_of(Just(Scheme::Square))) {
        webhook.sample.parameters.push(("notification-url", webhook.url.clone()));
        webhook.url = "http://127.0.0.1/".to_owned();
        prop_assert!(webhook.check(webhook.time).is_ok());
        webhook.sample.parameters[0].1.push('/');
        prop_assert!(webhook.is_malformed_or_unproven());
    }

    #[test]
    fn a_webhook_is_none_of_another_scheme(webhook in webhook(), scheme in scheme()) {
        let mut other = webhook.clone();
        other.sample = Sample::new(scheme, &webhook.sample.verifies_with.replace(|c: char| !c.is_ascii_hexdigit(), "a"));
        // Several sign the same bytes in the same way, and then the header is another one.
        prop_assume!(scheme != webhook.sample.scheme);
        prop_assert!(other.is_malformed_or_unproven());
    }

    #[test]
    fn no_header_makes_it_panic(
        scheme in scheme(),
        values in prop::collection::vec(any::<Vec<u8>>(), 17),
        near in "(t=[0-9]{0,14}|ts=[0-9]{0,14}|v1=[0-9a-f]{60,68}|h1=[0-9a-f]{60,68}|v1a?,[A-Za-z0-9+/=]{40,48}|sha256=[0-9a-f]{62,66}|Basic |2020-01-01T00:00:00Z|[;, =|]){0,6}",
        body in any::<Vec<u8>>(),
    ) {
        let names = [
            "stripe-signature", "webhook-id", "webhook-timestamp", "webhook-signature", "x-hub-signature-256",
            "x-shopify-hmac-sha256", "x-square-hmacsha256-signature", "paddle-signature", "hmacsignature",
            "paypal-transmission-id", "paypal-transmission-time", "paypal-transmission-sig", "paypal-auth-algo",
            "x-mollie-signature", "x-razorpay-signature", "authorization", "svix-id",
        ];
        let keys = Sample::new(scheme, "00112233445566778899aabbccddeeff").keys().unwrap();
        let random: Vec<_> = names.into_iter().zip(&values).map(|(name, value)| (name, value.as_slice())).collect();
        let near: Vec<_> = names.into_iter().map(|name| (name, near.as_bytes())).collect();
        for headers in [random, near] {
            prop_assert!(verify(&keys, &Request::new(&headers, &body), 0, TOLERANCE).is_err());
        }
    }

    #[test]
    fn no_secret_makes_it_panic(scheme in scheme(), secret in any::<String>(), parameter in any::<String>()) {
        let parameters: Vec<_> = scheme.parameters().iter().map(|known| (known.name, parameter.as_str())).collect();
        let shown = format!("{:?}", Keys::with_parameters(scheme, &secret, &parameters));
        prop_assert!(secret.len() < 12 || !shown.contains(&secret));
    }
}
