//! How much a fetch brings, and of what: a share of each partition, and no more than may be in hand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fanout_tests::fetcher::{fetch, ids, next, patient, settles, try_fetch};
use fanout_tests::inbox;
use fanout_tests::types::{Settlement, Verdict};
use fanout_tests::{Bench, LinkTo, event, eventually, stored};
use futures::TryStreamExt as _;

fn links(more: &[(&str, &str)]) -> Vec<LinkTo> {
    let mut settings = vec![("subscription", "billing"), ("need", "durable")];
    settings.extend_from_slice(more);
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("billing", &["inbox"], "*"),
        LinkTo::subscriber("billing", &["inbox"], &settings),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_backlog_in_one_partition_leaves_the_others_their_share() {
    let bench = Bench::start(&[("topology", "per-tenant")], &links(&[])).await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    ingress.publish_in_turn(&["acme"], 40).await;
    ingress.publish_in_turn(&["globex", "initech"], 4).await;

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
async fn a_tenant_with_a_long_backlog_is_isolated_and_delays_nobody() {
    const BACKLOG: usize = 6_000;
    let bench = Bench::start(&[], &links(&[])).await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    ingress.publish_backlog("loud", BACKLOG).await;
    for i in 0..3 {
        let quiet = event("quiet", "invoice.paid", &format!("quiet-{i}"));
        ingress.publish(quiet).await.unwrap();
    }
    let (mut handled, mut quiet) = (BTreeSet::new(), Vec::new());
    let deadline = Instant::now() + Duration::from_secs(60);
    while handled.len() < BACKLOG + 3 {
        assert!(Instant::now() < deadline, "{} are handled", handled.len());
        let held = fetch(&billing, "billing", 16, 1_000).await;
        let settlements = held.iter().map(|h| Settlement {
            token: h.token.clone(),
            verdict: Verdict::Handled,
        });
        let settlements: Vec<_> = settlements.collect();
        // What the work takes, as long as it matters who is served.
        if quiet.len() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let settled = inbox::settle(billing.bus(), patient(), &settlements).await.unwrap();
        assert!(settled.iter().all(Result::is_ok), "{settled:?}");
        for held in held {
            let event = held.delivery.event;
            if event.tenant == "quiet" && !handled.contains(&event.id) {
                quiet.push(handled.len());
            }
            handled.insert(event.id);
        }
    }
    assert!(
        quiet.iter().all(|before| *before < BACKLOG / 2),
        "served behind {quiet:?} events"
    );
    // What the tenant's own consumer gave is passed over by whoever fetches. Once nothing is left, all are read together
    // again, and what comes then is given.
    let log = async_nats::jetstream::new(bench.client().clone())
        .get_stream("fanout_payments_log")
        .await
        .unwrap();
    eventually("all are read together again", || async {
        // In the moment in which the consumers are changed a fetch may be told to try again.
        if let Ok(fetched) = try_fetch(&billing, "billing", 16, 0).await {
            assert!(fetched.deliveries.is_empty(), "{:?}", fetched.deliveries);
        }
        let names = stored::consumer_names(&log).await?;
        names.contains(&"billing=0=1".to_owned()).then_some(())
    })
    .await;
    ingress.publish(event("quiet", "invoice.paid", "after")).await.unwrap();
    assert_eq!(next(&billing, "billing").await.delivery.event.id, "after");
}

/// Of how many of the log's consumers a fetch waits for the next event.
async fn waited_on(bench: &Bench) -> Option<usize> {
    let js = async_nats::jetstream::new(bench.client().clone());
    let names: Vec<String> = js.stream_names().try_collect().await.ok()?;
    let mut waited_on = 0;
    for name in names.iter().filter(|name| name.starts_with("fanout_payments_log")) {
        let stream = js.get_stream(name).await.ok()?;
        let consumers: Vec<String> = stream.consumer_names().try_collect().await.ok()?;
        for consumer in consumers {
            // A list of consumers is not always their leaders'.
            let info = stream.consumer_info(&consumer).await.ok()?;
            waited_on += usize::from(info.num_waiting > 0);
        }
    }
    Some(waited_on)
}

/// Whatever another source brings at the moment at which a fetch takes what the first one brought.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_of_two_partitions_at_once_waits_for_no_lease() {
    // Far beyond the time that anything may take here.
    let settings = [("topology", "per-tenant"), ("delivery.ack-wait", "60s")];
    let mut bench = Bench::start(&settings, &links(&[])).await;
    bench.add_provider().await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    ingress.publish_in_turn(&["acme", "globex"], 1).await;
    for _ in 0..2 {
        let held = next(&billing, "billing").await;
        settles(&billing, &held, Verdict::Handled).await;
    }
    for round in 1..=12 {
        let publish = async |tenant: &str| {
            let event = event(tenant, "invoice.paid", &format!("{tenant}-{round}"));
            ingress.publish(event).await.unwrap();
        };
        let published = async {
            // An instance that was not told of a partition finds it when it looks, every thirty seconds.
            let deadline = Instant::now() + Duration::from_secs(75);
            while waited_on(&bench).await.is_none_or(|waited_on| waited_on < 2) {
                assert!(Instant::now() < deadline, "no fetch waits on both partitions");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::join!(publish("acme"), publish("globex"));
            Instant::now()
        };
        // Deliveries that begin anew, for a new partition, end a fetch.
        let first = async {
            loop {
                let first = fetch(&billing, "billing", 1, 8_000).await;
                if !first.is_empty() {
                    return first;
                }
            }
        };
        let (first, published) = tokio::join!(first, published);
        let mut came: Vec<_> = first.iter().map(|held| held.delivery.event.tenant.clone()).collect();
        for held in &first {
            settles(&billing, held, Verdict::Handled).await;
        }
        while came.len() < 2 {
            let held = next(&billing, "billing").await;
            settles(&billing, &held, Verdict::Handled).await;
            came.push(held.delivery.event.tenant.clone());
        }
        let took = published.elapsed();
        came.sort_unstable();
        assert_eq!(came, ["acme", "globex"], "round {round}");
        assert!(took < Duration::from_secs(10), "round {round} took {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_is_in_hand_that_may_be_a_fetch_brings_nothing() {
    let narrow = [("batch-size", "1"), ("concurrency", "1")];
    let bench = Bench::start(&[("delivery.ack-wait", "30s")], &links(&narrow)).await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    ingress.publish_in_turn(&["acme"], 5).await;

    let held = fetch(&billing, "billing", 10, 1_000).await;
    assert_eq!(ids(&held), ["acme-00", "acme-01"]);
    for wait in [0, 600] {
        assert!(fetch(&billing, "billing", 10, wait).await.is_empty());
    }
    settles(&billing, &held[1], Verdict::Handled).await;
    assert_eq!(ids(&fetch(&billing, "billing", 10, 5_000).await), ["acme-02"]);
}
