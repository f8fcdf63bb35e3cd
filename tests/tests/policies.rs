//! Two policies beside each other: the newer wins by its number, and whoever does not have it says so and goes on.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use fanout_tests::{Bench, LinkTo, SubscriptionStatus, event, eventually, ingress_and_invoicing};

/// For how many days the log keeps events.
async fn days(bench: &Bench) -> u64 {
    let js = jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    log.cached_info().config.max_age.as_secs() / 86_400
}

/// How often the stream was changed cannot be asked: how often an instance said that it changed it.
fn changes(bench: &Bench) -> usize {
    let said = bench
        .providers
        .iter()
        .map(|p| p.log().matches("update stream fanout_payments_log").count());
    said.sum()
}

/// Waits until an instance says a code.
async fn says(bench: &Bench, instance: usize, code: &str) {
    eventually(&format!("instance {instance} says {code}"), || async {
        bench.providers[instance].log().contains(code).then_some(())
    })
    .await;
}

/// Makes the instances look again, and waits until one has: what a link asks for is made with everything else.
async fn looks_again(bench: &mut Bench, name: &str) {
    let settings = [("subscription", name), ("need", "durable")];
    bench.put_link(&LinkTo::subscriber(name, &["handler"], &settings)).await;
    let made = |s: &SubscriptionStatus| s.pending.is_some() && s.problem.is_none();
    bench.subscription_when(name, "it is made", made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_greater_revision_wins_whoever_starts_last() {
    let mut bench = Bench::start(
        &[("revision", "2"), ("retention.max-age", "9d")],
        &ingress_and_invoicing(),
    )
    .await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    assert_eq!(days(&bench).await, 9);
    bench.set("revision", "1");
    bench.set("retention.max-age", "11d");
    bench.add_provider().await;
    says(&bench, 1, "older-policy").await;
    for i in 0..3 {
        looks_again(&mut bench, &format!("c{i}")).await;
        assert_eq!(days(&bench).await, 9, "the older one changes nothing");
    }
    assert_eq!(changes(&bench), 0);
    // It serves, under the newer one.
    bench.providers[0].kill();
    for id in ["a", "b"] {
        ingress.publish(event("acme", "invoice.paid", id)).await.unwrap();
    }
    eventually("what it stored is handled", || async {
        (invoicing.handled() == ["a", "b"]).then_some(())
    })
    .await;
    // The same number for another policy decides nothing.
    bench.set("revision", "2");
    bench.add_provider().await;
    says(&bench, 2, "policy-conflict").await;
    assert_eq!(days(&bench).await, 9);
    bench.set("revision", "3");
    bench.add_provider().await;
    eventually("the newest is in force", || async {
        (days(&bench).await == 11).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_numbers_two_do_not_take_turns() {
    let mut bench = Bench::start(&[("retention.max-age", "9d")], &ingress_and_invoicing()).await;
    bench.set("retention.max-age", "11d");
    bench.add_provider().await;
    eventually("the one that was told last is in force", || async {
        (days(&bench).await == 11).then_some(())
    })
    .await;
    for i in 0..3 {
        looks_again(&mut bench, &format!("c{i}")).await;
        assert_eq!(days(&bench).await, 11);
    }
    says(&bench, 0, "topology-changed").await;
    assert_eq!(changes(&bench), 1, "and it is changed once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_retention_that_would_lose_events_refuses_itself_and_nothing_else() {
    let settings = [("retention.max-age", "9d"), ("dedupe.window", "100ms")];
    let mut bench = Bench::start(&settings, &ingress_and_invoicing()).await;
    let ingress = bench.silent_component("ingress").await;
    ingress.publish(event("acme", "invoice.paid", "a")).await.unwrap();
    let stored = Instant::now();
    eventually("it is older than the shorter retention", || async {
        (stored.elapsed() > Duration::from_millis(1_100)).then_some(())
    })
    .await;
    bench.set("retention.max-age", "1s");
    bench.set("retention.warn-before", "500ms");
    bench.set("event.max-bytes", "2KiB");
    for restarted in [false, true] {
        if restarted {
            bench.providers[0].kill();
            bench.add_provider().await;
        } else {
            bench.change("dedupe.scope", "window").await;
        }
        bench
            .status_when("the setting is refused", |s| {
                let problems = s.policy.iter().flat_map(|p| &p.problems);
                problems.map(|p| p.code.as_str()).next() == Some("would-lose-events")
            })
            .await;
        assert_eq!(days(&bench).await, 9);
        let mut large = event("acme", "invoice.paid", "large");
        large.data = vec![b'x'; 3 << 10].into();
        let refused = ingress.publish(large).await.unwrap_err();
        assert!(
            format!("{refused:?}").contains("event-too-large"),
            "the rest is in force: {refused:?}"
        );
    }
    let js = jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    assert_eq!(log.cached_info().state.messages, 1, "nothing is lost");
}
