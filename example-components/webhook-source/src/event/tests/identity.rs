//! Ids, sources and what proves them.

use super::*;

#[test]
fn what_is_joined_is_never_two_things() {
    let settings = [
        ("tenant", "pointer:/a pointer:/b"),
        ("tenants", "*"),
        ("event-id", "pointer:/a pointer:/b"),
    ];
    let both = |a: &str, b: &str| {
        let body = format!(r#"{{"type":"t","a":"{a}","b":"{b}"}}"#);
        let event = stripe(&body, &settings).unwrap().remove(0);
        (event.tenant, event.id)
    };
    assert_eq!(both("x", "y"), ("x.y".to_owned(), "x/y".to_owned()));
    let pairs = [
        ("x.y", "z"),
        ("x", "y.z"),
        ("x/y", "z"),
        ("x", "y/z"),
        ("x%2Fy", "z"),
        ("x%2Ey", "z"),
    ];
    let tenants: std::collections::BTreeSet<_> = pairs.iter().map(|(a, b)| both(a, b).0).collect();
    let ids: std::collections::BTreeSet<_> = pairs.iter().map(|(a, b)| both(a, b).1).collect();
    assert_eq!((tenants.len(), ids.len()), (pairs.len(), pairs.len()));
}

proptest! {
    /// Whichever alternative is there: the texts that were found, and how many they are, can be told from what they make.
    #[test]
    fn two_lists_of_parts_never_make_one(
        one in prop::collection::vec("[ab./%25EF]{1,5}", 1..3),
        other in prop::collection::vec("[ab./%25EF]{1,5}", 1..3),
    ) {
        let settings = [
            ("tenant", "pointer:/only || pointer:/a pointer:/b"),
            ("tenants", "*"),
            ("event-id", "pointer:/only || pointer:/a pointer:/b"),
        ];
        let made = |texts: &[String]| {
            let body = match texts {
                [only] => format!(r#"{{"type":"t","only":"{only}"}}"#),
                [a, b, ..] => format!(r#"{{"type":"t","a":"{a}","b":"{b}"}}"#),
                [] => unreachable!("a list has one at least"),
            };
            let event = stripe(&body, &settings).unwrap().remove(0);
            (event.tenant, event.id)
        };
        let ((one_tenant, one_id), (other_tenant, other_id)) = (made(&one), made(&other));
        prop_assert_eq!(one == other, one_tenant == other_tenant);
        prop_assert_eq!(one == other, one_id == other_id);
    }
}

#[test]
fn what_is_never_joined_stays_as_it_is() {
    let alone = [("tenant", "pointer:/only || pointer:/a"), ("tenants", "*")];
    for (body, tenant) in [
        (r#"{"type":"t","id":"1","only":"acme.eu%"}"#, "acme.eu%"),
        (r#"{"type":"t","id":"1","a":"acme.eu"}"#, "acme.eu"),
    ] {
        assert_eq!(stripe(body, &alone).unwrap()[0].tenant, tenant);
    }
    let joined = [("tenant", "pointer:/only || pointer:/a pointer:/b"), ("tenants", "*")];
    let told = stripe(r#"{"type":"t","id":"1","only":"acme.eu"}"#, &joined).unwrap();
    assert_eq!(told[0].tenant, "acme%2Eeu");
}

/// One signed webhook is one event, whatever stands beside it that nobody signed.
#[test]
fn an_id_is_never_one_that_nobody_signed() {
    for sample in SAMPLES {
        let signed = sample.signed(sample.body.as_bytes(), NOW);
        let ids = |unsigned: &[&'static str]| -> Vec<_> {
            let mut headers = headers(&sample.all_headers(&signed));
            for name in unsigned {
                if !signed.headers.iter().any(|(known, _)| known == name) {
                    headers.insert(*name, "forged".parse().unwrap());
                }
            }
            let webhook = Webhook {
                path_tenant: sample.path.strip_prefix('/'),
                headers: &headers,
                body: &signed.body,
            };
            let events = sample.source(&[]).events(webhook, NOW).unwrap();
            events.into_iter().map(|event| (event.id, event.time)).collect()
        };
        let forged = [
            "webhook-id",
            "svix-id",
            "x-github-delivery",
            "x-shopify-event-id",
            "x-shopify-webhook-id",
            "x-shopify-triggered-at",
            "x-razorpay-event-id",
            "request-id",
        ];
        assert_eq!(ids(&forged), ids(&[]), "{}", sample.scheme);
    }
}

#[test]
fn a_signed_id_is_the_one_that_was_verified() {
    let standard = samples::of(Scheme::StandardWebhooks);
    let signed = standard.signed(standard.body.as_bytes(), NOW);
    let svix: Vec<_> = standard
        .all_headers(&signed)
        .into_iter()
        .map(|(name, value)| (name.replace("webhook-", "svix-"), value))
        .collect();
    for place in ["signed-id", "header:webhook-id", "header:Svix-Id"] {
        let headers = headers(&svix);
        let webhook = Webhook {
            path_tenant: None,
            headers: &headers,
            body: &signed.body,
        };
        let events = standard.source(&[("event-id", place)]).events(webhook, NOW).unwrap();
        assert_eq!(events[0].id, "msg_sample", "{place}");
        assert_eq!(attribute(&events[0], "webhookunsigned"), None);
    }
}

#[test]
fn two_sources_never_make_one_id_of_the_same_bytes() {
    let razorpay = samples::of(Scheme::Razorpay);
    let signed = razorpay.signed(razorpay.body.as_bytes(), NOW);
    let headers = headers(&razorpay.all_headers(&signed));
    let identity = |name: &str| {
        let settings = razorpay
            .source_settings()
            .into_iter()
            .map(|(key, value)| (key.replace("source.razorpay.", &format!("source.{name}.")), value))
            .collect();
        let source = Source::find(&settings, name, &samples::SampleSecrets).unwrap().unwrap();
        let webhook = Webhook {
            path_tenant: None,
            headers: &headers,
            body: &signed.body,
        };
        let event = source.events(webhook, NOW).unwrap().remove(0);
        (event.id, event.source)
    };
    let (one, other) = (identity("eu"), identity("us"));
    assert!(one.0 != other.0 && one.1 != other.1, "{one:?} {other:?}");
    assert_eq!(one, identity("eu"));
}

#[test]
fn what_nobody_signed_is_named_in_the_event() {
    for (scheme, unsigned) in [
        (Scheme::Github, Some("tenant event-type")),
        (Scheme::Shopify, Some("tenant event-type event-id")),
        (Scheme::Stripe, None),
        (Scheme::Adyen, None),
        (Scheme::Basic, None),
    ] {
        let sample = samples::of(scheme);
        let events = receive(&sample, sample.body, &[]).unwrap();
        assert_eq!(attribute(&events[0], "webhookunsigned"), unsigned, "{scheme}");
    }
    // The newer body of Shopify's names its topic, and then the header counts for nothing.
    let shopify = samples::of(Scheme::Shopify);
    let events = receive(&shopify, r#"{"topic":"Product","action":"update"}"#, &[]).unwrap();
    assert_eq!(events[0].event_type, "Product.update");
    assert_eq!(attribute(&events[0], "webhookunsigned"), Some("tenant"));
    let settings = [
        ("event-id", "header:x-id"),
        ("event-time", "header:x-at"),
        ("trust-unsigned", "event-id, event-time"),
    ];
    let body = samples::of(Scheme::Stripe).body.as_bytes();
    let events = stripe_with(body, &[("x-id", "7"), ("x-at", "1767225000")], &settings).unwrap();
    assert_eq!(attribute(&events[0], "webhookunsigned"), Some("event-id event-time"));
}

#[test]
fn the_key_can_be_the_tenant() {
    let sample = samples::of(Scheme::Github);
    let secrets = "the secret of globex alone\na-secret-for-tests-only";
    let settings: Vec<_> = [
        ("scheme", "github"),
        ("secret", secrets),
        ("key-names", "globex, acme"),
        ("tenant", "key"),
    ]
    .map(|(key, value)| (format!("source.s.{key}"), value.to_owned()))
    .to_vec();
    let source = Source::find(&settings, "s", &samples::SampleSecrets).unwrap().unwrap();
    let signed = sample.signed(sample.body.as_bytes(), NOW);
    let headers = headers(&sample.all_headers(&signed));
    let webhook = Webhook {
        path_tenant: None,
        headers: &headers,
        body: &signed.body,
    };
    let events = source.events(webhook, NOW).unwrap();
    assert_eq!(events[0].tenant, "acme");
    assert_eq!(attribute(&events[0], "webhookunsigned"), Some("event-type"));
}

#[test]
fn keys_are_called_by_their_names() {
    let sample = samples::of(Scheme::StandardWebhooks);
    let other = "whsec_AAECAwQFBgcICQoLDA0ODw==";
    let both = format!("{other}\n{}", sample.verifies_with);
    let signed = sample.signed(sample.body.as_bytes(), NOW);
    let headers = headers(&sample.all_headers(&signed));
    let settings: Vec<_> = [
        ("scheme", "standard-webhooks"),
        ("secret", both.as_str()),
        ("tenant", "constant:acme"),
        ("key-names", "2026-11, 2025-03"),
    ]
    .iter()
    .map(|(key, value)| (format!("source.s.{key}"), (*value).to_owned()))
    .collect();
    let source = Source::find(&settings, "s", &samples::SampleSecrets).unwrap().unwrap();
    let webhook = Webhook {
        path_tenant: None,
        headers: &headers,
        body: &signed.body,
    };
    let events = source.events(webhook, NOW).unwrap();
    assert_eq!(attribute(&events[0], "webhookkey"), Some("2025-03"));
}

#[test]
fn evidence_is_the_body_and_the_headers_that_were_signed() {
    let sample = samples::of(Scheme::Gocardless);
    let events = receive(&sample, sample.body, &[("evidence", "keep")]).unwrap();
    assert_eq!(events.len(), 2);
    for event in &events {
        assert_eq!(event.data, sample.body.as_bytes());
        let evidence: Vec<(String, String)> =
            serde_json::from_str(attribute(event, "webhookevidence1").unwrap()).unwrap();
        let names: Vec<_> = evidence.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["webhook-signature"]);
    }
    // Items times the body: bounded.
    let item = r#"{"id":"EV1","resource_type":"a","action":"b","links":{"organisation":"OR00003XKGXG0J"}}"#;
    let body = format!(
        r#"{{"events":[{}],"x":"{}"}}"#,
        [item; 900].join(","),
        "y".repeat(10_000)
    );
    let refused = receive(&sample, &body, &[("evidence", "keep"), ("max-body", "1MiB")]);
    assert_eq!(refused.unwrap_err().code(), "evidence-too-large");
    assert_eq!(receive(&sample, &body, &[("max-body", "1MiB")]).unwrap().len(), 900);
}
