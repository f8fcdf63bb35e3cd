//! What makes an event one event, and what may be called how: tenant, source and id are its identity, and any tenant
//! and any type that CloudEvents allows travel as they came.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fanout_client::{ErrorKind, Event as ClientEvent, connect};
use fanout_tests::types::{Attribute, Cancellation, DeliveryOptions, Event, Filter, PublishError, Reach, Rejection};
use fanout_tests::{
    ANYONE_HERE, Bench, Cli, Component, LinkTo, SERVED_POLICY, Served, Verdict, event, eventually, every_event,
};
use fanout_tests::{publisher, subscriber};
use fanout_transport::CallContext;
use fanout_transport::testing::NatsServer;

const PUBLISHER: &[&str] = &["publisher"];

/// Tenants that are no token of a subject, beside one that is. Some would reach another's subjects if they were put
/// into them as they are.
const TENANTS: [&str; 10] = [
    "acme",
    "eu.acme",
    "acme.webhook.invoice",
    "*",
    ">",
    "a, b",
    "blank ",
    "naïve/☕\\=%2E",
    "0123456789012345678901234567890123456789012345678901234567890123456789@example.com",
    LONGEST_TENANT,
];

/// 128 bytes, and three times as many in a subject.
const LONGEST_TENANT: &str = "éééééééééééééééééééééééééééééééé\
    éééééééééééééééééééééééééééééééé";

/// 255 bytes, and 256 segments with nothing in them.
const MOST_SEGMENTS: &str = ".....................................................................................\
    .....................................................................................\
    .....................................................................................";

/// Types that are no tokens of a subject, beside some that are.
const TYPES: [&str; 10] = [
    "invoice.paid",
    "com.github/push [v2]",
    "AUTHORISATION: ok",
    "a.b.c.d.e.f.g.h.i.j.k.l",
    "..",
    "*",
    "a.>",
    "paid%2E",
    "rechnung.bezahlt.ü",
    MOST_SEGMENTS,
];

fn from_source(source: &str, id: &str) -> Event {
    Event {
        source: source.to_owned(),
        ..event("acme", "invoice.paid", id)
    }
}

fn code(e: &PublishError) -> &str {
    match e {
        PublishError::InvalidEvent(p) | PublishError::NotPermitted(p) => &p.code,
        other => panic!("{other:?}"),
    }
}

fn in_an_hour() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(3_600);
    since.as_nanos() as i64
}

