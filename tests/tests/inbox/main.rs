//! Subscriptions that are fetched: held for their fetcher, settled by its verdicts, and never lost.

mod verdicts;

use std::time::{Duration, Instant};

use fanout_tests::fetcher::{fetch, ids, next, patient, publish, retry, settle, try_fetch};
use fanout_tests::subscriber;
use fanout_tests::types::{
    DeliveryOptions, End, Filter, InboxError, Origin, Position, Reach, Rejection, RetryDelay, SettleError,
    SettlementOutcome, Start, Verdict,
};
use fanout_tests::{Bench, LinkTo, State, eventually, every_event, stored};

const SUBSCRIPTION: [(&str, &str); 2] = [("subscription", "billing"), ("need", "durable")];

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("billing", &["inbox"], &SUBSCRIPTION),
        LinkTo::caller("billing", &["inbox"], "*"),
        LinkTo::caller("thief", &["inbox", "subscriber"], "*"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn fetched_and_handled_is_settled_for_good() {
    let bench = Bench::start(&[], &links()).await;
    let billing = bench.silent_component("billing").await;
    assert!(fetch(&billing, "billing", 10, 0).await.is_empty());
    publish(&bench, 0..5).await;
    let first = fetch(&billing, "billing", 3, 1000).await;
    assert_eq!(ids(&first), ["e000", "e001", "e002"]);
    let rest = fetch(&billing, "billing", 100, 1000).await;
    assert_eq!(ids(&rest), ["e003", "e004"], "what is held is given to nobody else");
    assert!(
        first
            .iter()
            .all(|h| h.delivery.attempt == 1 && h.delivery.subscription == "billing")
    );
    for held in first.iter().chain(&rest) {
        assert!(matches!(
            settle(&billing, held, Verdict::Handled).await,
            Ok(SettlementOutcome::Settled)
        ));
        assert!(
            matches!(
                settle(&billing, held, Verdict::Handled).await,
                Ok(SettlementOutcome::Settled)
            ),
            "once more changes nothing"
        );
    }
    let done = bench
        .subscription_when("billing", "nothing is left", |s| s.backlog() == Some(0))
        .await;
    assert_eq!(done.state, State::Active, "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_waits_for_the_first_event_and_no_longer() {
    let bench = Bench::start(&[], &links()).await;
    let billing = bench.silent_component("billing").await;
    let waits = async {
        let began = Instant::now();
        (fetch(&billing, "billing", 10, 8000).await, began.elapsed())
    };
    let publishes = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        publish(&bench, 0..1).await;
    };
    let ((held, took), ()) = tokio::join!(waits, publishes);
    assert_eq!(ids(&held), ["e000"]);
    assert!(took < Duration::from_secs(8), "it did not wait for more: {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_too_often_is_a_dead_letter_with_every_reason() {
    let bench = Bench::start(&[], &links()).await;
    let billing = bench.silent_component("billing").await;
    publish(&bench, 0..2).await;
    for attempt in 1..=3 {
        let held = next(&billing, "billing").await;
        assert_eq!(
            (held.delivery.event.id.as_str(), held.delivery.attempt),
            ("e000", attempt)
        );
        let reason = format!("busy {attempt}");
        assert!(matches!(
            settle(&billing, &held, retry(&reason)).await,
            Ok(SettlementOutcome::Settled)
        ));
        assert!(
            matches!(
                settle(&billing, &held, retry("again")).await,
                Ok(SettlementOutcome::Settled)
            ) || attempt == 3,
            "an answer that was lost is asked for again, and counts once"
        );
        if attempt == 1 {
            // Until it comes again, others do.
            let other = next(&billing, "billing").await;
            let (other, again) = if other.delivery.event.id == "e001" {
                (other, None)
            } else {
                (next(&billing, "billing").await, Some(other))
            };
            assert_eq!(other.delivery.event.id, "e001");
            let later = Verdict::Rejected(Rejection::DeadLetter("no amount".into()));
            assert!(matches!(
                settle(&billing, &other, later).await,
                Ok(SettlementOutcome::Settled)
            ));
            if let Some(again) = again {
                // Given back without an attempt, so that the next round finds it.
                let soon = RetryDelay {
                    delay_ms: 1,
                    reason: "busy 2".into(),
                };
                let soon = Verdict::Rejected(Rejection::RetryAfter(soon));
                assert!(matches!(
                    settle(&billing, &again, soon).await,
                    Ok(SettlementOutcome::Settled)
                ));
                let third = next(&billing, "billing").await;
                assert_eq!(third.delivery.attempt, 3);
                assert!(matches!(
                    settle(&billing, &third, retry("busy 3")).await,
                    Ok(SettlementOutcome::Settled)
                ));
                break;
            }
        }
    }
    bench
        .subscription_when("billing", "both are dead letters", |s| {
            s.dead_letters == Some(2) && s.backlog() == Some(0)
        })
        .await;
    let js = async_nats::jetstream::new(bench.client().clone());
    let dead = js.get_stream("fanout_payments_dead").await.unwrap();
    let letter = stored::dead_letter(&dead, "billing", "acme", 1).await;
    let attempts: serde_json::Value =
        serde_json::from_str(letter.headers.get("fanout-dead-attempts").unwrap().as_str()).unwrap();
    let reasons: Vec<_> = attempts
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["reason"].clone())
        .collect();
    assert_eq!(reasons, ["busy 1", "busy 2", "busy 3"]);
    assert_eq!(letter.payload, r#"{"id":"e000"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_unless_it_is_said_to_go_on() {
    let bench = Bench::start(&[], &links()).await;
    let billing = bench.silent_component("billing").await;
    publish(&bench, 0..1).await;
    let mut held = next(&billing, "billing").await;
    // Two holds' time: without the word it would have been delivered again.
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        match settle(&billing, &held, Verdict::StillWorking).await {
            Ok(SettlementOutcome::Extended(token)) => held.token = token,
            other => panic!("{other:?}"),
        }
        assert!(fetch(&billing, "billing", 1, 0).await.is_empty());
    }
    // Now it is left alone.
    let again = next(&billing, "billing").await;
    assert_eq!(again.delivery.event.id, "e000");
    assert_eq!(
        again.delivery.attempt, 1,
        "an attempt whose outcome is not known is none"
    );
    for verdict in [Verdict::StillWorking, Verdict::Released] {
        let late = settle(&billing, &held, verdict).await;
        assert!(
            matches!(&late, Err(SettleError::LeaseExpired(p)) if p.code == "lease-expired"),
            "{late:?}"
        );
    }
    assert!(matches!(
        settle(&billing, &again, Verdict::Handled).await,
        Ok(SettlementOutcome::Settled)
    ));
    bench
        .subscription_when("billing", "nothing is left", |s| s.backlog() == Some(0))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_released_comes_again_at_once_and_uses_up_no_attempt() {
    let bench = Bench::start(&[("delivery.ack-wait", "60s")], &links()).await;
    let billing = bench.silent_component("billing").await;
    publish(&bench, 0..1).await;
    for _ in 0..5 {
        let held = next(&billing, "billing").await;
        assert_eq!(held.delivery.attempt, 1);
        assert!(matches!(
            settle(&billing, &held, Verdict::Released).await,
            Ok(SettlementOutcome::Settled)
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_fetches_or_settles() {
    let bench = Bench::start(&[], &links()).await;
    let billing = bench.silent_component("billing").await;
    let thief = bench.silent_component("thief").await;
    let ingress = bench.silent_component("ingress").await;
    publish(&bench, 0..1).await;
    let refused = try_fetch(&thief, "billing", 1, 0).await;
    assert!(matches!(&refused, Err(InboxError::UnknownSubscription(p)) if p.code == "unknown-subscription"));
    let refused = try_fetch(&ingress, "billing", 1, 0).await;
    assert!(matches!(&refused, Err(InboxError::NotPermitted(p)) if p.code == "interface-not-linked"));
    let stranger = bench.silent_component("stranger").await;
    let refused = try_fetch(&stranger, "billing", 1, 0).await;
    assert!(matches!(&refused, Err(InboxError::NotPermitted(p)) if p.code == "not-linked"));

    let held = next(&billing, "billing").await;
    let stolen = settle(&thief, &held, Verdict::Handled).await;
    assert!(
        matches!(&stolen, Err(SettleError::InvalidToken(p)) if p.code == "invalid-token"),
        "{stolen:?}"
    );
    let mut altered = held.clone();
    let mut token = held.token.to_vec();
    *token.last_mut().unwrap() ^= 1;
    altered.token = token.into();
    let refused = settle(&billing, &altered, Verdict::Handled).await;
    assert!(matches!(refused, Err(SettleError::InvalidToken(_))), "{refused:?}");
    assert!(matches!(
        settle(&billing, &held, Verdict::Handled).await,
        Ok(SettlementOutcome::Settled)
    ));

    // A subscription that has a handler is not fetched.
    let options = options(Reach::Handler);
    subscriber::subscribe_durable(thief.bus(), patient(), "pushed", &options)
        .await
        .unwrap()
        .unwrap();
    let refused = try_fetch(&thief, "pushed", 1, 0).await;
    assert!(
        matches!(&refused, Err(InboxError::InvalidRequest(p)) if p.code == "not-an-inbox"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrower_link_ends_what_may_be_fetched() {
    let mut bench = Bench::start(&[], &links()).await;
    let billing = bench.silent_component("billing").await;
    publish(&bench, 0..1).await;
    let held = next(&billing, "billing").await;
    bench.put_link(&LinkTo::caller("billing", &["inbox"], "globex")).await;
    eventually("the narrower link is in force", || async {
        match try_fetch(&billing, "billing", 1, 0).await {
            Err(InboxError::NotPermitted(p)) => {
                assert_eq!(p.code, "tenant-not-permitted");
                Some(())
            }
            _ => None,
        }
    })
    .await;
    let refused = settle(&billing, &held, Verdict::Handled).await;
    assert!(matches!(refused, Err(SettleError::NotPermitted(_))), "{refused:?}");
}

fn options(reach: Reach) -> DeliveryOptions {
    DeliveryOptions {
        filter: all(),
        reach,
        ..every_event()
    }
}

fn all() -> Filter {
    Filter {
        tenants: vec![],
        event_types: vec![],
        pattern: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_is_fetched_and_told_of_in_the_answers() {
    let bench = Bench::start(&[], &links()).await;
    publish(&bench, 0..6).await;
    let thief = bench.silent_component("thief").await;
    let end = End::Position(Position {
        partition: 0,
        offset: 8,
    });
    subscriber::subscribe_backfill(
        thief.bus(),
        patient(),
        "replay",
        &Start::First,
        Some(end),
        &options(Reach::Inbox),
    )
    .await
    .unwrap()
    .unwrap();
    let mut seen = Vec::new();
    let mut caught_up = None;
    let mut live = false;
    let deadline = Instant::now() + Duration::from_secs(30);
    while caught_up.is_none() {
        assert!(Instant::now() < deadline, "still not finished: {seen:?}");
        // A change of the bus may begin its deliveries anew: then a fetch is to be tried again.
        let Ok(fetched) = try_fetch(&thief, "replay", 4, 200).await else {
            continue;
        };
        for held in &fetched.deliveries {
            seen.push((held.delivery.event.id.clone(), held.delivery.origin == Origin::Replayed));
            settle(&thief, held, Verdict::Handled).await.unwrap();
        }
        if seen.len() == 6 && !live {
            live = true;
            publish(&bench, 6..10).await;
        }
        caught_up = fetched.caught_up.filter(|c| c.finished);
    }
    let expected: Vec<_> = (0..8).map(|i| (format!("e{i:03}"), i < 6)).collect();
    assert_eq!(seen, expected);
    assert_eq!(caught_up.unwrap().replayed, 6);
    assert!(
        fetch(&thief, "replay", 4, 0).await.is_empty(),
        "and nothing comes after"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_without_an_end_says_when_it_has_caught_up() {
    let bench = Bench::start(&[], &links()).await;
    publish(&bench, 0..3).await;
    let thief = bench.silent_component("thief").await;
    subscriber::subscribe_backfill(
        thief.bus(),
        patient(),
        "replay",
        &Start::First,
        None,
        &options(Reach::Inbox),
    )
    .await
    .unwrap()
    .unwrap();
    let first = try_fetch(&thief, "replay", 10, 1000).await.unwrap();
    assert!(first.caught_up.is_none(), "nothing is settled yet");
    for held in &first.deliveries {
        settle(&thief, held, Verdict::Handled).await.unwrap();
    }
    let told = eventually("it is told", || async {
        try_fetch(&thief, "replay", 10, 100).await.unwrap().caught_up
    })
    .await;
    assert_eq!((told.replayed, told.finished), (3, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_fetched_at_most_once_and_keeps_nothing_for_who_is_away() {
    let mut bench = Bench::start(&[], &links()).await;
    bench.add_provider().await;
    let thief = bench.silent_component("thief").await;
    publish(&bench, 0..3).await;
    subscriber::subscribe_queue(thief.bus(), patient(), "live", &all(), Reach::Inbox)
        .await
        .unwrap()
        .unwrap();
    // The first fetch begins the listening.
    eventually("it listens", || async { try_fetch(&thief, "live", 10, 0).await.ok() }).await;
    publish(&bench, 3..20).await;
    let mut seen = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while seen.len() < 17 && Instant::now() < deadline {
        let Ok(fetched) = try_fetch(&thief, "live", 5, 200).await else {
            continue;
        };
        for held in &fetched.deliveries {
            seen.push(held.delivery.event.id.clone());
            let refused = settle(&thief, held, retry("not now")).await;
            assert!(matches!(refused, Ok(SettlementOutcome::Settled)), "{refused:?}");
        }
    }
    let expected: Vec<_> = (3..20).map(|i| format!("e{i:03}")).collect();
    assert_eq!(seen, expected, "once each, and none from before it listened");
    assert!(
        fetch(&thief, "live", 5, 500).await.is_empty(),
        "a refusal does not bring it back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_of_more_or_less_than_it_may_ask_for_leases_nothing() {
    let bench = Bench::start(&[], &links()).await;
    let billing = bench.silent_component("billing").await;
    publish(&bench, 0..1).await;
    for most in [0, 1_001, u32::MAX] {
        let refused = try_fetch(&billing, "billing", most, 0).await;
        match refused {
            Err(InboxError::InvalidRequest(p)) => assert_eq!(p.code, "invalid-setting", "{most}"),
            other => panic!("{most}: {other:?}"),
        }
    }
    assert_eq!(ids(&fetch(&billing, "billing", 1_000, 1_000).await), ["e000"]);
}
