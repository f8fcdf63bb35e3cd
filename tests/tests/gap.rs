//! The retention gap: warned of before, and told exactly after.

use fanout_tests::{Bench, LinkTo, event};

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_unhandled_is_told_by_position_and_tenant() {
    let settings = [("subscription", "invoicing"), ("need", "durable")];
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("invoicing", &["handler"], &settings),
    ];
    let policy = [
        ("retention.max-age", "6s"),
        ("retention.warn-before", "5s"),
        ("dedupe.window", "1s"),
    ];
    let bench = Bench::start(&policy, &links).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    ingress.publish(event("acme", "invoice.paid", "handled")).await.unwrap();
    bench
        .subscription_when("invoicing", "the first is handled", |s| {
            s["pending"] == 0 && s["in_flight"] == 0
        })
        .await;
    // A subscription that is paused has nothing in hand: all of what comes now is lost.
    let cli = fanout_tests::Cli::new(bench.nats.url());
    let file = cli.policy(
        "bus = \"payments\"\nsubject = \"payments.{tenant}.webhook.{event-type}\"\n[retention]\nmax-age = \"6s\"\nwarn-before = \"5s\"\n[dedupe]\nwindow = \"1s\"\n",
    );
    assert_eq!(cli.run(&["pause"], &file, &["invoicing"]).0, 0);
    bench
        .subscription_when("invoicing", "it is paused", |s| s["state"] == "paused")
        .await;
    for (tenant, id) in [("acme", "1"), ("globex", "2"), ("acme", "3")] {
        ingress.publish(event(tenant, "invoice.paid", id)).await.unwrap();
    }
    let waiting = bench
        .subscription_when("invoicing", "the oldest is known", |s| s["oldest"] == "0/2")
        .await;
    assert!(
        waiting["expires_at"].as_str().is_some_and(|t| t.starts_with("20")),
        "{waiting}"
    );
    let lost = bench
        .subscription_when("invoicing", "all three are lost", |s| s["lost_events"] == 3)
        .await;
    let lost = &lost["lost"][0];
    assert_eq!(
        (&lost["from"], &lost["to"], &lost["exact"]),
        (&2.into(), &4.into(), &true.into()),
        "{lost}"
    );
    assert_eq!(lost["tenants"], serde_json::json!({ "acme": 2, "globex": 1 }));
    let log = bench.providers[0].log();
    assert_eq!(log.matches("retention-gap-near").count(), 1, "warned of once");
    assert!(log.contains("events from 0/"), "and told");
    let (code, out, err) = cli.run(&["status"], &file, &[]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("lost: 3 events from 0/2 to 0/4") && out.contains("1 of tenant globex"),
        "{out}"
    );
    assert_eq!(invoicing.handled(), ["handled"]);
}
