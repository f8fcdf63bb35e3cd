//! Tenants take turns in a subscription, however much one of them has waiting.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fanout_tests::{Bench, Cli, LinkTo, State, Verdict, event, eventually, stored};

const LOUD: usize = 600;

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_many_events_does_not_delay_another_by_more_than_its_turn() {
    let settings = [("subscription", "invoicing"), ("need", "durable"), ("concurrency", "2")];
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("invoicing", &["handler"], &settings),
    ];
    let bench = Bench::start(&[("ordering", "key")], &links).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|_| {
        std::thread::sleep(Duration::from_millis(5));
        Verdict::Handle
    });
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(
        "bus = \"payments\"\nsubject = \"payments.{tenant}.webhook.{event-type}\"\nordering = \"key\"\n[delivery]\ndeadline = \"500ms\"\nack-wait = \"2s\"\n",
    );
    assert_eq!(cli.run(&["pause"], &policy, &["invoicing"]).0, 0);
    bench
        .subscription_when("invoicing", "it is paused", |s| s.state == State::Paused)
        .await;
    for i in 0..LOUD {
        ingress
            .publish(event("loud", "invoice.paid", &format!("{i}")))
            .await
            .unwrap();
    }
    for tenant in ["quiet", "silent"] {
        ingress.publish(event(tenant, "invoice.paid", tenant)).await.unwrap();
    }
    assert_eq!(cli.run(&["resume"], &policy, &["invoicing"]).0, 0);
    eventually("all are handled", || async {
        (invoicing.handled().len() == LOUD + 2).then_some(())
    })
    .await;
    let order = invoicing.seen(|s| s.handled.clone());
    for tenant in ["quiet", "silent"] {
        let place = order.iter().position(|id| id == tenant).unwrap();
        // The loud tenant is served while the backlog is still being read; once it is read, each has its turn.
        assert!(place < LOUD / 2, "{tenant} was served behind {place} of {LOUD} events");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_a_long_backlog_is_isolated_until_it_is_handled() {
    // A tenant of a name that no consumer can have, and too long for one once it is escaped.
    isolated(
        "none",
        6_000,
        "eu.loud/\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_where_events_have_an_order() {
    // As many more than the owner of an order holds as are many.
    isolated("tenant", 13_000, "loud").await;
}

async fn isolated(ordering: &str, backlog: usize, loud: &str) {
    let settings = [("subscription", "invoicing"), ("need", "durable"), ("concurrency", "2")];
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("invoicing", &["handler"], &settings),
    ];
    // Whoever is not given back what was in hand when the reading changed waits longer than this test does.
    let bench = Bench::start(&[("ordering", ordering), ("delivery.ack-wait", "2m")], &links).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.silent_component("invoicing").await;
    ingress.publish_backlog(loud, backlog).await;
    ingress.publish(event("quiet", "invoice.paid", "quiet")).await.unwrap();

    let slow = Arc::new(AtomicBool::new(true));
    invoicing.judge({
        let slow = Arc::clone(&slow);
        move |_| {
            if slow.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            Verdict::Handle
        }
    });
    invoicing.up().await;
    eventually("the quiet tenant is served", || async {
        invoicing
            .seen(|s| s.handled.iter().any(|id| id == "quiet"))
            .then_some(())
    })
    .await;
    let before = invoicing.seen(|s| s.handled.iter().position(|id| id == "quiet").unwrap());
    assert!(
        before < backlog / 2,
        "it was served behind {before} of {backlog} events"
    );

    slow.store(false, Ordering::Relaxed);
    for part in 1..=7 {
        eventually("the backlog is worked off", || async {
            invoicing.seen(|s| s.handled.len() > backlog * part / 7).then_some(())
        })
        .await;
    }
    let js = async_nats::jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    eventually("all are read together again", || async {
        let names = stored::consumer_names(&log).await?;
        (names == ["invoicing=0=1"]).then_some(())
    })
    .await;
    let handled: BTreeSet<String> = invoicing.handled().into_iter().collect();
    assert_eq!(handled.len(), backlog + 1, "nothing is left out");
    if ordering == "tenant" {
        let order: Vec<usize> = invoicing.seen(|s| s.handled.iter().filter_map(|id| id.parse().ok()).collect());
        let back = order.windows(2).position(|pair| pair[0] > pair[1]);
        let around = back.map(|at| &order[at.saturating_sub(3)..(at + 5).min(order.len())]);
        assert_eq!(around, None, "the loud tenant's events keep their order");
    }
    ingress.publish(event("quiet", "invoice.paid", "after")).await.unwrap();
    eventually("what comes after is delivered", || async {
        invoicing.handled().contains(&"after".to_owned()).then_some(())
    })
    .await;
}
