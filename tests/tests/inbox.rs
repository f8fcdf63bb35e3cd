//! Subscriptions that are fetched: held for their fetcher, settled by its verdicts, and never lost.

use std::time::{Duration, Instant};

use fanout_tests::fetcher::{fetch, ids, never, next, patient, publish, retry, settle, settles, try_fetch};
use fanout_tests::types::{
    DeliveryOptions, End, Filter, InboxError, LeasedDelivery, Origin, Position, Reach, Rejection, RetryDelay,
    SettleError, Settlement, SettlementOutcome, Start, Verdict,
};
use fanout_tests::{Bench, Component, LinkTo, State, eventually, every_event, stored};
use fanout_tests::{inbox, subscriber};

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

/// The delivery of an event whose lease is over, and the one of whoever was given it next.
async fn lapsed(billing: &Component) -> (LeasedDelivery, LeasedDelivery) {
    let first = next(billing, "billing").await;
    let second = next(billing, "billing").await;
    assert_eq!(first.delivery.event.id, second.delivery.event.id);
    (first, second)
}

async fn letter(bench: &Bench, offset: u64) -> Vec<String> {
    let js = async_nats::jetstream::new(bench.client().clone());
    let dead = js.get_stream("fanout_payments_dead").await.unwrap();
    let letter = stored::dead_letter(&dead, "billing", "acme", offset).await;
    let attempts = letter.headers.get("fanout-dead-attempts").unwrap().as_str();
    let attempts: Vec<serde_json::Value> = serde_json::from_str(attempts).unwrap();
    attempts
        .iter()
        .map(|a| a["reason"].as_str().unwrap().to_owned())
        .collect()
}

