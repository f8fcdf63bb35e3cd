//! A fetch that waits for events holds nothing that others need, and each caller may have so many of them wait.

use std::time::Duration;

use fanout_tests::fetcher::{fetch, ids, patient, publish};
use fanout_tests::inbox;
use fanout_tests::types::InboxError;
use fanout_tests::{Bench, Component, LinkTo, event};
use fanout_transport::CallContext;
use tokio::task::JoinSet;

const SUBSCRIPTIONS: usize = 10;
/// A waiting fetch is answered after 8 seconds: what is answered within this did not wait for one.
const WITHOUT_WAITING: Duration = Duration::from_secs(4);

fn links() -> Vec<LinkTo> {
    let mut links = vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("greedy", &["inbox"], "*"),
        LinkTo::caller("billing", &["inbox"], "*"),
        LinkTo::subscriber(
            "billing",
            &["inbox"],
            &[("subscription", "billing"), ("need", "durable")],
        ),
    ];
    for i in 0..SUBSCRIPTIONS {
        let name = format!("greedy-{i}");
        let settings = [
            ("subscription", name.as_str()),
            ("need", "durable"),
            ("event-types", "never.published"),
        ];
        links.push(LinkTo::subscriber("greedy", &["inbox"], &settings).named(&name));
    }
    links
}

/// Begins so many fetches that wait, and gives those that are refused, of which there are so many; the others go on
/// waiting.
async fn crowd(
    greedy: &Component,
    fetches: usize,
    refusals: usize,
) -> (Vec<InboxError>, JoinSet<Result<(), InboxError>>) {
    let mut waiting = JoinSet::new();
    for i in 0..fetches {
        let bus = greedy.bus().clone();
        let name = format!("greedy-{}", i % SUBSCRIPTIONS);
        waiting.spawn(async move {
            let fetched = inbox::fetch(&bus, patient(), &name, 10, None, 8_000).await;
            fetched.expect("the bus answers").map(drop)
        });
    }
    let mut refused = Vec::new();
    while refused.len() < refusals {
        let done = waiting.join_next().await.expect("some are refused");
        refused.extend(done.expect("no panic").err());
    }
    (refused, waiting)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_callers_waiting_fetches_delay_nobody_else() {
    let bench = Bench::start(&[], &links()).await;
    let greedy = bench.silent_component("greedy").await;
    let (refused, mut waiting) = crowd(&greedy, 512, 512 - 256).await;
    for refusal in &refused {
        let InboxError::Unavailable(problem) = refusal else {
            panic!("{refusal:?}");
        };
        assert_eq!(problem.code, "too-many-fetches");
    }
    assert!(!waiting.is_empty(), "the others wait");
    // Others fetch, publish and ask as if nothing were.
    let billing = bench.silent_component("billing").await;
    for i in 0..5 {
        let context = CallContext::within(WITHOUT_WAITING);
        let fetched = inbox::fetch(billing.bus(), context, "billing", 10, None, 0).await;
        fetched.expect("answered without waiting").expect("it may fetch");
        publish(&bench, i..i + 1).await;
        let context = CallContext::within(WITHOUT_WAITING);
        let fetched = inbox::fetch(billing.bus(), context, "billing", 10, None, 3_000).await;
        let fetched = fetched.expect("answered without waiting").expect("it may fetch");
        assert_eq!(ids(&fetched.deliveries), [format!("e{i:03}")]);
    }
    waiting.abort_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_given_to_a_fetch_that_may_not_wait() {
    let mut all = links();
    all.push(LinkTo::subscriber("greedy", &["inbox"], &[("subscription", "busy"), ("need", "durable")]).named("busy"));
    let bench = Bench::start(&[], &all).await;
    let greedy = bench.silent_component("greedy").await;
    let (_, mut waiting) = crowd(&greedy, 300, 300 - 256).await;
    let ingress = bench.silent_component("ingress").await;
    ingress.publish(event("acme", "invoice.paid", "e1")).await.unwrap();
    assert_eq!(ids(&fetch(&greedy, "busy", 10, 1_000).await), ["e1"], "there is one");
    waiting.abort_all();
}
