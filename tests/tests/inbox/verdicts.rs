//! Verdicts on a delivery that come late, or several on one.

use fanout_tests::fetcher::{fetch, never, next, patient, publish, retry, settle, settles};
use fanout_tests::types::{LeasedDelivery, SettleError, Settlement, SettlementOutcome, Verdict};
use fanout_tests::{Bench, Component, eventually, inbox, stored};

use super::links;

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
