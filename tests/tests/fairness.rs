//! Tenants take turns in an ordered subscription, however much one of them has waiting.

use std::time::Duration;

use fanout_tests::{Bench, Cli, LinkTo, Verdict, event, eventually};

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
        .subscription_when("invoicing", "it is paused", |s| s["state"] == "paused")
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
