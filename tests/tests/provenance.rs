//! Invoicing with `require-provenance`, as a component: what the payment provider signed becomes a line; what only says
//! so is dead-lettered, whoever was allowed to publish it.

use fanout_client::{Event, Start, Subscription, connect};
use fanout_tests::hosted::{Hosted, stripe_webhook};
use fanout_tests::{ANYONE_HERE, SERVED_POLICY, Served, eventually};
use fanout_transport::testing::NatsServer;
use futures::StreamExt as _;
use serde_json::Value;

const SECRET: &str = "whsec_provenance";
const AMOUNT: i64 = 1_250;
const TENANT: &str = "acme";

fn config(settings: &[(&str, &str)]) -> Vec<String> {
    let pair = |(key, value): &(&str, &str)| ["--config".to_owned(), format!("{key}={value}")];
    settings.iter().flat_map(pair).collect()
}

/// Posts a webhook until it is taken, as its sender would.
async fn post(ingress: &Hosted, id: &str) {
    let request = stripe_webhook(SECRET, TENANT, id, AMOUNT);
    let what = format!("webhook {id} is taken");
    eventually(&what, || async {
        let answer = tokio::task::block_in_place(|| ingress.http(&request));
        answer.filter(|(status, _)| *status == 200).map(drop)
    })
    .await;
}

/// Lines of the tenant, and their sum.
fn lines(invoicing: &Hosted) -> Option<(u64, i64)> {
    let request = format!("GET /invoices/{TENANT} HTTP/1.0\r\nhost: localhost\r\n\r\n");
    let (_, body) = tokio::task::block_in_place(|| invoicing.http(&request)).filter(|(status, _)| *status == 200)?;
    let totals: Value = serde_json::from_str(&body).unwrap();
    let total = &totals["tenants"][TENANT];
    Some((
        total["lines"].as_u64().unwrap_or(0),
        total["amounts"]["eur"].as_i64().unwrap_or(0),
    ))
}

/// The reason of each dead letter, by event.
async fn dead_letters(nats: &NatsServer) -> Vec<(String, String)> {
    let store = async_nats::jetstream::new(nats.client().await);
    let stream = store.get_stream("fanout_payments_dead").await.unwrap();
    let mut letters = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let letter = stream.get_raw_message(sequence).await.unwrap();
        let header = |name: &str| letter.headers.get(name).map(|value| value.as_str().to_owned());
        let attempts: Value = serde_json::from_str(&header("fanout-dead-attempts").unwrap()).unwrap();
        let reason = attempts[0]["reason"].as_str().unwrap().to_owned();
        letters.push((header("ce-id").unwrap(), reason));
    }
    letters
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_payment_provider_signed_becomes_a_line() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, format!("{SERVED_POLICY}{ANYONE_HERE}")).unwrap();
    let served = Served::start(&nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let url = &served.listen[0];

    let source = [
        ("source.stripe.scheme", "stripe"),
        ("source.stripe.secret", SECRET),
        ("source.stripe.tenant", "pointer:/data/object/metadata/tenant"),
        ("source.stripe.evidence", "keep"),
        ("require-provenance", "true"),
    ];
    let ingress = Hosted::start("webhook_ingress.wasm", url, &config(&source[..4]), folder.path());
    let subscription = "subscription=invoicing need=durable event-types=invoice.*";
    let subscribe = ["--subscribe".to_owned(), subscription.to_owned()];
    let arguments = [&subscribe[..], &config(&source)].concat();
    let invoicing = Hosted::start("invoicing.wasm", url, &arguments, folder.path());
    let bus = connect(url).await.unwrap();
    eventually("invoicing is subscribed", || async {
        let probe = Event::new("probe", "invoice.none", "probe").data("{}");
        (bus.publish(&probe).await.unwrap().durable_subscriptions > 0).then_some(())
    })
    .await;

    post(&ingress, "evt_good").await;
    let mut log = bus
        .subscribe(Subscription::backfill("forger", Start::First).tenants([TENANT]))
        .await
        .unwrap();
    let good = log.next().await.unwrap().unwrap();
    let genuine = good.event().clone();
    good.ack().await.unwrap();
    assert_eq!(genuine.id, "evt_good");
    assert!(genuine.extensions.iter().any(|(name, _)| name == "webhookevidence1"));

    // Whoever may publish for the tenant can say anything; but not with the sender's signature.
    let forged = |id: &str, change: fn(&mut Event)| {
        let mut event = genuine.clone();
        event.id = id.to_owned();
        change(&mut event);
        event
    };
    let forged = [
        forged("evt_more", |event| {
            let text = String::from_utf8(event.data.to_vec()).unwrap();
            event.data = text.replace("1250", "9250").replace("evt_good", "evt_more").into();
        }),
        forged("evt_own", |event| event.source = "/billing".to_owned()),
        forged("evt_renamed", |_| {}),
        forged("evt_unproven", |event| event.extensions.clear()),
    ];
    for event in &forged {
        bus.publish(event).await.unwrap();
    }
    post(&ingress, "evt_better").await;

    let expected = ["evt_more", "evt_own", "evt_renamed", "evt_unproven"];
    let letters = eventually("what is forged is dead-lettered", || async {
        let mut letters = dead_letters(&nats).await;
        letters.retain(|(id, _)| id != "probe");
        letters.sort();
        (letters.len() >= expected.len()).then_some(letters)
    })
    .await;
    let ids: Vec<_> = letters.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, expected);
    for (id, reason) in &letters {
        assert!(reason.starts_with("not proven: "), "{id}: {reason}");
        assert!(!reason.contains(SECRET), "{reason}");
    }
    eventually("what was signed is written", || async {
        (lines(&invoicing)? == (2, 2 * AMOUNT)).then_some(())
    })
    .await;
}
