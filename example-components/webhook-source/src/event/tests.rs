use proptest::{prelude::*, sample::Index};

use webhook_signature::Scheme;

use super::*;
use crate::samples::{self, SAMPLES, Sample};

const NOW: i64 = 1_767_225_600;

fn headers(pairs: &[(String, String)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name: http::HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    headers
}

/// Signs a body as the sample does, and takes it in with more settings.
fn receive(sample: &Sample, body: &str, more: &[(&str, &str)]) -> Result<Vec<Event>, Refusal> {
    let signed = sample.signed(body.as_bytes(), NOW);
    let headers = headers(&sample.all_headers(&signed));
    let webhook = Webhook {
        path_tenant: sample.path.strip_prefix('/'),
        headers: &headers,
        body: &signed.body,
    };
    sample.source(more).events(webhook, NOW)
}

fn stripe(body: &str, more: &[(&str, &str)]) -> Result<Vec<Event>, Refusal> {
    receive(&samples::of(Scheme::Stripe), body, more)
}

fn attribute<'a>(event: &'a Event, name: &str) -> Option<&'a str> {
    let found = event.extensions.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

#[test]
fn a_webhook_of_each_scheme_becomes_its_events() {
    for sample in SAMPLES {
        let events =
            receive(&sample, sample.body, &[]).unwrap_or_else(|refusal| panic!("{}: {refusal}", sample.scheme));
        assert_eq!(events.len(), sample.events.len(), "{}", sample.scheme);
        for (event, (tenant, event_type, id)) in events.iter().zip(sample.events) {
            assert_eq!(
                (event.tenant.as_str(), event.event_type.as_str()),
                (*tenant, *event_type)
            );
            let digest = id.is_empty() && event.id.contains(&format!("{}:", sample.name()));
            assert!(digest || event.id == *id, "{}: {}", sample.scheme, event.id);
            assert_eq!(event.source, format!("/webhooks/{}", sample.name()));
            assert_eq!(attribute(event, "webhookscheme"), Some(sample.name()));
            assert_eq!(attribute(event, "webhookkey"), Some("0"));
            assert_eq!(attribute(event, "webhookverified"), Some("2026-01-01T00:00:00Z"));
            assert_eq!(
                attribute(event, "webhooksigned").is_some(),
                sample.scheme.signs_time(),
                "{}",
                sample.scheme
            );
            assert_eq!(attribute(event, "webhookevidence1"), None);
            assert_eq!(
                attribute(event, "webhookpart").is_some(),
                sample.events.len() > 1,
                "{}",
                sample.scheme
            );
        }
        let whole = events.len() == 1;
        assert_eq!(whole, events[0].data == sample.body.as_bytes(), "{}", sample.scheme);
    }
}

