//! What a pattern leaves out holds nobody up, however much of it waits.

use fanout_tests::{Bench, LinkTo, Verdict, event, eventually, stored};

/// More than is soon handled.
const BACKLOG: usize = 5_000;

/// A handler of all events, or of those that match.
fn handler(name: &str, need: &str, pattern: Option<&str>) -> LinkTo {
    let mut settings = vec![("subscription", name), ("need", need), ("concurrency", "1")];
    settings.extend(pattern.map(|pattern| ("pattern", pattern)));
    LinkTo::subscriber(name, &["handler"], &settings).named(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_isolates_no_tenant() {
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        handler("all", "durable", None),
        handler("some", "durable", Some(r#"{ "id": [{ "prefix": "wanted" }] }"#)),
    ];
    let settings = [("delivery.deadline", "2m"), ("delivery.ack-wait", "5m")];
    let mut bench = Bench::start(&settings, &links).await;
    let ingress = bench.silent_component("ingress").await;
    for i in 0..8 {
        let wanted = event("quiet", "invoice.paid", &format!("wanted-{i}"));
        ingress.publish(wanted).await.unwrap();
    }
    ingress.publish_backlog("loud", BACKLOG).await;

    let js = async_nats::jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    // A consumer of one tenant has that behind the other parts of its name.
    let isolates = async |name: &str| {
        let names = stored::consumer_names(&log).await?;
        let mut parts = names.iter().map(|consumer| consumer.split('='));
        Some(parts.any(|mut parts| parts.next() == Some(name) && parts.nth(2).is_some()))
    };
    let mut components = Vec::new();
    for name in ["some", "all"] {
        let component = bench.silent_component(name).await;
        // It never goes on, so that all of it waits.
        component.judge(|_| Verdict::Hang);
        component.up().await;
        components.push(component);
    }
    eventually("who is given all of it isolates the loud tenant", || async {
        isolates("all").await.filter(|is| *is)
    })
    .await;
    // One that is made only now has looked once it isolates the tenant, and so has each that was there before.
    bench.put_link(&handler("later", "backfill", None)).await;
    let later = bench.silent_component("later").await;
    later.judge(|_| Verdict::Hang);
    later.up().await;
    eventually("so does who comes later", || async {
        isolates("later").await.filter(|is| *is)
    })
    .await;
    assert_eq!(
        isolates("some").await,
        Some(false),
        "{:?}",
        stored::consumer_names(&log).await
    );
    let delivered = components[0].seen(|s| s.deliveries.iter().all(|d| d.event.id.starts_with("wanted")));
    assert!(delivered, "what is left out is not delivered");
}
