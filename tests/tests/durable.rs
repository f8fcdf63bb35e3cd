//! Durable subscriptions: nothing accepted is lost, whatever fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fanout_tests::types::{Event, Rejection, RetryDelay};
use fanout_tests::{Bench, Component, LinkTo, State, Verdict, event, eventually};
use futures::StreamExt as _;

fn links(reach: &str, more: &[(&str, &str)]) -> Vec<LinkTo> {
    let mut settings = vec![("subscription", "invoicing"), ("need", "durable")];
    settings.extend_from_slice(more);
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("invoicing", &[reach], &settings),
    ]
}

/// Publishes `count` events and returns their ids, sorted.
async fn publish(ingress: &Component, prefix: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for i in 0..count {
        let id = format!("{prefix}{i:05}");
        ingress.publish(event("acme", "invoice.paid", &id)).await.unwrap();
        ids.push(id);
    }
    ids
}

async fn handles(component: &Component, ids: &[String]) {
    eventually(&format!("{} handles {} events", component.id, ids.len()), || async {
        (component.handled() == ids).then_some(())
    })
    .await;
}

/// The dead letters in the store: id and reasons.
async fn dead_letters(bench: &Bench) -> Vec<(String, String, Vec<String>)> {
    let js = async_nats::jetstream::new(bench.client().clone());
    let stream = js.get_stream("fanout_payments_dead").await.unwrap();
    let consumer = stream
        .create_consumer(async_nats::jetstream::consumer::pull::Config::default())
        .await
        .unwrap();
    let count = stream.get_info().await.unwrap().state.messages as usize;
    let mut found = Vec::new();
    let mut messages = consumer.messages().await.unwrap().take(count);
    while let Some(Ok(message)) = messages.next().await {
        let headers = message.headers.as_ref().unwrap();
        let attempts: serde_json::Value =
            serde_json::from_str(headers.get("fanout-dead-attempts").unwrap().as_str()).unwrap();
        let reasons = attempts
            .as_array()
            .unwrap()
            .iter()
            .map(|a| a["reason"].as_str().unwrap().to_owned());
        let id = headers.get("ce-id").unwrap().as_str().to_owned();
        assert_eq!(
            message.payload,
            format!("{{\"id\":\"{id}\"}}"),
            "a dead letter holds the payload"
        );
        found.push((id, message.subject.to_string(), reasons.collect()));
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_while_the_subscriber_is_down_is_delivered_when_it_is_up() {
    let bench = Bench::start(&[], &links("batch-handler", &[("batch-size", "10")])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.silent_component("invoicing").await;
    let ids = publish(&ingress, "e", 50).await;
    let waiting = bench
        .subscription_when("invoicing", "it waits", |s| s.state == State::Waiting)
        .await;
    assert_eq!(waiting.code(), "subscriber-unreachable");
    invoicing.up().await;
    handles(&invoicing, &ids).await;
    let active = bench
        .subscription_when("invoicing", "it is drained", |s| {
            s.state == State::Active && s.backlog() == Some(0)
        })
        .await;
    assert_eq!(
        active.dead_letters,
        Some(0),
        "an unreachable subscriber uses up no attempts"
    );
    assert!(invoicing.seen(|s| s.deliveries.iter().all(|d| d.attempt == 1)));
    assert!(invoicing.seen(|s| s.batches.iter().all(|b| *b <= 10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_end_in_a_dead_letter_with_the_reason_of_each() {
    let bench = Bench::start(&[], &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.silent_component("invoicing").await;
    invoicing.judge(|d| match d.event.id.as_str() {
        "busy" => Verdict::Refuse(Rejection::Retry(format!("busy at attempt {}", d.attempt))),
        "now" if d.attempt < 3 => Verdict::Refuse(Rejection::RetryNow("once more".into())),
        "later" if d.attempt < 2 => Verdict::Refuse(Rejection::RetryAfter(RetryDelay {
            delay_ms: 30,
            reason: "soon".into(),
        })),
        "poison" => Verdict::Refuse(Rejection::DeadLetter("no amount".into())),
        "trap" => Verdict::Trap,
        "hang" => Verdict::Hang,
        _ => Verdict::Handle,
    });
    invoicing.up().await;
    for id in ["busy", "fine", "hang", "later", "now", "poison", "trap"] {
        ingress.publish(event("acme", "invoice.paid", id)).await.unwrap();
    }
    bench
        .subscription_when("invoicing", "four are dead and none is pending", |s| {
            s.dead_letters == Some(4) && s.backlog() == Some(0)
        })
        .await;
    assert_eq!(invoicing.handled(), ["fine", "later", "now"]);
    let dead = dead_letters(&bench).await;
    let ids: Vec<_> = dead.iter().map(|(id, _, _)| id.as_str()).collect();
    assert_eq!(ids, ["busy", "hang", "poison", "trap"]);
    assert!(
        dead[0].1.starts_with("fanout.dead.payments.invoicing.acme.0.1."),
        "{}",
        dead[0].1
    );
    assert_eq!(
        dead[0].2,
        ["busy at attempt 1", "busy at attempt 2", "busy at attempt 3"]
    );
    assert!(dead[1].2.iter().all(|r| r.contains("did not answer within 500 ms")) && dead[1].2.len() == 3);
    assert_eq!(dead[2].2, ["no amount"]);
    assert!(dead[3].2.iter().all(|r| r.contains("failed without an answer")) && dead[3].2.len() == 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_that_traps_a_batch_does_not_take_the_others_along() {
    let bench = Bench::start(&[], &links("batch-handler", &[("concurrency", "1")])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.silent_component("invoicing").await;
    invoicing.judge(|d| {
        if d.event.id == "e00003" {
            Verdict::Trap
        } else {
            Verdict::Handle
        }
    });
    let mut ids = publish(&ingress, "e", 10).await;
    invoicing.up().await;
    bench
        .subscription_when("invoicing", "one is dead and none is pending", |s| {
            s.dead_letters == Some(1) && s.backlog() == Some(0)
        })
        .await;
    ids.remove(3);
    assert_eq!(invoicing.handled(), ids);
    let dead = dead_letters(&bench).await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].2.len(), 3, "only its own attempts count: {dead:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_killed_between_invocation_and_settlement_delivers_again() {
    let mut bench = Bench::start(&[], &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.silent_component("invoicing").await;
    let hanging = Arc::new(AtomicBool::new(true));
    let hang = Arc::clone(&hanging);
    invoicing.judge(move |_| {
        if hang.load(Ordering::SeqCst) {
            Verdict::Hang
        } else {
            Verdict::Handle
        }
    });
    invoicing.up().await;
    let ids = publish(&ingress, "e", 5).await;
    eventually("all are in the handler's hands", || async {
        invoicing.seen(|s| s.deliveries.len() >= 5).then_some(())
    })
    .await;
    bench.providers[0].kill();
    assert!(invoicing.handled().is_empty());
    hanging.store(false, Ordering::SeqCst);
    bench.restart_provider(0).await;
    handles(&invoicing, &ids).await;
    bench
        .subscription_when("invoicing", "nothing is left", |s| s.backlog() == Some(0))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_restarting_under_load_loses_nothing_accepted() {
    let mut bench = Bench::start(&[], &links("batch-handler", &[])).await;
    let ingress = Arc::new(bench.silent_component("ingress").await);
    let invoicing = bench.component("invoicing").await;
    let publishing = {
        let ingress = Arc::clone(&ingress);
        tokio::spawn(async move {
            let mut accepted = Vec::new();
            for i in 0..600 {
                let id = format!("e{i:05}");
                // As a payment provider does: the same id until it is accepted.
                loop {
                    let answer = fanout_tests::publisher::publish_tenant_event(
                        ingress.bus(),
                        fanout_transport::CallContext::within(std::time::Duration::from_secs(2)),
                        &event("acme", "invoice.paid", &id),
                    )
                    .await;
                    if matches!(answer, Ok(Ok(_))) {
                        break;
                    }
                }
                accepted.push(id);
            }
            accepted
        })
    };
    eventually("some are handled", || async {
        (invoicing.handled().len() > 50).then_some(())
    })
    .await;
    bench.nats.restart().await;
    let accepted = publishing.await.unwrap();
    handles(&invoicing, &accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_share_a_subscription() {
    let mut bench = Bench::start(&[], &links("handler", &[])).await;
    bench.add_provider().await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    let ids = publish(&ingress, "e", 300).await;
    handles(&invoicing, &ids).await;
    assert_eq!(
        invoicing.seen(|s| s.handled.len()),
        ids.len(),
        "each event went to one instance"
    );
    // One instance is enough when the other dies.
    bench.providers[0].kill();
    let more: Vec<_> = ids.into_iter().chain(publish(&ingress, "f", 50).await).collect();
    handles(&invoicing, &more).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_client_wrote_on_the_bus_is_dead_lettered_not_dropped() {
    let bench = Bench::start(&[], &links("handler", &[])).await;
    let invoicing = bench.component("invoicing").await;
    let js = async_nats::jetstream::new(bench.client().clone());
    js.publish("payments.acme.webhook.invoice.paid", "no attributes".into())
        .await
        .unwrap()
        .await
        .unwrap();
    bench
        .subscription_when("invoicing", "it is a dead letter", |s| {
            s.dead_letters == Some(1) && s.pending == Some(0)
        })
        .await;
    assert!(invoicing.handled().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_events_that_a_slow_subscriber_has_in_flight_are_bounded_in_bytes() {
    let patient = [("delivery.deadline", "100s"), ("delivery.ack-wait", "200s")];
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber(
            "invoicing",
            &["batch-handler"],
            &[("subscription", "invoicing"), ("need", "durable")],
        ),
    ];
    let bench = Bench::start(&patient, &links).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|_| Verdict::Hang);
    let data = bytes::Bytes::from(vec![b'x'; 500 << 10]);
    for i in 0..120 {
        let large = Event {
            data: data.clone(),
            ..event("acme", "invoice.paid", &format!("e{i}"))
        };
        ingress.publish(large).await.unwrap();
    }
    bench
        .subscription_when("invoicing", "many are in flight", |s| s.in_flight > Some(50))
        .await;
    // 1,600 small ones could be; of these 32 MiB are.
    for _ in 0..20 {
        let status = bench
            .subscription_when("invoicing", "it tells", |s| s.in_flight > Some(0))
            .await;
        assert!(status.in_flight < Some(80), "{status:?}");
    }
}
