//! `fanout-client` against a served bus: its promises, through restarts of everything.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fanout_client::{
    Bus, ClientTls, Deliveries, Delivery, ErrorKind, Event, Options, Pem, Start, Subscription, connect, connect_with,
};
use fanout_tests::nemesis::{Proxy, Way};
use fanout_tests::{ANYONE_HERE, Bench, LinkTo, SERVED_POLICY, Served, eventually, stored};
use fanout_transport::testing::{NatsServer, TestAuthority};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it is seen that a settlement has no answer.
const LOST: Duration = Duration::from_secs(4);

struct World {
    nats: NatsServer,
    served: Served,
    policy: PathBuf,
    folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        Self::with("").await
    }

    async fn with(more: &str) -> Self {
        let nats = NatsServer::start().await;
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.toml");
        std::fs::write(&policy, format!("{SERVED_POLICY}{ANYONE_HERE}{more}")).unwrap();
        let served = Served::start(&nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
        Self {
            nats,
            served,
            policy,
            folder,
        }
    }

    fn url(&self) -> &str {
        &self.served.listen[0]
    }

    /// Kills the server and starts it where it was.
    fn restart(&mut self) {
        let url = self.url().to_owned();
        self.served.kill();
        self.served = Served::start(&self.nats.url(), &self.policy, &["--listen", &url]);
    }

    async fn bus(&self) -> Bus {
        connect(self.url()).await.unwrap()
    }
}

fn event(id: &str) -> Event {
    Event::new("acme", "invoice.paid", id).data(format!("{{\"id\":\"{id}\"}}"))
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    let next = tokio::time::timeout(PATIENCE, deliveries.recv()).await;
    next.expect("one comes in time").expect("the stream goes on").unwrap()
}

