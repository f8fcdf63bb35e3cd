//! The store of retries loses nothing: through crashes, when it is full or gone, and whatever another client wrote there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use fanout_tests::types::Rejection;
use fanout_tests::{Bench, Cli, State, Verdict, event, eventually, stored, subscriber};
use fanout_transport::CallContext;
use futures::StreamExt as _;
use serde_json::Value;

use super::{POLICY, attempts, handles, links, publish, waits_for_retry};

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_survives_the_provider_and_the_server() {
    let settings = [("retry.schedule", "4s"), ("delivery.batch-size", "1")];
    let mut bench = Bench::start(&settings, &links("handler", &[("concurrency", "2")])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    invoicing.judge(move |_| match is_mended.load(Ordering::SeqCst) {
        true => Verdict::Handle,
        false => Verdict::Refuse(Rejection::Retry("not yet".into())),
    });
    publish(&ingress, "acme", 0..30).await;
    waits_for_retry(&bench, 30).await;
    mended.store(true, Ordering::SeqCst);
    bench.providers[0].kill();
    bench.nats.restart().await;
    bench.restart_provider(0).await;
    eventually("all are handled", || async {
        (invoicing.handled().len() == 30).then_some(())
    })
    .await;
    waits_for_retry(&bench, 0).await;
    let (_, last) = attempts(&invoicing, "acme");
    assert!((2..=3).contains(&last), "attempts go on: {last}");
    // A server that is killed may forget an acknowledgement, and an event then comes once more; what waited goes on.
    let went_on = invoicing.seen(|s| {
        let again = s.deliveries.iter().filter(|d| d.attempt > 1);
        again.map(|d| d.event.id.clone()).collect::<BTreeSet<_>>()
    });
    assert_eq!(went_on.len(), 30, "none that waited began anew alone");
}

/// An instance that has none of its own takes over what another one left.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_delivered_by_whoever_is_left() {
    let mut bench = Bench::start(&[("retry.schedule", "3s")], &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.attempt {
        1 => Verdict::Refuse(Rejection::Retry("not yet".into())),
        _ => Verdict::Handle,
    });
    publish(&ingress, "acme", 0..10).await;
    waits_for_retry(&bench, 10).await;
    bench.add_provider().await;
    bench.providers[0].kill();
    eventually("all are handled", || async {
        (invoicing.handled().len() == 10).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_is_a_dead_letter_with_every_reason_and_its_payload() {
    let settings = [("retry.schedule", "20ms"), ("retry.max-attempts", "90")];
    let bench = Bench::start(&settings, &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    // Together more than a header of the store has room for.
    let long = "é".repeat(500);
    invoicing.judge(move |d| Verdict::Refuse(Rejection::RetryNow(format!("attempt {} {long}", d.attempt))));
    publish(&ingress, "acme", 0..1).await;
    bench
        .subscription_when("invoicing", "it is a dead letter", |s| {
            s.dead_letters == Some(1) && s.waiting_for_retry == Some(0) && s.in_flight == Some(0)
        })
        .await;
    let cli = Cli::new(bench.nats.url());
    let (code, out, err) = cli.run(&["--json", "dead-letters", "list"], &cli.policy(POLICY), &[]);
    assert_eq!(code, 0, "{err}");
    let letters: Value = serde_json::from_str(&out).unwrap();
    let attempts = letters["dead_letters"][0]["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 90, "{out}");
    for (i, attempt) in attempts.iter().enumerate() {
        let begins = format!("attempt {} é", i + 1);
        assert!(attempt["reason"].as_str().unwrap().starts_with(&begins), "{attempt}");
    }
    let js = async_nats::jetstream::new(bench.client().clone());
    let dead = js.get_stream("fanout_payments_dead").await.unwrap();
    let dead = stored::dead_letter(&dead, "invoicing", "acme", 1).await;
    assert_eq!(dead.payload, "{\"id\":\"acme-000\"}");
    assert!(dead.headers.get("fanout-retry").is_none(), "{:?}", dead.headers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_of_retries_loses_nothing_and_says_so() {
    let settings = [
        ("event.max-bytes", "1KiB"),
        ("retry.max-bytes", "4KiB"),
        ("retry.schedule", "1s"),
        ("retry.max-attempts", "3"),
    ];
    let bench = Bench::start(&settings, &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.event.tenant.as_str() {
        "acme" => Verdict::Refuse(Rejection::Retry(format!("attempt {}", d.attempt))),
        _ => Verdict::Handle,
    });
    publish(&ingress, "acme", 0..60).await;
    let full = bench
        .subscription_when("invoicing", "it says that the store is full", |s| {
            s.code() == "retries-full"
        })
        .await;
    assert_eq!(full.state, State::Active, "deliveries go on: {full:?}");
    let message = full.problem.unwrap().message;
    assert!(
        message.contains("invoicing") && message.contains("retry.max-bytes"),
        "{message}"
    );
    publish(&ingress, "globex", 0..5).await;
    handles(&invoicing, "globex-004").await;
    bench
        .subscription_when("invoicing", "all of acme's are dead letters", |s| {
            s.dead_letters == Some(60)
                && s.waiting_for_retry == Some(0)
                && s.in_flight == Some(0)
                && s.pending == Some(0)
        })
        .await;
    assert_eq!(attempts(&invoicing, "acme").1, 3);
    let cli = Cli::new(bench.nats.url());
    let (_, out, _) = cli.run(&["--json", "dead-letters", "list"], &cli.policy(POLICY), &[]);
    let letters: Value = serde_json::from_str(&out).unwrap();
    for letter in letters["dead_letters"].as_array().unwrap() {
        let reasons: Vec<_> = letter["attempts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| &a["reason"])
            .collect();
        assert_eq!(reasons, ["attempt 1", "attempt 2", "attempt 3"], "{letter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_retries_that_is_gone_loses_nothing_and_is_made_again() {
    let bench = Bench::start(&[("retry.schedule", "100ms")], &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.attempt {
        1 => Verdict::Refuse(Rejection::Retry("not yet".into())),
        _ => Verdict::Handle,
    });
    let js = async_nats::jetstream::new(bench.client().clone());
    js.delete_stream("fanout_payments_retries").await.unwrap();
    publish(&ingress, "acme", 0..5).await;
    eventually("they are handled all the same", || async {
        (invoicing.handled().len() == 5).then_some(())
    })
    .await;
    let cli = Cli::new(bench.nats.url());
    let (code, _, err) = cli.run(&["apply"], &cli.policy(POLICY), &[]);
    assert_eq!(code, 0, "{err}");
    eventually("refused events wait there again", || async {
        let id = format!("again-{}", invoicing.handled().len());
        let published = ingress.publish(event("acme", "invoice.paid", &id)).await;
        published.unwrap();
        handles(&invoicing, &id).await;
        let status = bench.status().await?;
        status.subscriptions[0].problem.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_storing_a_refusal_and_telling_the_log_delivers_nothing_twice() {
    let bench = Bench::start(&[("retry.schedule", "500ms")], &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    let js = async_nats::jetstream::new(bench.client().clone());
    let retries = js.get_stream("fanout_payments_retries").await.unwrap();
    // What is stored of a refusal, as an instance wrote it.
    invoicing.judge(|_| Verdict::Refuse(Rejection::Retry("not yet".into())));
    publish(&ingress, "acme", 0..1).await;
    let stored = eventually("it waits", || async {
        let filter = "fanout.retry.payments.invoicing.>";
        retries.get_first_raw_message_by_subject(filter, 1).await.ok()
    })
    .await;
    invoicing.judge(|_| Verdict::Handle);
    handles(&invoicing, "acme-000").await;
    // The same for the next event, which is delivered to an instance that dies before it can tell the log.
    subscriber::pause(invoicing.bus(), CallContext::default(), "invoicing")
        .await
        .unwrap()
        .unwrap();
    bench
        .subscription_when("invoicing", "it is paused", |s| s.state == State::Paused)
        .await;
    publish(&ingress, "acme", 1..2).await;
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    let name = stored::consumer_name(&log, "invoicing").await.unwrap();
    let consumer: PullConsumer = log.get_consumer(&name).await.unwrap();
    let mut taken = consumer.batch().max_messages(1).messages().await.unwrap();
    let taken = taken.next().await.unwrap().unwrap();
    let mut headers = taken.headers.clone().unwrap();
    let note = stored.headers.get("fanout-retry").unwrap().as_str();
    headers = headers
        .iter()
        .filter(|(name, _)| name.to_string().starts_with("ce-"))
        .flat_map(|(name, values)| values.iter().map(move |v| (name.clone(), v.clone())))
        .collect();
    headers.insert("fanout-retry", note);
    let subject = stored.subject.replace(".0.1", ".0.2");
    let publishing = js.publish_with_headers(subject, headers, taken.payload.clone()).await;
    publishing.unwrap().await.unwrap();
    taken.ack_with(AckKind::Nak(None)).await.unwrap();
    subscriber::resume(invoicing.bus(), CallContext::default(), "invoicing")
        .await
        .unwrap()
        .unwrap();
    handles(&invoicing, "acme-001").await;
    waits_for_retry(&bench, 0).await;
    let of_it = invoicing.seen(|s| {
        let of_it = s.deliveries.iter().filter(|d| d.event.id == "acme-001");
        of_it.map(|d| d.attempt).collect::<Vec<_>>()
    });
    assert_eq!(of_it, [2], "it comes once, as the attempt that it is");
}

/// Whatever another client writes on the subjects of retries stops nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_client_wrote_among_the_retries_stops_nothing() {
    let bench = Bench::start(&[("retry.schedule", "300ms")], &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.attempt {
        1 => Verdict::Refuse(Rejection::Retry("not yet".into())),
        _ => Verdict::Handle,
    });
    publish(&ingress, "acme", 0..1).await;
    let js = async_nats::jetstream::new(bench.client().clone());
    let retries = js.get_stream("fanout_payments_retries").await.unwrap();
    let stored = eventually("it waits", || async {
        let filter = "fanout.retry.payments.invoicing.>";
        retries.get_first_raw_message_by_subject(filter, 1).await.ok()
    })
    .await;
    let beside = |tail: &str| stored.subject.replace(".0.1", tail);
    for subject in [beside(".0.7"), beside(".x"), "fanout.retry.payments.stranger".into()] {
        js.publish(subject, "nothing".into()).await.unwrap().await.unwrap();
    }
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(
        "fanout-retry",
        r#"{"tenant":"acme","type":"a.b","due":0,"published":0,"attempts":[]}"#,
    );
    let published = js
        .publish_with_headers(beside(".0.9"), headers, "no attributes".into())
        .await;
    published.unwrap().await.unwrap();
    handles(&invoicing, "acme-000").await;
    bench
        .subscription_when("invoicing", "what is no event is a dead letter", |s| {
            s.waiting_for_retry == Some(0) && s.dead_letters == Some(1)
        })
        .await;
    tokio::time::timeout(Duration::from_secs(20), publish(&ingress, "globex", 0..1))
        .await
        .unwrap();
    handles(&invoicing, "globex-000").await;
}
