//! `ordering` where deliveries are fetched: of each partition one event is in hand at a time, and stays first until it is
//! settled, whoever fetches and whichever instance answers.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use fanout_tests::fetcher::{fetch, ids, never, next, retry, settle, settles};
use fanout_tests::inbox::Verdict;
use fanout_tests::{Bench, Component, LinkTo, event, eventually};

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("billing", &["inbox"], "*"),
        LinkTo::subscriber(
            "billing",
            &["inbox"],
            &[("subscription", "billing"), ("need", "durable")],
        ),
    ]
}

async fn publish(ingress: &Component, tenants: &[&str], count: usize) {
    for i in 0..count {
        for tenant in tenants {
            let published = ingress.publish(event(tenant, "invoice.paid", &format!("{tenant}-{i:02}")));
            published.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_retry_stays_first() {
    let bench = Bench::start(&[("ordering", "tenant")], &links()).await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    publish(&ingress, &["acme"], 3).await;

    let held = fetch(&billing, "billing", 10, 5_000).await;
    assert_eq!(ids(&held), ["acme-00"], "however many are asked for");
    assert!(fetch(&billing, "billing", 10, 0).await.is_empty(), "it is in hand");
    settles(&billing, &held[0], retry("not yet")).await;
    let again = next(&billing, "billing").await;
    assert_eq!(
        (again.delivery.event.id.as_str(), again.delivery.attempt),
        ("acme-00", 2)
    );
    settles(&billing, &again, never("broken")).await;
    let second = next(&billing, "billing").await;
    assert_eq!(second.delivery.event.id, "acme-01", "a dead letter leaves the line");
    settles(&billing, &second, Verdict::Released).await;
    let second = next(&billing, "billing").await;
    assert_eq!(second.delivery.event.id, "acme-01");
    settles(&billing, &second, Verdict::Handled).await;
    assert_eq!(next(&billing, "billing").await.delivery.event.id, "acme-02");
}

#[tokio::test(flavor = "multi_thread")]
async fn fetchers_at_two_instances_keep_each_tenants_order() {
    const EVENTS: usize = 20;
    let tenants = ["acme", "globex"];
    let settings = [
        ("ordering", "tenant"),
        ("topology", "sharded(2)"),
        ("retry.schedule", "1ms"),
    ];
    let mut bench = Bench::start(&settings, &links()).await;
    bench.add_provider().await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    publish(&ingress, &tenants, EVENTS).await;

    let handled = Mutex::new(BTreeMap::<String, Vec<String>>::new());
    let attempts = Mutex::new(BTreeMap::<String, u32>::new());
    let count = || handled.lock().unwrap().values().map(Vec::len).sum::<usize>();
    let work = || async {
        while count() < tenants.len() * EVENTS {
            for held in fetch(&billing, "billing", 4, 200).await {
                let (tenant, id) = (held.delivery.event.tenant.clone(), held.delivery.event.id.clone());
                let tries = {
                    let mut attempts = attempts.lock().unwrap();
                    let tries = attempts.entry(id.clone()).or_default();
                    *tries += 1;
                    *tries
                };
                if tries == 1 && id.ends_with(['1', '4', '7']) {
                    settles(&billing, &held, retry("not yet")).await;
                    continue;
                }
                // It counts before the bus knows of it: what comes next comes after it.
                handled.lock().unwrap().entry(tenant).or_default().push(id);
                settle(&billing, &held, Verdict::Handled).await.unwrap();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(work(), work(), work()) })
        .await
        .expect("all are handled");
    let expected: BTreeMap<_, Vec<_>> = tenants
        .iter()
        .map(|tenant| {
            let ids = (0..EVENTS).map(|i| format!("{tenant}-{i:02}"));
            ((*tenant).to_owned(), ids.collect())
        })
        .collect();
    assert_eq!(*handled.lock().unwrap(), expected);
    eventually("nothing is left", || async {
        fetch(&billing, "billing", 10, 0).await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_before_a_change_of_topology_comes_before_anything_newer() {
    let mut bench = Bench::start(&[("ordering", "tenant")], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let billing = bench.silent_component("billing").await;
    let publish = async |ids: std::ops::Range<usize>| {
        for i in ids {
            let published = ingress.publish(event("acme", "invoice.paid", &format!("acme-{i:02}")));
            published.await.unwrap();
        }
    };
    publish(0..5).await;
    let first = fetch(&billing, "billing", 10, 5_000).await;
    assert_eq!(ids(&first), ["acme-00"]);
    bench.set("topology", "sharded(2)");
    bench.restart_provider(0).await;
    publish(5..10).await;
    let newer = fetch(&billing, "billing", 10, 300).await;
    assert!(newer.is_empty(), "the oldest is in hand: {newer:?}");
    settles(&billing, &first[0], Verdict::Handled).await;
    let mut handled = Vec::new();
    while handled.len() < 9 {
        let held = next(&billing, "billing").await;
        settles(&billing, &held, Verdict::Handled).await;
        handled.push(held.delivery.event.id);
    }
    let expected: Vec<_> = (1..10).map(|i| format!("acme-{i:02}")).collect();
    assert_eq!(handled, expected);
}
