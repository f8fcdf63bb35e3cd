//! A consumer that somebody deletes by hand is made again where it was: nothing is lost, and little comes twice.

use std::collections::BTreeMap;

use async_nats::jetstream;
use fanout_tests::fetcher::{next, settles};
use fanout_tests::types::{Origin, Verdict};
use fanout_tests::{Bench, Component, LinkTo, event, eventually, stored};
use futures::TryStreamExt as _;

/// The bus's consumers by name.
async fn consumers(bench: &Bench) -> Vec<String> {
    let js = jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    let names = log.consumer_names();
    names.try_collect().await.unwrap()
}

/// Deletes the one consumer that the log has.
async fn lose_the_consumer(bench: &Bench) {
    let names = consumers(bench).await;
    let [name] = names.as_slice() else { panic!("{names:?}") };
    let js = jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    log.delete_consumer(name).await.unwrap();
}

/// Waits until it is remembered that everything up to an offset is settled.
async fn noted(bench: &Bench, settled_to: u64) {
    eventually("it is noted how far it has come", || async {
        let floors = stored::floors(bench.client()).await?;
        matches!(floors.as_slice(), [floor] if floor.settled_to == settled_to).then_some(())
    })
    .await;
}

async fn publish(ingress: &Component, ids: std::ops::Range<usize>) {
    for i in ids {
        ingress
            .publish(event("acme", "invoice.paid", &format!("e{i}")))
            .await
            .unwrap();
    }
}

async fn begins_where_it_was(need: &str, settings: &[(&str, &str)]) {
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("worker", &["handler"], &[("subscription", "work"), ("need", need)]),
    ];
    let mut bench = Bench::start(settings, &links).await;
    let ingress = bench.silent_component("ingress").await;
    let worker = bench.component("worker").await;
    publish(&ingress, 0..5).await;
    noted(&bench, 5).await;
    assert_eq!(worker.handled().len(), 5);

    // With an instance there, which sees it by itself.
    lose_the_consumer(&bench).await;
    publish(&ingress, 5..8).await;
    eventually("what came meanwhile is handled", || async {
        (worker.handled().len() == 8).then_some(())
    })
    .await;
    noted(&bench, 8).await;

    // With none there, and events that wait.
    bench.providers[0].kill();
    lose_the_consumer(&bench).await;
    bench.restart_provider(0).await;
    eventually("it is there again", || async {
        (consumers(&bench).await.len() == 1).then_some(())
    })
    .await;
    publish(&ingress, 8..10).await;
    eventually("all is handled", || async {
        (worker.handled().len() == 10).then_some(())
    })
    .await;
    let deliveries = worker.seen(|s| s.deliveries.len());
    assert_eq!(deliveries, 10, "nothing comes again that was settled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_subscription_begins_where_it_was() {
    begins_where_it_was("durable", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_served_at_least_once_begins_where_it_was() {
    begins_where_it_was("queue", &[("queue.delivery", "at-least-once")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_before_comes_again_as_replayed_and_what_was_not_is_live() {
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("worker", &["inbox"], "*"),
        LinkTo::subscriber("worker", &["inbox"], &[("subscription", "work"), ("need", "durable")]),
    ];
    let mut bench = Bench::start(&[], &links).await;
    let ingress = bench.silent_component("ingress").await;
    let worker = bench.silent_component("worker").await;
    publish(&ingress, 0..3).await;
    let mut held = Vec::new();
    while held.len() < 3 {
        held.push(next(&worker, "work").await);
    }
    // The first is settled, and the last; the one between them is in its fetcher's hands.
    for i in [0, 2] {
        assert_eq!(held[i].delivery.event.id, format!("e{i}"));
        settles(&worker, &held[i], Verdict::Handled).await;
    }
    noted(&bench, 1).await;
    bench.providers[0].kill();
    lose_the_consumer(&bench).await;
    bench.restart_provider(0).await;
    publish(&ingress, 3..4).await;
    let mut came = BTreeMap::new();
    while came.len() < 3 {
        let held = next(&worker, "work").await;
        came.insert(held.delivery.event.id.clone(), held.delivery.origin == Origin::Replayed);
        settles(&worker, &held, Verdict::Handled).await;
    }
    let expected = [("e1", true), ("e2", true), ("e3", false)];
    assert_eq!(came, expected.map(|(id, replayed)| (id.to_owned(), replayed)).into());
}
