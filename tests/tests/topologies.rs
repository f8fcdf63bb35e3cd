//! Each topology with a real provider: a component does not notice which one it is, and a change between them loses
//! nothing, stores nothing twice, and is seen by an instance that did not make it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use fanout_plan::planner::{self, Asked};
use fanout_plan::{Policy, Settings, Timestamp};
use fanout_provider::jetstream::Store;
use fanout_tests::subscriber;
use fanout_tests::types::{DeliveryOptions, Position, PublishError, Reach, Start};
use fanout_tests::{Bench, LinkTo, event, eventually, every_event};
use fanout_transport::CallContext;
use fanout_transport::testing::NatsSettings;
use futures::TryStreamExt as _;

const TENANTS: [&str; 5] = ["acme", "globex", "initech", "hooli", "umbrella"];

fn links(queue: bool) -> Vec<LinkTo> {
    let durable = [
        ("subscription", "invoicing"),
        ("need", "durable"),
        ("event-types", "invoice.*"),
    ];
    let mut links = vec![
        LinkTo::caller("ingress", &["publisher", "subscriber"], "*"),
        LinkTo::subscriber("invoicing", &["batch-handler"], &durable),
    ];
    if queue {
        let queue = [("subscription", "entitlements"), ("need", "queue")];
        links.push(LinkTo::subscriber("entitlements", &["handler"], &queue));
    }
    links
}

