//! Backfills: the retained log from a point on, then live, and the subscriber told once.

use std::time::{Duration, SystemTime};

use fanout_tests::subscriber;
use fanout_tests::types::{
    self, DeliveryOptions, End, Need, Origin, Position, Reach, Start, SubscribeError, SubscriptionState,
};
use fanout_tests::{Bench, BusStatus, Component, LinkTo, State, SubscriptionStatus, event, eventually, every_event};
use fanout_transport::CallContext;

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("analytics", &["subscriber"], "acme,globex"),
    ]
}

fn options() -> DeliveryOptions {
    DeliveryOptions {
        reach: Reach::BatchHandler,
        batch_size: Some(7),
        ..every_event()
    }
}

fn at(offset: u64) -> Position {
    Position { partition: 0, offset }
}

async fn backfill(
    who: &Component,
    name: &str,
    start: Start,
    end: Option<End>,
) -> Result<types::Subscription, SubscribeError> {
    subscriber::subscribe_backfill(who.bus(), CallContext::default(), name, &start, end, &options())
        .await
        .expect("the bus answers")
}

async fn publish(bench: &Bench, range: std::ops::Range<usize>) {
    let ingress = bench.silent_component("ingress").await;
    for i in range {
        ingress
            .publish(event("acme", "invoice.paid", &format!("e{i:03}")))
            .await
            .unwrap();
    }
}

