//! Scheduled events: published once, when due, through restarts; cancelled or published, never both.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use fanout_tests::publisher;
use fanout_tests::types::{Cancellation, Event, PublishError, Scheduled};
use fanout_tests::{Bench, Component, LinkTo, event, eventually};
use fanout_transport::CallContext;
use futures::TryStreamExt as _;

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "acme,globex"),
        LinkTo::subscriber(
            "invoicing",
            &["handler"],
            &[("subscription", "invoicing"), ("need", "durable")],
        ),
        LinkTo::subscriber("cache", &["handler"], &[("subscription", "cache"), ("need", "queue")]),
    ]
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_nanos()).unwrap()
}

fn within(time: Duration) -> i64 {
    now() + i64::try_from(time.as_nanos()).unwrap()
}

async fn at(ingress: &Component, e: &Event, due: i64) -> Result<Scheduled, PublishError> {
    eventually("the bus answers", || async {
        publisher::publish_tenant_event_at(ingress.bus(), CallContext::within(Duration::from_secs(5)), e, due)
            .await
            .ok()
    })
    .await
}

async fn cancel(ingress: &Component, tenant: &str, id: &str) -> Result<Cancellation, PublishError> {
    eventually("the bus answers", || async {
        publisher::cancel_scheduled(
            ingress.bus(),
            CallContext::within(Duration::from_secs(5)),
            tenant,
            "/tests",
            id,
        )
        .await
        .ok()
    })
    .await
}

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_published_once_and_not_before_it_is_due() {
    let bench = Bench::start(&[], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    let cache = bench.component("cache").await;
    let due = within(Duration::from_secs(2));
    let soon = event("acme", "invoice.due", "soon ü/1");
    let first = at(&ingress, &soon, due).await.unwrap();
    assert_eq!((first.due, first.duplicate), (due, false));
    // The same again, with whatever time, is the same.
    let again = at(&ingress, &soon, due + 1).await.unwrap();
    assert_eq!((again.due, again.duplicate), (due, true));
    at(&ingress, &event("acme", "invoice.due", "past"), 1).await.unwrap();
    at(&ingress, &event("acme", "invoice.due", "far"), within(HOUR))
        .await
        .unwrap();
    eventually("both are delivered", || async {
        (invoicing.handled() == ["past", "soon ü/1"] && cache.handled() == ["past", "soon ü/1"]).then_some(())
    })
    .await;
    let published_at = invoicing.seen(|s| {
        s.deliveries
            .iter()
            .find(|d| d.event.id == "soon ü/1")
            .unwrap()
            .published_at
    });
    assert!(published_at >= due, "published {} ns too early", due - published_at);
    let stored = ingress.publish(soon).await.unwrap();
    assert!(stored.duplicate, "it is the same event as one published at once");
    assert_eq!(
        cancel(&ingress, "acme", "soon ü/1").await.unwrap(),
        Cancellation::NotWaiting
    );
    assert_eq!(invoicing.seen(|s| s.deliveries.len()), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_survives_the_store_and_the_provider() {
    let mut bench = Bench::start(&[], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    for i in 0..20 {
        let due = within(Duration::from_millis(3_000 + 50 * i));
        at(&ingress, &event("acme", "invoice.due", &format!("e{i:02}")), due)
            .await
            .unwrap();
    }
    bench.providers[0].kill();
    bench.nats.restart().await;
    bench.restart_provider(0).await;
    let expected: Vec<_> = (0..20).map(|i| format!("e{i:02}")).collect();
    eventually("each is delivered", || async {
        (invoicing.handled() == expected).then_some(())
    })
    .await;
    let log = async_nats::jetstream::new(bench.client().clone())
        .get_stream("fanout_payments_log")
        .await
        .unwrap();
    assert_eq!(log.cached_info().state.messages, 20, "each is stored once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_consumer_of_the_store_has_lost_is_published_all_the_same() {
    let bench = Bench::start(&[], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let due = within(Duration::from_secs(3));
    at(&ingress, &event("acme", "invoice.due", "lost"), due).await.unwrap();
    let js = async_nats::jetstream::new(bench.client().clone());
    let later = js.get_stream("fanout_payments_scheduled").await.unwrap();
    // What a server's disk was seen to hold after a kill: a consumer that counts the event as settled.
    let config = pull::Config {
        durable_name: Some("due".to_owned()),
        deliver_policy: DeliverPolicy::New,
        max_ack_pending: -1,
        ..pull::Config::default()
    };
    eventually("the consumer has lost it", || async {
        later.delete_consumer("due").await.ok()?;
        later.create_consumer(config.clone()).await.ok()
    })
    .await;
    eventually("it is published", || async {
        (in_the_log(&bench).await == 1).then_some(())
    })
    .await;
    eventually("and removed", || async {
        (messages(&bench, "fanout_payments_scheduled").await? == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_cancelled_or_published_never_both() {
    let mut bench = Bench::start(&[], &links()).await;
    bench.add_provider().await;
    let ingress = &bench.silent_component("ingress").await;
    // Cancelled about when they are due, by several callers each.
    let due = within(Duration::from_secs(3));
    let ids: Vec<String> = (0..60).map(|i| format!("e{i:02}")).collect();
    for id in &ids {
        at(ingress, &event("acme", "invoice.due", id), due).await.unwrap();
    }
    let races = ids.iter().enumerate().map(|(i, id)| async move {
        let left = u64::try_from(due - now()).unwrap_or(0);
        tokio::time::sleep(Duration::from_nanos(left) + Duration::from_millis(i as u64 * 2)).await;
        let (one, two) = tokio::join!(cancel(ingress, "acme", id), cancel(ingress, "acme", id));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one, two, "{id}: both are told the same");
        (id.clone(), one == Cancellation::Cancelled)
    });
    let told = futures::future::join_all(races).await;
    let published: Vec<_> = told.iter().filter(|(_, c)| !c).map(|(id, _)| id.clone()).collect();
    let log = eventually("those that were not cancelled are published", || async {
        let log = async_nats::jetstream::new(bench.client().clone())
            .get_stream("fanout_payments_log")
            .await
            .ok()?;
        (log.cached_info().state.messages >= published.len() as u64).then_some(log)
    })
    .await;
    // Whatever is stored after this would be stored before the mark.
    let mark = ingress.publish(event("globex", "mark", "mark")).await.unwrap();
    let mut stored = Vec::new();
    for offset in 1..mark.position.offset {
        let m = log.get_raw_message(offset).await.unwrap();
        stored.push(m.headers.get("ce-id").unwrap().as_str().to_owned());
    }
    stored.sort();
    assert_eq!(stored, published);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_event_can_be_given_a_new_time() {
    let bench = Bench::start(&[], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    let e = event("acme", "invoice.due", "e");
    assert_eq!(cancel(&ingress, "acme", "e").await.unwrap(), Cancellation::NotWaiting);
    at(&ingress, &e, within(HOUR)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(cancel(&ingress, "acme", "e").await.unwrap(), Cancellation::Cancelled);
    }
    // Another tenant's event of that id is another event.
    assert_eq!(cancel(&ingress, "globex", "e").await.unwrap(), Cancellation::NotWaiting);
    assert!(!at(&ingress, &e, now()).await.unwrap().duplicate);
    eventually("it is delivered", || async {
        (invoicing.handled() == ["e"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_and_the_quota_are_asked_when_it_is_kept() {
    let settings = [("quota.tenant.globex.events-per-second", "1")];
    let bench = Bench::start(&settings, &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let code = |e: PublishError| match e {
        PublishError::NotPermitted(p) | PublishError::InvalidEvent(p) => p.code,
        PublishError::QuotaExceeded(r) => r.problem.code,
        other => panic!("{other:?}"),
    };
    let refused = at(&ingress, &event("initech", "a.b", "e"), now()).await.unwrap_err();
    assert_eq!(code(refused), "tenant-not-permitted");
    assert_eq!(
        code(cancel(&ingress, "initech", "e").await.unwrap_err()),
        "tenant-not-permitted"
    );
    assert_eq!(
        code(cancel(&ingress, "acme", "").await.unwrap_err()),
        "invalid-attribute"
    );
    let refused = at(&ingress, &event("acme", "a.b", "e"), i64::MAX).await.unwrap_err();
    assert_eq!(code(refused), "invalid-due-time");
    let refused = eventually("the quota is used up", || async {
        let id = now().to_string();
        at(&ingress, &event("globex", "a.b", &id), within(HOUR)).await.err()
    })
    .await;
    assert_eq!(code(refused), "quota-exceeded");
}

/// How many events the log holds, in all its parts.
async fn in_the_log(bench: &Bench) -> u64 {
    let js = async_nats::jetstream::new(bench.client().clone());
    let streams: Vec<_> = js.streams().try_collect().await.unwrap_or_default();
    let logs = streams
        .iter()
        .filter(|s| s.config.name.starts_with("fanout_payments_log"));
    logs.map(|s| s.state.messages).sum()
}

async fn messages(bench: &Bench, stream: &str) -> Option<u64> {
    let js = async_nats::jetstream::new(bench.client().clone());
    Some(js.get_stream(stream).await.ok()?.cached_info().state.messages)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_now_and_for_later_is_one() {
    let bench = Bench::start(&[("dedupe.window", "12s")], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    // Due when the log has forgotten what is published now.
    let due = within(Duration::from_secs(21));
    let of = |id: &str| event("acme", "invoice.due", id);
    ingress.publish(of("now, then for later")).await.unwrap();
    assert!(at(&ingress, &of("now, then for later"), due).await.unwrap().duplicate);
    assert!(!at(&ingress, &of("for later, then now"), due).await.unwrap().duplicate);
    // Whatever its other attributes say.
    let now = event("acme", "invoice.paid", "for later, then now");
    assert!(!ingress.publish(now).await.unwrap().duplicate);
    assert!(!at(&ingress, &of("mark"), due).await.unwrap().duplicate);
    eventually("what was published is none for later any more", || async {
        (messages(&bench, "fanout_payments_scheduled").await? == 1).then_some(())
    })
    .await;
    let cancelled = cancel(&ingress, "acme", "for later, then now").await.unwrap();
    assert_eq!(cancelled, Cancellation::NotWaiting);
    eventually("what was due is delivered", || async {
        invoicing.handled().contains(&"mark".to_owned()).then_some(())
    })
    .await;
    assert_eq!(in_the_log(&bench).await, 3, "{:?}", invoicing.handled());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_now_and_for_later_is_one_where_its_tenant_is_new() {
    // The tenant gets a stream of its own when its first event comes.
    let settings = [("topology", "per-tenant"), ("dedupe.window", "12s")];
    let bench = Bench::start(&settings, &links()).await;
    let ingress = bench.silent_component("ingress").await;
    for tenant in ["acme", "globex"] {
        let e = event(tenant, "invoice.due", "e");
        assert!(!at(&ingress, &e, within(HOUR)).await.unwrap().duplicate);
        assert!(!ingress.publish(e).await.unwrap().duplicate);
    }
    eventually("what was published is none for later any more", || async {
        (messages(&bench, "fanout_payments_scheduled").await? == 0).then_some(())
    })
    .await;
    assert_eq!(in_the_log(&bench).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_at_once_is_not_cancelled() {
    for topology in ["shared", "per-tenant"] {
        // With the window of an hour, the log is not asked by itself meanwhile.
        let bench = Bench::start(&[("topology", topology)], &links()).await;
        let ingress = bench.silent_component("ingress").await;
        let of = |id: &str| event("acme", "invoice.due", id);
        at(&ingress, &of("waits"), within(HOUR)).await.unwrap();
        assert!(!ingress.publish(of("waits")).await.unwrap().duplicate);
        for _ in 0..2 {
            let cancelled = cancel(&ingress, "acme", "waits").await.unwrap();
            assert_eq!(cancelled, Cancellation::NotWaiting, "{topology}");
        }
        let waiting = messages(&bench, "fanout_payments_scheduled").await;
        assert_eq!(waiting, Some(0), "{topology}: it waits no longer");
        // Also one that is published after it was cancelled.
        at(&ingress, &of("cancelled"), within(HOUR)).await.unwrap();
        let cancelled = cancel(&ingress, "acme", "cancelled").await.unwrap();
        assert_eq!(cancelled, Cancellation::Cancelled, "{topology}");
        assert!(!ingress.publish(of("cancelled")).await.unwrap().duplicate);
        let cancelled = cancel(&ingress, "acme", "cancelled").await.unwrap();
        assert_eq!(cancelled, Cancellation::NotWaiting, "{topology}");
        assert_eq!(in_the_log(&bench).await, 2, "{topology}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_purged_from_the_log_is_published_when_it_is_due() {
    let bench = Bench::start(&[], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let js = async_nats::jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    let of = |id: &str| event("acme", "invoice.due", id);
    ingress.publish(of("published")).await.unwrap();
    at(&ingress, &of("scheduled"), 1).await.unwrap();
    let in_log = async |n: u64| (in_the_log(&bench).await == n).then_some(());
    eventually("both are in the log", || in_log(2)).await;
    eventually("none waits", || async {
        (messages(&bench, "fanout_payments_scheduled").await? == 0).then_some(())
    })
    .await;
    for round in 1..=2 {
        log.purge().await.unwrap();
        // The log remembers both ids, and one has a mark that it was published.
        for id in ["published", "scheduled"] {
            let answer = at(&ingress, &of(id), within(Duration::from_secs(1))).await.unwrap();
            assert!(!answer.duplicate, "{id}, purge {round}: it is not in the log");
        }
        eventually("both are there again", || in_log(2)).await;
        assert!(at(&ingress, &of("published"), 1).await.unwrap().duplicate);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_is_cut_short_over_a_change_of_the_topology_is_not_repeated() {
    let mut bench = Bench::start(&[("dedupe.window", "1s")], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    // Nothing can be removed there: each try is cut short once the event is published.
    let js = async_nats::jetstream::new(bench.client().clone());
    let later = js.get_stream("fanout_payments_scheduled").await.unwrap();
    let config = async_nats::jetstream::stream::Config {
        deny_purge: true,
        ..later.cached_info().config.clone()
    };
    js.update_stream(config).await.unwrap();
    at(&ingress, &event("acme", "invoice.due", "e"), 1).await.unwrap();
    let tries = async || {
        let due = later.consumer_info("due").await.ok()?;
        Some(due.delivered.consumer_sequence)
    };
    eventually("it is published, and that again", || async {
        (tries().await? >= 3 && in_the_log(&bench).await == 1).then_some(())
    })
    .await;
    bench.change("topology", "sharded(2)").await;
    eventually("its log is another", || async {
        let log = js.get_stream("fanout_payments_log").await.ok()?;
        log.cached_info()
            .config
            .metadata
            .contains_key("fanout-retired-at")
            .then_some(())
    })
    .await;
    let so_far = tries().await.unwrap();
    eventually("it is tried again and again", || async {
        (tries().await? >= so_far + 4).then_some(())
    })
    .await;
    assert_eq!(in_the_log(&bench).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_takes_no_place() {
    let settings = [("scheduled.max-events", "20"), ("quota.scheduled-events", "10")];
    let bench = Bench::start(&settings, &links()).await;
    let ingress = bench.silent_component("ingress").await;
    for i in 0..100 {
        let e = event("acme", "invoice.due", &format!("e{i}"));
        eventually("it is kept", || async { at(&ingress, &e, 1).await.ok() }).await;
    }
    eventually("all are published", || async {
        (in_the_log(&bench).await == 100).then_some(())
    })
    .await;
    eventually("nothing is kept of them", || async {
        (messages(&bench, "fanout_payments_scheduled").await? == 0).then_some(())
    })
    .await;
}

/// An event of a kilobyte and a half.
fn large(tenant: &str, id: &str) -> Event {
    Event {
        data: vec![b'x'; 1_500].into(),
        ..event(tenant, "invoice.due", id)
    }
}

/// Keeps events until one is refused.
async fn fill(ingress: &Component, tenant: &str) -> (usize, PublishError) {
    for i in 0..1_000 {
        if let Err(refused) = at(ingress, &large(tenant, &format!("e{i}")), within(HOUR)).await {
            return (i, refused);
        }
    }
    panic!("nothing was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_its_share_of_what_is_kept_for_later() {
    let bench = Bench::start(&[("scheduled.max-bytes", "256KiB")], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let (kept, refused) = fill(&ingress, "acme").await;
    assert!((20..=43).contains(&kept), "a quarter of it: {kept}");
    let PublishError::QuotaExceeded(refused) = refused else {
        panic!("{refused:?}")
    };
    assert!(
        refused.problem.message.contains("tenant acme"),
        "{}",
        refused.problem.message
    );
    assert!(
        refused.problem.message.contains("scheduled-max-bytes"),
        "{}",
        refused.problem.message
    );
    at(&ingress, &large("globex", "e"), within(HOUR)).await.unwrap();
    // It counts what is kept.
    for i in 0..10 {
        cancel(&ingress, "acme", &format!("e{i}")).await.unwrap();
    }
    eventually("there is a place again", || async {
        at(&ingress, &large("acme", "next"), within(HOUR)).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_that_is_kept_is_full_events_are_published_and_cancelled() {
    let settings = [("scheduled.max-bytes", "64KiB"), ("quota.scheduled-max-bytes", "1MiB")];
    let bench = Bench::start(&settings, &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    // Due once the store is full, and kept first.
    let due = within(Duration::from_secs(5));
    for i in 0..4 {
        at(&ingress, &large("globex", &format!("due-{i}")), due).await.unwrap();
    }
    let (_, refused) = fill(&ingress, "acme").await;
    let PublishError::StoreFull(refused) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(refused.code, "store-full");
    assert!(refused.message.contains("scheduled.max-bytes"), "{}", refused.message);
    assert_eq!(cancel(&ingress, "acme", "e0").await.unwrap(), Cancellation::Cancelled);
    eventually("all that is due is published", || async {
        (invoicing.handled().len() == 4).then_some(())
    })
    .await;
    ingress
        .publish(event("acme", "invoice.due", "the log is not full"))
        .await
        .unwrap();
    assert_eq!(cancel(&ingress, "acme", "e0").await.unwrap(), Cancellation::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_later_counts_among_what_is_stored() {
    let bench = Bench::start(&[("quota.max-bytes", "64KiB")], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    let kilobytes = |id: &str| Event {
        data: vec![b'x'; 30 << 10].into(),
        ..event("acme", "invoice.due", id)
    };
    let due = within(Duration::from_secs(2));
    for id in ["a", "b"] {
        at(&ingress, &kilobytes(id), due).await.unwrap();
    }
    ingress.publish(kilobytes("at once")).await.unwrap();
    eventually("all are published", || async {
        (invoicing.handled().len() == 3).then_some(())
    })
    .await;
    let refused = ingress.publish(kilobytes("one more")).await.unwrap_err();
    assert!(matches!(refused, PublishError::QuotaExceeded(_)), "{refused:?}");
}
