//! What a body may be written in, and what of it is ambiguous.

use super::*;

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
