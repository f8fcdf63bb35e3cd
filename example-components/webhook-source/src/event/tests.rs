use proptest::{prelude::*, sample::Index};

use webhook_signature::Scheme;

use super::*;
use crate::samples::{self, SAMPLES, Sample};

mod body;
mod identity;

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