async fn cancel(from: &Component, tenant: &str, source: &str, id: &str) -> Result<Cancellation, PublishError> {
    let cx = CallContext::within(Duration::from_secs(5));
    publisher::cancel_scheduled(from.bus(), cx, tenant, source, id)
        .await
        .expect("the bus answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_of_two_sources_is_two_events() {
    for topology in ["shared", "sharded(2)"] {
        let settings = [("topology", topology)];
        let bench = Bench::start(&settings, &[LinkTo::caller("ingress", PUBLISHER, "*")]).await;
        let ingress = bench.silent_component("ingress").await;
        // The last ones would be one, were a source and an id put side by side.
        let events = [
            from_source("/notes", "evt_9"),
            from_source("/webhooks/stripe", "evt_9"),
            from_source("/a", "b/c"),
            from_source("/a/b", "c"),
            from_source("/a/b/", "c"),
        ];
        let mut places = Vec::new();
        for event in &events {
            let stored = ingress.publish(event.clone()).await.unwrap();
            assert!(!stored.duplicate, "{topology}: {event:?}");
            places.push(stored.position.offset);
        }
        let again = publisher::publish_tenant_events(ingress.bus(), CallContext::default(), &events).await;
        let again: Vec<_> = again.unwrap().into_iter().map(Result::unwrap).collect();
        assert!(again.iter().all(|r| r.duplicate), "{topology}: {again:?}");
        assert_eq!(again.iter().map(|r| r.position.offset).collect::<Vec<_>>(), places);

        let at = in_an_hour();
        for source in ["/notes", "/webhooks/stripe"] {
            let later = from_source(source, "later");
            let cx = CallContext::within(Duration::from_secs(5));
            let kept = publisher::publish_tenant_event_at(ingress.bus(), cx, &later, at)
                .await
                .unwrap();
            assert!(!kept.unwrap().duplicate, "{source}");
        }
        for (source, expected) in [
            ("/other", Cancellation::NotWaiting),
            ("/notes", Cancellation::Cancelled),
            ("/webhooks/stripe", Cancellation::Cancelled),
        ] {
            let cancelled = cancel(&ingress, "acme", source, "later").await.unwrap();
            assert_eq!(cancelled, expected, "{source}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_limited_to_sources_takes_nobody_elses_ids() {
    let mut notes = LinkTo::caller("notes", PUBLISHER, "*");
    notes.settings.push(("sources".into(), "/notes/*, urn:notes".into()));
    notes.settings.push(("event-types".into(), "note.*".into()));
    let bench = Bench::start(&[], &[LinkTo::caller("ingress", PUBLISHER, "*"), notes]).await;
    let (ingress, notes) = (
        bench.silent_component("ingress").await,
        bench.silent_component("notes").await,
    );
    let note = |source: &str| Event {
        event_type: "note.made".to_owned(),
        ..from_source(source, "evt_9")
    };
    for source in ["/webhooks/stripe", "/notes", "urn:notes:1", "/tests"] {
        let refused = notes.publish(note(source)).await.unwrap_err();
        assert!(matches!(refused, PublishError::NotPermitted(_)), "{refused:?}");
        assert_eq!(code(&refused), "source-not-permitted", "{source}");
        let cx = CallContext::within(Duration::from_secs(5));
        let later = publisher::publish_tenant_event_at(notes.bus(), cx, &note(source), in_an_hour()).await;
        assert_eq!(code(&later.unwrap().unwrap_err()), "source-not-permitted", "{source}");
        let cancelled = cancel(&notes, "acme", source, "evt_9").await.unwrap_err();
        assert_eq!(code(&cancelled), "source-not-permitted", "{source}");
    }
    for (i, source) in (1..).zip(["/notes/7", "urn:notes"]) {
        assert_eq!(
            notes.publish(note(source)).await.unwrap().position.offset,
            i,
            "{source}"
        );
    }
    let paid = ingress.publish(from_source("/webhooks/stripe", "evt_9")).await.unwrap();
    assert!(!paid.duplicate, "another's id was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_left_out_is_its_publishers_own() {
    let names = ["notes", "billing"];
    let mut links: Vec<_> = names.iter().map(|name| LinkTo::caller(name, PUBLISHER, "*")).collect();
    let all = [("subscription", "all"), ("need", "durable")];
    links.push(LinkTo::subscriber("all", &["handler"], &all));
    let bench = Bench::start(&[], &links).await;
    let all = bench.component("all").await;
    let notes = bench.silent_component("notes").await;
    let billing = bench.silent_component("billing").await;
    for from in [&notes, &billing] {
        for duplicate in [false, true] {
            let stored = from.publish(from_source("", "evt_9")).await.unwrap();
            assert_eq!(stored.duplicate, duplicate, "{}", from.id);
        }
        let cx = CallContext::within(Duration::from_secs(5));
        let later = publisher::publish_tenant_event_at(from.bus(), cx, &from_source("", "later"), in_an_hour()).await;
        assert!(!later.unwrap().unwrap().duplicate, "{}", from.id);
    }
    let theirs = "urn:fanout:component:billing";
    for source in [theirs, "urn:fanout:caller:billing", "urn:fanout:component:"] {
        let refused = notes.publish(from_source(source, "evt_10")).await.unwrap_err();
        assert_eq!(code(&refused), "source-not-permitted", "{source}");
    }
    let refused = cancel(&notes, "acme", theirs, "later").await.unwrap_err();
    assert_eq!(code(&refused), "source-not-permitted");
    for from in [&notes, &billing] {
        assert_eq!(
            cancel(from, "acme", "", "later").await.unwrap(),
            Cancellation::Cancelled,
            "{}",
            from.id
        );
    }
    assert!(
        billing.publish(from_source(theirs, "evt_9")).await.unwrap().duplicate,
        "it is the same one"
    );
    let mut seen = eventually("both are delivered", || async {
        let seen = all.seen(|s| s.deliveries.iter().map(|d| d.event.source.clone()).collect::<Vec<_>>());
        (seen.len() >= 2).then_some(seen)
    })
    .await;
    seen.sort();
    assert_eq!(seen, [theirs, "urn:fanout:component:notes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_caller_may_be_limited_to_sources() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    let text = format!("{SERVED_POLICY}{ANYONE_HERE}publish.sources = [\"/notes\", \"urn:a,b\"]\n");
    std::fs::write(&policy, text).unwrap();
    let served = Served::start(&nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let bus = connect(&served.listen[0]).await.unwrap();
    let event = |source: &str| ClientEvent::new("acme", "note.made", "1").source(source);
    for source in ["/notes", "urn:a,b"] {
        assert!(!bus.publish(&event(source)).await.unwrap().duplicate, "{source}");
    }
    for source in ["", "/", "/notes/", "urn:a"] {
        let refused = bus.publish(&event(source)).await.unwrap_err();
        let kind = (refused.kind, refused.code.as_str());
        assert_eq!(kind, (ErrorKind::NotPermitted, "source-not-permitted"), "{source}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_trace_context_is_left_out() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, format!("{SERVED_POLICY}{ANYONE_HERE}")).unwrap();
    let served = Served::start(&nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let bus = connect(&served.listen[0]).await.unwrap();
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let traces = [
        TRACE.to_owned(),
        format!("{TRACE}\r\nNats-Rollup: all"),
        "\r\n\r\n".to_owned(),
        "\u{1}\u{0}".to_owned(),
        TRACE.to_uppercase(),
        "anything".to_owned(),
    ];
    for (i, trace) in traces.iter().enumerate() {
        let event = ClientEvent::new("acme", "invoice.paid", i.to_string()).traceparent(trace);
        bus.publish(&event).await.unwrap();
        bus.publish_at(&event.source("/later"), 1).await.unwrap();
    }
    let js = async_nats::jetstream::new(nats.client().await);
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    let all = 2 * traces.len() as u64;
    eventually("all are stored", || async {
        (log.get_info().await.ok()?.state.messages == all).then_some(())
    })
    .await;
    for sequence in 1..=all {
        let message = log.get_raw_message(sequence).await.unwrap();
        let header = |name: &str| message.headers.get(name).map(|v| v.as_str().to_owned());
        let is_one = header("ce-id").as_deref() == Some("0");
        assert_eq!(header("traceparent"), is_one.then(|| TRACE.to_owned()), "{message:?}");
        assert_eq!(header("Nats-Rollup"), None);
        let source = header("ce-source").unwrap();
        assert!(
            ["urn:fanout:caller:anyone", "/later"].contains(&source.as_str()),
            "{source}"
        );
    }
}

/// An id of each of the events below.
fn id_of(tenant: &str, event_type: &str) -> String {
    let place = |all: &[&str], one: &str| all.iter().position(|name| *name == one).unwrap();
    format!("{}/{}", place(&TENANTS, tenant), place(&TYPES, event_type))
}

/// Every tenant with every type, and an extension whose name is as long as Knative writes it.
fn strange() -> Vec<Event> {
    let extension = Attribute {
        name: "knativekafkapartition".into(),
        value: "3 \"§\"".into(),
    };
    let all = TENANTS
        .iter()
        .flat_map(|tenant| TYPES.iter().map(move |t| (*tenant, *t)));
    all.map(|(tenant, event_type)| Event {
        extensions: vec![extension.clone()],
        subject: Some("é 100%".into()),
        ..event(tenant, event_type, &id_of(tenant, event_type))
    })
    .collect()
}

fn sorted(mut events: Vec<(String, String, String)>) -> Vec<(String, String, String)> {
    events.sort();
    events
}

fn names(e: &Event) -> (String, String, String) {
    (e.tenant.clone(), e.event_type.clone(), e.id.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_tenant_and_any_type_travel_as_they_came() {
    for topology in ["shared", "sharded(3)", "per-tenant", "work-queue"] {
        let mut links = vec![
            LinkTo::caller("ingress", PUBLISHER, "*"),
            LinkTo::subscriber(
                "all",
                &["batch-handler"],
                &[("subscription", "all"), ("need", "durable")],
            ),
        ];
        if topology != "work-queue" {
            // One of its tenants holds the comma that lists have between their items.
            let tenants = "acme.webhook.invoice, \"a, b\", \"*\"";
            let some = [("subscription", "some"), ("need", "durable"), ("tenants", tenants)];
            links.push(LinkTo::subscriber("some", &["handler"], &some));
            links.push(LinkTo::subscriber(
                "queue",
                &["handler"],
                &[("subscription", "queue"), ("need", "queue")],
            ));
        }
        let bench = Bench::start(&[("topology", topology)], &links).await;
        let ingress = bench.silent_component("ingress").await;
        let all = bench.component("all").await;
        let some = bench.component("some").await;
        let queue = bench.component("queue").await;
        let events = strange();
        for (again, part) in [(false, &events), (true, &events)] {
            for e in part {
                let stored = ingress
                    .publish(e.clone())
                    .await
                    .unwrap_or_else(|p| panic!("{topology}: {e:?}: {p:?}"));
                assert_eq!(stored.duplicate, again, "{topology}: {e:?}");
            }
        }
        let expected = sorted(events.iter().map(names).collect());
        let seen = |c: &Component| c.seen(|s| sorted(s.deliveries.iter().map(|d| names(&d.event)).collect()));
        eventually(&format!("{topology}: every event is handled"), || async {
            (seen(&all).len() >= expected.len()).then_some(())
        })
        .await;
        assert_eq!(seen(&all), expected, "{topology}");
        all.seen(|s| {
            for d in &s.deliveries {
                let sent = events.iter().find(|e| names(e) == names(&d.event)).unwrap();
                assert_eq!(format!("{sent:?}"), format!("{:?}", d.event), "it stays as it came");
            }
        });
        if topology != "work-queue" {
            let theirs = ["acme.webhook.invoice", "a, b", "*"];
            let mine: Vec<_> = expected
                .iter()
                .filter(|e| theirs.contains(&e.0.as_str()))
                .cloned()
                .collect();
            eventually(&format!("{topology}: those of three tenants"), || async {
                (seen(&some).len() >= mine.len()).then_some(())
            })
            .await;
            assert_eq!(seen(&some), mine, "{topology}");
            eventually(&format!("{topology}: the queue subscription hears all"), || async {
                (seen(&queue) == expected).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_quotas_and_calls_know_any_name() {
    let settings = [
        ("quota.tenant.eu.acme.events-per-second", "1"),
        ("quota.tenant.a, b.max-bytes", "1KiB"),
    ];
    let ingress = LinkTo::caller("ingress", &["publisher", "subscriber"], "*");
    let bench = Bench::start(&settings, &[ingress]).await;
    let ingress = bench.component("ingress").await;
    let wanted = [
        ("by-tenant", vec!["eu.acme"], vec![]),
        ("by-type", vec![], vec!["com.*", "AUTHORISATION: ok"]),
        ("by-both", vec!["naïve/☕\\=%2E"], vec!["*.*.*", "rechnung.**"]),
    ];
    for (name, tenants, types) in &wanted {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let options = DeliveryOptions {
            filter: Filter {
                tenants: owned(tenants),
                event_types: owned(types),
                pattern: None,
            },
            reach: Reach::Handler,
            ..every_event()
        };
        let made = subscriber::subscribe_durable(ingress.bus(), CallContext::default(), name, &options).await;
        made.expect("the bus answers").unwrap();
    }
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut refused = 0;
    for e in strange() {
        let stored = ingress.publish(e.clone()).await;
        if let Err(problem) = stored {
            assert!(matches!(&problem, PublishError::QuotaExceeded(_)), "{problem:?}");
            assert!(["eu.acme", "a, b"].contains(&e.tenant.as_str()), "{e:?}");
            refused += 1;
            continue;
        }
        let mut matches = |name: &str, yes: bool| {
            if yes {
                expected.entry(name.to_owned()).or_default().push(e.id.clone());
            }
        };
        let three = e.event_type.split('.').count() == 3;
        matches("by-tenant", e.tenant == "eu.acme");
        matches(
            "by-type",
            ["com.github/push [v2]", "AUTHORISATION: ok"].contains(&e.event_type.as_str()),
        );
        matches(
            "by-both",
            e.tenant == "naïve/☕\\=%2E" && (three || e.event_type.starts_with("rechnung.")),
        );
    }
    assert!(refused > 0, "no quota of a name with dots was asked");
    for ids in expected.values_mut() {
        ids.sort();
    }
    assert_eq!(expected.len(), wanted.len());
    let seen = || {
        ingress.seen(|s| {
            let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for d in &s.deliveries {
                seen.entry(d.subscription.clone()).or_default().push(d.event.id.clone());
            }
            for ids in seen.values_mut() {
                ids.sort();
                ids.dedup();
            }
            seen
        })
    };
    eventually("each subscription has its events", || async {
        let seen = seen();
        let enough = |(name, ids): (&String, &Vec<String>)| seen.get(name).is_some_and(|s| s.len() >= ids.len());
        expected.iter().all(enough).then_some(())
    })
    .await;
    assert_eq!(seen(), expected, "and no others");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_any_tenant_are_kept_and_redriven() {
    for ordering in ["none", "tenant"] {
        let links = [
            LinkTo::caller("ingress", PUBLISHER, "*"),
            LinkTo::subscriber("all", &["handler"], &[("subscription", "all"), ("need", "durable")]),
        ];
        let bench = Bench::start(&[("ordering", ordering)], &links).await;
        let ingress = bench.silent_component("ingress").await;
        let all = bench.component("all").await;
        all.judge(|d| {
            if d.event.event_type == "com.github/push [v2]" {
                Verdict::Refuse(Rejection::DeadLetter("not\r\nnow".into()))
            } else {
                Verdict::Handle
            }
        });
        for e in strange().into_iter().filter(|e| e.event_type == TYPES[1]) {
            ingress.publish(e).await.unwrap();
        }
        let letters = TENANTS.len();
        bench
            .subscription_when("all", "all are dead letters", |s| {
                s.dead_letters == Some(letters as u64)
            })
            .await;
        let cli = Cli::new(bench.nats.url());
        let policy = cli.policy(&format!(
            "bus = \"payments\"\nsubject = \"payments.{{tenant}}.webhook.{{event-type}}\"\nordering = \"{ordering}\"\n"
        ));
        all.judge(|_| Verdict::Handle);
        for tenant in TENANTS {
            let (code, out, err) = cli.run(&["--json", "dead-letters", "list"], &policy, &["--tenant", tenant]);
            assert_eq!(code, 0, "{err}");
            let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
            let [letter] = listed["dead_letters"].as_array().unwrap().as_slice() else {
                panic!("{tenant}: {out}");
            };
            assert_eq!(letter["tenant"], tenant);
            assert_eq!(letter["attributes"]["ce-type"], TYPES[1]);
            assert_eq!(letter["attributes"]["ce-tenant"], tenant);
            assert_eq!(letter["attributes"]["ce-subject"], "é 100%");
            let number = letter["number"].to_string();
            let (code, out, err) = cli.run(&["dead-letters", "redrive"], &policy, &[&number]);
            assert_eq!(code, 0, "{out}{err}");
        }
        bench
            .subscription_when("all", "none is left", |s| s.dead_letters == Some(0))
            .await;
        let mut expected: Vec<_> = TENANTS.iter().map(|t| id_of(t, TYPES[1])).collect();
        expected.sort();
        assert_eq!(all.handled(), expected, "{ordering}");
    }
}
