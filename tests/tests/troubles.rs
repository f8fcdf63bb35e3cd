//! One subscription's trouble is its own: what the store refuses it, what can't be read of it, what others have of its name.
//! Everybody else goes on, who may do what changes at once, and a restart finds a bus that is ready.

use std::path::PathBuf;

use async_nats::jetstream::{self, consumer::pull, kv};
use fanout_tests::fetcher::{fetch, ids, patient, try_fetch};
use fanout_tests::subscriber;
use fanout_tests::types::{
    DeliveryOptions, Filter, PublishError, Reach, SubscribeError, Subscription, SubscriptionState,
};
use fanout_tests::{
    Bench, Cli, Component, LinkTo, SERVED_POLICY, Served, State, SubscriptionStatus, event, eventually, every_event,
    stored,
};
use fanout_transport::testing::{NatsServer, NatsSettings};

/// An account whose streams take so many consumers.
fn consumers(most: u32) -> NatsSettings {
    NatsSettings {
        config: Some(format!(
            "accounts {{ A {{ jetstream: {{ max_consumers: {most} }}, users: [{{ user: a, password: a }}] }} }}\nno_auth_user: a\n"
        )),
        ..NatsSettings::default()
    }
}

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("worker", &["subscriber", "inbox"], "*"),
        LinkTo::caller("other", &["subscriber", "inbox"], "*"),
    ]
}

fn options(tenants: usize, patterns: usize) -> DeliveryOptions {
    DeliveryOptions {
        filter: Filter {
            tenants: (0..tenants).map(|i| format!("tenant-{i:04}")).collect(),
            event_types: (0..patterns).map(|i| format!("type-{i:04}.*")).collect(),
            pattern: None,
        },
        reach: Reach::Inbox,
        ..every_event()
    }
}

async fn durable(who: &Component, name: &str) -> Result<Subscription, SubscribeError> {
    wide(who, name, &options(0, 0)).await
}

async fn wide(who: &Component, name: &str, options: &DeliveryOptions) -> Result<Subscription, SubscribeError> {
    subscriber::subscribe_durable(who.bus(), patient(), name, options)
        .await
        .expect("the bus answers")
}

async fn ends(who: &Component, name: &str) {
    let ended = subscriber::unsubscribe(who.bus(), patient(), name).await;
    ended.expect("the bus answers").expect("it was there");
}

async fn listed(who: &Component) -> Vec<String> {
    let listed = subscriber::list_subscriptions(who.bus(), patient()).await;
    let listed = listed.expect("the bus answers").expect("it may ask");
    listed.into_iter().map(|s| s.name).collect()
}

fn code(e: &SubscribeError) -> (&'static str, &str) {
    match e {
        SubscribeError::InvalidRequest(p) => ("invalid-request", &p.code),
        SubscribeError::NotPermitted(p) => ("not-permitted", &p.code),
        SubscribeError::Conflict(p) => ("conflict", &p.code),
        SubscribeError::Unavailable(p) => ("unavailable", &p.code),
        SubscribeError::UnknownSubscription(p) => ("unknown-subscription", &p.code),
        SubscribeError::OutcomeUnknown(p) => ("outcome-unknown", &p.code),
    }
}

async fn registry(bench: &Bench) -> kv::Store {
    let js = jetstream::new(bench.client().clone());
    js.get_key_value("fanout_payments_registry").await.unwrap()
}

async fn consumer_names(bench: &Bench) -> Vec<String> {
    let js = jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    stored::consumer_names(&log).await.unwrap()
}