fn id(delivery: &Delivery) -> &str {
    &delivery.event().id
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_delivered_and_settled_once() {
    let world = World::new().await;
    let bus = world.bus().await;
    let mut deliveries = bus
        .subscribe(Subscription::durable("billing").event_types(["invoice.*"]))
        .await
        .unwrap();
    let first = bus.publish(&event("1")).await.unwrap();
    assert_eq!(
        (
            first.position.to_string().as_str(),
            first.duplicate,
            first.durable_subscriptions
        ),
        ("0/1", false, 1)
    );
    let again = bus.publish(&event("1")).await.unwrap();
    assert!(again.duplicate && again.position == first.position);
    let many: Vec<_> = (2..=1_200).map(|i| event(&i.to_string())).collect();
    let receipts = bus.publish_many(&many).await;
    let offsets: Vec<_> = receipts.into_iter().map(|r| r.unwrap().position.offset).collect();
    assert_eq!(offsets, (2..=1_200).collect::<Vec<_>>(), "in the order given");
    // Without an order, two that are in flight may change places.
    let mut left: BTreeSet<_> = (1..=1_200).map(|i: u32| i.to_string()).collect();
    while !left.is_empty() {
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.attempt(), 1);
        assert!(left.remove(id(&delivery)), "{} came twice", id(&delivery));
        delivery.ack().await.unwrap();
    }
    deliveries.stop(PATIENCE).await;
    // All are settled: the same subscription has nothing more.
    let mut again = bus
        .subscribe(Subscription::durable("billing").event_types(["invoice.*"]))
        .await
        .unwrap();
    bus.publish(&event("last")).await.unwrap();
    assert_eq!(id(&next(&mut again).await), "last");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_settlement_does_what_it_says() {
    let world = World::new().await;
    let bus = world.bus().await;
    let mut deliveries = bus
        .subscribe(Subscription::durable("billing").prefetch(1))
        .await
        .unwrap();
    bus.publish(&event("1")).await.unwrap();
    // Given back untried: not an attempt.
    next(&mut deliveries).await.release().await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.attempt(), 1);
    drop(delivery);
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.attempt(), 2, "dropped, it was refused");
    delivery.retry_after(Duration::from_millis(5), "soon").await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.attempt(), 3);
    delivery.retry("once too often").await.unwrap();
    bus.publish(&event("2")).await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!(id(&delivery), "2", "the first is a dead letter");
    delivery.dead_letter("no amount").await.unwrap();
    let js = async_nats::jetstream::new(world.nats.client().await);
    let dead = js.get_stream("fanout_payments_dead").await.unwrap();
    let mut reasons = Vec::new();
    for offset in [1, 2] {
        let letter = stored::dead_letter(&dead, "billing", "acme", offset).await;
        reasons.push(letter.headers.get("fanout-dead-attempts").unwrap().to_string());
    }
    for reason in ["dropped without a settlement", "soon", "once too often"] {
        assert!(reasons[0].contains(reason), "{reasons:?}");
    }
    assert!(reasons[1].contains("no amount"), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_held_for_as_long_as_it_is_worked_on() {
    let world = World::new().await;
    let bus = world.bus().await;
    let mut deliveries = bus
        .subscribe(Subscription::durable("billing").prefetch(2))
        .await
        .unwrap();
    for i in ["1", "2", "3"] {
        bus.publish(&event(i)).await.unwrap();
    }
    let (first, second) = (next(&mut deliveries).await, next(&mut deliveries).await);
    // Three holds' time.
    let nothing = tokio::time::timeout(Duration::from_secs(6), deliveries.recv()).await;
    assert!(nothing.is_err(), "two are held, and no third is fetched: {nothing:?}");
    assert!(!first.is_lost() && !second.is_lost());
    first.ack().await.unwrap();
    let third = next(&mut deliveries).await;
    assert_eq!((id(&third), third.attempt()), ("3", 1));
    second.ack().await.unwrap();
    third.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_restarted_in_the_middle_nothing_is_lost() {
    let mut world = World::new().await;
    let bus = world.bus().await;
    let mut deliveries = bus
        .subscribe(Subscription::durable("billing").prefetch(16))
        .await
        .unwrap();
    let publisher = bus.clone();
    let publishing = tokio::spawn(async move {
        for i in 0..300 {
            publisher.publish(&event(&format!("e{i:03}"))).await.unwrap();
        }
    });
    let mut handled = BTreeSet::new();
    let mut killed = 0;
    while handled.len() < 300 {
        let delivery = next(&mut deliveries).await;
        let id = id(&delivery).to_owned();
        if delivery.ack().await.is_ok() {
            handled.insert(id);
        }
        // Each once: what follows a kill may be refused, or come again, while as many are handled as before.
        match (killed, handled.len()) {
            (0, 60..) => world.restart(),
            (1, 150..) => world.nats.restart().await,
            _ => continue,
        }
        killed += 1;
    }
    assert_eq!(killed, 2);
    publishing.await.unwrap();
    assert_eq!(handled, (0..300).map(|i| format!("e{i:03}")).collect());
    deliveries.stop(PATIENCE).await;
    drop(world.folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_says_when_it_has_caught_up() {
    let world = World::new().await;
    let bus = world.bus().await;
    for i in ["1", "2", "3"] {
        bus.publish(&event(i)).await.unwrap();
    }
    let mut deliveries = bus
        .subscribe(Subscription::backfill("replay", Start::First))
        .await
        .unwrap();
    for _ in 0..3 {
        let delivery = next(&mut deliveries).await;
        assert!(delivery.replayed());
        delivery.ack().await.unwrap();
    }
    let told = eventually("it is told", || async { deliveries.caught_up() }).await;
    assert_eq!((told.replayed, told.finished), (3, false));
    bus.publish(&event("4")).await.unwrap();
    assert!(!next(&mut deliveries).await.replayed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_error_with_a_kind_and_a_code() {
    let world = World::with("publish.event-types = \"invoice.*\"\n").await;
    let bus = world.bus().await;
    let refused = bus.publish(&Event::new("acme", "charge.made", "1")).await.unwrap_err();
    assert_eq!(
        (refused.kind, refused.code.as_str()),
        (ErrorKind::NotPermitted, "event-type-not-permitted")
    );
    let refused = bus.publish(&Event::new("a\nb", "invoice.paid", "1")).await.unwrap_err();
    assert_eq!(
        (refused.kind, refused.code.as_str()),
        (ErrorKind::Invalid, "invalid-tenant")
    );
    let refused = bus.publish(&event("1").data(vec![0; 600 << 10])).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::TooLarge);
    let mut mixed = bus
        .publish_many(&[event("1"), Event::new("acme", "x", "2"), event("3")])
        .await;
    assert_eq!(mixed.remove(1).unwrap_err().kind, ErrorKind::NotPermitted);
    assert!(mixed.iter().all(Result::is_ok), "the others are stored: {mixed:?}");
    let together = bus.publish_together(&[event("4"), Event::new("acme", "x", "2")]).await;
    assert_eq!(together.unwrap_err().kind, ErrorKind::NotPermitted);
    let receipts = bus.publish_together(&[event("4"), event("3")]).await.unwrap();
    let repeats: Vec<_> = receipts.iter().map(|r| r.duplicate).collect();
    assert_eq!(repeats, [false, true], "of those that were refused none was stored");
    bus.subscribe(Subscription::durable("x")).await.unwrap();
    let refused = bus.subscribe(Subscription::queue("x")).await.unwrap_err();
    assert_eq!(
        (refused.kind, refused.code.as_str()),
        (ErrorKind::Conflict, "subscription-conflict")
    );
    let mut unknown = bus.subscribe(Subscription::declared("nowhere")).await.unwrap();
    let refused = unknown.recv().await.unwrap().unwrap_err();
    assert_eq!(refused.kind, ErrorKind::UnknownSubscription);
    assert!(unknown.recv().await.is_none(), "and the stream is over");
    bus.unsubscribe("x").await.unwrap();
    assert_eq!(
        bus.unsubscribe("x").await.unwrap_err().kind,
        ErrorKind::UnknownSubscription
    );
}

/// The first attempt is in the log, and its answer is on its way: a refusal of the next does not say that nothing is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_after_an_attempt_without_an_answer_is_an_unknown_outcome() {
    let nats = NatsServer::start().await;
    let proxy = Proxy::before(nats.port()).await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    let allows = |tenants: &str| {
        let callers = format!("[callers.program]\nloopback = true\npublish.tenants = [\"{tenants}\"]\n");
        std::fs::write(&policy, format!("{SERVED_POLICY}{callers}")).unwrap();
    };
    allows("acme");
    let served = Served::start(&proxy.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let bus = connect(&served.listen[0]).await.unwrap();
    bus.publish(&event("before")).await.unwrap();
    proxy.hold(Way::ToClient);
    let attempts = async {
        let first = bus.publish(&event("1")).await.unwrap_err();
        // One that begins now has no attempt before it.
        (first, bus.publish(&event("2")).await.unwrap_err())
    };
    let takes_the_right_away = async {
        let log = async_nats::jetstream::new(nats.client().await);
        eventually("the event is in the log", || async {
            let mut log = log.get_stream("fanout_payments_log").await.ok()?;
            (log.info().await.ok()?.state.messages == 2).then_some(())
        })
        .await;
        allows("globex");
        served.signal("HUP");
    };
    let ((unknown, refused), ()) = tokio::join!(attempts, takes_the_right_away);
    assert_eq!(unknown.kind, ErrorKind::OutcomeUnknown, "{unknown:?}");
    assert_eq!(refused.kind, ErrorKind::NotPermitted, "{refused:?}");
}

/// The store is held while an owner of an order settles, until it is the owner no more; what it had sent is lost then.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_learns_is_settled_does_not_come_again() {
    let nats = NatsServer::start().await;
    let proxy = Proxy::before(nats.port()).await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    // The ownership is over before it is seen that the store does not confirm.
    let text = SERVED_POLICY.replace("ack-wait = \"2s\"", "ack-wait = \"1s\"");
    let text = format!("ordering = \"tenant\"\n{text}{ANYONE_HERE}");
    std::fs::write(&policy, text).unwrap();
    let served = Served::start(&proxy.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let bus = connect(&served.listen[0]).await.unwrap();
    let mut deliveries = bus.subscribe(Subscription::durable("billing")).await.unwrap();
    let id = |delivery: &Delivery| delivery.event().id.clone();
    bus.publish(&event("first")).await.unwrap();
    let delivery = next(&mut deliveries).await;
    proxy.hold(Way::ToServer);
    let mut settles = std::pin::pin!(delivery.ack());
    let is_over = eventually("it is the owner no more", || async {
        served.log().contains("ownership of the order is over").then_some(())
    });
    let early = tokio::select! {
        early = &mut settles => Some(early),
        () = is_over => tokio::time::timeout(LOST, &mut settles).await.ok(),
    };
    assert!(!matches!(early, Some(Ok(()))), "nothing of it has reached the store");
    proxy.reset();
    if early.is_none() {
        settles.await.unwrap();
    }
    bus.publish(&event("after")).await.unwrap();
    // In its tenant's order, whatever is not settled comes before it.
    let next = next(&mut deliveries).await;
    assert_eq!(id(&next), "after");
    next.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_at_its_deadline() {
    let mut world = World::new().await;
    let mut options = Options::default();
    options.deadline = Duration::from_millis(700);
    let bus = connect_with(world.url(), options.clone()).await.unwrap();
    world.served.kill();
    let began = std::time::Instant::now();
    let error = bus.publish(&event("1")).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let nobody = connect_with(world.url(), options).await.unwrap_err();
    assert_eq!(nobody.kind, ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_program_on_a_lattice() {
    let links = [LinkTo::caller("program", &["publisher", "subscriber", "inbox"], "*")];
    let bench = Bench::start(&[], &links).await;
    let mut options = Options::default();
    options.component = "program".to_owned();
    let url = format!("{}?target=default.bus", bench.nats.url());
    let bus = connect_with(&url, options).await.unwrap();
    let mut deliveries = bus.subscribe(Subscription::durable("billing")).await.unwrap();
    bus.publish(&event("1")).await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!(id(&delivery), "1");
    delivery.ack().await.unwrap();
}

/// Writes a certificate or key where a server can read it.
fn file(folder: &Path, name: &str, pem: &Pem) -> String {
    let path = folder.join(name);
    let Pem::Text(text) = pem else {
        panic!("it is in memory")
    };
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn over_quic_a_caller_is_known_by_its_certificate() {
    let authority = TestAuthority::new();
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    let callers = "\n[callers.billing]\ncertificate-dns = \"billing.example\"\npublish.tenants = \"acme\"\nsubscribe.tenants = \"acme\"\n";
    std::fs::write(&policy, format!("{SERVED_POLICY}{callers}")).unwrap();
    let tls = authority.server();
    let certificate = file(folder.path(), "bus.pem", &tls.certificate);
    let key = file(folder.path(), "bus.key", &tls.key);
    let ca = file(folder.path(), "ca.pem", &authority.certificate());
    let nats = NatsServer::start().await;
    let mut args = vec![
        "--tls-certificate",
        &certificate,
        "--tls-key",
        &key,
        "--tls-client-ca",
        &ca,
    ];
    args.extend(["--listen", "quic://127.0.0.1:0", "--listen", "tls://127.0.0.1:0"]);
    let served = Served::start(&nats.url(), &policy, &args);
    for url in &served.listen {
        let url = url.replace("127.0.0.1", "localhost");
        let of = |name: &str| {
            let mut options = Options::default();
            options.tls = Some(authority.client(name));
            options
        };
        let bus = connect_with(&url, of("billing.example")).await.unwrap();
        let mut deliveries = bus.subscribe(Subscription::durable("billing")).await.unwrap();
        bus.publish(&event(&url)).await.unwrap();
        let delivery = next(&mut deliveries).await;
        assert_eq!(id(&delivery), url);
        delivery.ack().await.unwrap();
        deliveries.stop(PATIENCE).await;
        let refused = bus
            .publish(&Event::new("globex", "invoice.paid", "x"))
            .await
            .unwrap_err();
        assert_eq!(
            (refused.kind, refused.code.as_str()),
            (ErrorKind::NotPermitted, "tenant-not-permitted")
        );

        let stranger = connect_with(&url, of("other.example")).await.unwrap();
        let refused = stranger.publish(&event("x")).await.unwrap_err();
        assert_eq!(
            (refused.kind, refused.code.as_str()),
            (ErrorKind::NotPermitted, "unknown-caller")
        );
        assert!(refused.message.contains("other.example"), "{refused}");

        // One whose authority the bus does not know is not let in.
        let mut options = Options::default();
        options.tls = Some(ClientTls {
            server_ca: authority.certificate(),
            identity: Some(TestAuthority::new().sign("billing.example")),
            server_name: None,
        });
        let refused = connect_with(&url, options).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NotPermitted, "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_listens_beside_its_lattice() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("unix:{}", folder.path().join("bus.sock").display());
    let uid = std::process::Command::new("id").arg("-u").output().unwrap().stdout;
    let uid = String::from_utf8(uid).unwrap().trim().to_owned();
    let settings = [
        ("listen", url.as_str()),
        ("callers.program.unix-uid", uid.as_str()),
        ("callers.program.publish.tenants", "*"),
        ("callers.program.subscribe.tenants", "acme"),
        ("subscriptions.given.need", "durable"),
        ("subscriptions.given.component", "caller:program"),
        ("subscriptions.given.tenants", "acme"),
    ];
    let links = [LinkTo::subscriber(
        "invoicing",
        &["handler"],
        &[("subscription", "invoicing"), ("need", "durable")],
    )];
    let bench = Bench::start(&settings, &links).await;
    let invoicing = bench.component("invoicing").await;
    let bus = connect(&url).await.unwrap();
    bus.publish(&event("1")).await.unwrap();
    eventually("the component has it", || async {
        (invoicing.handled() == ["1"]).then_some(())
    })
    .await;
    // What the policy declares for the program is its own without asking.
    let mut given = bus.subscribe(Subscription::declared("given")).await.unwrap();
    let delivery = next(&mut given).await;
    assert_eq!(id(&delivery), "1");
    delivery.ack().await.unwrap();
    let mut thief = bus.subscribe(Subscription::declared("invoicing")).await.unwrap();
    let refused = thief.recv().await.unwrap().unwrap_err();
    assert_eq!(refused.kind, ErrorKind::UnknownSubscription);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_goes_to_one_of_its_fetchers() {
    let world = World::new().await;
    let bus = world.bus().await;
    let mut one = bus.subscribe(Subscription::queue("live")).await.unwrap();
    let mut other = world.bus().await.subscribe(Subscription::queue("live")).await.unwrap();
    // Published until it is heard: what comes before they listen is not kept for them.
    let mut published = 0;
    let heard = |seen: &BTreeSet<String>, n: u32| seen.iter().filter(|id| id.as_str() >= "b").count() >= n as usize;
    let mut seen = BTreeSet::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !heard(&seen, 20) {
        assert!(tokio::time::Instant::now() < deadline, "{seen:?}");
        let prefix = if seen.is_empty() { "a" } else { "b" };
        bus.publish(&event(&format!("{prefix}{published:04}"))).await.unwrap();
        published += 1;
        let wait = Duration::from_millis(20);
        for stream in [&mut one, &mut other] {
            while let Ok(Some(delivery)) = tokio::time::timeout(wait, stream.recv()).await {
                let delivery = delivery.unwrap();
                assert!(seen.insert(id(&delivery).to_owned()), "{} came twice", id(&delivery));
                delivery.ack().await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_along_with_the_event() {
    let world = World::new().await;
    let bus = world.bus().await;
    let mut deliveries = bus.subscribe(Subscription::durable("billing")).await.unwrap();
    let trace = |i: u32| format!("00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b{i}-01");
    bus.publish(&event("one").traceparent(trace(1))).await.unwrap();
    let many = [
        event("two").traceparent(trace(2)),
        event("three").traceparent(trace(3)),
        event("none"),
    ];
    for receipt in bus.publish_many(&many).await {
        receipt.unwrap();
    }
    bus.publish_at(&event("later").traceparent(trace(4)), 1).await.unwrap();
    let mut traces = std::collections::BTreeMap::new();
    for _ in 0..5 {
        let delivery = next(&mut deliveries).await;
        assert!(
            delivery.event().extensions.is_empty(),
            "it is no attribute of the event"
        );
        traces.insert(id(&delivery).to_owned(), delivery.event().traceparent.clone());
        delivery.ack().await.unwrap();
    }
    let expected = [
        ("later", Some(trace(4))),
        ("none", None),
        ("one", Some(trace(1))),
        ("three", Some(trace(3))),
        ("two", Some(trace(2))),
    ];
    assert_eq!(traces, expected.map(|(id, trace)| (id.to_owned(), trace)).into());
    assert!(
        bus.cancel_scheduled("acme", "", "none")
            .await
            .is_ok_and(|cancelled| !cancelled)
    );
}
