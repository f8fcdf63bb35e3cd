//! Pause, resume, rewind and redrive: each reaches one subscription, survives restarts, and needs no host.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::message::PublishMessage;
use fanout_tests::nemesis::Way;
use fanout_tests::subscriber;
use fanout_tests::types::{Origin, Position, Rejection, Start, SubscriptionState};
use fanout_tests::{ANYONE_HERE, Bench, Cli, Component, LinkTo, SERVED_POLICY, Served, State, Verdict};
use fanout_tests::{event, eventually, stored};
use fanout_transport::CallContext;
use fanout_transport::testing::NatsServer;

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

fn links() -> Vec<LinkTo> {
    let declared = |component: &str| {
        LinkTo::subscriber(
            component,
            &["handler"],
            &[("subscription", component), ("need", "durable")],
        )
    };
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("invoicing", &["subscriber"], "*"),
        declared("invoicing"),
        declared("other"),
    ]
}

async fn publish(ingress: &Component, tenant: &str, ids: std::ops::Range<usize>) {
    for i in ids {
        ingress
            .publish(event(tenant, "invoice.paid", &format!("{tenant}-{i:03}")))
            .await
            .unwrap();
    }
}

async fn handles(component: &Component, times: usize) {
    eventually(&format!("{} handles {times}", component.id), || async {
        (component.seen(|s| s.handled.len()) == times).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_subscription_is_given_nothing_until_it_is_resumed() {
    let mut bench = Bench::start(&[], &links()).await;
    let (ingress, invoicing, other) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
        bench.component("other").await,
    );
    let paused = subscriber::pause(invoicing.bus(), CallContext::default(), "invoicing")
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(paused.state, SubscriptionState::Paused));
    publish(&ingress, "acme", 0..5).await;
    handles(&other, 5).await;
    bench.restart_provider(0).await;
    let status = bench
        .subscription_when("invoicing", "its events wait", |s| s.pending == Some(5))
        .await;
    assert_eq!((status.state, invoicing.handled().len()), (State::Paused, 0));
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(POLICY);
    let (code, out, err) = cli.run(&["resume"], &policy, &["invoicing"]);
    assert_eq!((code, out.as_str()), (0, "subscription invoicing goes on\n"), "{err}");
    handles(&invoicing, 5).await;
    let (code, _, err) = cli.run(&["pause"], &policy, &["nobody"]);
    assert!(code == 1 && err.contains("[unknown-subscription]"), "{code} {err}");
}

/// Every wait on the way of an orderly stop has a bound: this is more than all of them one after another.
const STOPS_IN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_store_is_gone_ends_when_it_is_told_to() {
    for ordering in ["none", "tenant"] {
        let mut bench = Bench::start(&[("ordering", ordering)], &links()).await;
        let ingress = bench.silent_component("ingress").await;
        let invoicing = bench.component("invoicing").await;
        publish(&ingress, "acme", 0..1).await;
        handles(&invoicing, 1).await;
        bench.nats.kill();
        let told = Instant::now();
        bench.providers[0].signal("TERM");
        let ended = eventually("the instance ends", || {
            let ended = bench.providers[0].ended();
            async move { ended }
        })
        .await;
        let log = bench.providers[0].log();
        assert!(ended && told.elapsed() < STOPS_IN, "{:?}: {log}", told.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_does_a_server_without_a_host() {
    let mut nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, format!("{SERVED_POLICY}{ANYONE_HERE}")).unwrap();
    let mut served = Served::start(&nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    nats.kill();
    let told = Instant::now();
    served.signal("TERM");
    eventually("the server ends", || {
        let ended = served.ended();
        async move { ended.then_some(()) }
    })
    .await;
    assert!(told.elapsed() < STOPS_IN, "{:?}: {}", told.elapsed(), served.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_costs_no_hold_and_no_second_delivery() {
    stopped_in_the_middle("none").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_it_where_events_have_an_order() {
    stopped_in_the_middle("tenant").await;
}

async fn stopped_in_the_middle(ordering: &str) {
    const EVENTS: usize = 800;
    // Nothing that is left behind comes again while this test waits, and no handler is too slow.
    let settings = [
        ("ordering", ordering),
        ("delivery.ack-wait", "5m"),
        ("delivery.deadline", "30s"),
    ];
    let mut bench = Bench::start(&settings, &links()).await;
    let (ingress, invoicing) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
    );
    invoicing.judge(|_| {
        std::thread::sleep(Duration::from_millis(3));
        Verdict::Handle
    });
    ingress.publish_backlog("acme", EVENTS).await;
    for part in 1..=5 {
        eventually("a part is handled", || async {
            (invoicing.seen(|s| s.handled.len()) >= EVENTS * part / 10).then_some(())
        })
        .await;
        let subscription = "invoicing";
        let paused = subscriber::pause(invoicing.bus(), CallContext::default(), subscription).await;
        assert!(matches!(paused.unwrap().unwrap().state, SubscriptionState::Paused));
        let resumed = subscriber::resume(invoicing.bus(), CallContext::default(), subscription).await;
        assert!(!matches!(resumed.unwrap().unwrap().state, SubscriptionState::Paused));
    }
    bench.add_provider().await;
    bench.providers[0].signal("TERM");
    handles(&invoicing, EVENTS).await;
    let ended = eventually("the instance that was told to stop ends", || {
        let ended = bench.providers[0].ended();
        async move { ended }
    });
    assert!(ended.await, "{}", bench.providers[0].log());
    bench
        .subscription_when("invoicing", "nothing waits", |s| s.backlog() == Some(0))
        .await;
    let mut ids: Vec<usize> = invoicing.seen(|s| s.handled.iter().map(|id| id.parse().unwrap()).collect());
    if ordering == "none" {
        ids.sort_unstable();
    }
    assert_eq!(ids, (0..EVENTS).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_to_an_instance_that_stops_is_given_back() {
    for ordering in ["none", "tenant"] {
        given_back(ordering).await;
    }
}

async fn given_back(ordering: &str) {
    let settings = [
        ("ordering", ordering),
        ("delivery.ack-wait", "5m"),
        ("delivery.deadline", "30s"),
    ];
    let mut bench = Bench::without_provider(&settings, &links()).await;
    let proxy = bench.put_proxy().await;
    bench.add_provider().await;
    let invoicing = bench.component("invoicing").await;
    let js = jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    let name = stored::consumer_name(&log, "invoicing").await.unwrap();
    let consumer: PullConsumer = log.get_consumer(&name).await.unwrap();
    let (log, consumer) = (&log, &consumer);
    let mut published = 0;
    // A pull that ends at this moment brings nothing: then there is another.
    loop {
        handles(&invoicing, published).await;
        eventually("the instance pulls", || async {
            (consumer.get_info().await.ok()?.num_waiting > 0).then_some(())
        })
        .await;
        proxy.hold(Way::ToClient);
        let event = format!(
            r#"{{"specversion":"1.0","id":"{published}","source":"/test","type":"invoice.paid","tenant":"acme"}}"#
        );
        let event = PublishMessage::build()
            .payload(event.into())
            .header("Content-Type", "application/cloudevents+json");
        let receipt = js
            .send_publish("payments.acme.webhook.invoice.paid", event)
            .await
            .unwrap();
        receipt.await.unwrap();
        published += 1;
        let is_delivered = eventually("it is delivered, or the pull is over", || async {
            let info = consumer.get_info().await.ok()?;
            let is_delivered = info.delivered.stream_sequence == log.get_info().await.ok()?.state.last_sequence;
            (is_delivered || info.num_waiting == 0).then_some(is_delivered)
        });
        if is_delivered.await {
            break;
        }
        proxy.release();
    }
    bench.providers[0].signal("TERM");
    eventually("nothing more is delivered to it", || async {
        (consumer.get_info().await.ok()?.num_waiting == 0).then_some(())
    })
    .await;
    proxy.release();
    let ended = eventually("the instance ends", || {
        let ended = bench.providers[0].ended();
        async move { ended }
    });
    assert!(ended.await, "{}", bench.providers[0].log());
    bench.add_provider().await;
    handles(&invoicing, published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewound_subscription_is_given_the_log_again_and_no_other_is() {
    let mut bench = Bench::start(&[], &links()).await;
    let (ingress, invoicing, other) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
        bench.component("other").await,
    );
    publish(&ingress, "acme", 0..10).await;
    handles(&invoicing, 10).await;
    let to = Start::Position(Position {
        partition: 0,
        offset: 8,
    });
    subscriber::rewind(invoicing.bus(), CallContext::default(), "invoicing", &to)
        .await
        .unwrap()
        .unwrap();
    handles(&invoicing, 13).await;
    bench.restart_provider(0).await;
    publish(&ingress, "acme", 10..12).await;
    handles(&invoicing, 15).await;
    let seen = invoicing.seen(|s| {
        let mut seen: Vec<_> = s.deliveries[10..]
            .iter()
            .map(|d| (d.event.id.clone(), d.origin, d.attempt))
            .collect();
        seen.sort();
        seen
    });
    let ids: Vec<_> = (7..12).map(|i| format!("acme-{i:03}")).collect();
    assert_eq!(seen.iter().map(|s| s.0.clone()).collect::<Vec<_>>(), ids);
    assert!(
        seen.iter()
            .enumerate()
            .all(|(i, s)| (s.1 == Origin::Replayed) == (i < 3) && s.2 == 1),
        "{seen:?}"
    );

    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(POLICY);
    let (code, out, err) = cli.run(&["rewind"], &policy, &["invoicing", "--to", "first"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("up to 0/12 is replayed"), "{out}");
    handles(&invoicing, 27).await;
    handles(&other, 12).await;
    let (code, _, err) = cli.run(&["rewind"], &policy, &["invoicing", "--to", "position:0/99"]);
    assert!(code == 1 && err.contains("[unknown-position]"), "{code} {err}");
    let (code, _, _) = cli.run(&["rewind"], &policy, &["invoicing", "--to", "yesterday"]);
    assert_eq!(code, 2);
    // What it has not handled yet is passed over only when that is said.
    assert_eq!(cli.run(&["pause"], &policy, &["invoicing"]).0, 0);
    bench
        .subscription_when("invoicing", "it is paused", |s| s.state == State::Paused)
        .await;
    publish(&ingress, "acme", 12..14).await;
    let beyond = ["invoicing", "--to", "position:0/14"];
    let (code, _, err) = cli.run(&["rewind"], &policy, &beyond);
    assert!(
        code == 1 && err.contains("event 0/13") && err.contains("[would-lose-events]"),
        "{code} {err}"
    );
    assert_eq!(cli.run(&["rewind", "--skip-unhandled"], &policy, &beyond).0, 0);
    assert_eq!(cli.run(&["resume"], &policy, &["invoicing"]).0, 0);
    handles(&invoicing, 28).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_instance_what_was_asked_is_found_by_the_next() {
    let mut bench = Bench::start(&[], &links()).await;
    let (ingress, invoicing) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
    );
    publish(&ingress, "acme", 0..4).await;
    handles(&invoicing, 4).await;
    bench.providers[0].kill();
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(POLICY);
    assert_eq!(cli.run(&["rewind"], &policy, &["invoicing", "--to", "first"]).0, 0);
    assert_eq!(cli.status(&policy).subscriptions[0].pending, Some(4));
    bench.restart_provider(0).await;
    handles(&invoicing, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_go_to_the_subscription_they_came_from_in_the_tenants_order() {
    let mut bench = Bench::start(&[], &links()).await;
    let (ingress, invoicing, other) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
        bench.component("other").await,
    );
    let broken = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&broken);
    invoicing.judge(move |d| {
        if fails.load(Ordering::SeqCst) || d.event.id == "acme-002" && d.attempt < 3 {
            Verdict::Refuse(Rejection::Retry("broken".into()))
        } else {
            Verdict::Handle
        }
    });
    for i in 0..5 {
        publish(&ingress, "acme", i..i + 1).await;
        publish(&ingress, "globex", i..i + 1).await;
    }
    bench
        .subscription_when("invoicing", "all are dead-lettered", |s| {
            s.dead_letters == Some(10) && s.in_flight == Some(0)
        })
        .await;
    handles(&other, 10).await;
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(POLICY);
    // Still broken: they are tried anew, and dead-lettered again, once each.
    let before = invoicing.seen(|s| s.deliveries.len());
    assert_eq!(cli.run(&["dead-letters", "redrive"], &policy, &["1"]).0, 0);
    eventually("it is tried again", || async {
        (invoicing.seen(|s| s.deliveries.len()) == before + 3).then_some(())
    })
    .await;
    bench
        .subscription_when("invoicing", "it is dead-lettered again", |s| s.dead_letters == Some(10))
        .await;
    let list = || {
        let (_, out, _) = cli.run(&["--json", "dead-letters", "list"], &policy, &[]);
        let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
        listed["dead_letters"].as_array().unwrap().clone()
    };
    eventually("the new letter has taken the old one's place", || async {
        let letters = list();
        (letters.len() == 10 && letters.iter().all(|l| l["number"] != 1)).then_some(())
    })
    .await;

    broken.store(false, Ordering::SeqCst);
    let (code, out, err) = cli.run(&["dead-letters", "redrive"], &policy, &["--all", "--tenant", "globex"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("5 to be redriven"), "{out}");
    handles(&invoicing, 5).await;
    assert_eq!(cli.run(&["dead-letters", "redrive"], &policy, &["--all"]).0, 0);
    // Killed in the middle: what was asked is not forgotten.
    bench.restart_provider(0).await;
    eventually("all are handled", || async {
        (invoicing.handled().len() == 10).then_some(())
    })
    .await;
    bench
        .subscription_when("invoicing", "no letter is left", |s| s.dead_letters == Some(0))
        .await;
    let of_acme: Vec<_> = invoicing.seen(|s| {
        let mut ids = s.handled.clone();
        ids.retain(|id| id.starts_with("acme"));
        ids.dedup();
        ids
    });
    let in_order: Vec<_> = (0..5).map(|i| format!("acme-{i:03}")).collect();
    assert_eq!(of_acme, in_order, "in order, also across a retry");
    handles(&other, 10).await;
    assert!(list().is_empty());
    let (code, _, err) = cli.run(&["dead-letters", "redrive"], &policy, &["1"]);
    assert!(code == 1 && err.contains("there is no dead letter 1"), "{err}");
    assert_eq!(
        cli.run(&["dead-letters", "redrive"], &policy, &[]).0,
        2,
        "which ones must be said"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_can_be_followed() {
    let bench = Bench::start(&[], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    publish(&ingress, "acme", 0..3).await;
    publish(&ingress, "globex", 0..2).await;
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(POLICY);
    let (code, out, err) = cli.run(&["tail"], &policy, &["--from", "first", "--count", "5"]);
    assert_eq!((code, out.lines().count()), (0, 5), "{err}");
    let (code, out, err) = cli.run(
        &["--json", "tail"],
        &policy,
        &[
            "--from",
            "position:0/2",
            "--tenant",
            "globex",
            "--type",
            "invoice.*",
            "--count",
            "2",
        ],
    );
    assert_eq!(code, 0, "{err}");
    let lines: Vec<serde_json::Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[0]["attributes"]["ce-id"], "globex-000");
    assert_eq!(lines[1]["position"], "0/5");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_subscription_can_be_served_at_least_once() {
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber(
            "entitlements",
            &["handler"],
            &[("subscription", "entitlements"), ("need", "queue")],
        ),
    ];
    let bench = Bench::start(&[("queue.delivery", "at-least-once")], &links).await;
    let ingress = bench.silent_component("ingress").await;
    publish(&ingress, "acme", 0..5).await;
    let entitlements = bench.silent_component("entitlements").await;
    entitlements.judge(|d| {
        if d.attempt == 1 {
            Verdict::Refuse(Rejection::RetryNow("once more".into()))
        } else {
            Verdict::Handle
        }
    });
    entitlements.up().await;
    handles(&entitlements, 5).await;
    bench
        .subscription_when("entitlements", "nothing is left", |s| s.backlog() == Some(0))
        .await;
}
