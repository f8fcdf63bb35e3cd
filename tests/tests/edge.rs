//! `role = edge`: components beside one host, their bus beside another. Nothing is lost, whichever of them is killed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fanout_tests::fetcher::goes_through;
use fanout_tests::types::{PublishError, Rejection};
use fanout_tests::{Bench, EdgeWorld, LinkTo, SERVED_POLICY, Served, State, Verdict, event, eventually, publisher};
use fanout_transport::CallContext;
use fanout_transport::testing::NatsServer;

fn links(reach: &str) -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "acme"),
        LinkTo::subscriber(
            "invoicing",
            &[reach],
            &[("subscription", "invoicing"), ("need", "durable")],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn published_at_the_edge_kept_at_the_hub_handled_at_the_edge() {
    let world = EdgeWorld::new(&links("handler")).await;
    let ingress = world.edge.silent_component("ingress").await;
    let invoicing = world.edge.component("invoicing").await;
    invoicing.judge(|d| match (d.event.id.as_str(), d.attempt) {
        ("twice", 1) => Verdict::Refuse(Rejection::RetryNow("once more".into())),
        ("never", _) => Verdict::Refuse(Rejection::DeadLetter("no amount".into())),
        _ => Verdict::Handle,
    });
    // The subscription is made at the hub once the edge has reached it.
    world.made("invoicing").await;
    // Its consumer is there a moment before the hub counts it.
    let receipt = eventually("the hub's own receipt counts it", || async {
        let receipt = ingress.publish(event("acme", "invoice.paid", "once")).await.unwrap();
        (receipt.durable_subscriptions == 1).then_some(receipt)
    })
    .await;
    assert_eq!(receipt.position.offset, 1);
    assert!(
        ingress
            .publish(event("acme", "invoice.paid", "once"))
            .await
            .unwrap()
            .duplicate
    );
    for id in ["twice", "never"] {
        ingress.publish(event("acme", "invoice.paid", id)).await.unwrap();
    }
    eventually("all are handled that can be", || async {
        (invoicing.handled() == ["once", "twice"]).then_some(())
    })
    .await;
    world.drained("invoicing").await;
    let js = async_nats::jetstream::new(world.hub_nats.client().await);
    let dead = js.get_stream("fanout_payments_dead").await.unwrap();
    assert_eq!(dead.cached_info().state.messages, 1, "dead-lettered at the hub");

    // The link is checked at the edge.
    let refused = ingress.publish(event("globex", "invoice.paid", "x")).await.unwrap_err();
    assert!(
        matches!(&refused, PublishError::NotPermitted(p) if p.code == "tenant-not-permitted"),
        "{refused:?}"
    );
    let stranger = world.edge.silent_component("stranger").await;
    let refused = stranger.publish(event("acme", "invoice.paid", "x")).await.unwrap_err();
    assert!(
        matches!(&refused, PublishError::NotPermitted(p) if p.code == "not-linked"),
        "{refused:?}"
    );
    let many = [
        event("acme", "invoice.paid", "m1"),
        event("globex", "invoice.paid", "m2"),
        event("acme", "a.b", "m3"),
    ];
    let answers = publisher::publish_tenant_events(ingress.bus(), CallContext::default(), &many)
        .await
        .unwrap();
    assert!(
        answers[0].is_ok() && answers[2].is_ok() && answers[1].is_err(),
        "{answers:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_on_either_side_nothing_is_lost() {
    let mut world = EdgeWorld::new(&links("batch-handler")).await;
    let invoicing = world.edge.component("invoicing").await;
    world.made("invoicing").await;
    let ingress = world.edge.silent_component("ingress").await;
    let stopped = Arc::new(AtomicBool::new(false));
    let publishing = {
        let stopped = Arc::clone(&stopped);
        tokio::spawn(async move {
            let mut accepted = BTreeSet::new();
            for i in 0.. {
                if stopped.load(Ordering::SeqCst) && i >= 200 {
                    break;
                }
                let id = format!("e{i:05}");
                // As a payment provider does: the same id until it is accepted.
                loop {
                    let within = CallContext::within(Duration::from_secs(3));
                    let sent = event("acme", "invoice.paid", &id);
                    let answer = publisher::publish_tenant_event(ingress.bus(), within, &sent).await;
                    if matches!(answer, Ok(Ok(_))) {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                accepted.insert(id);
            }
            accepted
        })
    };
    let handled = |n: usize| {
        let invoicing = &invoicing;
        async move {
            eventually("more are handled", || async {
                (invoicing.handled().len() >= n).then_some(())
            })
            .await;
        }
    };
    handled(20).await;
    world.restart_hub();
    handled(40).await;
    world.edge.providers[0].kill();
    world.edge.restart_provider(0).await;
    let so_far = invoicing.handled().len();
    handled(so_far + 20).await;
    stopped.store(true, Ordering::SeqCst);
    let accepted = publishing.await.unwrap();
    eventually("every accepted one is handled", || async {
        let handled: BTreeSet<_> = invoicing.handled().into_iter().collect();
        handled.is_superset(&accepted).then_some(())
    })
    .await;
    world.drained("invoicing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_is_away_uses_up_no_attempts() {
    let world = EdgeWorld::new(&links("handler")).await;
    let ingress = world.edge.silent_component("ingress").await;
    let invoicing = world.edge.silent_component("invoicing").await;
    world.made("invoicing").await;
    for i in 0..20 {
        ingress
            .publish(event("acme", "invoice.paid", &format!("e{i:02}")))
            .await
            .unwrap();
    }
    let waiting = world
        .edge
        .subscription_when("invoicing", "it waits for its component", |s| {
            s.code() == "subscriber-unreachable"
        })
        .await;
    assert_eq!(waiting.state, State::Waiting);
    invoicing.up().await;
    eventually("all are handled", || async {
        (invoicing.handled().len() == 20).then_some(())
    })
    .await;
    assert!(invoicing.seen(|s| s.deliveries.iter().all(|d| d.attempt == 1)));
    world.drained("invoicing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_bus_refuses_is_said_at_the_edge() {
    let hub_nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    // Nobody may subscribe.
    let narrow = "[callers.edge]\nloopback = true\npublish.tenants = \"acme\"\n";
    std::fs::write(&policy, format!("{SERVED_POLICY}{narrow}")).unwrap();
    let hub = Served::start(&hub_nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let settings = [("role", "edge"), ("upstream", hub.listen[0].as_str())];
    let mut edge = Bench::with_config(&settings, &links("handler")).await;
    edge.add_provider().await;
    let refused = edge
        .subscription_when("invoicing", "it is refused", |s| s.code() == "upstream-refused")
        .await;
    assert_eq!(refused.state, State::Waiting);
    let message = refused.problem.unwrap().message;
    assert!(message.contains("[interface-not-linked]"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_agree_again_soon_after_their_secret_was_deleted_or_overwritten() {
    const IN_A_ROW: usize = 16;
    // Long before an instance reads its secret again though nobody wrote one.
    const SOON: Duration = Duration::from_secs(10);
    let mut world = EdgeWorld::with_long_leases(&[
        LinkTo::caller("ingress", &["publisher"], "acme"),
        LinkTo::caller("billing", &["inbox"], "*"),
        LinkTo::subscriber(
            "billing",
            &["inbox"],
            &[("subscription", "billing"), ("need", "durable")],
        ),
    ])
    .await;
    world.edge.add_provider().await;
    let billing = world.edge.silent_component("billing").await;
    let ingress = world.edge.silent_component("ingress").await;
    world.made("billing").await;
    let published = AtomicUsize::new(0);
    let all_agree = async || {
        let agreed = eventually("each instance takes the others' tokens", async || {
            for _ in 0..IN_A_ROW {
                let id = format!("e{}", published.fetch_add(1, Ordering::Relaxed));
                if !goes_through(&ingress, &billing, "billing", &id).await {
                    return None;
                }
            }
            Some(())
        });
        let agreed = tokio::time::timeout(SOON, agreed).await;
        agreed.expect("they agree soon");
    };
    all_agree().await;
    let js = async_nats::jetstream::new(world.edge.client().clone());
    let memory = js.get_stream("KV_fanout_edge_default_bus").await.unwrap();
    let secret = "$KV.fanout_edge_default_bus.inbox.secret";
    for is_deleted in [true, false] {
        match is_deleted {
            true => assert_eq!(memory.purge().filter(secret).await.unwrap().purged, 1),
            // What is no secret is taken by nobody.
            false => drop(js.publish(secret, "no secret".into()).await.unwrap().await.unwrap()),
        }
        // It needs one at once, and makes its own.
        world.edge.add_provider().await;
        all_agree().await;
    }
}
