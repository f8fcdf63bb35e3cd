//! Tenants are held to their quotas, each for itself, and are told when to come again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use fanout_tests::types::{Event, PublishError, RefusalForNow};
use fanout_tests::{Bench, Component, LinkTo, event, eventually, publisher};
use fanout_transport::CallContext;
use futures::StreamExt as _;

fn ingress() -> LinkTo {
    LinkTo::caller("ingress", &["publisher"], "*")
}

fn refusal(e: PublishError) -> RefusalForNow {
    match e {
        PublishError::QuotaExceeded(refusal) => refusal,
        other => panic!("refused for another reason: {other:?}"),
    }
}

fn kilobytes(tenant: &str, id: &str, kilobytes: usize) -> Event {
    Event {
        data: Bytes::from(vec![b'x'; kilobytes << 10]),
        ..event(tenant, "a.b", id)
    }
}

/// Publishes many at once; returns the refusals of those that were not stored.
async fn burst(ingress: &Component, tenant: &str, run: &str, n: usize) -> Vec<RefusalForNow> {
    let events: Vec<_> = (0..n).map(|i| event(tenant, "a.b", &format!("{run}-{i}"))).collect();
    publisher::publish_tenant_events(ingress.bus(), CallContext::default(), &events)
        .await
        .unwrap()
        .into_iter()
        .filter_map(Result::err)
        .map(refusal)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loud_tenant_is_refused_and_a_quiet_one_is_not() {
    let settings = [
        ("quota.events-per-second", "20"),
        ("quota.tenant.vip.events-per-second", "100000"),
    ];
    let bench = Bench::start(&settings, &[ingress()]).await;
    let ingress = bench.silent_component("ingress").await;
    let refused = burst(&ingress, "loud", "a", 500).await;
    // What may come at once, and what comes while the call is under way; not what ten of it could be.
    assert!(
        (300..=480).contains(&refused.len()),
        "{} of 500 were refused",
        refused.len()
    );
    let first = &refused[0];
    assert_eq!(first.problem.code, "quota-exceeded");
    assert!(
        first.problem.message.contains("tenant loud"),
        "{}",
        first.problem.message
    );
    assert!((1..=50).contains(&first.retry_after_ms), "{} ms", first.retry_after_ms);
    assert_eq!(burst(&ingress, "quiet", "a", 10).await.len(), 0);
    assert_eq!(burst(&ingress, "vip", "a", 500).await.len(), 0);
    // After the time given, the same event is taken.
    let refused = burst(&ingress, "loud", "b", 100).await;
    let last = refused.last().expect("the quota is used up");
    tokio::time::sleep(Duration::from_millis(last.retry_after_ms)).await;
    ingress.publish(event("loud", "a.b", "after")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_belong_together_take_their_quotas_together_or_not_at_all() {
    let settings = [
        ("quota.events-per-second", "20"),
        ("quota.tenant.small.max-bytes", "64KiB"),
        ("quota.tenant.small.events-per-second", "1000"),
    ];
    let bench = Bench::start(&settings, &[ingress()]).await;
    let ingress = bench.silent_component("ingress").await;
    let together = async |events: &[Event]| {
        publisher::publish_tenant_events_together(ingress.bus(), CallContext::default(), events)
            .await
            .unwrap()
    };
    let of = |tenant: &str, run: &str, n: usize| -> Vec<_> {
        (0..n).map(|i| event(tenant, "a.b", &format!("{run}-{i}"))).collect()
    };
    // The other tenant has no room for all: nothing of either is taken, however often it is tried.
    let large = || {
        (0..3)
            .map(|i| kilobytes("small", &format!("large-{i}"), 30))
            .collect::<Vec<_>>()
    };
    for _ in 0..5 {
        let refused = together(&[of("acme", "a", 10), large()].concat()).await.unwrap_err();
        assert!(
            matches!(&refused, PublishError::TooLarge(p) if p.message.contains("tenant small")),
            "{refused:?}"
        );
    }
    let taken = together(&[of("acme", "a", 20), large().split_off(1)].concat())
        .await
        .unwrap();
    assert_eq!(taken.iter().filter(|r| !r.duplicate).count(), 22);
    assert_eq!(taken[0].position.offset, 1, "nothing was stored before");
    // More than may come at once is taken as a whole, and the next one waits for it.
    let taken = eventually("a second's worth is there", || async {
        together(&of("acme", "b", 1_000)).await.ok()
    })
    .await;
    assert_eq!(taken.len(), 1_000);
    let next = ingress
        .publish(event("acme", "a.b", "next"))
        .await
        .map(drop)
        .map_err(refusal);
    let wait = next.unwrap_err().retry_after_ms;
    assert!((20_000..=49_050).contains(&wait), "{wait}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_bytes_are_counted_and_a_new_instance_knows_them() {
    let mut bench = Bench::start(&[("quota.max-bytes", "100KiB")], &[ingress()]).await;
    let ingress = bench.silent_component("ingress").await;
    for i in 0..4 {
        ingress.publish(kilobytes("acme", &format!("e{i}"), 20)).await.unwrap();
    }
    // A repeat stores nothing and takes nothing.
    for _ in 0..5 {
        assert!(ingress.publish(kilobytes("acme", "e0", 15)).await.unwrap().duplicate);
    }
    let refused = refusal(ingress.publish(kilobytes("acme", "e5", 20)).await.unwrap_err());
    assert_eq!(refused.problem.code, "quota-exceeded");
    // Seven days, and at most a sixteenth of it too long.
    let days = refused.retry_after_ms / 86_400_000;
    assert!((6..=7).contains(&days), "{} ms", refused.retry_after_ms);
    ingress.publish(kilobytes("globex", "e5", 20)).await.unwrap();
    let too_large = ingress.publish(kilobytes("acme", "large", 101)).await.unwrap_err();
    assert!(matches!(too_large, PublishError::TooLarge(_)), "{too_large:?}");
    // The counters are told once a second: then a new instance knows them.
    eventually("the counters hold what is stored", || async {
        let counters = async_nats::jetstream::new(bench.client().clone())
            .get_stream("fanout_payments_usage")
            .await
            .ok()?;
        (counters.cached_info().state.messages >= 2).then_some(())
    })
    .await;
    bench.restart_provider(0).await;
    refusal(ingress.publish(kilobytes("acme", "e6", 30)).await.unwrap_err());
    ingress.publish(kilobytes("acme", "e7", 10)).await.unwrap();
}

/// The bytes that the counters hold, of all tenants.
async fn counted(bench: &Bench) -> Option<u64> {
    let counters = jetstream::new(bench.client().clone())
        .get_stream("fanout_payments_usage")
        .await
        .ok()?;
    let state = counters.cached_info().state.clone();
    let mut totals = HashMap::new();
    for sequence in state.first_sequence.max(1)..=state.last_sequence {
        // The last message of a counter is its total.
        if let Ok(m) = counters.get_raw_message(sequence).await {
            let counter: serde_json::Value = serde_json::from_slice(&m.payload).ok()?;
            totals.insert(m.subject.to_string(), counter["val"].as_str()?.parse::<u64>().ok()?);
        }
    }
    Some(totals.values().sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_last_is_counted_at_an_orderly_end() {
    let mut bench = Bench::start(&[("quota.max-bytes", "10MiB")], &[ingress()]).await;
    let ingress = bench.silent_component("ingress").await;
    for round in 1..=3_u64 {
        for i in 0..3 {
            let e = kilobytes("acme", &format!("{round}-{i}"), 20);
            eventually("it is published", || async { ingress.publish(e.clone()).await.ok() }).await;
        }
        bench.providers[0].signal("TERM");
        let ended = eventually("it ends", || std::future::ready(bench.providers[0].ended())).await;
        assert!(ended, "it ends in order");
        let counted = counted(&bench).await.unwrap();
        let stored = 3 * round * (20 << 10);
        // And their attributes, a kilobyte each at most.
        assert!(
            (stored..stored + 3 * round * 1_024).contains(&counted),
            "round {round}: {counted} of {stored} bytes are counted"
        );
        bench.restart_provider(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_whose_count_is_under_way_are_counted_once_when_the_policy_changes() {
    let mut bench = Bench::start(&[("quota.max-bytes", "10MiB")], &[ingress()]).await;
    let ingress = bench.silent_component("ingress").await;
    ingress.publish(kilobytes("acme", "e0", 1)).await.unwrap();
    eventually("the counters hold it", || async {
        counted(&bench).await.filter(|n| *n > 0)
    })
    .await;
    // What is added from here on is received by this test, which does not answer, and by no counters.
    let mut additions = bench.client().subscribe("fanout.usage.>").await.unwrap();
    jetstream::new(bench.client().clone())
        .delete_stream("fanout_payments_usage")
        .await
        .unwrap();
    ingress.publish(kilobytes("acme", "e1", 20)).await.unwrap();
    let mut seen = vec![additions.next().await.unwrap()];
    // The new policy has the counters made again.
    bench.change("delivery.deadline", "9m").await;
    let total = eventually("the counters hold it", || async {
        counted(&bench).await.filter(|n| *n > 0)
    })
    .await;
    while let Ok(Some(addition)) = tokio::time::timeout(Duration::from_millis(200), additions.next()).await {
        seen.push(addition);
    }
    let id = |m: &async_nats::Message| {
        let headers = m.headers.as_ref().unwrap();
        headers.get("Nats-Msg-Id").unwrap().as_str().to_owned()
    };
    let ids: HashSet<_> = seen.iter().map(id).collect();
    assert!(seen.len() > 1, "it was added again");
    assert_eq!(ids.len(), 1, "the same bytes are added under one id");
    assert!(((20 << 10)..(21 << 10)).contains(&total), "{total} bytes are counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_bytes_go_with_their_events() {
    let settings = [
        ("retention.max-age", "2s"),
        ("retention.warn-before", "1s"),
        ("dedupe.window", "1s"),
        ("quota.max-bytes", "50KiB"),
    ];
    let bench = Bench::start(&settings, &[ingress()]).await;
    let ingress = bench.silent_component("ingress").await;
    let mut refusals = 0;
    for i in 0..6 {
        eventually("room is there once events have expired", || async {
            match ingress.publish(kilobytes("acme", &format!("e{i}"), 30)).await {
                Ok(_) => Some(()),
                Err(e) => {
                    let refused = refusal(e);
                    assert!(refused.retry_after_ms <= 2_200, "{} ms", refused.retry_after_ms);
                    None
                }
            }
        })
        .await;
        let next = ingress.publish(kilobytes("acme", &format!("f{i}"), 30)).await;
        refusals += usize::from(next.is_err());
    }
    assert!(refusals > 0, "two such events never fit at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_share_a_rate() {
    let mut bench = Bench::start(&[("quota.events-per-second", "100")], &[ingress()]).await;
    bench.add_provider().await;
    let ingress = bench.silent_component("ingress").await;
    // Each instance gives out half once it has heard of the other.
    eventually("a refusal names the two instances", || async {
        let refused = burst(&ingress, "acme", "x", 200).await;
        let shared = refused
            .iter()
            .any(|r| r.problem.message.contains("each of 2 instances"));
        shared.then_some(())
    })
    .await;
    // One that is gone is not counted for long.
    bench.providers[1].kill();
    eventually("the one that is left gives out all of it", || async {
        let refused = burst(&ingress, "acme", "y", 300).await;
        let alone = !refused.is_empty() && refused.iter().all(|r| !r.problem.message.contains("instances"));
        alone.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_large_calls_at_once_do_not_wait_for_each_other() {
    let settings = [("publish.max-in-flight", "64")];
    let bench = Bench::start(&settings, &[ingress()]).await;
    let ingress = &bench.silent_component("ingress").await;
    // Thousands of events, sixteen of them under way for each tenant: every call gets its answers.
    let calls = (0..12).map(|call| async move {
        burst(ingress, &format!("t{}", call % 3), &format!("c{call}"), 400)
            .await
            .len()
    });
    let refused: usize = futures::future::join_all(calls).await.iter().sum();
    assert_eq!(refused, 0);
}
