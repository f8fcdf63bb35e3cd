//! What one caller can't fill for all: the registry, where each name that it has used stays for good, and the dead letters.

use async_nats::jetstream::{self, kv};
use fanout_tests::fetcher::{never, next, patient, publish, settle, settles, try_fetch};
use fanout_tests::subscriber;
use fanout_tests::types::{
    DeliveryOptions, LeasedDelivery, Reach, SettleError, SettlementOutcome, Start, SubscribeError,
};
use fanout_tests::{Bench, Component, LinkTo, SubscriptionStatus, eventually, every_event};

const BILLING: [(&str, &str); 2] = [("subscription", "billing"), ("need", "durable")];

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("billing", &["inbox"], &BILLING),
        LinkTo::caller("billing", &["inbox"], "*"),
        LinkTo::caller("low", &["inbox", "subscriber"], "*"),
        LinkTo::caller("other", &["inbox", "subscriber"], "*"),
    ]
}

fn fetched() -> DeliveryOptions {
    DeliveryOptions {
        reach: Reach::Inbox,
        ..every_event()
    }
}

async fn replays(who: &Component, name: &str) -> Result<(), SubscribeError> {
    let made = subscriber::subscribe_backfill(who.bus(), patient(), name, &Start::First, None, &fetched()).await;
    made.expect("the bus answers").map(drop)
}

async fn ends(who: &Component, name: &str) {
    let ended = subscriber::unsubscribe(who.bus(), patient(), name).await;
    ended.expect("the bus answers").expect("it was there");
}

async fn registry(bench: &Bench) -> kv::Store {
    let js = jetstream::new(bench.client().clone());
    js.get_key_value("fanout_payments_registry").await.unwrap()
}

/// The code and the message of what was not settled.
async fn refused(who: &Component, held: &LeasedDelivery) -> Option<(String, String)> {
    match settle(who, held, never("never")).await {
        Ok(SettlementOutcome::Settled) => None,
        Err(SettleError::Unavailable(p)) => Some((p.code, p.message)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_does_not_fill_the_registry_with_names_that_it_has_used() {
    let settings = [("registry.max-bytes", "64KiB")];
    let bench = Bench::start(&settings, &links()).await;
    let (low, other) = (
        bench.silent_component("low").await,
        bench.silent_component("other").await,
    );
    let mut used = 0;
    let refused = loop {
        let name = format!("fresh-{used}");
        match replays(&low, &name).await {
            Ok(()) => ends(&low, &name).await,
            Err(refused) => break refused,
        }
        used += 1;
        assert!(used < 200, "nothing bounds it");
    };
    let SubscribeError::InvalidRequest(problem) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(problem.code, "limit-exceeded");
    assert!(problem.message.contains("registry.max-bytes"), "{}", problem.message);
    replays(&other, "mine").await.expect("others go on");
    let never_made = format!("fresh-{used}");
    assert!(registry(&bench).await.get(&never_made).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_registry_refuses_is_said_and_does_not_appear_later() {
    let mut bench = Bench::start(&[("registry.max-bytes", "64KiB")], &links()).await;
    let other = bench.silent_component("other").await;
    replays(&other, "there").await.unwrap();
    // Somebody else's, which is none of a subscription's names.
    let entries = registry(&bench).await;
    for (kind, bytes) in [("large", 900), ("small", 1)] {
        let mut n = 0;
        while entries
            .put(format!("filler.{kind}.{n}"), vec![b'x'; bytes].into())
            .await
            .is_ok()
        {
            n += 1;
            assert!(n < 200, "nothing bounds it");
        }
    }
    let Err(SubscribeError::Unavailable(problem)) = replays(&other, "refused").await else {
        panic!("there is no place for it")
    };
    assert_eq!(problem.code, "store-full");
    assert!(problem.message.contains("registry.max-bytes"), "{}", problem.message);
    // A declared one meets the server's own bound, and waits.
    let declared = [("subscription", "declared"), ("need", "durable")];
    bench
        .put_link(&LinkTo::subscriber("late", &["handler"], &declared))
        .await;
    let is_full = |s: &SubscriptionStatus| s.code() == "store-full";
    let status = bench
        .subscription_when("declared", "it says what is full", is_full)
        .await;
    let message = status.problem.unwrap().message;
    assert!(message.contains("registry.max-bytes"), "{message}");
    let filler = "$KV.fanout_payments_registry.filler.>";
    entries.stream.purge().filter(filler).await.unwrap();
    let is_made = |s: &SubscriptionStatus| s.code() != "store-full";
    bench.subscription_when("declared", "it is made", is_made).await;
    assert!(entries.get("declared").await.unwrap().is_some());
    assert!(entries.get("refused").await.unwrap().is_none(), "it was refused");
    let log = bench.providers[0].log();
    assert!(!log.contains("registration-lost"), "the registry never had it: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_leaves_dead_letters_to_others_and_a_settlement_says_what_is_full() {
    let mut bench = Bench::start(&[("dead-letters.max-events", "8")], &links()).await;
    publish(&bench, 0..1).await;
    let low = bench.silent_component("low").await;
    let other = bench.silent_component("other").await;
    let billing = bench.silent_component("billing").await;
    // One event, and a subscription of a new name for each letter.
    let mut letters = 0;
    let (code, message) = loop {
        let name = format!("s{letters}");
        replays(&low, &name).await.unwrap();
        let held = next(&low, &name).await;
        if let Some(refused) = refused(&low, &held).await {
            break refused;
        }
        ends(&low, &name).await;
        letters += 1;
        assert!(letters < 8, "nothing bounds it");
    };
    assert_eq!(
        (letters, code.as_str()),
        (2, "store-full"),
        "a quarter of eight: {message}"
    );
    assert!(message.contains("dead-letters.max-events"), "{message}");
    // Another caller has a share of its own, and so has what is declared.
    replays(&other, "mine").await.unwrap();
    settles(&other, &next(&other, "mine").await, never("never")).await;
    publish(&bench, 1..5).await;
    for _ in 0..5 {
        settles(&billing, &next(&billing, "billing").await, never("never")).await;
    }
    // Now they are full for all: the answer says so, and what to change.
    publish(&bench, 5..6).await;
    let held = next(&billing, "billing").await;
    let (code, message) = refused(&billing, &held).await.expect("eight are there");
    assert_eq!(code, "store-full");
    assert!(message.contains("dead-letters.max-events"), "{message}");
    bench.change("dead-letters.max-events", "100").await;
    eventually("it is taken", || async {
        let fetched = try_fetch(&billing, "billing", 1, 500).await.ok()?;
        settle(&billing, fetched.deliveries.first()?, never("never")).await.ok()
    })
    .await;
}
