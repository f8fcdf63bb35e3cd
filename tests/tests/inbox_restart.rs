//! Fetched deliveries while instances and the server are killed: settled elsewhere, delivered again, never lost.

use std::time::{Duration, Instant};

use fanout_tests::fetcher::{fetch, publish, settle};
use fanout_tests::inbox;
use fanout_tests::types::{SettleError, Settlement, SettlementOutcome, Verdict};
use fanout_tests::{Bench, LinkTo, eventually};
use fanout_transport::CallContext;
use futures::TryStreamExt;

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber(
            "billing",
            &["inbox"],
            &[("subscription", "billing"), ("need", "durable")],
        ),
        LinkTo::caller("billing", &["inbox"], "*"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn any_instance_settles_what_another_gave_out() {
    let mut bench = Bench::start(&[], &links()).await;
    bench.add_provider().await;
    let billing = bench.silent_component("billing").await;
    publish(&bench, 0..40).await;
    let mut held = Vec::new();
    while held.len() < 40 {
        held.extend(fetch(&billing, "billing", 3, 1000).await);
    }
    // The one that delivered half of them is gone.
    bench.providers[0].kill();
    let settlements: Vec<_> = held
        .iter()
        .map(|h| Settlement {
            token: h.token.clone(),
            verdict: Verdict::Handled,
        })
        .collect();
    // A call may still go to the one that is gone.
    let answers = eventually("the other answers", || async {
        let within = CallContext::within(Duration::from_secs(1));
        inbox::settle(billing.bus(), within, &settlements).await.ok()
    })
    .await;
    assert!(
        answers.iter().all(|a| matches!(a, Ok(SettlementOutcome::Settled))),
        "{answers:?}"
    );
    bench
        .subscription_when("billing", "nothing is left", |s| s.backlog() == Some(0))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_restarted_nothing_is_lost() {
    let mut bench = Bench::start(&[], &links()).await;
    let billing = bench.silent_component("billing").await;
    publish(&bench, 0..60).await;
    let mut handled = std::collections::BTreeSet::new();
    let (mut rounds, began) = (0, Instant::now());
    while handled.len() < 60 {
        rounds += 1;
        let late = began.elapsed() > Duration::from_secs(60);
        assert!(!late, "{} of 60 after {rounds} rounds", handled.len());
        if rounds == 3 {
            bench.restart_provider(0).await;
        }
        if rounds == 5 {
            bench.nats.restart().await;
        }
        let soon = || CallContext::within(Duration::from_secs(3));
        let Ok(Ok(fetched)) = inbox::fetch(billing.bus(), soon(), "billing", 7, None, 1000).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        for held in fetched.deliveries {
            let settlement = Settlement {
                token: held.token,
                verdict: Verdict::Handled,
            };
            let settled = inbox::settle(billing.bus(), soon(), &[settlement]).await;
            if matches!(settled.as_deref(), Ok([Ok(SettlementOutcome::Settled)])) {
                handled.insert(held.delivery.event.id);
            }
        }
    }
    // What the server forgot of its last acknowledgements when it was killed comes once more.
    eventually("nothing is left", || async {
        for held in fetch(&billing, "billing", 10, 0).await {
            assert!(handled.contains(&held.delivery.event.id));
            settle(&billing, &held, Verdict::Handled).await.ok();
        }
        let status = bench.status().await?;
        let billing = status.subscription("billing")?;
        (billing.pending == Some(0) && billing.in_flight == Some(0)).then_some(())
    })
    .await;
}

/// A server that is killed right after it delivered events may come back without knowing it: here, with a consumer that is
/// as it was before.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_forgot_to_have_delivered_is_over_and_comes_again() {
    let bench = Bench::start(&[], &links()).await;
    let billing = bench.silent_component("billing").await;
    publish(&bench, 0..3).await;
    let held = fetch(&billing, "billing", 3, 1000).await;
    assert_eq!(held.len(), 3);
    let js = async_nats::jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    let names: Vec<String> = log.consumer_names().try_collect().await.unwrap();
    let [name] = names.try_into().unwrap();
    let config = log.consumer_info(&name).await.unwrap().config;
    log.delete_consumer(&name).await.unwrap();
    log.create_consumer(config).await.unwrap();
    for held in &held {
        let over = settle(&billing, held, Verdict::Handled).await;
        assert!(matches!(over, Err(SettleError::LeaseExpired(_))), "{over:?}");
    }
    let again = fetch(&billing, "billing", 3, 1000).await;
    assert_eq!(again.len(), 3);
    for held in &again {
        assert_eq!(held.delivery.attempt, 1);
        assert!(matches!(
            settle(&billing, held, Verdict::Handled).await,
            Ok(SettlementOutcome::Settled)
        ));
    }
    // Once the server knows of it again, so it does of who was late.
    assert!(matches!(
        settle(&billing, &held[0], Verdict::Handled).await,
        Ok(SettlementOutcome::Settled)
    ));
}