fn ids() -> Vec<(&'static str, String)> {
    let all = (0..4).flat_map(|i| TENANTS.map(|tenant| (tenant, format!("{tenant}-{i}"))));
    all.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_does_not_notice_the_topology() {
    for topology in ["sharded(3)", "per-tenant", "work-queue"] {
        let bench = Bench::start(&[("topology", topology)], &links(true)).await;
        let ingress = bench.component("ingress").await;
        let invoicing = bench.component("invoicing").await;
        let entitlements = bench.component("entitlements").await;
        let mut places = BTreeMap::new();
        for (tenant, id) in ids() {
            let receipt = ingress.publish(event(tenant, "invoice.paid", &id)).await.unwrap();
            assert!(
                !receipt.duplicate && receipt.durable_subscriptions == 1,
                "{topology}: {receipt:?}"
            );
            places.insert(id, receipt.position);
        }
        let mut expected: Vec<_> = places.keys().cloned().collect();
        expected.sort();
        for (who, name) in [(&invoicing, "invoicing"), (&entitlements, "entitlements")] {
            eventually(&format!("{topology}: {name} handles every event"), || async {
                let mut handled = who.handled();
                handled.sort();
                (handled == expected).then_some(())
            })
            .await;
        }
        let same = |a: &Position, b: &Position| (a.partition, a.offset) == (b.partition, b.offset);
        invoicing.seen(|s| {
            assert!(
                s.deliveries.iter().all(|d| same(&d.position, &places[&d.event.id])),
                "{topology}"
            );
        });
        entitlements.seen(|s| {
            assert!(
                s.deliveries.iter().all(|d| same(&d.position, &places[&d.event.id])),
                "{topology}"
            );
        });
        let partitions: BTreeSet<_> = places.values().map(|p| p.partition).collect();
        match topology {
            "work-queue" => assert_eq!(partitions.len(), 1),
            "per-tenant" => assert_eq!(partitions.len(), TENANTS.len()),
            _ => assert!(partitions.len() > 1, "{partitions:?}"),
        }
        for (tenant, id) in ids().into_iter().take(5) {
            let again = ingress.publish(event(tenant, "invoice.paid", &id)).await.unwrap();
            assert!(
                again.duplicate && same(&again.position, &places[&id]),
                "{topology}: {again:?}"
            );
        }
        bench
            .subscription_when("invoicing", "nothing waits", |s| s.backlog() == Some(0))
            .await;
        if topology == "work-queue" {
            let jetstream = jetstream::new(bench.client().clone());
            eventually("the work queue is empty", || async {
                let mut log = jetstream.get_stream("fanout_payments_log").await.unwrap();
                (log.info().await.unwrap().state.messages == 0).then_some(())
            })
            .await;
            continue;
        }
        let options = DeliveryOptions {
            reach: Reach::BatchHandler,
            batch_size: Some(3),
            ..every_event()
        };
        subscriber::subscribe_backfill(
            ingress.bus(),
            CallContext::default(),
            "late",
            &Start::First,
            None,
            &options,
        )
        .await
        .unwrap()
        .unwrap();
        eventually(&format!("{topology}: the backfill is told"), || async {
            ingress.seen(|s| s.caught_up.first().map(|c| c.replayed))
        })
        .await;
        assert_eq!(ingress.seen(|s| s.caught_up[0].replayed), 20, "{topology}");
        let mut replayed = ingress.handled();
        replayed.sort();
        assert_eq!(replayed, expected, "{topology}");
    }
}

/// Brings the store to another policy, cut short after so many steps and then to the end, as after a crash.
async fn turn(bench: &Bench, topology: &str, subject: &str, crash_after: usize) {
    let settings: Settings = [
        ("bus", "payments"),
        ("subject", subject),
        ("topology", topology),
        ("delivery.deadline", "500ms"),
        ("delivery.ack-wait", "2s"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    let policy = Policy::from_settings("policy", &settings).unwrap();
    for limit in [crash_after, usize::MAX] {
        let store = Store::new(bench.client().clone(), policy.clone());
        let observed = store.observe().await.unwrap();
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = Timestamp::EPOCH + since.unwrap();
        let plan = planner::plan(&policy, Asked::default(), &observed, now).unwrap();
        for step in plan.steps.iter().take(limit) {
            store.apply(step).await.unwrap();
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_topology_under_traffic_loses_nothing_and_stores_nothing_twice() {
    let bench = Bench::start(&[], &links(false)).await;
    let invoicing = bench.component("invoicing").await;
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = TENANTS
        .iter()
        .map(|tenant| {
            let (stop, nats) = (Arc::clone(&stop), bench.silent_component("ingress"));
            async move { (nats.await, stop, *tenant) }
        })
        .collect();
    let mut tasks = Vec::new();
    for publisher in publishers {
        let (ingress, stop, tenant) = publisher.await;
        tasks.push(tokio::spawn(async move {
            let mut stored = Vec::new();
            let mut i = 0;
            while !stop.load(Ordering::Relaxed) {
                let id = format!("{tenant}-{i:05}");
                // As a careful publisher: the same id again until it is known to be stored, and now and then once more.
                // That its place is gone for a moment, a publisher does not notice.
                let first = loop {
                    match ingress.publish(event(tenant, "invoice.paid", &id)).await {
                        Ok(receipt) => break receipt,
                        Err(PublishError::OutcomeUnknown(_)) => {}
                        Err(e) => panic!("{e:?}"),
                    }
                };
                if i % 5 == 0 {
                    let again = ingress.publish(event(tenant, "invoice.paid", &id)).await;
                    assert!(
                        !matches!(&again, Ok(r) if !r.duplicate),
                        "{id} is stored twice: {first:?}, {again:?}"
                    );
                }
                stored.push(id);
                i += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            stored
        }));
    }
    let own = "payments.{tenant}.webhook.{event-type}";
    let handled_more = |what: String, than: usize| {
        let invoicing = &invoicing;
        async move {
            eventually(&what, || async {
                (invoicing.handled().len() > than + 20).then_some(())
            })
            .await;
        }
    };
    let mut handled = 0;
    for (i, (topology, subject)) in [
        ("sharded(3)", own),
        ("per-tenant", own),
        ("work-queue", own),
        ("shared", "billing.{tenant}.{event-type}"),
        ("sharded(2)", own),
    ]
    .into_iter()
    .enumerate()
    {
        handled_more(format!("events are handled before {topology}"), handled).await;
        turn(&bench, topology, subject, i + 1).await;
        handled = invoicing.handled().len();
        handled_more(format!("events are handled after {topology}"), handled).await;
        handled = invoicing.handled().len();
    }
    stop.store(true, Ordering::Relaxed);
    let mut stored = Vec::new();
    for task in tasks {
        stored.extend(task.await.unwrap());
    }
    stored.sort();
    eventually("every event with a receipt is handled", || async {
        let mut handled = invoicing.handled();
        handled.sort();
        handled.dedup();
        (handled == stored).then_some(())
    })
    .await;
    // What is still stored is stored once, over all generations.
    let jetstream = jetstream::new(bench.client().clone());
    let names: Vec<String> = jetstream.stream_names().try_collect().await.unwrap();
    let mut seen = BTreeSet::new();
    for name in names.iter().filter(|n| n.starts_with("fanout_payments_log")) {
        let stream = jetstream.get_stream(name).await.unwrap();
        let state = stream.cached_info().state.clone();
        for sequence in state.first_sequence..=state.last_sequence {
            // A settled event of the work queue is gone.
            if let Ok(message) = stream.get_raw_message(sequence).await {
                let id = message.headers.get("Nats-Msg-Id").unwrap().to_string();
                assert!(seen.insert(id.clone()), "{id} is stored twice");
            }
        }
    }
    assert!(seen.len() > 20);
    let policy = bench.status().await.unwrap().policy.unwrap();
    assert_eq!(policy.problems[0].code, "topology-changed", "the instance says so");
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_without_a_place_are_refused_without_asking_the_store_each_time() {
    let account = NatsSettings {
        config: Some(
            "accounts { A { jetstream: { max_streams: 12 }, users: [{ user: a, password: a }] } }\nno_auth_user: a\n"
                .into(),
        ),
        ..NatsSettings::default()
    };
    let bench = Bench::start_on(account, &[("topology", "per-tenant")], &links(false)).await;
    let ingress = bench.silent_component("ingress").await;
    let js = jetstream::new(bench.client().clone());
    let requests = async || js.query_account().await.unwrap().requests.total;
    let mut refused = None;
    for i in 0..12 {
        let published = ingress
            .publish(event(&format!("tenant-{i}"), "invoice.paid", "e"))
            .await;
        refused = refused.or(published.err());
    }
    let Some(PublishError::Unavailable(problem)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(problem.code, "account-limit");
    let before = requests().await;
    let more = (0..300).map(|i| {
        let ingress = &ingress;
        async move { ingress.publish(event(&format!("more-{i}"), "invoice.paid", "e")).await }
    });
    let more = futures::future::join_all(more).await;
    for (i, published) in more.into_iter().enumerate() {
        let Err(PublishError::Unavailable(problem)) = published else {
            panic!("{published:?}")
        };
        assert!(
            problem.message.contains(&format!("tenant more-{i} ")),
            "{}",
            problem.message
        );
    }
    // Each look at the store is a dozen requests.
    let asked = requests().await - before;
    assert!(asked < 300, "{asked} requests for 300 publishes");
}