/// `fanout VERB` of the bench's bus: its exit code, and all that it says.
fn cli(bench: &Bench, verb: &str) -> (i32, String) {
    let cli = Cli::new(bench.nats.url());
    let (code, out, err) = cli.run(&[verb], &cli.policy(SERVED_POLICY), &[]);
    (code, out + &err)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_the_store_refuses_is_its_subscriptions_state() {
    let mut bench = Bench::start_on(consumers(6), &[], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let worker = bench.silent_component("worker").await;
    let other = bench.silent_component("other").await;
    for i in 0..6 {
        durable(&worker, &format!("s{i}")).await.unwrap();
    }
    // As if it had not been asked for.
    for _ in 0..3 {
        let refused = durable(&worker, "s6").await.unwrap_err();
        assert_eq!(code(&refused), ("unavailable", "store-refused"), "{refused:?}");
        assert!(format!("{refused:?}").contains("10026"), "{refused:?}");
    }
    assert_eq!(listed(&worker).await, ["s0", "s1", "s2", "s3", "s4", "s5"]);
    let entry = registry(&bench).await.entry("s6").await.unwrap();
    assert!(entry.is_none_or(|e| e.operation != kv::Operation::Put));

    // Everybody else goes on.
    let filter = options(0, 0).filter;
    let queue = subscriber::subscribe_queue(other.bus(), patient(), "q", &filter, Reach::Inbox);
    queue.await.unwrap().unwrap();
    assert_eq!(
        ingress
            .publish(event("acme", "a", "1"))
            .await
            .unwrap()
            .durable_subscriptions,
        6
    );
    // What is declared waits, with the store's own words.
    let declared = LinkTo::subscriber(
        "invoicing",
        &["handler"],
        &[("subscription", "invoicing"), ("need", "durable")],
    );
    let invoicing = bench.component("invoicing").await;
    bench.put_link(&declared).await;
    let waits = |s: &SubscriptionStatus| s.state == State::Waiting && s.code() == "store-refused";
    let status = bench.subscription_when("invoicing", "it waits", waits).await;
    // Nobody knows how many events wait for it: 0 would be a number.
    let counts = [
        status.pending,
        status.in_flight,
        status.waiting_for_retry,
        status.lost_events,
    ];
    assert_eq!(counts, [None; 4]);
    let (exit, said) = cli(&bench, "status");
    assert_eq!(exit, 0, "{said}");
    assert!(
        said.contains("invoicing") && said.contains("store-refused") && said.contains("s5"),
        "{said}"
    );
    let (exit, said) = cli(&bench, "apply");
    assert_eq!(exit, 1, "{said}");
    assert!(
        said.contains("subscription invoicing") && said.contains("10026"),
        "{said}"
    );

    // After a restart too.
    bench.restart_provider(0).await;
    bench.subscription_when("invoicing", "it waits", waits).await;
    ingress.publish(event("acme", "a", "2")).await.unwrap();
    let refused = durable(&other, "late").await.unwrap_err();
    assert_eq!(code(&refused), ("unavailable", "store-refused"));

    // A right that is taken away is gone, whatever could not be made.
    bench
        .delete_link(&LinkTo::caller("other", &["subscriber", "inbox"], "*"))
        .await;
    eventually("it may nothing any more", || async {
        let refused = durable(&other, "late").await.err()?;
        (code(&refused) == ("not-permitted", "not-linked")).then_some(())
    })
    .await;

    // Once there is a place, it is made by itself, and given what came since it was declared.
    ends(&worker, "s0").await;
    eventually("it is given what it missed", || async {
        (invoicing.handled() == ["2"]).then_some(())
    })
    .await;
    let log = bench.providers[0].log();
    let said = log
        .lines()
        .filter(|l| l.contains("invoicing") && l.contains("10026"))
        .count();
    assert!(
        said <= 4,
        "a failure is logged once for each start and kind, not for each try: {said}"
    );
    assert!(
        log.lines().all(|l| l.len() < 4_096),
        "no line is longer than a person reads"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_and_a_subscription_may_have_is_counted_first() {
    let settings = [("limits.subscriptions-per-caller", "3")];
    let bench = Bench::start(&settings, &links()).await;
    let (worker, other) = (
        bench.silent_component("worker").await,
        bench.silent_component("other").await,
    );
    for (tenants, patterns) in [(200, 200), (2_001, 0), (0, 201), (9_000, 9_000)] {
        let refused = wide(&worker, "wide", &options(tenants, patterns)).await.unwrap_err();
        assert_eq!(
            code(&refused),
            ("invalid-request", "limit-exceeded"),
            "{tenants} x {patterns}"
        );
    }
    wide(&worker, "wide", &options(300, 6)).await.unwrap();
    for name in ["a", "b"] {
        durable(&worker, name).await.unwrap();
    }
    let refused = durable(&worker, "c").await.unwrap_err();
    assert_eq!(code(&refused), ("invalid-request", "limit-exceeded"));
    // What it has it may ask for again, and another may have as many.
    durable(&worker, "a").await.unwrap();
    durable(&other, "c").await.unwrap();
    ends(&worker, "wide").await;
    durable(&worker, "d").await.unwrap();
    // Whoever may nothing is told that, however much it asks for.
    let stranger = bench.silent_component("stranger").await;
    let refused = wide(&stranger, "x", &options(9_000, 9_000)).await.unwrap_err();
    assert_eq!(code(&refused), ("not-permitted", "not-linked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_bus_cannot_read_or_did_not_make_is_left_alone() {
    let mut bench = Bench::start(&[], &links()).await;
    let (worker, other) = (
        bench.silent_component("worker").await,
        bench.silent_component("other").await,
    );
    durable(&worker, "bad").await.unwrap();
    let registry = registry(&bench).await;
    registry
        .put("bad", "{\"written\":\"by a newer version\"}".into())
        .await
        .unwrap();
    let unreadable = |s: &SubscriptionStatus| s.code() == "unreadable-subscription";
    bench.subscription_when("bad", "it can't be read", unreadable).await;
    let refused = durable(&worker, "bad").await.unwrap_err();
    assert_eq!(code(&refused), ("unavailable", "unreadable-subscription"));
    // While no instance is there, somebody puts a consumer of their own in the place of one.
    durable(&other, "good").await.unwrap();
    durable(&worker, "taken").await.unwrap();
    bench.providers[0].kill();
    let js = jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    let name = stored::consumer_name(&log, "taken").await.unwrap();
    log.delete_consumer(&name).await.unwrap();
    let alien = pull::Config {
        durable_name: Some(name),
        ..pull::Config::default()
    };
    log.create_consumer(alien).await.unwrap();
    for _ in 0..2 {
        bench.restart_provider(0).await;
        let refused = durable(&worker, "taken").await.unwrap_err();
        assert_eq!(code(&refused), ("unavailable", "foreign-topology"));
        assert_eq!(consumer_names(&bench).await, ["bad", "good", "taken"]);
        let entry = registry.get("bad").await.unwrap().unwrap();
        assert!(entry.starts_with(b"{\"written\""), "it is not written over");
        let (exit, said) = cli(&bench, "status");
        assert_eq!(exit, 0, "{said}");
        assert!(
            said.contains("unreadable-subscription") && said.contains("good"),
            "{said}"
        );
    }
    durable(&other, "better").await.unwrap();
    registry.delete("bad").await.unwrap();
    eventually("it goes with its entry", || async {
        (consumer_names(&bench).await == ["better", "good", "taken"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_word_on_names_and_nobody_elses() {
    let mut bench = Bench::start(&[], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let (worker, other) = (
        bench.silent_component("worker").await,
        bench.silent_component("other").await,
    );
    durable(&worker, "invoicing").await.unwrap();
    let filter = options(0, 0).filter;
    let refused = subscriber::subscribe_queue(other.bus(), patient(), "invoicing", &filter, Reach::Inbox);
    let refused = refused.await.unwrap().unwrap_err();
    assert_eq!(code(&refused), ("conflict", "subscription-conflict"));
    let said = format!("{refused:?}");
    assert!(!said.contains("worker") && !said.contains("durable"), "{said}");
    ingress.publish(event("acme", "a", "1")).await.unwrap();

    let invoicing = bench.component("invoicing").await;
    let link = LinkTo::subscriber(
        "invoicing",
        &["handler"],
        &[("subscription", "invoicing"), ("need", "durable")],
    );
    bench.put_link(&link).await;
    bench
        .subscription_when("invoicing", "it is the link's", |s| {
            s.component.as_deref() == Some("invoicing")
        })
        .await;
    assert_eq!(
        ingress
            .publish(event("acme", "a", "2"))
            .await
            .unwrap()
            .durable_subscriptions,
        2
    );
    eventually("the declared one is given what is its", || async {
        (invoicing.handled() == ["2"]).then_some(())
    })
    .await;
    // Nothing is lost to the one that had the name; it calls it what it called it.
    assert_eq!(listed(&worker).await, ["invoicing"]);
    let mut got = Vec::new();
    while got.len() < 2 {
        let held = fetch(&worker, "invoicing", 10, 1_000).await;
        assert!(held.iter().all(|h| h.delivery.subscription == "invoicing"));
        got.extend(ids(&held).into_iter().map(str::to_owned));
    }
    assert_eq!(got, ["1", "2"]);
    durable(&worker, "invoicing").await.unwrap();
    ends(&worker, "invoicing").await;
    assert_eq!(
        ingress
            .publish(event("acme", "a", "3"))
            .await
            .unwrap()
            .durable_subscriptions,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_forgot_everything_ends_nothing() {
    let settings = [("retention.storage", "memory")];
    let mut bench = Bench::start(&settings, &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let (worker, other) = (
        bench.silent_component("worker").await,
        bench.silent_component("other").await,
    );
    for name in ["mine", "ended"] {
        durable(&worker, name).await.unwrap();
    }
    durable(&other, "theirs").await.unwrap();
    ends(&worker, "ended").await;
    ingress.publish(event("acme", "a", "before")).await.unwrap();
    assert_eq!(ids(&fetch(&worker, "mine", 10, 5_000).await), ["before"]);
    bench.nats.restart().await;
    let receipt = eventually("the bus is there again", || async {
        ingress.publish(event("acme", "a", "after")).await.ok()
    })
    .await;
    assert_eq!(receipt.durable_subscriptions, 2, "those that were not ended");
    for (who, name) in [(&worker, "mine"), (&other, "theirs")] {
        eventually("it is given what comes", || async {
            let fetched = try_fetch(who, name, 10, 1_000).await;
            let said = format!("{:?}", fetched.as_ref().err());
            assert!(!said.contains("unknown-subscription"), "it was not ended: {said}");
            (ids(&fetched.ok()?.deliveries) == ["after"]).then_some(())
        })
        .await;
        eventually("its subscriber is told that all is well", || async {
            let listed = subscriber::list_subscriptions(who.bus(), patient()).await.ok()?.ok()?;
            assert_eq!(listed.len(), 1, "{listed:?}");
            matches!(listed[0].state, SubscriptionState::Active).then_some(())
        })
        .await;
    }
}

/// `fanout serve` on a server that the test can freeze.
struct World {
    nats: NatsServer,
    folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        Self {
            nats: NatsServer::start().await,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn policy(&self, tenants: &str) -> PathBuf {
        let path = self.folder.path().join("policy.toml");
        let caller =
            format!("\n[callers.me]\nloopback = true\npublish.tenants = {tenants}\nsubscribe.tenants = \"*\"\n");
        std::fs::write(&path, format!("{SERVED_POLICY}{caller}")).unwrap();
        path
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what_changes_though_the_store_hangs() {
    let world = World::new().await;
    let policy = world.policy("[\"acme\", \"globex\"]");
    let served = Served::start(&world.nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let bus = fanout_client::connect(&served.listen[0]).await.unwrap();
    bus.publish(&fanout_client::Event::new("globex", "a", "1"))
        .await
        .unwrap();
    let freeze = |signal: &str| {
        let id = world.nats.id().to_string();
        assert!(
            std::process::Command::new("kill")
                .args(["-s", signal, &id])
                .status()
                .unwrap()
                .success()
        );
    };
    freeze("STOP");
    world.policy("[\"acme\"]");
    served.signal("HUP");
    eventually("the right is gone", || async {
        let refused = bus
            .publish(&fanout_client::Event::new("globex", "a", "2"))
            .await
            .err()?;
        (refused.code == "tenant-not-permitted").then_some(())
    })
    .await;
    freeze("CONT");
    eventually("the rest goes on", || async {
        bus.publish(&fanout_client::Event::new("acme", "a", "3")).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_scheduled_events_take_no_others_place() {
    use fanout_tests::publisher;
    let settings = [
        ("quota.scheduled-events", "5"),
        ("quota.tenant.globex.scheduled-events", "20"),
    ];
    let mut bench = Bench::start(&settings, &links()).await;
    bench.add_provider().await;
    let ingress = bench.silent_component("ingress").await;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let far = i64::try_from(now.as_nanos()).unwrap() + 3_600_000_000_000;
    let at = |tenant: &'static str, id: String| {
        let ingress = &ingress;
        async move {
            publisher::publish_tenant_event_at(ingress.bus(), patient(), &event(tenant, "a.b", &id), far)
                .await
                .expect("the bus answers")
        }
    };
    let fill = |tenant: &'static str| {
        let at = &at;
        async move {
            let mut kept = 0;
            for i in 0..60 {
                match at(tenant, format!("e{i}")).await {
                    Ok(_) => kept += 1,
                    Err(PublishError::QuotaExceeded(r)) => {
                        assert_eq!(r.problem.code, "quota-exceeded");
                        assert!(r.problem.message.contains("scheduled-events"), "{}", r.problem.message);
                    }
                    Err(e) => panic!("{e:?}"),
                }
            }
            kept
        }
    };
    let kept = fill("acme").await;
    assert!(
        (5..=10).contains(&kept),
        "of two instances, at most twice the quota: {kept}"
    );
    let kept = fill("globex").await;
    assert!((20..=40).contains(&kept), "another tenant has its own: {kept}");
    assert!(
        at("acme", "e0".into()).await.unwrap().duplicate,
        "what waits goes on waiting"
    );
    // What is cancelled gives its place back, and its mark takes none.
    for i in 0..60 {
        let cancelled = publisher::cancel_scheduled(ingress.bus(), patient(), "acme", "/tests", &format!("e{i}")).await;
        cancelled.expect("the bus answers").expect("it may ask");
    }
    eventually("there is a place again", || async {
        at("acme", "new".into()).await.ok()
    })
    .await;
}