#[test]
fn the_time_is_found_where_the_vendor_puts_it() {
    for sample in SAMPLES {
        let events = receive(&sample, sample.body, &[]).unwrap();
        let has_time = crate::defaults::of(sample.scheme).event_time.is_some();
        assert_eq!(events[0].time.is_some(), has_time, "{}", sample.scheme);
    }
    let time = |created: &str| {
        let body = format!(
            r#"{{"id":"evt_1","type":"t","created":{created},"data":{{"object":{{"metadata":{{"tenant":"acme"}}}}}}}}"#
        );
        stripe(&body, &[]).unwrap()[0].time
    };
    assert_eq!(time("1767225000"), Some(1_767_225_000_000_000_000));
    assert_eq!(
        time(r#""2022-11-03T20:26:10.344522Z""#),
        Some(1_667_507_170_344_522_000)
    );
    // Milliseconds and microseconds are told by their size.
    assert_eq!(time("1767225000123"), Some(1_767_225_000_123_000_000));
    assert_eq!(time("1767225000123456"), Some(1_767_225_000_123_456_000));
    // A time that is none is no reason to refuse.
    for created in [
        "null",
        r#""yesterday""#,
        "9223372036854775807",
        "-9223372036854775808",
        "1.5",
        "{}",
    ] {
        assert_eq!(time(created), None, "{created}");
    }
}

#[test]
fn an_item_keeps_its_bytes_and_says_where_it_was() {
    let sample = samples::of(Scheme::Gocardless);
    let body = r#"{ "events": [ {"id": "EV1", "resource_type": "a", "action": "b", "n": 1.10,  "links": {"organisation":"OR00003XKGXG0J"}} ] }"#;
    let events = receive(&sample, body, &[]).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&events[0].data),
        r#"{"id": "EV1", "resource_type": "a", "action": "b", "n": 1.10,  "links": {"organisation":"OR00003XKGXG0J"}}"#
    );
    assert_eq!(attribute(&events[0], "webhookpart"), Some("/events/0"));
    assert_eq!(attribute(&events[0], "webhookcovers"), Some("body"));
    assert_eq!(receive(&sample, r#"{"events":[]}"#, &[]), Ok(vec![]));

    let adyen = samples::of(Scheme::Adyen);
    let events = receive(&adyen, adyen.body, &[]).unwrap();
    assert_eq!(
        attribute(&events[1], "webhookpart"),
        Some("/notificationItems/1/NotificationRequestItem")
    );
    assert_eq!(attribute(&events[1], "webhookcovers"), Some("fields"));
    let item: serde_json::Value = serde_json::from_slice(&events[1].data).unwrap();
    assert_eq!(item["pspReference"], "8825408195409505");
}

#[test]
fn one_item_that_is_none_refuses_them_all() {
    let sample = samples::of(Scheme::Gocardless);
    let with = |second: &str| {
        let first = r#"{"id":"EV1","resource_type":"a","action":"b","links":{"organisation":"OR00003XKGXG0J"}}"#;
        receive(&sample, &format!(r#"{{"events":[{first},{second}]}}"#), &[])
    };
    let refused = with(r#"{"resource_type":"a","action":"b","links":{"organisation":"OR00003XKGXG0J"}}"#);
    let refused = refused.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the webhook has no event-id at pointer:/id of /events/1"
    );
    let refused = with(r#"{"id":"EV2","resource_type":"a","action":"b","links":{"organisation":"OR9"}}"#);
    assert_eq!(refused.unwrap_err().code(), "tenant-not-allowed");
    let refused = with(r#"{"id":"EV2","resource_type":"a\nb","action":"c","links":{"organisation":"OR00003XKGXG0J"}}"#);
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), "invalid-event-type");
    assert!(!refused.to_string().contains('\n'), "{refused}");
    let none = receive(&sample, r#"{"event":[]}"#, &[]).unwrap_err();
    assert_eq!(
        (none.code(), none.to_string().as_str()),
        ("no-items", "the body has no items at /events/*")
    );
    let many = format!(r#"{{"events":[{}0]}}"#, "0,".repeat(crate::items::MAX_ITEMS));
    assert_eq!(
        receive(&sample, &many, &[]),
        Err(Refusal::TooManyItems { count: 1_001 })
    );
}

#[test]
fn a_scheme_without_items_can_be_given_some() {
    let body = r#"{"account":"acme","all":[{"in":{"id":"1","type":"a"}},{"in":{"id":"2","type":"b"}}]}"#;
    let settings = [("items", "/all/*/in"), ("tenant", "root:/account")];
    let events = stripe(body, &settings).unwrap();
    let seen: Vec<_> = events
        .iter()
        .map(|event| [&event.tenant, &event.id, &event.event_type].map(String::as_str))
        .collect();
    assert_eq!(seen, [["acme", "1", "a"], ["acme", "2", "b"]]);
    let sample = samples::of(Scheme::Gocardless);
    let whole = [
        ("items", "none"),
        ("tenant", "constant:OR00003XKGXG0J"),
        ("event-type", "constant:batch"),
        ("event-id", "digest"),
    ];
    assert_eq!(receive(&sample, sample.body, &whole).unwrap().len(), 1);
}

#[test]
fn a_number_is_an_id_and_nothing_else_is() {
    let id = |id: &str| {
        let body = format!(r#"{{"id":{id},"type":"t"}}"#);
        stripe(&body, &[("tenant", "constant:acme")]).map(|events| events[0].id.clone())
    };
    assert_eq!(id("42"), Ok("42".to_owned()));
    let long = "123456789012345678901234567890";
    assert_eq!(id(long), Ok(long.to_owned()));
    // One that the contract has no room for is a digest of itself.
    let longest = "i".repeat(256);
    assert_eq!(id(&format!("\"{longest}\"")), Ok(longest));
    let too_long = |last: char| id(&format!("\"{}{last}\"", "i".repeat(256))).unwrap();
    assert!(
        too_long('a').starts_with("stripe:") && too_long('a').len() == 71,
        "{}",
        too_long('a')
    );
    assert_eq!(too_long('a'), too_long('a'));
    assert_ne!(too_long('a'), too_long('b'));
    for text in ["4.2", "null", "true", "[]", "{}", r#""""#] {
        assert_eq!(id(text).unwrap_err().code(), "no-event-id", "{text}");
    }
    assert_eq!(id(r#""a\nb""#).unwrap_err().code(), "invalid-event-id");
}

#[test]
fn a_source_speaks_for_its_tenants_only() {
    let with = |tenant: &str, tenants: &str| {
        let body = format!(r#"{{"id":"evt_1","type":"t","account":"{tenant}"}}"#);
        stripe(&body, &[("tenant", "pointer:/account"), ("tenants", tenants)]).map(|events| events[0].tenant.clone())
    };
    assert_eq!(with("acme", "acme,beta"), Ok("acme".to_owned()));
    assert_eq!(with("acct_1", "acct_1=acme, beta"), Ok("acme".to_owned()));
    assert_eq!(with("gamma", "acme,*=others"), Ok("others".to_owned()));
    assert_eq!(with("acme", "acme,*=others"), Ok("acme".to_owned()));
    for (tenant, tenants) in [
        ("gamma", "acme,beta"),
        ("acme", "acct_1=acme"),
        ("acct_1=acme", "acct_1=acme"),
        ("*", "acme,beta"),
    ] {
        let refused = with(tenant, tenants);
        assert_eq!(refused.unwrap_err().code(), "tenant-not-allowed", "{tenant} {tenants}");
    }
    // Which tenants there can be is the bus's to say.
    for tenant in ["a.b", "a b", "é", "a/b:*>"] {
        assert_eq!(with(tenant, "*"), Ok(tenant.to_owned()));
    }
    assert_eq!(with("a.b", "a.b=ab"), Ok("ab".to_owned()));
}

#[test]
fn what_is_not_there_is_named() {
    let missing = |body: &str| {
        stripe(body, &[("tenant", "pointer:/account"), ("tenants", "*")])
            .unwrap_err()
            .to_string()
    };
    assert_eq!(missing("{}"), "the webhook has no tenant at pointer:/account");
    assert_eq!(
        missing(r#"{"account":"acme"}"#),
        "the webhook has no event-type at pointer:/type"
    );
    assert!(missing("not json").starts_with("the body can't be read: it is no JSON"));
    let github = samples::of(Scheme::Github);
    let twice = Sample {
        headers: &[("x-github-event", "push"), ("x-github-event", "ping")],
        ..github
    };
    assert_eq!(receive(&twice, "{}", &[]).unwrap_err().code(), "no-event-type");
}

/// Stripe's sample with another body and whatever headers somebody put beside the signature.
fn stripe_with(
    body: &[u8],
    unsigned: &[(&'static str, &'static str)],
    more: &[(&str, &str)],
) -> Result<Vec<Event>, Refusal> {
    let sample = samples::of(Scheme::Stripe);
    let signed = sample.signed(body, NOW);
    let mut headers = headers(&sample.all_headers(&signed));
    for (name, value) in unsigned {
        headers.insert(*name, value.parse().unwrap());
    }
    let webhook = Webhook {
        path_tenant: None,
        headers: &headers,
        body: &signed.body,
    };
    sample.source(more).events(webhook, NOW)
}

#[test]
fn the_unsigned_content_type_decides_nothing() {
    // As JSON it is acme's; as a form, it would be globex's, of another type and with another id.
    let body = r#"{"id":"evt_1","type":"t","data":{"object":{"metadata":{"tenant":"acme"}}},"x":"&id=evt_2&type=u&tenant=globex&y="}"#;
    let settings = [("tenant", "pointer:/data/object/metadata/tenant || pointer:/tenant")];
    let as_json = stripe_with(body.as_bytes(), &[], &settings).unwrap();
    assert_eq!(as_json[0].tenant, "acme");
    for content_type in [
        "application/x-www-form-urlencoded",
        "application/xml",
        "text/plain",
        "application/json; charset=utf-16",
    ] {
        let again = stripe_with(body.as_bytes(), &[("content-type", content_type)], &settings);
        assert_eq!(again.as_ref(), Ok(&as_json), "{content_type}");
    }
    // The same of every scheme: what is signed makes the same event, whatever is said of its format.
    for sample in SAMPLES {
        let signed = sample.signed(sample.body.as_bytes(), NOW);
        let events = |content_type: Option<&str>| {
            let mut headers = headers(&sample.all_headers(&signed));
            headers.remove("content-type");
            if let Some(content_type) = content_type {
                headers.insert("content-type", content_type.parse().unwrap());
            }
            let webhook = Webhook {
                path_tenant: sample.path.strip_prefix('/'),
                headers: &headers,
                body: &signed.body,
            };
            sample.source(&[]).events(webhook, NOW).unwrap()
        };
        let without = events(None);
        for content_type in [
            "application/x-www-form-urlencoded",
            "application/xml",
            "application/json",
        ] {
            assert_eq!(events(Some(content_type)), without, "{}", sample.scheme);
        }
    }
}

#[test]
fn a_setting_says_that_a_sender_writes_forms() {
    let github = samples::of(Scheme::Github);
    let events = receive(
        &github,
        "payload=%7B%7D&account=acme",
        &[("format", "form"), ("tenant", "pointer:/account"), ("tenants", "acme")],
    );
    let event = &events.unwrap()[0];
    assert_eq!(
        (event.tenant.as_str(), event.data_content_type),
        ("acme", Some("application/x-www-form-urlencoded"))
    );
    // Two of one field, which would be the right one? And no UTF-8 is no text, not another one.
    let form = |body: &str| {
        receive(
            &github,
            body,
            &[("format", "form"), ("tenant", "pointer:/a"), ("tenants", "*")],
        )
    };
    assert_eq!(form("a=acme&a=globex").unwrap_err().code(), "invalid-body");
    assert_eq!(form("a=%ff").unwrap_err().code(), "no-tenant");
}

#[test]
fn a_body_in_which_nothing_is_read_can_be_anything_but_ambiguous() {
    let github = samples::of(Scheme::Github);
    let events = receive(&github, "Hello, World!", &[]).unwrap();
    assert_eq!(
        (events[0].data_content_type, &*events[0].data),
        (None, &b"Hello, World!"[..])
    );
    let twice = receive(&github, r#"{"action":"opened","n":{"sender":1,"sender":2}}"#, &[]);
    assert_eq!(twice.unwrap_err().code(), "invalid-body");
}

#[test]
fn a_key_that_comes_twice_is_refused_at_any_depth() {
    for body in [
        r#"{"id":"evt_1","id":"evt_2","type":"t","data":{"object":{"metadata":{"tenant":"acme"}}}}"#,
        r#"{"id":"evt_1","type":"t","data":{"object":{"metadata":{"tenant":"acme","\u0074enant":"globex"}}}}"#,
        r#"{"id":"evt_1","type":"t","data":{"object":{"metadata":{"tenant":"acme"},"lines":[{"x":1,"x":1}]}}}"#,
    ] {
        let refused = stripe(body, &[]).unwrap_err();
        assert_eq!(refused.code(), "invalid-body", "{body}");
        assert!(refused.to_string().contains("comes twice"), "{refused}");
    }
    let adyen = samples::of(Scheme::Adyen);
    let signed = adyen.signed(adyen.body.as_bytes(), NOW);
    let signed = String::from_utf8(signed.body.into_owned()).unwrap();
    let changed = signed.replace(r#""reason":"""#, r#""reason":"a","reason":"b""#);
    assert_ne!(changed, signed);
    let webhook = Webhook {
        path_tenant: None,
        headers: &HeaderMap::new(),
        body: changed.as_bytes(),
    };
    assert_eq!(
        adyen.source(&[]).events(webhook, NOW).unwrap_err().code(),
        "invalid-body"
    );
}

#[test]
fn neither_a_byte_order_mark_nor_a_broken_text_loses_a_webhook() {
    let with = |note: &str, id: &str| {
        format!(r#"{{"id":{id},"note":{note},"type":"t","data":{{"object":{{"metadata":{{"tenant":"acme"}}}}}}}}"#)
    };
    for body in [
        format!("\u{feff}{}", with("1", r#""evt_1""#)),
        with(r#""\ud83d""#, r#""evt_1""#),
        with(r#"{"\udc00":["\ud800\ud800"]}"#, r#""evt_1""#),
    ] {
        let events = stripe(&body, &[]).unwrap_or_else(|refusal| panic!("{body}: {refusal}"));
        assert_eq!((events[0].id.as_str(), &*events[0].data), ("evt_1", body.as_bytes()));
    }
    let bytes = [
        &br#"{"id":"evt_1","n":""#[..],
        b"\xff\xfe",
        br#"","type":"t","tenant":"acme"}"#,
    ]
    .concat();
    let events = stripe_with(&bytes, &[], &[("tenant", "pointer:/tenant")]).unwrap();
    assert_eq!(events[0].data, bytes);
    // But what is no text is no id: another character in its place would make two ids one.
    assert_eq!(
        stripe(&with("1", r#""evt_\ud800""#), &[]).unwrap_err().code(),
        "no-event-id"
    );
    let items = format!("\u{feff}{}", samples::of(Scheme::Gocardless).body);
    let events = receive(&samples::of(Scheme::Gocardless), &items, &[]).unwrap();
    assert_eq!(events.len(), 2);
    assert!(events[0].data.starts_with(br#"{"id":"EV00BD05S5VM2T""#));
}

#[test]
fn types_and_tenants_travel_as_they_came() {
    for event_type in [
        "v2.core.account[requirements].updated",
        "orders/create",
        "urn:vendor:thing",
        "Payment Received",
        "a.b.c.d.e.f.g.h.i.j.k",
        "..",
        "*",
        "é",
    ] {
        let body = format!(r#"{{"id":"1","type":"{event_type}","account":"shop.example.com"}}"#);
        let events = stripe(&body, &[("tenant", "pointer:/account"), ("tenants", "*")]).unwrap();
        assert_eq!(
            (events[0].event_type.as_str(), events[0].tenant.as_str()),
            (event_type, "shop.example.com")
        );
    }
}

#[test]
fn the_first_alternative_that_is_there_counts() {
    let settings = [
        ("tenant", "pointer:/a || pointer:/b pointer:/c || constant:others"),
        ("tenants", "acme, x.y=globex, others"),
        ("event-id", "pointer:/id || digest"),
        ("event-time", "pointer:/when || pointer:/created"),
    ];
    let tenant = |body: &str| stripe(body, &settings).map(|events| events[0].tenant.clone());
    assert_eq!(
        tenant(r#"{"id":"1","type":"t","a":"acme","b":"x","c":"y"}"#),
        Ok("acme".to_owned())
    );
    assert_eq!(
        tenant(r#"{"id":"1","type":"t","b":"x","c":"y"}"#),
        Ok("globex".to_owned())
    );
    // Nothing, an empty text and what is no text are alike.
    for a in [
        "",
        r#","a":"""#,
        r#","a":null"#,
        r#","a":{}"#,
        r#","a":"\ud800","b":"x""#,
    ] {
        let body = format!(r#"{{"id":"1","type":"t"{a}}}"#);
        assert_eq!(tenant(&body), Ok("others".to_owned()), "{body}");
    }
    // What is there and not allowed is not passed over.
    let refused = tenant(r#"{"id":"1","type":"t","a":"evil"}"#).unwrap_err();
    assert!(
        matches!(refused, Refusal::TenantNotAllowed { signed: true, .. }),
        "{refused:?}"
    );
    let events = stripe(r#"{"type":"t","a":"acme","created":1767225000}"#, &settings).unwrap();
    assert!(events[0].id.starts_with("stripe:"), "{}", events[0].id);
    assert_eq!(events[0].time, Some(1_767_225_000_000_000_000));
}

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

proptest! {
    #[test]
    fn no_signed_body_makes_it_panic(body in r#"[{}\[\]":,a-z0-9.]{0,60}"#, events in r#"(\{"id":[0-9]{1,2}\}|null|\[\]|"x"|,){0,6}"#) {
        let refused = stripe(&body, &[]).unwrap_err();
        prop_assert!(matches!(refused, Refusal::Malformed { .. } | Refusal::NotFound { .. }), "{refused:?}");
        let sample = samples::of(Scheme::Gocardless);
        drop(receive(&sample, &format!(r#"{{"events":[{events}]}}"#), &[]));
        drop(receive(&samples::of(Scheme::Braintree), &body, &[]));
    }

    /// Whatever is proven: a changed bit of the body makes no other event.
    #[test]
    fn a_changed_bit_makes_no_other_event(at in any::<Index>(), which in 0..SAMPLES.len()) {
        let sample = SAMPLES[which];
        let signed = sample.signed(sample.body.as_bytes(), NOW);
        let headers = headers(&sample.all_headers(&signed));
        let mut body = signed.body.to_vec();
        let bit = at.index(body.len() * 8);
        body[bit / 8] ^= 1 << (bit % 8);
        let events = |body: &[u8]| {
            let webhook = Webhook { path_tenant: sample.path.strip_prefix('/'), headers: &headers, body };
            sample.source(&[]).events(webhook, NOW)
        };
        let told = |events: Vec<Event>| -> Vec<_> {
            events.into_iter().map(|event| (event.tenant, event.event_type, event.id)).collect()
        };
        if let (Ok(changed), true) = (events(&body), sample.scheme != Scheme::Basic) {
            prop_assert_eq!(told(changed), told(events(&signed.body).unwrap()), "{}", sample.scheme);
        }
    }
}
