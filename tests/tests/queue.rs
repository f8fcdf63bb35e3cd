//! Queue subscriptions: at once, to one worker, never twice.

use fanout_tests::types::Event;
use fanout_tests::{Bench, LinkTo, SubscriptionStatus, Verdict, event, eventually};

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber(
            "cache",
            &["handler"],
            &[
                ("subscription", "cache"),
                ("need", "queue"),
                ("event-types", "customer.**"),
            ],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_goes_to_one_worker_and_a_repeat_to_none() {
    let mut bench = Bench::start(&[], &links()).await;
    bench.add_provider().await;
    let ingress = bench.silent_component("ingress").await;
    let cache = bench.component("cache").await;
    let mut ids = Vec::new();
    for i in 0..200 {
        let id = format!("e{i:05}");
        let first = ingress.publish(event("acme", "customer.updated", &id)).await.unwrap();
        let again = ingress.publish(event("acme", "customer.updated", &id)).await.unwrap();
        assert_eq!((first.duplicate, again.duplicate), (false, true));
        ingress
            .publish(event("acme", "invoice.paid", &format!("i{i}")))
            .await
            .unwrap();
        ids.push(id);
    }
    eventually("all are handled", || async { (cache.handled() == ids).then_some(()) }).await;
    cache.seen(|s| {
        assert_eq!(
            s.handled.len(),
            ids.len(),
            "nothing is handled twice, and nothing else came"
        );
        assert!(s.deliveries.iter().all(|d| d.position.offset > 0 && d.published_at > 0));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_nobody_listens_is_not_kept() {
    let bench = Bench::start(&[], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let cache = bench.silent_component("cache").await;
    ingress
        .publish(event("acme", "customer.updated", "missed"))
        .await
        .unwrap();
    let status = bench
        .subscription_when("cache", "the miss is counted", |s| {
            s.this_instance.as_ref().is_some_and(|i| i.missed == Some(1))
        })
        .await;
    assert_eq!(status.code(), "subscriber-unreachable");
    cache.up().await;
    ingress
        .publish(event("acme", "customer.updated", "seen"))
        .await
        .unwrap();
    eventually("the next is handled", || async {
        (cache.handled() == ["seen"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_slow_subscriber_is_bounded_in_bytes() {
    let patient = [("delivery.deadline", "100s"), ("delivery.ack-wait", "200s")];
    let bench = Bench::start(&patient, &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let cache = bench.component("cache").await;
    cache.judge(|_| Verdict::Hang);
    let payload = bytes::Bytes::from(vec![b'x'; 500 << 10]);
    let published: u64 = 80;
    for i in 0..published {
        let large = Event {
            data: payload.clone(),
            ..event("acme", "customer.updated", &format!("e{i}"))
        };
        ingress.publish(large).await.unwrap();
    }
    // No invocation ends before its deadline: whatever is missed was one too many to be held.
    let missed_here = |s: &SubscriptionStatus| s.this_instance.as_ref()?.missed;
    let status = bench
        .subscription_when("cache", "what is too much is counted", |s| {
            missed_here(s).is_some_and(|n| n > 0)
        })
        .await;
    let missed = missed_here(&status).unwrap();
    assert!(missed < published / 2, "most of them are held: {missed}");
}
