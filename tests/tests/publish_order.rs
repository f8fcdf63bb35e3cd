//! Events of one call are stored in the order given, also while the log moves or changes its leader: the receipts that a
//! call gives ascend.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use fanout_tests::nemesis::Nemesis;
use fanout_tests::types::{PublishError, Receipt};
use fanout_tests::{Bench, Cli, Component, LinkTo, event, eventually, publisher};
use fanout_transport::CallContext;

const EVENTS: usize = 40;
const TENANTS: [&str; 2] = ["acme", "globex"];

fn links() -> Vec<LinkTo> {
    vec![LinkTo::caller("ingress", &["publisher"], "*")]
}

type Results = Vec<Result<Receipt, PublishError>>;

/// One call, of events of two tenants in turn.
async fn call(ingress: &Component, number: usize) -> Results {
    let events: Vec<_> = (0..EVENTS)
        .map(|i| event(TENANTS[i % 2], "invoice.paid", &format!("{number}-{i}")))
        .collect();
    eventually("the bus answers", || async {
        publisher::publish_tenant_events(ingress.bus(), CallContext::default(), &events)
            .await
            .ok()
    })
    .await
}

fn ascend(results: &Results) {
    assert_eq!(results.len(), EVENTS);
    for tenant in 0..TENANTS.len() {
        let receipts = results.iter().skip(tenant).step_by(2).flatten();
        let positions: Vec<_> = receipts
            .filter(|receipt| !receipt.duplicate)
            .map(|receipt| (receipt.position.partition, receipt.position.offset))
            .collect();
        assert!(positions.is_sorted(), "{positions:?}");
    }
}

/// Calls beside each other until told to stop; `count` says how many there were so far.
async fn calls(ingress: &Component, count: &AtomicUsize, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let number = count.load(Ordering::Relaxed);
        let three = futures::join!(
            call(ingress, number),
            call(ingress, number + 1),
            call(ingress, number + 2)
        );
        [three.0, three.1, three.2].iter().for_each(ascend);
        count.store(number + 3, Ordering::Relaxed);
    }
}

async fn more_calls(count: &AtomicUsize) {
    let before = count.load(Ordering::Relaxed);
    eventually("calls are answered", || async {
        (count.load(Ordering::Relaxed) > before).then_some(())
    })
    .await;
}

const POLICY: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"

[delivery]
deadline = \"500ms\"
ack-wait = \"2s\"

[retry]
schedule = \"20ms\"
max-attempts = 3
";

#[tokio::test(flavor = "multi_thread")]
async fn receipts_of_a_call_ascend_while_the_log_moves() {
    let bench = Bench::start(&[], &links()).await;
    let ingress = Arc::new(bench.silent_component("ingress").await);
    let state = Arc::new((AtomicUsize::new(0), AtomicBool::new(false)));
    let calling = tokio::spawn({
        let (ingress, state) = (Arc::clone(&ingress), Arc::clone(&state));
        async move { calls(&ingress, &state.0, &state.1).await }
    });
    let cli = Cli::new(bench.nats.url());
    for topology in ["sharded(2)", "per-tenant", "sharded(3)", "shared", "per-tenant"] {
        let policy = cli.policy(&format!("topology = \"{topology}\"\n{POLICY}"));
        // The instance plans at the same time, and may take away what the command looks at.
        eventually("the policy is applied", || async {
            let (code, ..) = tokio::task::block_in_place(|| cli.run(&["apply"], &policy, &[]));
            (code == 0).then_some(())
        })
        .await;
        more_calls(&state.0).await;
    }
    state.1.store(true, Ordering::Relaxed);
    calling.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_of_a_call_ascend_while_leaders_change() {
    for durability in ["acknowledged", "on-disk"] {
        let settings = [("retention.replicas", "3"), ("durability", durability)];
        let (mut bench, _others) = Bench::without_provider_in_cluster(&settings, &links()).await;
        bench.add_provider().await;
        let ingress = bench.silent_component("ingress").await;
        let nemesis = Nemesis::on(bench.client());
        let (count, done) = (AtomicUsize::new(0), AtomicBool::new(false));
        let changes = async {
            for _ in 0..6 {
                nemesis.step_down("fanout_payments_log").await;
                more_calls(&count).await;
            }
            done.store(true, Ordering::Relaxed);
        };
        tokio::join!(calls(&ingress, &count, &done), changes);
    }
}
