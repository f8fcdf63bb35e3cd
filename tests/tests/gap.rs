//! The retention gap: warned of before, and told exactly after.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fanout_plan::{Position, TenantId};
use fanout_tests::fetcher::{fetch, ids, settles};
use fanout_tests::types;
use fanout_tests::{Bench, LinkTo, State, Verdict, event, eventually, stored};

fn at(offset: u64) -> Position {
    Position::undivided(offset)
}

fn tenants(counts: &[(&str, u64)]) -> BTreeMap<TenantId, u64> {
    counts.iter().map(|(t, n)| (t.parse().unwrap(), *n)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_unhandled_is_told_by_position_and_tenant() {
    let settings = [("subscription", "invoicing"), ("need", "durable")];
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("invoicing", &["handler"], &settings),
    ];
    let policy = [
        ("retention.max-age", "6s"),
        ("retention.warn-before", "5s"),
        ("dedupe.window", "1s"),
    ];
    let bench = Bench::start(&policy, &links).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    ingress.publish(event("acme", "invoice.paid", "handled")).await.unwrap();
    bench
        .subscription_when("invoicing", "the first is handled", |s| s.backlog() == Some(0))
        .await;
    // Of a subscription that is paused, and delivers nothing any more, all of what comes now is lost.
    let cli = fanout_tests::Cli::new(bench.nats.url());
    let file = cli.policy(
        "bus = \"payments\"\nsubject = \"payments.{tenant}.webhook.{event-type}\"\n[retention]\nmax-age = \"6s\"\nwarn-before = \"5s\"\n[dedupe]\nwindow = \"1s\"\n",
    );
    assert_eq!(cli.run(&["pause"], &file, &["invoicing"]).0, 0);
    bench
        .subscription_when("invoicing", "it is paused, and nothing is delivered any more", |s| {
            s.state == State::Paused && s.this_instance.is_none()
        })
        .await;
    for (tenant, id) in [("acme", "1"), ("globex", "2"), ("acme", "3")] {
        ingress.publish(event(tenant, "invoice.paid", id)).await.unwrap();
    }
    let waiting = bench
        .subscription_when("invoicing", "the oldest is known", |s| s.oldest == Some(at(2)))
        .await;
    assert!(waiting.expires_at.is_some(), "{waiting:?}");
    let lost = bench
        .subscription_when("invoicing", "all three are lost", |s| s.lost_events == Some(3))
        .await;
    let lost = &lost.lost[0];
    assert_eq!((lost.first, lost.last, lost.exact), (at(2), at(4), true), "{lost:?}");
    assert_eq!(lost.tenants, tenants(&[("acme", 2), ("globex", 1)]));
    let log = bench.providers[0].log();
    assert_eq!(log.matches("retention-gap-near").count(), 1, "warned of once");
    assert!(log.contains("events from 0/"), "and told");
    let (code, out, err) = cli.run(&["status"], &file, &[]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("lost: 3 events from 0/2 to 0/4") && out.contains("1 of tenant globex"),
        "{out}"
    );
    // So is one that is alone in the log.
    ingress.publish(event("globex", "invoice.paid", "4")).await.unwrap();
    let lost = bench
        .subscription_when("invoicing", "the fourth is lost", |s| s.lost_events == Some(4))
        .await;
    assert_eq!(lost.lost[0].last, at(5), "{lost:?}");
    assert_eq!(invoicing.handled(), ["handled"]);
    // The command line tells it in the shape of the status.
    let (_, out, _) = cli.run(&["--json", "lost"], &file, &[]);
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    let told = &told["subscriptions"][0];
    assert_eq!(
        (&told["name"], &told["lost_events"], &told["lost"]),
        (&"invoicing".into(), &4.into(), &serde_json::json!(lost.lost)),
        "{out}"
    );
    // It is told for longer than anything is kept, and until somebody says that it was seen; then it still counts.
    let told = Instant::now();
    while told.elapsed() < Duration::from_secs(8) {
        let (code, out, err) = cli.run(&["lost"], &file, &["invoicing"]);
        assert!(
            code == 0 && out.contains("lost: 4 events from 0/2 to 0/5"),
            "{out}{err}"
        );
    }
    let (code, out, err) = cli.run(&["lost"], &file, &["--seen"]);
    assert!(code == 0 && out.contains("lost: 4 events"), "{out}{err}");
    let (code, out, err) = cli.run(&["lost"], &file, &[]);
    assert_eq!(
        (code, out.as_str()),
        (0, "nothing was lost that nobody has seen\n"),
        "{err}"
    );
    bench
        .subscription_when("invoicing", "it is told no more, and counted", |s| {
            s.lost_events == Some(4) && s.lost.is_empty()
        })
        .await;
    let (code, _, err) = cli.run(&["lost"], &file, &["nobody"]);
    assert!(code == 1 && err.contains("[unknown-subscription]"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_in_a_fetchers_hands_is_told_too() {
    let settings = [("subscription", "invoicing"), ("need", "durable")];
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("invoicing", &["inbox"], "*"),
        LinkTo::subscriber("invoicing", &["inbox"], &settings),
    ];
    let policy = [
        ("retention.max-age", "6s"),
        ("dedupe.window", "1s"),
        ("delivery.ack-wait", "60s"),
    ];
    let bench = Bench::start(&policy, &links).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.silent_component("invoicing").await;
    for (tenant, id) in [("acme", "1"), ("globex", "2"), ("acme", "3")] {
        ingress.publish(event(tenant, "invoice.paid", id)).await.unwrap();
    }
    let held = fetch(&invoicing, "invoicing", 10, 5_000).await;
    assert_eq!(ids(&held), ["1", "2", "3"]);
    settles(&invoicing, &held[1], types::Verdict::Handled).await;
    // Nothing waits to be delivered, and two are never settled.
    let lost = bench
        .subscription_when("invoicing", "two are lost", |s| s.lost_events == Some(2))
        .await;
    let lost = &lost.lost[0];
    assert_eq!((lost.first, lost.last, lost.exact), (at(1), at(3), true), "{lost:?}");
    assert_eq!(lost.tenants, tenants(&[("acme", 2)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_that_is_isolated_loses_is_told_too() {
    const BACKLOG: usize = 3_000;
    let settings = [("subscription", "invoicing"), ("need", "durable"), ("concurrency", "2")];
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("invoicing", &["handler"], &settings),
    ];
    let bench = Bench::start(&[("retention.max-age", "15s"), ("dedupe.window", "1s")], &links).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.silent_component("invoicing").await;
    ingress.publish_backlog("loud", BACKLOG).await;
    invoicing.judge(|_| {
        std::thread::sleep(Duration::from_millis(20));
        Verdict::Handle
    });
    invoicing.up().await;
    let js = async_nats::jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    eventually("the loud tenant is isolated", || async {
        let names = stored::consumer_names(&log).await?;
        names.contains(&"invoicing=0=0=loud".to_owned()).then_some(())
    })
    .await;
    // What was under way when it was isolated comes twice: first let that be over.
    let handled = || invoicing.handled().into_iter().collect::<BTreeSet<_>>().len();
    eventually("it is given from there", || async { (handled() >= 200).then_some(()) }).await;
    let cli = fanout_tests::Cli::new(bench.nats.url());
    let file = cli.policy("bus = \"payments\"\nsubject = \"payments.{tenant}.webhook.{event-type}\"\n[retention]\nmax-age = \"15s\"\n[dedupe]\nwindow = \"1s\"\n");
    assert_eq!(cli.run(&["pause"], &file, &["invoicing"]).0, 0);
    bench
        .subscription_when("invoicing", "it is paused, and nothing is delivered any more", |s| {
            s.state == State::Paused && s.this_instance.is_none()
        })
        .await;
    ingress.publish(event("quiet", "invoice.paid", "quiet")).await.unwrap();
    let lost = bench
        .subscription_when("invoicing", "the last one is lost", |s| {
            s.lost.iter().any(|l| l.last == at(BACKLOG as u64 + 1))
        })
        .await;
    let left = (BACKLOG - handled()) as u64;
    assert_eq!(
        lost.lost[0].tenants,
        tenants(&[("loud", left), ("quiet", 1)]),
        "{lost:?}"
    );
    let log = bench.providers[0].log();
    assert!(!log.contains("seen of them"), "what is isolated is told of once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_purges_is_told_too() {
    let settings = [("subscription", "invoicing"), ("need", "durable")];
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("invoicing", &["handler"], &settings),
    ];
    // Long enough that none of it is near its end, and looked at every three seconds.
    let policy = [
        ("retention.max-age", "60s"),
        ("retention.warn-before", "1s"),
        ("dedupe.window", "1s"),
    ];
    let bench = Bench::start(&policy, &links).await;
    let ingress = bench.silent_component("ingress").await;
    for (tenant, id) in [("acme", "1"), ("globex", "2"), ("acme", "3")] {
        ingress.publish(event(tenant, "invoice.paid", id)).await.unwrap();
    }
    let js = async_nats::jetstream::new(bench.client().clone());
    eventually("it is remembered what waits", || async {
        let gap = stored::remembered_gap(bench.client()).await?;
        (!gap["oldest"].is_null()).then_some(())
    })
    .await;
    js.get_stream("fanout_payments_log")
        .await
        .unwrap()
        .purge()
        .await
        .unwrap();
    let lost = bench
        .subscription_when("invoicing", "what was purged is lost", |s| {
            s.lost.iter().any(|l| l.last == at(3))
        })
        .await;
    assert!(!lost.lost[0].exact, "nobody saw them go: {lost:?}");
    let log = bench.providers[0].log();
    assert!(
        log.contains("retention-gap") && !log.contains("retention-gap-near"),
        "it is said"
    );

    // A rewind brings nothing of it back: it is told until somebody has seen it.
    let cli = fanout_tests::Cli::new(bench.nats.url());
    let file = cli.policy(
        "bus = \"payments\"\nsubject = \"payments.{tenant}.webhook.{event-type}\"\n[retention]\nmax-age = \"60s\"\nwarn-before = \"1s\"\n[dedupe]\nwindow = \"1s\"\n",
    );
    let done = |verb: &[&str], more: &[&str]| {
        let (code, out, err) = cli.run(verb, &file, more);
        assert_eq!(code, 0, "{out}{err}");
    };
    done(&["rewind"], &["invoicing", "--to", "first"]);
    let rewound = bench
        .subscription_when("invoicing", "it is put back", |s| s.rewound == Some(1))
        .await;
    assert_eq!(rewound.lost, lost.lost);
    done(&["rewind"], &["invoicing", "--to", "first"]);
    let again = bench
        .subscription_when("invoicing", "it is put back once more", |s| s.rewound == Some(2))
        .await;
    assert_eq!(again.lost, lost.lost);
    done(&["lost"], &["invoicing", "--seen"]);
    bench
        .subscription_when("invoicing", "somebody has seen it", |s| s.lost.is_empty())
        .await;
}
