//! With acknowledgement on disk, what is published at once is stored at once, and each event has its own answer.

use bytes::Bytes;
use fanout_tests::types::{Event, PublishError};
use fanout_tests::{Bench, LinkTo, event, eventually, publisher};
use fanout_transport::CallContext;
use fanout_transport::testing::NatsSettings;

const ON_DISK: &[(&str, &str)] = &[("durability", "on-disk")];

fn ingress() -> LinkTo {
    LinkTo::caller("ingress", &["publisher"], "*")
}

/// A server that syncs as told; the account may ask it whether it does.
fn server(sync: &str) -> NatsSettings {
    let config = format!(
        r#"
        jetstream {{ sync_interval: {sync} }}
        accounts {{
            SYS {{ users: [{{ user: sys, password: sys }}], exports: [{{ service: "$SYS.REQ.SERVER.PING.JSZ" }}] }}
            APP {{
                jetstream: enabled
                users: [{{ user: app, password: app }}]
                imports: [{{ service: {{ account: SYS, subject: "$SYS.REQ.SERVER.PING.JSZ" }} }}]
            }}
        }}
        system_account: SYS
        no_auth_user: app
        "#
    );
    NatsSettings {
        config: Some(config),
        ..NatsSettings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_stored_together_are_numbered_announced_and_recognised_one_by_one() {
    let watch = LinkTo::subscriber("watch", &["handler"], &[("subscription", "watch"), ("need", "queue")]);
    let bench = Bench::start_on(server("always"), ON_DISK, &[ingress(), watch]).await;
    let ingress = bench.silent_component("ingress").await;
    let watch = bench.component("watch").await;
    assert_eq!(bench.status().await.unwrap().notices, []);
    let events: Vec<Event> = (0..300).map(|i| event("acme", "a.b", &format!("e{i}"))).collect();
    let receipts = publisher::publish_tenant_events(ingress.bus(), CallContext::default(), &events)
        .await
        .unwrap();
    for (i, receipt) in receipts.iter().enumerate() {
        let receipt = receipt.as_ref().unwrap();
        assert_eq!((receipt.position.offset, receipt.duplicate), (i as u64 + 1, false));
    }
    // Repeats among new ones, and one id three times: whatever was stored together before, each has its own answer.
    let mixed: Vec<Event> = (250..400)
        .chain([400, 400, 400])
        .map(|i| event("acme", "a.b", &format!("e{i}")))
        .collect();
    let receipts = publisher::publish_tenant_events(ingress.bus(), CallContext::default(), &mixed)
        .await
        .unwrap();
    for (i, receipt) in (250..400).chain([400, 400, 400]).zip(&receipts) {
        assert_eq!(receipt.as_ref().unwrap().position.offset, i + 1, "e{i}");
    }
    let duplicates: Vec<bool> = receipts.iter().map(|r| r.as_ref().unwrap().duplicate).collect();
    assert_eq!(duplicates.iter().filter(|d| **d).count(), 50 + 2);
    let stored = async_nats::jetstream::new(bench.client().clone())
        .get_stream("fanout_payments_log")
        .await
        .unwrap();
    assert_eq!(stored.cached_info().state.messages, 401);
    eventually("a queue subscription hears each", || async {
        (watch.handled().len() == 401).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_by_itself() {
    let settings = [
        ("durability", "on-disk"),
        ("retention.max-bytes", "64KiB"),
        ("event.max-bytes", "16KiB"),
    ];
    let bench = Bench::start_on(server("always"), &settings, &[ingress()]).await;
    let ingress = bench.silent_component("ingress").await;
    let sized = |i: usize, size: usize| Event {
        data: Bytes::from(vec![b'x'; size]),
        ..event("acme", "a.b", &format!("e{i}"))
    };
    let events: Vec<Event> = (0..40).map(|i| sized(i, 4 << 10)).collect();
    let results = publisher::publish_tenant_events(ingress.bus(), CallContext::default(), &events)
        .await
        .unwrap();
    let stored = results.iter().filter(|r| r.is_ok()).count();
    assert!((10..=15).contains(&stored), "{stored} of 40 are stored in 64 KiB");
    for result in results {
        match result {
            Ok(receipt) => assert!(!receipt.duplicate),
            Err(PublishError::StoreFull(p)) => assert_eq!(p.code, "store-full"),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_keep_the_promise_is_told_from_one_that_can_not_be_asked() {
    let links = [ingress()];
    let bench = Bench::start_on(server("1m"), ON_DISK, &links).await;
    let ingress = bench.silent_component("ingress").await;
    let status = bench
        .status_when("the promise is looked at", |s| !s.notices.is_empty())
        .await;
    assert_eq!(status.notices[0].code, "durability-not-kept");
    match ingress.publish(event("acme", "a.b", "e")).await.unwrap_err() {
        PublishError::Unavailable(p) => assert_eq!(p.code, "durability-not-kept"),
        other => panic!("{other:?}"),
    }

    let bench = Bench::start(ON_DISK, &links).await;
    let ingress = bench.silent_component("ingress").await;
    let status = bench
        .status_when("the promise is looked at", |s| !s.notices.is_empty())
        .await;
    assert_eq!(status.notices[0].code, "durability-unverified");
    ingress.publish(event("acme", "a.b", "e")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_outlives_a_killed_server() {
    let mut bench = Bench::start_on(server("always"), ON_DISK, &[ingress()]).await;
    let ingress = bench.silent_component("ingress").await;
    let calls = (0..64).map(|i| {
        let ingress = &ingress;
        async move { ingress.publish(event("acme", "a.b", &format!("e{i}"))).await.unwrap() }
    });
    let receipts = futures::future::join_all(calls).await;
    bench.nats.restart().await;
    let again = (0..64).map(|i| {
        let ingress = &ingress;
        async move {
            let again = || async { ingress.publish(event("acme", "a.b", &format!("e{i}"))).await.ok() };
            eventually("the bus is back", again).await
        }
    });
    for (first, again) in receipts.iter().zip(futures::future::join_all(again).await) {
        assert_eq!((again.position.offset, again.duplicate), (first.position.offset, true));
    }
}
