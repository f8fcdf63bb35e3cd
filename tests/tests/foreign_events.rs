//! Other clients of the bus's subjects: what they write in binary or in structured mode is an event, and what is none is
//! kept, with the reason, and never read as another.

use async_nats::HeaderMap;
use fanout_tests::types::{Event, Rejection};
use fanout_tests::{Bench, Cli, Component, LinkTo, Verdict, event, eventually};

const SUBJECT: &str = "payments.acme.webhook.invoice.paid";

const STRUCTURED: &str = r#"{
    "specversion": "1.0", "id": "evt_1", "source": "/webhooks/stripe", "type": "invoice.paid", "tenant": "acme",
    "subject": "in_1", "time": "2026-11-28T10:00:00Z", "knativekafkapartition": 3, "data": {"amount": 1.10}
}"#;

async fn put(bench: &Bench, subject: &str, headers: &[(&str, &str)], payload: &str) -> u64 {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, *value);
    }
    let js = async_nats::jetstream::new(bench.client().clone());
    let sent = js.publish_with_headers(subject.to_owned(), map, payload.to_owned().into());
    sent.await.unwrap().await.unwrap().sequence
}

fn links() -> [LinkTo; 3] {
    [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber(
            "billing",
            &["handler"],
            &[
                ("subscription", "billing"),
                ("need", "durable"),
                ("event-types", "invoice.*"),
            ],
        ),
        LinkTo::subscriber("queue", &["handler"], &[("subscription", "queue"), ("need", "queue")]),
    ]
}

