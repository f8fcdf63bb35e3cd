//! A log that was deleted and made again, or put back to an earlier state, is another log: its offsets mean other events, and
//! what was remembered of the one before says nothing of them. What went with it is told.

use async_nats::jetstream::{self, stream};
use fanout_tests::types::Rejection;
use fanout_tests::{Bench, Component, LinkTo, Verdict, event, eventually, stored};
use futures::TryStreamExt as _;

const LOG: &str = "fanout_payments_log";

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("early", &["handler"], &[("subscription", "early"), ("need", "durable")]),
    ]
}

/// The link of a subscription that is made when the log holds something.
fn late() -> LinkTo {
    LinkTo::subscriber("late", &["handler"], &[("subscription", "late"), ("need", "durable")])
}

async fn publish(ingress: &Component, ids: std::ops::Range<usize>) {
    for i in ids {
        let id = format!("e{i:02}");
        ingress.publish(event("acme", "invoice.paid", &id)).await.unwrap();
    }
}

async fn handles(who: &Component, ids: std::ops::Range<usize>) {
    let wanted: Vec<_> = ids.map(|i| format!("e{i:02}")).collect();
    eventually("all is handled", || async { (who.handled() == wanted).then_some(()) }).await;
}

/// Waits until it is noted that a consumer has come to an offset, or beyond.
async fn noted(bench: &Bench, consumers: usize, settled_to: u64) {
    eventually("it is noted how far they have come", || async {
        let floors = stored::floors(bench.client()).await?;
        let there = floors.iter().filter(|floor| floor.settled_to >= settled_to);
        (there.count() == consumers).then_some(())
    })
    .await;
}

/// Deletes the log and makes it again as it was, as an operator does by hand.
async fn make_again(bench: &Bench) {
    let js = jetstream::new(bench.client().clone());
    let config = js.get_stream(LOG).await.unwrap().cached_info().config.clone();
    js.delete_stream(LOG).await.unwrap();
    js.create_stream(config).await.unwrap();
}

async fn everything_new_is_given(restarted: bool) {
    let mut bench = Bench::start(&[], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let (early, late_one) = (bench.component("early").await, bench.component("late").await);
    publish(&ingress, 0..20).await;
    handles(&early, 0..20).await;
    bench.put_link(&late()).await;
    bench
        .subscription_when("late", "it is made", |s| s.problem.is_none())
        .await;
    noted(&bench, 2, 20).await;
    if restarted {
        bench.providers[0].kill();
    }
    make_again(&bench).await;
    if restarted {
        bench.restart_provider(0).await;
    }
    publish(&ingress, 20..45).await;
    handles(&early, 0..45).await;
    handles(&late_one, 20..45).await;
    let js = jetstream::new(bench.client().clone());
    let now = js.get_stream(LOG).await.unwrap().cached_info().config.clone();
    let which = |config: &stream::Config| config.metadata.get("fanout-log").cloned();
    assert!(which(&now).is_some(), "it says that it is another");
    let of = |name| bench.subscription_when(name, "its state is known", |s| s.pending == Some(0));
    for name in ["early", "late"] {
        assert_eq!(of(name).await.lost, [], "nothing waited in the one before");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_of_a_log_that_was_made_again_is_given_by_an_instance_that_was_there() {
    everything_new_is_given(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn and_by_one_that_starts_then() {
    everything_new_is_given(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_in_a_log_that_was_made_again_is_told() {
    let settings = [
        ("retention.max-age", "60s"),
        ("retention.warn-before", "1s"),
        ("dedupe.window", "1s"),
    ];
    let bench = Bench::start(&settings, &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let early = bench.component("early").await;
    publish(&ingress, 0..5).await;
    handles(&early, 0..5).await;
    noted(&bench, 1, 5).await;
    early.down().await;
    publish(&ingress, 5..8).await;
    eventually("it is remembered what waits", || async {
        let gap = stored::remembered_gap(bench.client()).await?;
        (gap["head"] == 8).then_some(())
    })
    .await;
    make_again(&bench).await;
    early.up().await;
    publish(&ingress, 8..10).await;
    let lost = bench
        .subscription_when("early", "what waited is lost", |s| {
            s.lost.iter().any(|l| l.last.offset == 8)
        })
        .await;
    assert_eq!(lost.lost[0].first.offset, 6, "{lost:?}");
    assert!(bench.providers[0].log().contains("retention-gap"), "and is told");
    eventually("what is new is given", || async {
        let handled = early.handled();
        handled.ends_with(&["e08".to_owned(), "e09".to_owned()]).then_some(())
    })
    .await;
}

/// Waits until the dead letters are those of these events.
async fn has_letters(bench: &Bench, ids: &[&str]) {
    let js = jetstream::new(bench.client().clone());
    let letters = js.get_stream("fanout_payments_dead").await.unwrap();
    eventually(&format!("the letters are those of {ids:?}"), || async {
        let subjects = letters.info_with_subjects("fanout.dead.payments.early.>").await;
        let subjects: Vec<(String, usize)> = subjects.ok()?.try_collect().await.ok()?;
        let mut found = Vec::new();
        for (subject, _) in subjects {
            let letter = letters.get_last_raw_message_by_subject(&subject).await.ok()?;
            let id = letter.headers.get("ce-id")?.to_string();
            let payload = String::from_utf8_lossy(&letter.payload).into_owned();
            assert!(payload.contains(&id), "it holds its own payload: {payload}");
            found.push(id);
        }
        found.sort();
        (found == ids).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_of_the_log_before_is_none_of_this_ones() {
    let bench = Bench::start(&[], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let early = bench.component("early").await;
    early.judge(|_| Verdict::Refuse(Rejection::DeadLetter("no".into())));
    publish(&ingress, 0..1).await;
    has_letters(&bench, &["e00"]).await;
    noted(&bench, 1, 1).await;
    make_again(&bench).await;
    // It has the place that the first one had.
    publish(&ingress, 1..2).await;
    has_letters(&bench, &["e00", "e01"]).await;
}
