//! An id is recognised for as long as its event is retained, and answered with the first receipt's position.

use fanout_tests::{Bench, LinkTo, event, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_known_for_as_long_as_its_event_is_there() {
    let settings = [
        ("dedupe.scope", "retained"),
        ("dedupe.window", "100ms"),
        ("retention.max-age", "12s"),
    ];
    let mut bench = Bench::start(&settings, &[LinkTo::caller("ingress", &["publisher"], "*")]).await;
    let ingress = bench.silent_component("ingress").await;
    let first = ingress.publish(event("acme", "a.b", "e1")).await.unwrap();
    let other = ingress.publish(event("acme", "a.b", "e2")).await.unwrap();
    assert!(!first.duplicate && !other.duplicate);
    // Past the window: a restart of the store and of the provider alone take longer than it.
    bench.nats.restart().await;
    bench.restart_provider(0).await;
    let again = eventually("the bus is back", || async {
        ingress.publish(event("acme", "a.b", "e1")).await.ok()
    })
    .await;
    assert_eq!((again.position.offset, again.duplicate), (first.position.offset, true));
    let later = eventually("an id whose event has expired is new", || async {
        let receipt = ingress.publish(event("acme", "a.b", "e1")).await.ok()?;
        (!receipt.duplicate).then_some(receipt)
    })
    .await;
    assert!(later.position.offset > other.position.offset);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_a_window() {
    let settings = [("dedupe.window", "100ms")];
    let bench = Bench::start(&settings, &[LinkTo::caller("ingress", &["publisher"], "*")]).await;
    let ingress = bench.silent_component("ingress").await;
    let first = ingress.publish(event("acme", "a.b", "e1")).await.unwrap();
    let later = eventually("the id is forgotten", || async {
        let receipt = ingress.publish(event("acme", "a.b", "e1")).await.ok()?;
        (!receipt.duplicate).then_some(receipt)
    })
    .await;
    assert!(later.position.offset > first.position.offset);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_whose_event_was_purged_is_stored_again_and_once() {
    let links = [LinkTo::caller("ingress", &["publisher"], "*")];
    for durability in ["acknowledged", "on-disk"] {
        let bench = Bench::start(&[("durability", durability)], &links).await;
        let ingress = bench.silent_component("ingress").await;
        let publish = |id: &'static str| ingress.publish(event("acme", "invoice.paid", id));
        for id in ["a", "b", "c"] {
            publish(id).await.unwrap();
        }
        let js = async_nats::jetstream::new(bench.client().clone());
        let log = js.get_stream("fanout_payments_log").await.unwrap();
        for round in 1..=2 {
            log.purge().await.unwrap();
            let first = publish("b").await.unwrap();
            assert!(!first.duplicate, "{durability}: it is stored anew");
            let stored = log.get_raw_message(first.position.offset).await.unwrap();
            assert_eq!(stored.headers.get("ce-id").unwrap().as_str(), "b");
            let again = publish("b").await.unwrap();
            assert!(again.duplicate, "{durability}: and once");
            assert_eq!(again.position.offset, first.position.offset);
            let state = log.get_info().await.unwrap().state;
            assert_eq!(state.messages, 1, "{durability}, purge {round}");
        }
    }
}
