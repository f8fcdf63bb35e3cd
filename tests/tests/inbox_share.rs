//! How much a fetch brings, and of what: a share of each partition, and no more than may be in hand.

use std::collections::BTreeMap;

use fanout_tests::fetcher::{fetch, ids, settles};
use fanout_tests::inbox::Verdict;
use fanout_tests::{Bench, Component, LinkTo, event};

fn links(more: &[(&str, &str)]) -> Vec<LinkTo> {
    let mut settings = vec![("subscription", "billing"), ("need", "durable")];
    settings.extend_from_slice(more);
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("billing", &["inbox"], "*"),
        LinkTo::subscriber("billing", &["inbox"], &settings),
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
async fn a_long_backlog_in_one_partition_leaves_the_others_their_share() {
    let bench = Bench::start(&[("topology", "per-tenant")], &links(&[])).await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    publish(&ingress, &["acme"], 40).await;
    publish(&ingress, &["globex", "initech"], 4).await;

    let mut brought = BTreeMap::<String, usize>::new();
    for held in fetch(&billing, "billing", 12, 5_000).await {
        *brought.entry(held.delivery.event.tenant).or_default() += 1;
    }
    let expected = ["acme", "globex", "initech"].map(|tenant| (tenant.to_owned(), 4));
    assert_eq!(brought, expected.into());
    // What the others leave is filled up.
    assert_eq!(fetch(&billing, "billing", 30, 5_000).await.len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_is_in_hand_that_may_be_a_fetch_brings_nothing() {
    let narrow = [("batch-size", "1"), ("concurrency", "1")];
    let bench = Bench::start(&[("delivery.ack-wait", "30s")], &links(&narrow)).await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    publish(&ingress, &["acme"], 5).await;

    let held = fetch(&billing, "billing", 10, 1_000).await;
    assert_eq!(ids(&held), ["acme-00", "acme-01"]);
    for wait in [0, 600] {
        assert!(fetch(&billing, "billing", 10, wait).await.is_empty());
    }
    settles(&billing, &held[1], Verdict::Handled).await;
    assert_eq!(ids(&fetch(&billing, "billing", 10, 5_000).await), ["acme-02"]);
}
