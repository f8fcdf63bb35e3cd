//! A webhook that its subscriber can't handle, from the provider's id of it to the reason: by the command, over HTTP, and in a
//! trace, with the same story. Ingress and invoicing are the components of the demo.

use fanout_client::{Event, connect};
use fanout_tests::collector::{Collector, Span};
use fanout_tests::hosted::{Hosted, signed_stripe_webhook};
use fanout_tests::http_caller::HttpCaller;
use fanout_tests::{ANYONE_HERE, Cli, SERVED_POLICY, Served, eventually};
use fanout_transport::testing::NatsServer;
use serde_json::{Value, json};

const SECRET: &str = "whsec_of_the_poison_story";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
const TEMPLATE: &str = "payments.{tenant}.webhook.{event-type}";
/// What Stripe calls the event.
const POISON: &str = "evt_1QNoRateForXts";

fn config(settings: &[(&str, &str)]) -> Vec<String> {
    let pair = |(key, value): &(&str, &str)| ["--config".to_owned(), format!("{key}={value}")];
    settings.iter().flat_map(pair).collect()
}

/// An invoice in a currency that has no exchange rate, as Stripe posts it, in a trace of its own.
fn webhook() -> String {
    let body = json!({
        "id": POISON,
        "object": "event",
        "type": "invoice.paid",
        "data": { "object": {
            "id": "in_1", "object": "invoice", "currency": "xts", "amount_paid": 1_250, "metadata": { "tenant": "acme" },
        } },
    })
    .to_string();
    let signature = signed_stripe_webhook(SECRET, &body);
    format!(
        "POST /webhooks/stripe HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         traceparent: 00-{TRACE}-{CALLER}-01\r\nstripe-signature: {signature}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// How each delivery ended, and why: what a story is made of.
type Story = Vec<(String, String, String)>;

fn of_journal(deliveries: &Value) -> Story {
    let all = deliveries.as_array().unwrap().iter();
    let text = |d: &Value, key: &str| d[key].as_str().unwrap_or_default().to_owned();
    all.map(|d| (d["attempt"].to_string(), text(d, "outcome"), text(d, "reason")))
        .collect()
}

fn of_trace(settlements: &[Span]) -> Story {
    let told = |s: &Span| {
        let reason = s.failed.clone().unwrap_or_default();
        (
            s.of("fanout.attempt").to_owned(),
            s.of("fanout.outcome").to_owned(),
            reason,
        )
    };
    let mut story: Story = settlements.iter().map(told).collect();
    story.sort();
    story
}

fn at_invoicing(events: &Value) -> Value {
    let subscriptions = events["events"][0]["subscriptions"].as_array().unwrap();
    let found = subscriptions.iter().find(|s| s["name"] == "invoicing");
    found.unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_event_is_found_from_its_stripe_id_with_one_story_everywhere() {
    let (collector, nats) = (Collector::start().await, NatsServer::start().await);
    let folder = tempfile::tempdir().unwrap();
    let cli = Cli::new(nats.url());
    let policy = cli.policy(&format!(
        "{SERVED_POLICY}[journal]\ndeliveries = \"errors\"\n{ANYONE_HERE}interfaces = [\"publisher\", \"subscriber\", \"inbox\", \"status\"]\n"
    ));
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let listen = ["--listen", "tcp://127.0.0.1:0", "--listen", "http://127.0.0.1:0"];
    let served = Served::start_with(&variables, &nats.url(), &policy, &listen);
    let url = &served.listen[0];
    let source = [
        ("source.stripe.scheme", "stripe"),
        ("source.stripe.secret", SECRET),
        ("source.stripe.tenant", "pointer:/data/object/metadata/tenant"),
    ];
    let ingress = Hosted::start("webhook_ingress.wasm", url, &config(&source), folder.path());
    let subscription = "subscription=invoicing need=durable event-types=invoice.*";
    let subscribe = ["--subscribe".to_owned(), subscription.to_owned()];
    let _invoicing = Hosted::start("invoicing.wasm", url, &subscribe, folder.path());
    let bus = connect(url).await.unwrap();
    eventually("invoicing is subscribed", || async {
        let probe = Event::new("probe", "invoice.none", "probe").data("{}");
        (bus.publish(&probe).await.unwrap().durable_subscriptions > 0).then_some(())
    })
    .await;
    eventually("the webhook is taken", || async {
        let answer = tokio::task::block_in_place(|| ingress.http(&webhook()));
        answer.filter(|(status, _)| *status == 200).map(drop)
    })
    .await;

    let told = eventually(
        "the command tells that it is a dead letter, and each attempt",
        async || {
            let (code, out, _) = cli.run(&["--json", "event"], &policy, &[POISON, "--tenant", "acme"]);
            let told: Value = (code == 0).then(|| serde_json::from_str(&out).unwrap())?;
            let here = at_invoicing(&told);
            (here["state"] == "dead-lettered" && here["deliveries"].as_array()?.len() == 3).then_some(told)
        },
    )
    .await;
    let here = at_invoicing(&told);
    let story = of_journal(&here["deliveries"]);
    let outcomes: Vec<_> = story.iter().map(|(_, outcome, _)| outcome.as_str()).collect();
    assert_eq!(outcomes, ["retry", "retry", "dead-lettered"], "{story:?}");
    assert!(
        story.iter().all(|(_, _, reason)| reason.to_lowercase().contains("xts")),
        "{story:?}"
    );
    let letters: Vec<_> = here["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["reason"].as_str().unwrap())
        .collect();
    assert_eq!(
        letters,
        story.iter().map(|(_, _, reason)| reason.as_str()).collect::<Vec<_>>()
    );

    let named = |operation: &str| {
        let name = format!("{operation} {TEMPLATE}");
        collector.spans(move |s| s.name == name && s.of("cloudevents.event_id") == POISON)
    };
    let settlements = eventually("the trace is whole", async || {
        let all = named("settle");
        (all.len() == 3).then_some(all)
    })
    .await;
    let publish = <[Span; 1]>::try_from(named("publish")).expect("it is published once")[0].clone();
    assert_eq!(
        (publish.trace.as_str(), publish.parent.as_str()),
        (TRACE, CALLER),
        "the webhook's own trace"
    );
    assert!(
        settlements.iter().all(|s| s.trace == TRACE && s.parent == publish.id),
        "{settlements:?}"
    );
    let position = told["events"][0]["position"].as_str().unwrap();
    assert!(
        settlements.iter().all(|s| s.of("fanout.position") == position),
        "{settlements:?}"
    );
    assert_eq!(publish.of("fanout.position"), position);
    assert_eq!(of_trace(&settlements), story, "one story");

    // The same over HTTP, by the id and by the position.
    let http = HttpCaller::at(&served.listen[1]);
    for asked in [format!("tenant=acme&id={POISON}"), format!("position={position}")] {
        let told = http.get(&format!("/v1/life?{asked}")).await.good();
        let here = at_invoicing(&told);
        assert_eq!(of_journal(&here["deliveries"]), story, "{asked}: {told}");
        assert_eq!(here["state"], "dead-lettered", "{told}");
    }
    for (asked, status, code) in [
        (format!("tenant=globex&id={POISON}"), 404, "unknown-event"),
        ("position=0/999".to_owned(), 404, "unknown-event"),
        ("tenant=acme".to_owned(), 400, "invalid-request"),
        (String::new(), 400, "invalid-request"),
        ("position=soon".to_owned(), 400, "invalid-request"),
    ] {
        let refused = http.get(&format!("/v1/life?{asked}")).await;
        assert_eq!(refused.problem(status), code, "{asked}");
    }

    let (_, out, err) = cli.run(&["event"], &policy, &[POISON, "--tenant", "acme"]);
    for said in [
        "its ingress verified it as stripe does",
        "dead-lettered",
        "again after 20ms",
    ] {
        assert!(out.contains(said), "{said}: {out}{err}");
    }
    let (_, out, _) = cli.run(&["--json", "errors"], &policy, &["--since", "1h"]);
    let errors: Value = serde_json::from_str(&out).unwrap();
    let errors = errors["errors"].as_array().unwrap();
    let of_it = errors.iter().find(|e| e["event"] == position).unwrap();
    assert_eq!(
        (&of_it["dead_letters"], &of_it["waiting_for_retry"]),
        (&1.into(), &0.into()),
        "{of_it}"
    );
    let (_, out, _) = cli.run(&["errors"], &policy, &["--since", "0s"]);
    assert_eq!(out, "no dead letters, and no retries\n");
}
