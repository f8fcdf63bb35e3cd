//! What leaves a bus for those who watch it: traces by OTLP, in a collector that reads them; numbers beside them; and a log of
//! JSON.

use std::cell::RefCell;

use fanout_tests::collector::{Collector, Span};
use fanout_tests::http_caller::{HttpCaller, STRUCTURED, document};
use fanout_tests::types::Rejection;
use fanout_tests::{
    ANYONE_HERE, Bench, Cli, SERVED_POLICY, Served, Verdict, event, eventually, ingress_and_invoicing, publisher,
};
use fanout_transport::CallContext;
use fanout_transport::testing::NatsServer;
use serde_json::{Value, json};
use wasmcloud_core::OtelConfig;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
const TEMPLATE: &str = "payments.{tenant}.webhook.{event-type}";

fn exported_to(url: &str) -> OtelConfig {
    OtelConfig {
        enable_observability: true,
        observability_endpoint: Some(url.to_owned()),
        ..OtelConfig::default()
    }
}

async fn bench(otel: OtelConfig, settings: &[(&str, &str)]) -> Bench {
    let mut bench = Bench::without_provider(settings, &ingress_and_invoicing()).await;
    bench.watch(otel);
    bench.add_provider().await;
    bench
}

/// Waits until the provider has ended in order.
async fn ends(bench: &mut Bench) {
    let provider = RefCell::new(&mut bench.providers[0]);
    eventually("the process ends in order", || async {
        provider.borrow_mut().ended().filter(|good| *good)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_an_event_is_one_trace() {
    let collector = Collector::start().await;
    let bench = bench(exported_to(collector.url()), &[("telemetry.tenants", "globex")]).await;
    let (ingress, invoicing) = (bench.component("ingress").await, bench.component("invoicing").await);
    invoicing.judge(|d| match d.event.id.as_str() {
        "evt_poison" => Verdict::Refuse(Rejection::DeadLetter("no amount".into())),
        "evt_busy" if d.attempt == 1 => Verdict::Refuse(Rejection::RetryNow("busy".into())),
        _ => Verdict::Handle,
    });
    for (tenant, id) in [("acme", "evt_poison"), ("globex", "evt_busy")] {
        let context = CallContext {
            link: Some("default".to_owned()),
            traceparent: Some(format!("00-{TRACE}-{CALLER}-01")),
            ..CallContext::default()
        };
        let event = event(tenant, "invoice.paid", id);
        let published = publisher::publish_tenant_event(ingress.bus(), context, &event);
        published.await.unwrap().unwrap();
    }
    let bad = event("acme", "", "evt_bad");
    let no_type = publisher::publish_tenant_event(ingress.bus(), CallContext::default(), &bad);
    no_type.await.unwrap().unwrap_err();
    bench
        .subscription_when("invoicing", "both events are settled", |s| {
            s.backlog() == Some(0) && s.dead_letters == Some(1)
        })
        .await;
    let about = |id: &str, name: &str| {
        let (id, name) = (id.to_owned(), format!("{name} {TEMPLATE}"));
        collector.spans(move |s| s.name == name && s.of("messaging.message.id") == id)
    };
    eventually("the spans are there", async || {
        let settled = [about("evt_poison", "settle"), about("evt_busy", "settle")];
        (settled[0].len() == 1 && settled[1].len() == 2 && !about("evt_bad", "publish").is_empty()).then_some(())
    })
    .await;

    let one = |spans: Vec<Span>| <[Span; 1]>::try_from(spans).expect("one span")[0].clone();
    let publish = one(about("evt_poison", "publish"));
    assert_eq!(
        (publish.trace.as_str(), publish.parent.as_str()),
        (TRACE, CALLER),
        "{publish:?}"
    );
    assert_eq!(publish.kind, 4, "a producer's");
    let published = publish.id.clone();
    for (key, value) in [
        ("messaging.system", "fanout"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "payments"),
        ("messaging.destination.template", TEMPLATE),
        ("cloudevents.event_type", "invoice.paid"),
        ("fanout.position", "0/1"),
        ("error.type", ""),
    ] {
        assert_eq!(publish.of(key), value, "{key} of {publish:?}");
    }
    let process = one(about("evt_poison", "process"));
    assert_eq!(
        (&process.trace, &process.parent),
        (&publish.trace, &publish.id),
        "{process:?}"
    );
    assert_eq!(
        process.links,
        std::slice::from_ref(&publish.id),
        "linked to its publish"
    );
    assert_eq!(
        (process.kind, process.of("messaging.consumer.group.name")),
        (5, "invoicing")
    );
    assert_eq!(
        (process.of("error.type"), process.failed.as_deref()),
        ("rejected", Some("no amount"))
    );
    let settle = one(about("evt_poison", "settle"));
    assert_eq!(settle.parent, process.id, "{settle:?}");
    assert_eq!(
        (settle.of("fanout.outcome"), settle.of("error.type")),
        ("dead-lettered", "rejected")
    );
    // The component goes on with it.
    let brought = invoicing.seen(|s| s.traceparents.clone());
    assert!(brought.contains(&Some(process.traceparent())), "{brought:?}");

    let busy = about("evt_busy", "process");
    let attempts: Vec<_> = busy
        .iter()
        .map(|s| (s.of("fanout.attempt"), s.of("error.type")))
        .collect();
    assert_eq!(attempts, [("1", "rejected"), ("2", "")]);
    let publish = one(about("evt_busy", "publish"));
    assert!(
        busy.iter().all(|s| s.links == [publish.id.clone()]),
        "each attempt: {busy:?}"
    );
    let outcomes: Vec<_> = about("evt_busy", "settle")
        .iter()
        .map(|s| s.of("fanout.outcome").to_owned())
        .collect();
    assert_eq!(outcomes, ["retry", "handled"]);
    assert_eq!(one(about("evt_bad", "publish")).of("error.type"), "invalid-event-type");

    let names = |tenant: &str| collector.spans(|s| s.of("fanout.tenant") == tenant).len();
    assert!(
        names("globex") >= 3 && names("acme") == 0,
        "only the tenant that a setting names"
    );
    let subjects = collector.spans(|s| {
        s.attributes
            .values()
            .chain([&s.name])
            .any(|v| v.contains("payments.acme."))
    });
    assert!(subjects.is_empty(), "{subjects:?}");

    // Its dead letter, delivered again, is a part of the same trace.
    invoicing.judge(|_| Verdict::Handle);
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy("bus = \"payments\"\nsubject = \"payments.{tenant}.webhook.{event-type}\"\n");
    assert_eq!(cli.run(&["dead-letters", "redrive"], &policy, &["--all"]).0, 0);
    let again = eventually("it is redriven", async || {
        let settled = about("evt_poison", "settle");
        (settled.len() == 2).then_some(settled)
    })
    .await;
    let redriven = again
        .iter()
        .find(|s| s.of("fanout.outcome") == "handled")
        .expect("it is handled");
    assert_eq!(
        (redriven.trace.as_str(), redriven.of("fanout.position")),
        (TRACE, "0/1"),
        "{redriven:?}"
    );
    let processed = about("evt_poison", "process");
    assert!(
        processed.iter().all(|s| s.links == [published.clone()]),
        "each delivery: {processed:?}"
    );

    let reconcile = collector.spans(|s| s.name == "reconcile");
    let steps = collector.spans(|s| s.name == "apply step");
    assert!(
        steps.iter().any(|s| s.of("fanout.step").starts_with("create stream")),
        "{steps:?}"
    );
    assert!(
        steps.iter().all(|s| reconcile.iter().any(|r| r.id == s.parent)),
        "{steps:?}"
    );
    assert_eq!(
        collector.resource().get("service.name").map(String::as_str),
        Some("fanout")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_scheduled_is_one_trace_too() {
    let collector = Collector::start().await;
    let bench = bench(exported_to(collector.url()), &[]).await;
    let (ingress, invoicing) = (bench.component("ingress").await, bench.component("invoicing").await);
    let context = CallContext {
        link: Some("default".to_owned()),
        traceparent: Some(format!("00-{TRACE}-{CALLER}-01")),
        ..CallContext::default()
    };
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let due = i64::try_from((now + std::time::Duration::from_secs(1)).as_nanos()).unwrap();
    let event = event("acme", "invoice.paid", "evt_later");
    let scheduled = publisher::publish_tenant_event_at(ingress.bus(), context, &event, due);
    scheduled.await.unwrap().unwrap();
    eventually("it is handled", async || (invoicing.handled().len() == 1).then_some(())).await;
    let named = |operation: &str| {
        let name = format!("{operation} {TEMPLATE}");
        collector.spans(move |s| s.name == name && s.of("cloudevents.event_id") == "evt_later")
    };
    let process = eventually("its delivery is a span", async || named("process").pop()).await;
    let all = eventually("so are both calls", async || {
        Some(named("publish")).filter(|all| all.len() == 2)
    })
    .await;
    let fired = all
        .iter()
        .find(|s| s.of("fanout.scheduled") == "true")
        .expect("the bus's own publish");
    let asked = all
        .iter()
        .find(|s| s.of("fanout.scheduled").is_empty())
        .expect("the call");
    assert_eq!(
        (asked.trace.as_str(), asked.parent.as_str()),
        (TRACE, CALLER),
        "{asked:?}"
    );
    assert_eq!(
        (fired.trace.as_str(), &fired.parent, fired.of("fanout.position")),
        (TRACE, &asked.id, "0/1"),
        "{fired:?}"
    );
    assert_eq!(
        (process.trace.as_str(), &process.parent),
        (TRACE, &fired.id),
        "{process:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_exported_yet_is_when_the_process_ends() {
    let collector = Collector::start().await;
    let mut bench = bench(exported_to(collector.url()), &[]).await;
    let (ingress, invoicing) = (bench.component("ingress").await, bench.component("invoicing").await);
    ingress
        .publish(event("acme", "invoice.paid", "evt_last"))
        .await
        .unwrap();
    eventually("it is handled", async || {
        (!invoicing.handled().is_empty()).then_some(())
    })
    .await;
    bench.providers[0].signal("TERM");
    ends(&mut bench).await;
    let last = |operation: &str| {
        let name = format!("{operation} {TEMPLATE}");
        collector
            .spans(move |s| s.name == name && s.of("messaging.message.id") == "evt_last")
            .len()
    };
    assert_eq!((last("publish"), last("process"), last("settle")), (1, 1, 1));
    let metrics = collector.metrics();
    for name in [
        "messaging.client.operation.duration",
        "messaging.process.duration",
        "fanout.events.accepted",
        "fanout.pending",
    ] {
        assert!(metrics.contains_key(name), "{name} in {metrics:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_harms_nothing_and_is_said_once() {
    // A port that nobody listens on.
    let gone = Collector::start().await.url().to_owned();
    let mut bench = bench(exported_to(&gone), &[]).await;
    let (ingress, invoicing) = (bench.component("ingress").await, bench.component("invoicing").await);
    ingress.publish_in_turn(&["acme"], 10).await;
    eventually("all are handled", async || {
        (invoicing.handled().len() == 10).then_some(())
    })
    .await;
    let said = |log: &str, what: &str| log.matches(&format!("{what} can't be exported")).count();
    eventually("it is said", async || {
        (said(&bench.providers[0].log(), "traces") > 0).then_some(())
    })
    .await;
    ingress.publish_in_turn(&["globex"], 10).await;
    eventually("all are handled", async || {
        (invoicing.handled().len() == 20).then_some(())
    })
    .await;
    bench.providers[0].signal("TERM");
    ends(&mut bench).await;
    let log = bench.providers[0].log();
    assert_eq!((said(&log, "traces"), said(&log, "metrics")), (1, 1), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fetched_is_linked_to_its_publish() {
    let (collector, nats) = (Collector::start().await, NatsServer::start().await);
    let cli = Cli::new(nats.url());
    let policy = cli.policy(&format!("{SERVED_POLICY}{ANYONE_HERE}"));
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        ("OTEL_SERVICE_NAME", "bus-of-a-test"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
    ];
    let listen = ["--listen", "http://127.0.0.1:0"];
    let served = Served::start_with(&variables, &nats.url(), &policy, &listen);
    let http = HttpCaller::at(&served.listen[0]);
    let durable = http.json("PUT", "/v1/subscriptions/billing", json!({ "need": "durable" }));
    durable.await.good();
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    let headers = [STRUCTURED, ("traceparent", traceparent.as_str())];
    let event = document("acme", "evt_1").to_string();
    http.ask("POST", "/v1/events", &headers, event).await.good();
    let fetch = http.json("POST", "/v1/subscriptions/billing:fetch", json!({ "wait_ms": 5_000 }));
    let fetched = fetch.await.good();
    let token = &fetched["deliveries"][0]["token"];
    let settlements = json!({ "settlements": [{ "token": token, "verdict": "handled" }] });
    http.json("POST", "/v1/settlements", settlements).await.good();

    let named = |operation: &str| {
        let name = format!("{operation} {TEMPLATE}");
        collector.spans(move |s| s.name == name)
    };
    let settled = eventually("the spans are there", async || named("settle").pop()).await;
    assert_eq!((settled.kind, settled.of("error.type")), (3, ""), "{settled:?}");
    let publish = named("publish").pop().expect("a publish");
    assert_eq!((publish.trace.as_str(), publish.parent.as_str()), (TRACE, CALLER));
    let fetches = named("fetch");
    let linked = fetches.iter().find(|s| s.links == [publish.id.clone()]);
    let fetch = linked.unwrap_or_else(|| panic!("{fetches:?}"));
    assert_eq!(fetch.of("messaging.consumer.group.name"), "billing");
    let service = collector.resource().get("service.name").cloned();
    assert_eq!(service.as_deref(), Some("bus-of-a-test"));
    eventually("numbers are pushed", async || {
        collector.metrics().contains_key("fanout.events.accepted").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_grpc_the_same_comes() {
    let (collector, nats) = (Collector::of_grpc().await, NatsServer::start().await);
    let cli = Cli::new(nats.url());
    let policy = cli.policy(&format!("{SERVED_POLICY}{ANYONE_HERE}"));
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
    ];
    let served = Served::start_with(&variables, &nats.url(), &policy, &["--listen", "http://127.0.0.1:0"]);
    let http = HttpCaller::at(&served.listen[0]);
    http.publish("acme", "evt_1").await.good();
    let name = format!("publish {TEMPLATE}");
    let publish = eventually("its span is there", async || {
        collector
            .spans(|s| s.name == name && s.of("messaging.message.id") == "evt_1")
            .pop()
    })
    .await;
    assert_eq!(
        (publish.of("fanout.position"), publish.of("error.type")),
        ("0/1", ""),
        "{publish:?}"
    );
    eventually("numbers are pushed", async || {
        collector.metrics().contains_key("fanout.events.accepted").then_some(())
    })
    .await;
    let log = served.log();
    assert!(!log.contains("can't be exported"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_json_is_a_fact_a_line() {
    let nats = NatsServer::start().await;
    let cli = Cli::new(nats.url());
    let policy = cli.policy(&format!("{SERVED_POLICY}{ANYONE_HERE}"));
    let mut served = Served::start(
        &nats.url(),
        &policy,
        &["--log", "json", "--listen", "tcp://127.0.0.1:0"],
    );
    std::fs::write(&policy, "bus = ").unwrap();
    served.signal("HUP");
    eventually("the refusal is logged", async || {
        served.log().contains("WARN").then_some(())
    })
    .await;
    served.signal("TERM");
    assert!(served.ended());
    let log = served.log();
    let facts: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    assert!(facts.len() >= 4, "{log}");
    for fact in &facts {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(fact[field].is_string(), "{field} of {fact}");
        }
    }
    assert!(
        facts
            .iter()
            .any(|f| f["message"] == "listening" && f["endpoint"].is_string()),
        "{log}"
    );
}
