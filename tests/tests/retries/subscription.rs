//! What waits for a retry when its subscription is paused, ended, rewound, caught up or given an order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fanout_tests::fetcher::{next, settles};
use fanout_tests::types::{Rejection, RetryDelay, Start, Verdict as Said};
use fanout_tests::{Bench, Cli, Component, LinkTo, State, Verdict, eventually, every_event, subscriber};
use fanout_transport::CallContext;

use super::{LATE, POLICY, attempts, handles, links, publish, refuses_acme, waits_for_retry};

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_subscription_is_given_no_retries() {
    let mut bench = Bench::start(&[("retry.schedule", "500ms")], &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.attempt {
        1 => Verdict::Refuse(Rejection::Retry("not yet".into())),
        _ => Verdict::Handle,
    });
    publish(&ingress, "acme", 0..5).await;
    eventually("all are refused", || async {
        (attempts(&invoicing, "acme").0 >= 5).then_some(())
    })
    .await;
    subscriber::pause(invoicing.bus(), CallContext::default(), "invoicing")
        .await
        .unwrap()
        .unwrap();
    bench
        .subscription_when("invoicing", "it is paused", |s| s.state == State::Paused)
        .await;
    let handled = invoicing.handled().len();
    bench.restart_provider(0).await;
    let status = waits_for_retry(&bench, 5 - handled).await;
    assert_eq!((status.state, invoicing.handled().len()), (State::Paused, handled));
    subscriber::resume(invoicing.bus(), CallContext::default(), "invoicing")
        .await
        .unwrap()
        .unwrap();
    eventually("all are handled", || async {
        (invoicing.handled().len() == 5).then_some(())
    })
    .await;
}

async fn make(who: &Component, start: Option<Start>) {
    let options = every_event();
    let made = match &start {
        None => subscriber::subscribe_durable(who.bus(), CallContext::default(), "mine", &options).await,
        Some(start) => {
            let context = CallContext::default();
            subscriber::subscribe_backfill(who.bus(), context, "mine", start, None, &options).await
        }
    };
    made.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_used_again_is_given_nothing_of_before() {
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("billing", &["subscriber"], "*"),
    ];
    let bench = Bench::start(&[("retry.schedule", "1s")], &links).await;
    let ingress = bench.silent_component("ingress").await;
    let billing = bench.component("billing").await;
    billing.judge(refuses_acme);
    make(&billing, None).await;
    publish(&ingress, "acme", 0..5).await;
    bench
        .subscription_when("mine", "all wait", |s| s.waiting_for_retry == Some(5))
        .await;
    let ended = subscriber::unsubscribe(billing.bus(), CallContext::default(), "mine").await;
    ended.unwrap().unwrap();
    let js = async_nats::jetstream::new(bench.client().clone());
    let retries = js.get_stream("fanout_payments_retries").await.unwrap();
    eventually("nothing is kept for it", || async {
        (retries.get_info().await.ok()?.state.messages == 0).then_some(())
    })
    .await;
    let before = attempts(&billing, "acme");
    billing.judge(|_| Verdict::Handle);
    make(&billing, None).await;
    publish(&ingress, "acme", 5..6).await;
    handles(&billing, "acme-005").await;
    bench
        .subscription_when("mine", "nothing waits", |s| {
            s.waiting_for_retry == Some(0) && s.pending == Some(0) && s.in_flight == Some(0)
        })
        .await;
    assert_eq!(billing.handled(), ["acme-005"]);
    assert_eq!(attempts(&billing, "acme").0, before.0 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_has_caught_up_once_its_retries_are_settled() {
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("billing", &["subscriber"], "*"),
    ];
    let bench = Bench::start(&[LATE, ("retry.max-attempts", "9")], &links).await;
    let ingress = bench.silent_component("ingress").await;
    let billing = bench.component("billing").await;
    publish(&ingress, "acme", 0..10).await;
    let refused = Arc::new(AtomicBool::new(true));
    let is_refused = Arc::clone(&refused);
    billing.judge(move |d| match d.event.id.as_str() {
        "acme-003" if is_refused.load(Ordering::SeqCst) => {
            let soon = RetryDelay {
                delay_ms: 200,
                reason: "not yet".into(),
            };
            Verdict::Refuse(Rejection::RetryAfter(soon))
        }
        _ => Verdict::Handle,
    });
    make(&billing, Some(Start::First)).await;
    eventually("all others are handled, and it was refused some times", || async {
        let (_, last) = attempts(&billing, "acme");
        (billing.handled().len() == 9 && last > 2).then_some(())
    })
    .await;
    bench
        .subscription_when("mine", "it still replays", |s| {
            s.state == State::CatchingUp && s.waiting_for_retry == Some(1)
        })
        .await;
    refused.store(false, Ordering::SeqCst);
    bench
        .subscription_when("mine", "it has caught up", |s| s.state == State::Active)
        .await;
    assert_eq!(billing.handled().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_gives_everything_once_and_passes_over_nothing_that_waits() {
    let bench = Bench::start(&[LATE], &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.event.id.as_str() {
        "acme-001" => Verdict::Refuse(Rejection::Retry("not yet".into())),
        _ => Verdict::Handle,
    });
    publish(&ingress, "acme", 0..4).await;
    waits_for_retry(&bench, 1).await;
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(POLICY);
    let (code, _, err) = cli.run(&["rewind"], &policy, &["invoicing", "--to", "position:0/4"]);
    assert!(
        code != 0 && err.contains("0/2") && err.contains("[would-lose-events]"),
        "{code} {err}"
    );
    let before = invoicing.seen(|s| s.deliveries.len());
    invoicing.judge(|_| Verdict::Handle);
    let (code, _, err) = cli.run(&["rewind"], &policy, &["invoicing", "--to", "first"]);
    assert_eq!(code, 0, "{err}");
    eventually("all come again", || async {
        (invoicing.seen(|s| s.deliveries.len()) == before + 4).then_some(())
    })
    .await;
    waits_for_retry(&bench, 0).await;
    let again = invoicing.seen(|s| s.deliveries[before..].to_vec());
    assert!(
        again.iter().all(|d| d.attempt == 1),
        "attempts are counted anew: {again:?}"
    );
    assert_eq!(invoicing.handled().len(), 4);
}

/// What was refused when there was no order is delivered when there is one.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_when_an_order_is_asked_for_is_delivered() {
    for reach in ["handler", "inbox"] {
        let mut bench = Bench::start(&[("retry.schedule", "3s")], &links(reach, &[])).await;
        let ingress = bench.silent_component("ingress").await;
        let invoicing = bench.component("invoicing").await;
        invoicing.judge(|d| match d.attempt {
            1 => Verdict::Refuse(Rejection::Retry("not yet".into())),
            _ => Verdict::Handle,
        });
        publish(&ingress, "acme", 0..3).await;
        if reach == "inbox" {
            for _ in 0..3 {
                let held = next(&invoicing, "invoicing").await;
                settles(&invoicing, &held, Said::Rejected(Rejection::Retry("not yet".into()))).await;
            }
        }
        waits_for_retry(&bench, 3).await;
        bench.set("ordering", "tenant");
        bench.restart_provider(0).await;
        if reach == "inbox" {
            for _ in 0..3 {
                let held = next(&invoicing, "invoicing").await;
                assert_eq!(held.delivery.attempt, 2);
                settles(&invoicing, &held, Said::Handled).await;
            }
        } else {
            eventually("all are handled", || async {
                (invoicing.handled().len() == 3).then_some(())
            })
            .await;
        }
        waits_for_retry(&bench, 0).await;
    }
}
