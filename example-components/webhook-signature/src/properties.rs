//! What holds for every scheme.

use proptest::{prelude::*, sample::Index};

use super::*;

const TOLERANCE: Duration = Duration::from_secs(300);

/// A signed webhook, in parts that a forger can change.
#[derive(Clone, Debug)]
struct Webhook {
    scheme: Scheme,
    secret: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
    time: i64,
}

impl Webhook {
    fn check(&self, now: i64) -> Result<(), Refusal> {
        let Ok(keys) = Keys::parse(self.scheme, &self.secret) else {
            return Err(Refusal::SignatureMismatch);
        };
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_slice()))
            .collect();
        verify(self.scheme, &keys, &Request::new(&headers, &self.body), now, TOLERANCE).map(drop)
    }
}

fn scheme() -> impl Strategy<Value = Scheme> {
    prop::sample::select(Scheme::ALL.to_vec())
}

fn webhook() -> impl Strategy<Value = Webhook> {
    let parts = (
        scheme(),
        "[A-Za-z0-9+/]{32}",
        "[A-Za-z0-9_-]{1,40}",
        0..4_000_000_000_i64,
        any::<Vec<u8>>(),
    );
    parts.prop_map(|(scheme, secret, id, time, body)| {
        let key = Key::new(scheme, &secret).unwrap();
        let signed = sign(
            scheme,
            &key,
            &Unsigned {
                id: &id,
                timestamp: time,
                body: &body,
            },
        );
        let headers = signed
            .into_iter()
            .map(|(name, value)| (name, value.into_bytes()))
            .collect();
        Webhook {
            scheme,
            secret,
            headers,
            body,
            time,
        }
    })
}

fn flip(bytes: &mut [u8], at: Index) -> bool {
    if bytes.is_empty() {
        return false;
    }
    let bit = at.index(bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    true
}

proptest! {
    #[test]
    fn what_is_signed_verifies_within_the_tolerance_and_not_outside(webhook in webhook(), distance in -300..=300_i64) {
        prop_assert_eq!(webhook.check(webhook.time + distance), Ok(()));
        for now in [webhook.time - 301, webhook.time + 301] {
            prop_assert_eq!(webhook.check(now).is_err(), webhook.scheme.signs_time());
        }
    }

    #[test]
    fn any_changed_bit_of_the_body_is_refused(mut webhook in webhook(), at in any::<Index>()) {
        prop_assume!(flip(&mut webhook.body, at));
        prop_assert_eq!(webhook.check(webhook.time), Err(Refusal::SignatureMismatch));
    }

    #[test]
    fn any_change_of_the_bodys_length_is_refused(mut webhook in webhook(), more in any::<u8>()) {
        webhook.body.push(more);
        prop_assert_eq!(webhook.check(webhook.time), Err(Refusal::SignatureMismatch));
    }

    #[test]
    fn any_changed_bit_of_any_header_is_refused(
        mut webhook in webhook(),
        which in any::<Index>(),
        at in any::<Index>(),
    ) {
        let which = which.index(webhook.headers.len());
        prop_assume!(flip(&mut webhook.headers[which].1, at));
        prop_assert!(webhook.check(webhook.time).is_err());
    }

    #[test]
    fn any_missing_or_repeated_header_is_refused(mut webhook in webhook(), which in any::<Index>()) {
        let header = webhook.headers[which.index(webhook.headers.len())].clone();
        webhook.headers.push(header.clone());
        prop_assert_eq!(webhook.check(webhook.time), Err(Refusal::RepeatedHeader { header: header.0 }));
        webhook.headers.retain(|(name, _)| *name != header.0);
        prop_assert_eq!(webhook.check(webhook.time), Err(Refusal::MissingHeader { header: header.0 }));
    }

    #[test]
    fn any_changed_character_of_the_secret_is_refused(mut webhook in webhook(), at in any::<Index>(), with in "[A-Za-z]") {
        let at = at.index(webhook.secret.len());
        prop_assume!(webhook.secret[at..=at] != with);
        webhook.secret.replace_range(at..=at, &with);
        prop_assert_eq!(webhook.check(webhook.time), Err(Refusal::SignatureMismatch));
    }

    #[test]
    fn no_header_makes_it_panic(
        scheme in scheme(),
        values in prop::collection::vec(any::<Vec<u8>>(), 5),
        near in "(t=[0-9]{0,14}|v1=[0-9a-f]{60,68}|v1,[A-Za-z0-9+/=]{40,48}|sha256=[0-9a-f]{62,66}|[, =]){0,6}",
        body in any::<Vec<u8>>(),
    ) {
        let names =
            ["stripe-signature", "webhook-id", "webhook-timestamp", "webhook-signature", "x-hub-signature-256"];
        let keys = Keys::parse(scheme, "whsec").or_else(|_| Keys::parse(scheme, "AAEC")).unwrap();
        let random: Vec<_> = names.into_iter().zip(&values).map(|(name, value)| (name, value.as_slice())).collect();
        let near: Vec<_> = names.into_iter().map(|name| (name, near.as_bytes())).collect();
        for headers in [random, near] {
            prop_assert!(verify(scheme, &keys, &Request::new(&headers, &body), 0, TOLERANCE).is_err());
        }
    }

    #[test]
    fn no_secret_makes_it_panic(scheme in scheme(), secret in any::<String>()) {
        let shown = format!("{:?}", Keys::parse(scheme, &secret));
        prop_assert!(secret.len() < 12 || !shown.contains(&secret));
    }
}