async fn refusals_that_come_late_count(bench: Bench) {
    let billing = bench.silent_component("billing").await;
    publish(&bench, 0..1).await;
    let (first, second) = lapsed(&billing).await;
    for _ in 0..2 {
        // Once more changes nothing.
        settles(&billing, &first, retry("late, 1")).await;
    }
    // Whoever has it now has it still.
    let extended = settle(&billing, &second, Verdict::StillWorking).await;
    let Ok(SettlementOutcome::Extended(token)) = extended else {
        panic!("{extended:?}")
    };
    let second = LeasedDelivery { token, ..second };
    assert!(fetch(&billing, "billing", 1, 0).await.is_empty());
    settles(&billing, &second, Verdict::Released).await;

    let (third, fourth) = lapsed(&billing).await;
    assert_eq!(
        (third.delivery.attempt, fourth.delivery.attempt),
        (2, 2),
        "the refusal was an attempt"
    );
    settles(&billing, &third, retry("late, 2")).await;
    // It is the third attempt that counts, and the last.
    settles(&billing, &fourth, retry("in time")).await;
    bench
        .subscription_when("billing", "it is a dead letter", |s| {
            s.dead_letters == Some(1) && s.backlog() == Some(0)
        })
        .await;
    assert_eq!(letter(&bench, 1).await, ["late, 1", "late, 2", "in time"]);

    // A refusal for good that comes late: there is no further attempt.
    publish(&bench, 1..2).await;
    let (first, second) = lapsed(&billing).await;
    settles(&billing, &first, never("no amount")).await;
    settles(&billing, &second, Verdict::Released).await;
    eventually("it becomes a dead letter when it comes again", || async {
        assert!(fetch(&billing, "billing", 1, 100).await.is_empty());
        let status = bench.status().await?.subscription("billing").cloned()?;
        (status.dead_letters == Some(2) && status.backlog() == Some(0)).then_some(())
    })
    .await;
    assert_eq!(letter(&bench, 2).await, ["no amount"]);

    // What was handled meanwhile stays so.
    publish(&bench, 2..3).await;
    let (first, second) = lapsed(&billing).await;
    settles(&billing, &second, Verdict::Handled).await;
    let late = settle(&billing, &first, retry("late")).await;
    assert!(matches!(late, Err(SettleError::LeaseExpired(_))), "{late:?}");
    publish(&bench, 3..4).await;
    let other = next(&billing, "billing").await;
    assert_eq!((other.delivery.event.id.as_str(), other.delivery.attempt), ("e003", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_comes_late_counts_and_takes_nobodys_lease() {
    refusals_that_come_late_count(Bench::start(&[], &links()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_comes_late_counts_where_there_is_an_order() {
    refusals_that_come_late_count(Bench::start(&[("ordering", "key")], &links()).await).await;
}

/// Settles one delivery by several verdicts in one call.
async fn settle_by(billing: &Component, held: &LeasedDelivery, verdicts: &[Verdict]) -> Vec<&'static str> {
    let settlements = verdicts.iter().map(|verdict| Settlement {
        token: held.token.clone(),
        verdict: verdict.clone(),
    });
    let settlements: Vec<_> = settlements.collect();
    let answers = inbox::settle(billing.bus(), patient(), &settlements).await;
    answers.expect("the bus answers").iter().map(outcome).collect()
}

fn outcome(answer: &Result<SettlementOutcome, SettleError>) -> &'static str {
    match answer {
        Ok(SettlementOutcome::Settled) => "settled",
        Ok(SettlementOutcome::Extended(_)) => "extended",
        Err(SettleError::LeaseExpired(_)) => "lease-expired",
        Err(_) => "another error",
    }
}

/// Leases that outlast what is done with them.
const LONG: (&str, &str) = ("delivery.ack-wait", "30s");

async fn the_first_verdict_stands(bench: Bench) {
    let billing = bench.silent_component("billing").await;
    let late = |reason: &str| never(&format!("late: {reason}"));
    // (what is said of an event, what is answered, whether it is a dead letter, whether it comes again)
    let cases = [
        (vec![Verdict::Handled, late("1")], ["settled", "settled"], false, false),
        (
            vec![Verdict::Handled, retry("late")],
            ["settled", "settled"],
            false,
            false,
        ),
        (
            vec![never("first"), Verdict::Handled],
            ["settled", "settled"],
            true,
            false,
        ),
        (vec![never("first"), retry("late")], ["settled", "settled"], true, false),
        (vec![retry("first"), late("2")], ["settled", "settled"], false, true),
        (
            vec![Verdict::StillWorking, Verdict::Handled],
            ["extended", "settled"],
            false,
            false,
        ),
        (
            vec![Verdict::Handled, Verdict::StillWorking],
            ["settled", "lease-expired"],
            false,
            false,
        ),
        (
            vec![Verdict::Handled, Verdict::Released],
            ["settled", "settled"],
            false,
            false,
        ),
        (
            vec![Verdict::Released, late("3")],
            ["settled", "lease-expired"],
            false,
            true,
        ),
        (
            vec![Verdict::Released, Verdict::Released],
            ["settled", "settled"],
            false,
            true,
        ),
    ];
    let (mut published, mut letters) = (0, 0);
    for (verdicts, answers, is_letter, comes_again) in cases {
        for in_one_call in [true, false] {
            publish(&bench, published..published + 1).await;
            let id = format!("e{published:03}");
            published += 1;
            let case = format!("{verdicts:?}, in one call: {in_one_call}");
            let held = next(&billing, "billing").await;
            assert_eq!(held.delivery.event.id, id, "{case}");
            let mut answered = Vec::new();
            if in_one_call {
                answered = settle_by(&billing, &held, &verdicts).await;
            } else {
                for verdict in &verdicts {
                    answered.extend(settle_by(&billing, &held, std::slice::from_ref(verdict)).await);
                }
            }
            assert_eq!(answered, answers, "{case}");
            letters += u64::from(is_letter);
            if comes_again {
                let again = next(&billing, "billing").await;
                assert_eq!(again.delivery.event.id, id, "{case}");
                settles(&billing, &again, Verdict::Handled).await;
            }
            bench
                .subscription_when("billing", &case, |s| {
                    s.dead_letters == Some(letters) && s.backlog() == Some(0)
                })
                .await;
            assert!(fetch(&billing, "billing", 10, 0).await.is_empty(), "{case}");
        }
    }
    // Two calls at once: one of the two stands, whichever it is.
    for number in published..published + 8 {
        publish(&bench, number..number + 1).await;
        let held = next(&billing, "billing").await;
        let said = [Verdict::Handled, never("at once")];
        let both = tokio::join!(
            settle_by(&billing, &held, &said[..1]),
            settle_by(&billing, &held, &said[1..])
        );
        assert_eq!(both, (vec!["settled"], vec!["settled"]));
    }
    // Of the ten cases, done twice, eight end handled and two as dead letters.
    let settled = 2 * 10 + 8;
    bench
        .subscription_when("billing", "each is handled or a dead letter, and none is both", |s| {
            let done = s.this_instance.as_ref().map_or(0, |done| done.handled);
            s.backlog() == Some(0) && s.dead_letters.is_some_and(|letters| done + letters == settled)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_verdicts_on_a_delivery_the_first_stands() {
    the_first_verdict_stands(Bench::start(&[LONG], &links()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_verdicts_on_a_delivery_the_first_stands_where_there_is_an_order() {
    the_first_verdict_stands(Bench::start(&[LONG, ("ordering", "key")], &links()).await).await;
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