async fn handles(who: &Component, range: std::ops::Range<usize>) {
    let ids: Vec<_> = range.map(|i| format!("e{i:03}")).collect();
    eventually("the backfill is handled", || async {
        (who.handled() == ids).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_subscriber_gets_the_log_then_live_and_is_told_once() {
    let mut bench = Bench::start(&[], &links()).await;
    publish(&bench, 0..30).await;
    let other = bench.silent_component("ingress").await;
    other
        .publish(event("initech", "invoice.paid", "not allowed to it"))
        .await
        .unwrap();
    let analytics = bench.component("analytics").await;
    let made = backfill(&analytics, "late", Start::First, None).await.unwrap();
    assert_eq!(
        made.filter.tenants,
        ["acme", "globex"],
        "it is given what its link allows"
    );
    eventually("it is told", || async {
        analytics.seen(|s| !s.caught_up.is_empty()).then_some(())
    })
    .await;
    handles(&analytics, 0..30).await;
    publish(&bench, 30..40).await;
    handles(&analytics, 0..40).await;
    analytics.seen(|s| {
        let told = &s.caught_up[0];
        assert_eq!(
            (told.subscription.as_str(), told.replayed, told.finished),
            ("late", 30, false)
        );
        for d in &s.deliveries {
            let replayed = d.event.id.as_str() < "e030";
            assert_eq!(d.origin == Origin::Replayed, replayed, "{}", d.event.id);
        }
    });
    bench.restart_provider(0).await;
    publish(&bench, 40..41).await;
    handles(&analytics, 0..41).await;
    let listed = subscriber::list_subscriptions(analytics.bus(), CallContext::default())
        .await
        .unwrap()
        .unwrap();
    assert!(
        matches!(listed[..], [ref s] if matches!(s.state, SubscriptionState::Active)),
        "{listed:?}"
    );
    assert_eq!(analytics.seen(|s| s.caught_up.len()), 1, "told once, across restarts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_of_an_empty_log_has_caught_up_at_once() {
    let bench = Bench::start(&[], &links()).await;
    let analytics = bench.component("analytics").await;
    backfill(&analytics, "early", Start::First, None).await.unwrap();
    eventually("it is told", || async {
        analytics.seen(|s| !s.caught_up.is_empty()).then_some(())
    })
    .await;
    assert!(analytics.seen(|s| s.caught_up[0].replayed == 0 && s.caught_up[0].reached.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_position_to_a_position() {
    let bench = Bench::start(&[], &links()).await;
    publish(&bench, 0..30).await;
    let analytics = bench.component("analytics").await;
    backfill(&analytics, "part", Start::Position(at(11)), Some(End::Position(at(20))))
        .await
        .unwrap();
    eventually("it is told", || async {
        analytics.seen(|s| !s.caught_up.is_empty()).then_some(())
    })
    .await;
    handles(&analytics, 10..20).await;
    assert!(analytics.seen(|s| s.caught_up[0].finished));
    bench
        .subscription_when("part", "it is finished", |s| s.state == State::Finished)
        .await;
    publish(&bench, 30..31).await;
    // The next subscription sees the new event; the finished one is given nothing more.
    backfill(&analytics, "rest", Start::Position(at(31)), None)
        .await
        .unwrap();
    eventually("the new event is handled", || async {
        analytics.handled().contains(&"e030".to_owned()).then_some(())
    })
    .await;
    assert!(analytics.seen(|s| {
        s.deliveries
            .iter()
            .all(|d| d.subscription == "rest" || d.position.offset <= 20)
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_time_and_to_an_end_that_is_still_to_come() {
    let bench = Bench::start(&[], &links()).await;
    publish(&bench, 0..10).await;
    let probe = bench.component("analytics").await;
    backfill(&probe, "probe", Start::First, None).await.unwrap();
    handles(&probe, 0..10).await;
    let since = probe.seen(|s| s.deliveries.iter().find(|d| d.event.id == "e005").unwrap().published_at);
    let name = "timed";
    backfill(&probe, name, Start::Time(since), Some(End::Position(at(15))))
        .await
        .unwrap();
    let of = |name: &'static str| {
        let mut ids: Vec<_> = probe.seen(|s| {
            let mine = s.deliveries.iter().filter(|d| d.subscription == name);
            mine.map(|d| d.event.id.clone()).collect()
        });
        ids.sort();
        ids
    };
    eventually("from the time on", || async { (of(name).len() == 5).then_some(()) }).await;
    publish(&bench, 10..20).await;
    bench
        .subscription_when(name, "it is finished", |s| s.state == State::Finished)
        .await;
    let expected: Vec<_> = (5..15).map(|i| format!("e{i:03}")).collect();
    assert_eq!(of(name), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_is_refused() {
    let bench = Bench::start(&[], &links()).await;
    publish(&bench, 0..3).await;
    let analytics = bench.component("analytics").await;
    let code = |r: Result<types::Subscription, SubscribeError>| match r.unwrap_err() {
        SubscribeError::InvalidRequest(p) => p.code,
        other => panic!("{other:?}"),
    };
    let refused = backfill(&analytics, "x", Start::Position(at(9)), None).await;
    assert_eq!(code(refused), "unknown-position");
    let refused = backfill(&analytics, "x", Start::Position(at(3)), Some(End::Position(at(2)))).await;
    assert_eq!(code(refused), "empty-backfill");
    let refused = backfill(&analytics, "a name", Start::First, None).await;
    assert_eq!(code(refused), "invalid-subscription");
    let listed = subscriber::list_subscriptions(analytics.bus(), CallContext::default())
        .await
        .unwrap()
        .unwrap();
    assert!(listed.is_empty(), "nothing was made: {listed:?}");
    let made = backfill(&analytics, "fine", Start::First, None).await.unwrap();
    assert!(matches!(made.need, Need::Backfill(Start::First)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_is_away_costs_the_store_nothing() {
    const BACKFILLS: usize = 5;
    const CHANGES: usize = 25;
    let ingress = LinkTo::caller("ingress", &["publisher"], "*");
    let declared = |i: usize| {
        let name = format!("report{i}");
        let settings = [
            ("subscription", name.as_str()),
            ("need", "backfill"),
            ("start", "first"),
        ];
        LinkTo::subscriber(&name, &["handler", "backfill-handler"], &settings)
    };
    let links: Vec<_> = (0..BACKFILLS).map(declared).chain([ingress]).collect();
    let mut bench = Bench::start(&[], &links).await;
    for i in 0..BACKFILLS {
        // There is nothing to replay: it has caught up at once, and nobody is there to be told.
        let live = |s: &SubscriptionStatus| s.state == State::Active;
        bench
            .subscription_when(&format!("report{i}"), "it has caught up", live)
            .await;
    }
    let js = async_nats::jetstream::new(bench.client().clone());
    let registry = || async {
        let registry = js.get_stream("KV_fanout_payments_registry").await.unwrap();
        registry.cached_info().clone()
    };
    eventually("each is being told", || async {
        let mut told = 0;
        for i in 0..BACKFILLS {
            let subject = format!("$KV.fanout_payments_registry.report{i}");
            let stream = js.get_stream("KV_fanout_payments_registry").await.ok()?;
            let entry = stream.get_last_raw_message_by_subject(&subject).await.ok()?;
            told += usize::from(String::from_utf8_lossy(&entry.payload).contains("telling"));
        }
        (told == BACKFILLS).then_some(())
    })
    .await;
    let before = registry().await.state.last_sequence;
    for i in 0..CHANGES {
        // Each has the bus planned once more.
        let link = LinkTo::caller(&format!("caller{i}"), &["publisher"], "*");
        bench.put_link(&link).await;
        let known = |s: &BusStatus| s.links.len() == BACKFILLS + 2 + i;
        bench.status_when("the link is known", known).await;
    }
    // A mark is written anew now and then.
    let written = registry().await.state.last_sequence - before;
    assert!(
        written <= 2 * BACKFILLS as u64,
        "{written} writes, while nothing happened"
    );
    let component = bench.component("report0").await;
    eventually("once it is there, it is told", || async {
        (component.seen(|s| s.caught_up.len()) == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_that_has_not_come_yet_is_waited_for() {
    let bench = Bench::start(&[], &links()).await;
    let analytics = bench.component("analytics").await;
    let in_an_hour = SystemTime::now() + Duration::from_secs(3_600);
    let since_1970 = in_an_hour.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let start = Start::Time(since_1970.as_nanos() as i64);
    backfill(&analytics, "later", start, None).await.unwrap();
    publish(&bench, 0..3).await;
    let passed_over = |s: &SubscriptionStatus| s.pending == Some(0) && s.in_flight == Some(0);
    bench
        .subscription_when("later", "has passed over what comes before", passed_over)
        .await;
    assert!(analytics.handled().is_empty(), "{:?}", analytics.handled());
    // What is put back to a time that has come is given what was stored since.
    let (cx, bus) = (CallContext::default(), analytics.bus());
    let put_back = subscriber::rewind(bus, cx, "later", &Start::First).await;
    put_back.expect("the bus answers").unwrap();
    handles(&analytics, 0..3).await;
}
