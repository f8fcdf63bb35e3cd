//! The order of deliveries while parts break: connections lose what is on them, owners freeze and go on, answers are lost,
//! leaders change, servers are killed.
//!
//! The law: of each key, first deliveries never go back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::message::PublishMessage;
use fanout_tests::nemesis::{Frozen, Nemesis, Way, small_store};
use fanout_tests::types::{self, InboxError, LeasedDelivery, SettleError, Settlement};
use fanout_tests::{Bench, Component, LinkTo, Verdict, event, eventually, inbox, stored};
use fanout_transport::CallContext;
use futures::TryStreamExt as _;

const LOG: &str = "fanout_payments_log";
const TENANTS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn links() -> Vec<LinkTo> {
    vec![LinkTo::subscriber(
        "invoicing",
        &["handler"],
        &[("subscription", "invoicing"), ("need", "durable"), ("concurrency", "4")],
    )]
}

/// An order a tenant, and attempts enough for invocations that are cut off.
const SETTINGS: [(&str, &str); 2] = [("ordering", "tenant"), ("retry.max-attempts", "1000")];

/// Publishes straight into the log, so that no fault of an instance is in its way. A careful publisher: the next event of a
/// tenant after the last is stored.
struct Publisher {
    js: jetstream::Context,
    next: AtomicUsize,
}

impl Publisher {
    fn on(bench: &Bench) -> Self {
        Self {
            js: jetstream::new(bench.client().clone()),
            next: AtomicUsize::new(0),
        }
    }

    /// So many of each tenant.
    async fn publish(&self, rounds: usize) {
        for _ in 0..rounds {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            for tenant in TENANTS {
                let id = format!("{tenant}-{i:05}");
                eventually("an event is stored", || async { self.put(tenant, &id).await.ok() }).await;
            }
        }
    }

    async fn put(&self, tenant: &str, id: &str) -> Result<(), async_nats::Error> {
        let event = format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/test","type":"invoice.paid","tenant":"{tenant}"}}"#
        );
        let message = PublishMessage::build()
            .payload(event.into())
            .header("Content-Type", "application/cloudevents+json")
            .message_id(id);
        let subject = format!("payments.{tenant}.webhook.invoice.paid");
        self.js.send_publish(subject, message).await?.await?;
        Ok(())
    }

    fn published(&self) -> usize {
        self.next.load(Ordering::Relaxed) * TENANTS.len()
    }
}

/// Each tenant's positions, each at its first delivery.
fn first_deliveries(component: &Component) -> BTreeMap<String, Vec<(u32, u64)>> {
    component.seen(|s| {
        let mut all: BTreeMap<String, Vec<(u32, u64)>> = BTreeMap::new();
        for d in &s.deliveries {
            let of_tenant = all.entry(d.event.tenant.clone()).or_default();
            let position = (d.position.partition, d.position.offset);
            if !of_tenant.contains(&position) {
                of_tenant.push(position);
            }
        }
        all
    })
}

fn keeps_the_order(component: &Component) {
    for (tenant, positions) in first_deliveries(component) {
        let back: Vec<_> = positions.windows(2).filter(|w| w[0] > w[1]).collect();
        assert!(back.is_empty(), "first deliveries of {tenant} went back: {back:?}");
    }
}

/// How many events were handled, each counted once.
fn handled(component: &Component) -> usize {
    let ids: BTreeSet<_> = component.handled().into_iter().collect();
    ids.len()
}

async fn all_are_handled(component: &Component, count: usize) {
    eventually("all are handled", || async {
        (handled(component) == count).then_some(())
    })
    .await;
}

/// The lease's revision, and what it says.
async fn lease(bench: &Bench) -> (u64, bytes::Bytes) {
    let js = jetstream::new(bench.client().clone());
    let entry = eventually("somebody is the owner", || async {
        let bucket = js.get_key_value("fanout_payments_leases").await.ok()?;
        let keys: Vec<String> = bucket.keys().await.ok()?.try_collect().await.ok()?;
        let key = keys.into_iter().find(|key| key.ends_with("=order.owner"))?;
        bucket.entry(&key).await.ok()?
    })
    .await;
    (entry.revision, entry.value)
}

