//! A pause delivers nothing, and takes what was delivered before: whatever its fetchers say of it counts.

use std::path::PathBuf;

use fanout_tests::fetcher::{fetch, ids, never, next, patient, publish, retry, settle, settles, try_fetch};
use fanout_tests::subscriber;
use fanout_tests::types::{LeasedDelivery, SettlementOutcome, SubscriptionState, Verdict};
use fanout_tests::{Bench, Cli, Component, LinkTo, eventually};

const POLICY: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"
";

/// Nothing comes again by itself while a test looks.
const LONG: [(&str, &str); 2] = [("delivery.deadline", "4m"), ("delivery.ack-wait", "5m")];

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("billing", &["inbox", "subscriber"], "*"),
        LinkTo::subscriber(
            "billing",
            &["inbox"],
            &[("subscription", "billing"), ("need", "durable")],
        ),
    ]
}

async fn start(ordering: &str) -> (Bench, Component) {
    let settings = [&LONG[..], &[("ordering", ordering)]].concat();
    let bench = Bench::start(&settings, &links()).await;
    let billing = bench.silent_component("billing").await;
    (bench, billing)
}

async fn pause(who: &Component) {
    let paused = subscriber::pause(who.bus(), patient(), "billing").await;
    assert!(matches!(paused.unwrap().unwrap().state, SubscriptionState::Paused));
}

async fn resume(who: &Component) {
    let resumed = subscriber::resume(who.bus(), patient(), "billing").await;
    assert!(!matches!(resumed.unwrap().unwrap().state, SubscriptionState::Paused));
}

/// So many different events, once each.
async fn at_hand(billing: &Component, count: usize) -> Vec<LeasedDelivery> {
    let mut held = Vec::new();
    while held.len() < count {
        held.push(next(billing, "billing").await);
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_before_is_settled_while_it_is_paused() {
    let (bench, billing) = start("none").await;
    publish(&bench, 0..5).await;
    let mut held = at_hand(&billing, 4).await;
    pause(&billing).await;
    match settle(&billing, &held[3], Verdict::StillWorking).await {
        Ok(SettlementOutcome::Extended(token)) => held[3].token = token,
        other => panic!("{other:?}"),
    }
    settles(&billing, &held[0], Verdict::Handled).await;
    settles(&billing, &held[1], never("broken")).await;
    settles(&billing, &held[2], retry("not now")).await;
    settles(&billing, &held[3], Verdict::Handled).await;
    let nothing = try_fetch(&billing, "billing", 10, 0).await.unwrap();
    assert!(nothing.deliveries.is_empty(), "it is paused");
    bench
        .subscription_when("billing", "one is a dead letter", |s| s.dead_letters == Some(1))
        .await;
    resume(&billing).await;
    let mut left = at_hand(&billing, 2).await;
    left.sort_by_key(|held| held.delivery.event.id.clone());
    assert_eq!(ids(&left), ["e002", "e004"]);
    assert_eq!(left[0].delivery.attempt, 2, "it was refused once");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_where_events_have_an_order() {
    for verdict in [Verdict::Handled, never("broken")] {
        let (bench, billing) = start("tenant").await;
        publish(&bench, 0..2).await;
        let mut held = next(&billing, "billing").await;
        pause(&billing).await;
        match settle(&billing, &held, Verdict::StillWorking).await {
            Ok(SettlementOutcome::Extended(token)) => held.token = token,
            other => panic!("{other:?}"),
        }
        settles(&billing, &held, verdict).await;
        assert!(fetch(&billing, "billing", 10, 0).await.is_empty(), "it is paused");
        resume(&billing).await;
        let second = next(&billing, "billing").await;
        assert_eq!(second.delivery.event.id, "e001", "the first is settled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn and_so_are_redriven_letters() {
    for ordering in ["none", "tenant"] {
        let (bench, billing) = start(ordering).await;
        publish(&bench, 0..2).await;
        for _ in 0..2 {
            let held = next(&billing, "billing").await;
            settles(&billing, &held, never("broken")).await;
        }
        let cli = Cli::new(bench.nats.url());
        let policy: PathBuf = cli.policy(POLICY);
        let (code, _, err) = cli.run(&["dead-letters", "redrive"], &policy, &["--all"]);
        assert_eq!(code, 0, "{err}");
        let first = next(&billing, "billing").await;
        pause(&billing).await;
        settles(&billing, &first, Verdict::Handled).await;
        bench
            .subscription_when("billing", "its letter is gone", |s| s.dead_letters == Some(1))
            .await;
        resume(&billing).await;
        let second = next(&billing, "billing").await;
        pause(&billing).await;
        settles(&billing, &second, never("still broken")).await;
        resume(&billing).await;
        eventually("a new letter has taken the old one's place", || async {
            let (_, out, _) = cli.run(&["--json", "dead-letters", "list"], &policy, &[]);
            let listed: serde_json::Value = serde_json::from_str(&out).ok()?;
            let letters = listed["dead_letters"].as_array()?.clone();
            (letters.len() == 1 && letters[0].to_string().contains("still broken")).then_some(())
        })
        .await;
        assert!(
            fetch(&billing, "billing", 10, 0).await.is_empty(),
            "{ordering}: neither is given again"
        );
    }
}