async fn events(component: &Component, count: usize) -> Vec<Event> {
    eventually(&format!("{} is given {count} events", component.id), || async {
        let seen = component.seen(|s| s.deliveries.iter().map(|d| d.event.clone()).collect::<Vec<_>>());
        (seen.len() >= count).then_some(seen)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_in_structured_mode_is_that_event() {
    for ordering in ["none", "key"] {
        let bench = Bench::start(&[("ordering", ordering)], &links()).await;
        let billing = bench.component("billing").await;
        let queue = bench.component("queue").await;
        billing.judge(|d| match d.attempt {
            1 => Verdict::Refuse(Rejection::RetryNow("not yet".into())),
            2 => Verdict::Refuse(Rejection::DeadLetter("never".into())),
            _ => Verdict::Handle,
        });
        put(
            &bench,
            SUBJECT,
            &[("Content-Type", "application/cloudevents+json; charset=UTF-8")],
            STRUCTURED,
        )
        .await;
        for component in [&billing, &queue] {
            let seen = events(component, 1).await;
            let e = &seen[0];
            assert_eq!((e.tenant.as_str(), e.event_type.as_str()), ("acme", "invoice.paid"));
            assert_eq!((e.id.as_str(), e.source.as_str()), ("evt_1", "/webhooks/stripe"));
            assert_eq!(
                (e.subject.as_deref(), e.time),
                (Some("in_1"), Some(1_795_860_000_000_000_000))
            );
            assert_eq!(e.data_content_type.as_deref(), Some("application/json"));
            let extensions: Vec<_> = e
                .extensions
                .iter()
                .map(|a| (a.name.as_str(), a.value.as_str()))
                .collect();
            assert_eq!(extensions, [("knativekafkapartition", "3")]);
            assert_eq!(&e.data[..], br#"{"amount": 1.10}"#);
        }
        bench
            .subscription_when("billing", "it is a dead letter", |s| s.dead_letters == Some(1))
            .await;
        // The letter is the event too: it can be looked at, and given to its subscription again.
        let cli = Cli::new(bench.nats.url());
        let policy = cli.policy(&format!(
            "bus = \"payments\"\nsubject = \"payments.{{tenant}}.webhook.{{event-type}}\"\nordering = \"{ordering}\"\n"
        ));
        let (_, out, _) = cli.run(&["--json", "dead-letters", "list"], &policy, &[]);
        let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
        let letter = &listed["dead_letters"][0];
        assert_eq!(letter["attributes"]["ce-id"], "evt_1", "{out}");
        billing.judge(|_| Verdict::Handle);
        let number = letter["number"].to_string();
        let (code, out, err) = cli.run(&["dead-letters", "redrive"], &policy, &[&number]);
        assert_eq!(code, 0, "{out}{err}");
        eventually("it is handled", || async {
            (billing.handled() == ["evt_1"]).then_some(())
        })
        .await;
        let last = events(&billing, 3).await.pop().unwrap();
        assert_eq!(&last.data[..], br#"{"amount": 1.10}"#);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_mode_is_read_as_the_bindings_say() {
    let bench = Bench::start(&[], &links()).await;
    let billing = bench.component("billing").await;
    let required = [("ce-id", "1"), ("ce-source", "/s")];
    let with = |more: &[(&'static str, &'static str)]| [&required[..], more].concat();
    put(
        &bench,
        SUBJECT,
        &with(&[
            ("CE-Subject", "Euro%20%E2%82%AC%20100%25"),
            ("ce-quoted", "\"a b\""),
            ("ce-specversion", "1.0"),
            ("ce-type", "invoice.paid"),
            ("content-type", "application/json"),
            ("traceparent", "no trace at all \u{1}"),
        ]),
        "{}",
    )
    .await;
    // The first binding for NATS had no headers.
    put(&bench, SUBJECT, &[], STRUCTURED).await;
    put(&bench, "payments.eu%2Eacme.webhook.invoice.a%2Fb", &with(&[]), "{}").await;
    let seen = events(&billing, 3).await;
    let e = &seen.iter().find(|e| e.id == "1" && e.tenant == "acme").unwrap();
    assert_eq!(e.subject.as_deref(), Some("Euro € 100%"));
    assert_eq!(
        (e.extensions[0].name.as_str(), e.extensions[0].value.as_str()),
        ("quoted", "a b")
    );
    assert!(seen.iter().any(|e| e.id == "evt_1"));
    assert!(
        seen.iter()
            .any(|e| e.tenant == "eu.acme" && e.event_type == "invoice.a/b")
    );
    assert!(billing.seen(|s| s.traceparents.iter().all(Option::is_none)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_is_kept_with_its_reason_and_stops_nobody() {
    let bench = Bench::start(&[], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let billing = bench.component("billing").await;
    let required = [("ce-id", "1"), ("ce-source", "/s")];
    let with = |more: &[(&'static str, &'static str)]| [&required[..], more].concat();
    let structured = |content_type: &'static str| vec![("content-type", content_type)];
    let json = "application/cloudevents+json";
    let other_type = STRUCTURED.replace("invoice.paid", "invoice.voided");
    let other_tenant = STRUCTURED.replace("\"acme\"", "\"globex\"");
    let twice = STRUCTURED.replace("\"id\": \"evt_1\"", "\"id\": \"evt_1\", \"\\u0069d\": \"evt_2\"");
    let both = STRUCTURED.replace("\"data\":", "\"data_base64\": \"aGk=\", \"data\":");
    let bad = vec![
        (SUBJECT, with(&[("ce-subject", "100%")]), "{}", "percent sign"),
        (SUBJECT, with(&[("ce-subject", "%FF")]), "{}", "no UTF-8"),
        (SUBJECT, with(&[("ce-subject", "")]), "{}", "`subject`"),
        (SUBJECT, with(&[("ce-subject", "%0D%0A")]), "{}", "control characters"),
        (SUBJECT, with(&[("ce-id", "2")]), "{}", "comes twice"),
        (SUBJECT, with(&[("CE-ID", "2")]), "{}", "comes twice"),
        (
            SUBJECT,
            with(&[("ce-type", "invoice.voided")]),
            "{}",
            "its subject says",
        ),
        (SUBJECT, with(&[("ce-tenant", "globex")]), "{}", "its subject says"),
        (SUBJECT, with(&[("ce-time", "yesterday")]), "{}", "RFC 3339"),
        (SUBJECT, with(&[("ce-specversion", "0.3")]), "{}", "0.3"),
        (SUBJECT, vec![("ce-id", "1")], "{}", "`source`"),
        (SUBJECT, vec![], "{}", "specversion"),
        (SUBJECT, vec![], "not JSON", "no `ce-` headers"),
        (
            SUBJECT,
            structured("application/cloudevents-batch+json"),
            "[]",
            "message of its own",
        ),
        (
            SUBJECT,
            structured("application/cloudevents+xml"),
            "<a/>",
            "application/cloudevents+json",
        ),
        (SUBJECT, structured(json), &other_type, "its subject says"),
        (SUBJECT, structured(json), &other_tenant, "its subject says"),
        (SUBJECT, structured(json), &twice, "comes twice"),
        (SUBJECT, structured(json), &both, "data_base64"),
        ("payments.%61cme.webhook.invoice.paid", with(&[]), "{}", "no event's"),
        ("payments.acme.webhook.invoice.a/b", with(&[]), "{}", "no event's"),
    ];
    let mut expected = Vec::new();
    for (subject, headers, payload, reason) in &bad {
        let offset = put(&bench, subject, headers, payload).await;
        expected.push((format!("0/{offset}"), *reason, payload.len()));
    }
    // What stands behind all of them is delivered.
    ingress.publish(event("acme", "invoice.paid", "good")).await.unwrap();
    eventually("the good one is handled", || async {
        (billing.handled() == ["good"]).then_some(())
    })
    .await;
    bench
        .subscription_when("billing", "each of the others is a dead letter", |s| {
            s.dead_letters == Some(bad.len() as u64)
        })
        .await;
    assert_eq!(billing.seen(|s| s.deliveries.len()), 1, "nothing else was delivered");
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy("bus = \"payments\"\nsubject = \"payments.{tenant}.webhook.{event-type}\"\n");
    let (_, out, _) = cli.run(&["--json", "dead-letters", "list"], &policy, &[]);
    let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
    let letters = listed["dead_letters"].as_array().unwrap();
    for (position, reason, _) in &expected {
        let letter = letters.iter().find(|l| l["position"] == **position).expect(position);
        let said = letter["attempts"][0]["reason"].as_str().unwrap();
        assert!(said.contains(reason), "{position} wants {reason:?}: {said}");
        assert!(said.contains("[invalid-attribute]"), "{said}");
        assert!(letter["tenant"] == "acme" || letter["tenant"] == "_", "{letter}");
    }
}