async fn consumer(bench: &Bench) -> jetstream::consumer::Info {
    let js = jetstream::new(bench.client().clone());
    let log = js.get_stream(LOG).await.unwrap();
    let name = stored::consumer_name(&log, "invoicing").await.unwrap();
    let mut consumer: PullConsumer = log.get_consumer(&name).await.unwrap();
    consumer.info().await.unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_between_the_log_and_the_owner_goes_before_what_follows() {
    let mut bench = Bench::without_provider(&SETTINGS, &links()).await;
    // Nothing comes again by itself before the test is over.
    bench.set("delivery.ack-wait", "20s");
    let proxy = bench.put_proxy().await;
    bench.add_provider().await;
    let publisher = Publisher::on(&bench);
    let invoicing = bench.component("invoicing").await;
    let was_lost = || bench.providers[0].log().matches("did not arrive").count();
    for _ in 0..5 {
        let before = was_lost();
        publisher.publish(2).await;
        all_are_handled(&invoicing, publisher.published()).await;
        proxy.hold(Way::ToClient);
        publisher.publish(2).await;
        eventually("the log has delivered what will be lost", || async {
            (consumer(&bench).await.num_pending == 0).then_some(())
        })
        .await;
        proxy.reset();
        publisher.publish(2).await;
        all_are_handled(&invoicing, publisher.published()).await;
        assert!(was_lost() > before, "each round loses something");
    }
    keeps_the_order(&invoicing);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_frozen_takes_nothing_with_it() {
    let mut bench = Bench::start(&SETTINGS, &links()).await;
    let publisher = Publisher::on(&bench);
    let invoicing = bench.component("invoicing").await;
    publisher.publish(3).await;
    all_are_handled(&invoicing, publisher.published()).await;
    bench.add_provider().await;
    let owners = |i: usize| {
        bench.providers[i]
            .log()
            .matches("this instance owns the subscription's order")
            .count()
    };
    for round in 0..4 {
        let (old, new) = (round % 2, 1 - round % 2);
        let before = owners(new);
        let frozen = Frozen::process(bench.providers[old].id());
        eventually("the other instance delivers", || async {
            (owners(new) > before).then_some(())
        })
        .await;
        publisher.publish(3).await;
        eventually("the frozen instance's pull has ended at the server", || async {
            (consumer(&bench).await.num_waiting <= 1).then_some(())
        })
        .await;
        // It goes on while events are stored: what it pulls now, it takes from the other.
        let goes_on = async {
            tokio::task::yield_now().await;
            frozen.thaw();
        };
        tokio::join!(publisher.publish(60), goes_on);
        all_are_handled(&invoicing, publisher.published()).await;
    }
    keeps_the_order(&invoicing);
    bench
        .subscription_when("invoicing", "nothing is left", |s| {
            s.pending == Some(0) && s.in_flight == Some(0)
        })
        .await;
}

/// A fetch of one event, wherever the lattice takes it. What the bus can't do now has to be said as such.
async fn fetch_one(billing: &Component) -> Option<LeasedDelivery> {
    // An instance that is frozen does not answer. Half of the calls go to it: short ones, so that many fit before the deadline.
    let context = CallContext::within(Duration::from_secs(4));
    match inbox::fetch(billing.bus(), context, "billing", 1, None, 2_000)
        .await
        .ok()?
    {
        Ok(mut fetched) => fetched.deliveries.pop(),
        Err(InboxError::Unavailable(p)) => {
            assert!(p.message.contains("try again"), "{p:?}");
            None
        }
        Err(refused) => panic!("{refused:?}"),
    }
}

/// What a fetcher was given, and what of it was taken as handled.
#[derive(Default)]
struct Fetched {
    first_deliveries: BTreeMap<String, Vec<u64>>,
    handled: BTreeSet<String>,
}

impl Fetched {
    async fn handle(&mut self, billing: &Component, held: &LeasedDelivery) {
        let event = &held.delivery.event;
        let of_tenant = self.first_deliveries.entry(event.tenant.clone()).or_default();
        if !of_tenant.contains(&held.delivery.position.offset) {
            of_tenant.push(held.delivery.position.offset);
        }
        let taken = eventually("it is settled, or comes again", || async {
            let settlement = Settlement {
                token: held.token.clone(),
                verdict: types::Verdict::Handled,
            };
            let context = CallContext::within(Duration::from_secs(2));
            let answers = inbox::settle(billing.bus(), context, &[settlement]).await.ok()?;
            match answers.into_iter().next()? {
                Ok(_) => Some(true),
                Err(SettleError::LeaseExpired(_)) => Some(false),
                Err(SettleError::Unavailable(_)) => None,
                Err(refused) => panic!("{refused:?}"),
            }
        })
        .await;
        if taken {
            self.handled.insert(event.id.clone());
        }
    }

    async fn handle_all(&mut self, billing: &Component, count: usize) {
        while self.handled.len() < count {
            let held = eventually("a delivery comes", || fetch_one(billing)).await;
            self.handle(billing, &held).await;
        }
    }
}

/// Events that `billing` fetches in an order, whose owner is replaced within 3 s.
async fn fetched_in_order() -> Bench {
    let links = [
        LinkTo::caller("billing", &["inbox"], "*"),
        LinkTo::subscriber(
            "billing",
            &["inbox"],
            &[("subscription", "billing"), ("need", "durable")],
        ),
    ];
    let settings = [
        ("ordering", "tenant"),
        ("retry.max-attempts", "1000"),
        ("delivery.deadline", "500ms"),
        ("delivery.ack-wait", "3s"),
    ];
    Bench::start(&settings, &links).await
}

/// An owner that is frozen keeps its connection and answers nothing: its successor takes the verdicts on what it dispatched.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_frozen_owner_dispatched_is_settled_while_it_is_frozen() {
    let mut bench = fetched_in_order().await;
    let publisher = Publisher::on(&bench);
    let billing = bench.silent_component("billing").await;
    publisher.put("a", "a-00000").await.unwrap();
    let held = eventually("a delivery comes", || fetch_one(&billing)).await;
    bench.add_provider().await;
    let frozen = Frozen::process(bench.providers[0].id());
    let mut fetched = Fetched::default();
    fetched.handle(&billing, &held).await;
    assert_eq!(fetched.handled.len(), 1, "however late, what was handled is taken");
    publisher.put("a", "a-00001").await.unwrap();
    fetched.handle_all(&billing, 2).await;
    frozen.thaw();
    bench
        .subscription_when("billing", "nothing is left", |s| {
            s.pending == Some(0) && s.in_flight == Some(0)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_outlives_an_owner_that_freezes_while_it_waits() {
    let mut bench = fetched_in_order().await;
    let publisher = Publisher::on(&bench);
    let billing = bench.silent_component("billing").await;
    let mut fetched = Fetched::default();
    publisher.publish(1).await;
    fetched.handle_all(&billing, publisher.published()).await;
    bench.add_provider().await;
    let owners = |i: usize| {
        bench.providers[i]
            .log()
            .matches("this instance owns the subscription's order")
            .count()
    };
    for round in 0..2 {
        let (old, new) = (round % 2, 1 - round % 2);
        let before = owners(new);
        // Whichever instances these reach, those of the other one wait at the owner.
        let waiting = futures::future::join_all((0..4).map(|_| fetch_one(&billing)));
        let freezes = async {
            eventually("a fetch waits at an owner", || async {
                (bench.status().await?.subscriptions[0].attended == Some(true)).then_some(())
            })
            .await;
            let frozen = Frozen::process(bench.providers[old].id());
            publisher.publish(2).await;
            frozen
        };
        let (brought, frozen) = tokio::join!(waiting, freezes);
        for held in brought.into_iter().flatten() {
            fetched.handle(&billing, &held).await;
        }
        eventually("the other instance delivers", || async {
            (owners(new) > before).then_some(())
        })
        .await;
        frozen.thaw();
        fetched.handle_all(&billing, publisher.published()).await;
    }
    for (tenant, offsets) in &fetched.first_deliveries {
        assert!(
            offsets.is_sorted(),
            "first deliveries of {tenant} went back: {offsets:?}"
        );
    }
    eventually("nothing is left", || async {
        if let Some(again) = fetch_one(&billing).await {
            Fetched::default().handle(&billing, &again).await;
        }
        let left = &bench.status().await?.subscriptions[0];
        (left.pending == Some(0) && left.in_flight == Some(0)).then_some(())
    })
    .await;
}

/// The states of all partitions, one after another, would take longer over this link than an ownership lasts without a
/// renewal; and while they are asked for, events go on coming.
#[tokio::test(flavor = "multi_thread")]
async fn over_a_slow_link_a_new_subscription_of_many_partitions_begins_at_once() {
    let settings = [("ordering", "tenant"), ("topology", "per-tenant")];
    let caller = [LinkTo::caller("ingress", &["publisher"], "*")];
    let mut bench = Bench::start(&settings, &caller).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    let tenants: Vec<String> = (0..20).map(|i| format!("t{i:02}")).collect();
    for tenant in &tenants {
        let id = format!("{tenant}-before");
        ingress.publish(event(tenant, "invoice.paid", &id)).await.unwrap();
    }
    let proxy = bench.put_proxy().await;
    proxy.delay(Duration::from_millis(20));
    bench.restart_provider(0).await;
    bench.put_link(&links()[0]).await;
    let mut expected = BTreeSet::new();
    let (mut there, mut round) = (None, 0);
    // Longer than what never comes back is waited for, once the subscription is there.
    while there.is_none_or(|since: Instant| since.elapsed() < Duration::from_secs(8)) {
        let published = tenants.iter().map(|tenant| {
            let (ingress, id) = (&ingress, format!("{tenant}-{round:05}"));
            async move {
                let receipt = ingress.publish(event(tenant, "invoice.paid", &id)).await.unwrap();
                (receipt.durable_subscriptions == 1).then_some(id)
            }
        });
        expected.extend(futures::future::join_all(published).await.into_iter().flatten());
        if !expected.is_empty() {
            there = there.or_else(|| Some(Instant::now()));
        }
        round += 1;
        assert!(round < 2_000, "the subscription is not there");
    }
    eventually("all are handled", || async {
        let handled: BTreeSet<_> = invoicing.handled().into_iter().collect();
        expected.is_subset(&handled).then_some(())
    })
    .await;
    keeps_the_order(&invoicing);
    let log = bench.providers[0].log();
    assert!(!log.contains("order-not-kept"), "nothing was missing: {log}");
    assert!(!log.contains("ownership of the order is over"), "it was renewed: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_whose_answer_was_lost_ends_no_ownership() {
    let mut bench = Bench::without_provider(&SETTINGS, &links()).await;
    let proxy = bench.put_proxy().await;
    bench.add_provider().await;
    let entry = async || lease(&bench).await;
    let (mut revision, owner) = entry().await;
    for _ in 0..3 {
        proxy.hold(Way::ToClient);
        eventually("a renewal is stored, and its answer is held", || async {
            (entry().await.0 > revision).then_some(())
        })
        .await;
        proxy.reset();
        revision = entry().await.0;
        eventually("the owner renews it again", || async {
            (entry().await.0 > revision + 1).then_some(())
        })
        .await;
        revision = entry().await.0;
    }
    assert_eq!(entry().await.1, owner, "it is the same ownership");
    let log = bench.providers[0].log();
    assert_eq!(
        log.matches("this instance owns the subscription's order").count(),
        1,
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_keeps_the_order() {
    let mut bench = Bench::start(&SETTINGS, &links()).await;
    let publisher = Publisher::on(&bench);
    let invoicing = bench.component("invoicing").await;
    for _ in 0..3 {
        publisher.publish(20).await;
        bench.nats.restart().await;
    }
    publisher.publish(2).await;
    all_are_handled(&invoicing, publisher.published()).await;
    keeps_the_order(&invoicing);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_settlements_nobody_confirms_gives_way_to_the_next() {
    let bench = Bench::start(&SETTINGS, &links()).await;
    let publisher = Publisher::on(&bench);
    let invoicing = bench.component("invoicing").await;
    let (is_called, is_open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (called, open) = (Arc::clone(&is_called), Arc::clone(&is_open));
    invoicing.judge(move |_| {
        called.store(true, Ordering::Relaxed);
        tokio::task::block_in_place(|| {
            while !open.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Verdict::Handle
    });
    publisher.publish(3).await;
    eventually("an event is with its handler", || async {
        is_called.load(Ordering::Relaxed).then_some(())
    })
    .await;
    // What was delivered from it can never be confirmed.
    let name = consumer(&bench).await.name;
    Nemesis::on(bench.client()).delete_consumer(LOG, &name).await;
    is_open.store(true, Ordering::Relaxed);
    all_are_handled(&invoicing, publisher.published()).await;
    keeps_the_order(&invoicing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_no_ownership() {
    let sizes = [
        "retention",
        "dead-letters",
        "scheduled",
        "registry",
        "attempts",
        "retry",
    ]
    .map(|s| format!("{s}.max-bytes"));
    let mut settings = SETTINGS.to_vec();
    settings.extend(sizes.iter().map(|size| (size.as_str(), "1MiB")));
    let bench = Bench::start_on(small_store(16 << 20), &settings, &links()).await;
    let publisher = Publisher::on(&bench);
    publisher.publish(10).await;
    let js = jetstream::new(bench.client().clone());
    let filler = jetstream::stream::Config {
        name: "filler".into(),
        subjects: vec!["filler".into()],
        ..Default::default()
    };
    js.create_stream(filler).await.unwrap();
    for size in [256 << 10, 1 << 10, 1] {
        while js.publish("filler", vec![0; size].into()).await.unwrap().await.is_ok() {}
    }
    let (since, owner) = lease(&bench).await;
    eventually("the owner renews its lease again and again", || async {
        (lease(&bench).await.0 > since + 10).then_some(())
    })
    .await;
    assert_eq!(lease(&bench).await.1, owner);
    let invoicing = bench.component("invoicing").await;
    all_are_handled(&invoicing, publisher.published()).await;
    keeps_the_order(&invoicing);
    let full = js.publish("filler", "".into()).await.unwrap().await;
    assert!(full.is_err(), "the disk is still full");
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_change_keep_the_order() {
    let mut settings = SETTINGS.to_vec();
    settings.push(("retention.replicas", "3"));
    let (mut bench, _others) = Bench::without_provider_in_cluster(&settings, &links()).await;
    let proxy = bench.put_proxy().await;
    bench.add_provider().await;
    let publisher = Publisher::on(&bench);
    let invoicing = bench.component("invoicing").await;
    let nemesis = Nemesis::on(bench.client());
    let changes = async {
        for round in 0..6 {
            let goal = (round + 1) * 24;
            eventually("some are handled", || async {
                (handled(&invoicing) >= goal).then_some(())
            })
            .await;
            match round % 3 {
                0 => assert!(nemesis.step_down_consumer(LOG, &consumer(&bench).await.name).await),
                1 => nemesis.step_down(LOG).await,
                _ => proxy.reset(),
            }
        }
    };
    tokio::join!(publisher.publish(40), changes);
    all_are_handled(&invoicing, publisher.published()).await;
    keeps_the_order(&invoicing);
}
