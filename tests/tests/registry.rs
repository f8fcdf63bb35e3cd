//! What the registry does not show was not ended: an entry that a newer version wrote, a bucket that an operator purged, and
//! consumers that only a tombstone takes away.

use async_nats::jetstream::{self, kv};
use fanout_tests::fetcher::patient;
use fanout_tests::subscriber;
use fanout_tests::types::Origin;
use fanout_tests::{Bench, Component, LinkTo, SubscriptionStatus, event, eventually, every_event};
use futures::TryStreamExt as _;

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("caller", &["subscriber"], "*"),
        LinkTo::subscriber(
            "invoicing",
            &["handler"],
            &[("subscription", "invoicing"), ("need", "durable")],
        ),
    ]
}

async fn subscribe(who: &Component, name: &str) {
    let options = every_event();
    let made = subscriber::subscribe_durable(who.bus(), patient(), name, &options).await;
    made.expect("the bus answers").expect("it is made");
}

async fn registry(bench: &Bench) -> kv::Store {
    let js = jetstream::new(bench.client().clone());
    js.get_key_value("fanout_payments_registry").await.unwrap()
}

async fn consumers(bench: &Bench) -> Vec<String> {
    let js = jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    let names = log.consumer_names();
    let mut names: Vec<String> = names.try_collect().await.unwrap();
    names.sort();
    names
}

async fn publish(ingress: &Component, ids: std::ops::Range<usize>) {
    for i in ids {
        let id = format!("e{i}");
        ingress.publish(event("acme", "invoice.paid", &id)).await.unwrap();
    }
}

async fn handles(who: &Component, ids: std::ops::Range<usize>) {
    let wanted: Vec<_> = ids.map(|i| format!("e{i}")).collect();
    eventually("all is handled", || async { (who.handled() == wanted).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purged_registry_ends_nothing() {
    let mut bench = Bench::start(&[], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let (caller, invoicing) = (
        bench.silent_component("caller").await,
        bench.silent_component("invoicing").await,
    );
    subscribe(&caller, "called").await;
    subscribe(&caller, "ended").await;
    let ended = subscriber::unsubscribe(caller.bus(), patient(), "ended").await;
    ended.unwrap().unwrap();
    publish(&ingress, 0..5).await;
    let before = consumers(&bench).await;
    assert_eq!(before.len(), 2, "{before:?}");
    // Nobody can be reached: some of them are in flight.
    let called = |s: &SubscriptionStatus| s.pending.zip(s.in_flight).is_some_and(|(p, f)| p + f == 5);
    // While an instance is there, and by one that knows nothing of what was.
    for running in [true, false] {
        if !running {
            bench.providers[0].kill();
        }
        registry(&bench).await.stream.purge().await.unwrap();
        bench.restart_provider(0).await;
        bench.subscription_when("called", "it is remembered", called).await;
        let entries = registry(&bench).await;
        for name in ["called", "invoicing"] {
            let entry = entries.get(name).await.unwrap();
            assert!(entry.is_some(), "{name} is in the registry again");
        }
        assert_eq!(consumers(&bench).await, before, "and has the consumer that it had");
    }
    assert!(bench.providers[0].log().contains("registration-lost"), "it is said");
    caller.up().await;
    invoicing.up().await;
    handles(&caller, 0..5).await;
    handles(&invoicing, 0..5).await;
    let replayed = caller.seen(|s| s.deliveries.iter().filter(|d| d.origin == Origin::Replayed).count());
    assert_eq!(replayed, 0, "what waited is as new as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_wrote_waits_for_it() {
    let mut bench = Bench::start(&[], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let caller = bench.component("caller").await;
    subscribe(&caller, "called").await;
    publish(&ingress, 0..2).await;
    handles(&caller, 0..2).await;
    let entries = registry(&bench).await;
    let mine = entries.get("called").await.unwrap().unwrap();
    let mut newer: serde_json::Value = serde_json::from_slice(&mine).unwrap();
    newer["version"] = 99.into();
    newer["something"] = "that only the newer version knows".into();
    let newer = serde_json::to_vec(&newer).unwrap();
    entries.put("called", newer.clone().into()).await.unwrap();
    let left_alone = |s: &SubscriptionStatus| s.code() == "unreadable-subscription";
    bench.subscription_when("called", "it is left alone", left_alone).await;
    let before = consumers(&bench).await;
    publish(&ingress, 2..5).await;
    bench.restart_provider(0).await;
    bench.subscription_when("called", "it still is", left_alone).await;
    assert_eq!(consumers(&bench).await, before, "its consumer stays");
    assert_eq!(entries.get("called").await.unwrap().unwrap(), newer, "and its entry");
    assert_eq!(caller.handled(), ["e0", "e1"], "its events wait");
    // The version that wrote it is there again.
    entries.put("called", mine).await.unwrap();
    handles(&caller, 0..5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_says_nothing_of_itself_is_left_alone_until_somebody_ends_it() {
    let mut bench = Bench::start(&[], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let caller = bench.silent_component("caller").await;
    subscribe(&caller, "called").await;
    publish(&ingress, 0..3).await;
    let before = consumers(&bench).await;
    bench.providers[0].kill();
    // As an older version made it.
    let js = jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    let name = before.iter().find(|name| name.starts_with("called")).unwrap();
    let mut info = log.consumer_info(name).await.unwrap();
    info.config.metadata.remove("fanout-subscription");
    let config: jetstream::consumer::pull::Config =
        jetstream::consumer::FromConsumer::try_from_consumer_config(info.config).unwrap();
    log.create_consumer(config).await.unwrap();
    registry(&bench).await.stream.purge().await.unwrap();
    bench.restart_provider(0).await;
    let left_alone = |s: &SubscriptionStatus| s.code() == "registration-lost";
    bench.subscription_when("called", "it is left alone", left_alone).await;
    let options = every_event();
    let refused = subscriber::subscribe_durable(caller.bus(), patient(), "called", &options).await;
    let refused = format!("{:?}", refused.unwrap().unwrap_err());
    assert!(
        refused.contains("registration-lost"),
        "its name is no other's: {refused}"
    );
    assert_eq!(consumers(&bench).await, before);
    // A person ends it, as the page says.
    registry(&bench).await.delete("called").await.unwrap();
    eventually("it goes", || async {
        (consumers(&bench).await.len() == 1).then_some(())
    })
    .await;
}
