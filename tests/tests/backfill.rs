//! Backfills: the retained log from a point on, then live, and the subscriber told once.

use fanout_tests::subscriber::{self, DeliveryOptions, End, Filter, Need, Reach, Start, State};
use fanout_tests::types::{Origin, Position, SubscribeError};
use fanout_tests::{Bench, Component, LinkTo, event, eventually};
use fanout_transport::CallContext;

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("analytics", &["subscriber"], "acme,globex"),
    ]
}

fn options() -> DeliveryOptions {
    DeliveryOptions {
        filter: Filter {
            tenants: vec![],
            event_types: vec![],
        },
        reach: Reach::BatchHandler,
        batch_size: Some(7),
        concurrency: None,
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
) -> Result<subscriber::Subscription, SubscribeError> {
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
        matches!(listed[..], [ref s] if matches!(s.state, State::Active)),
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
        .subscription_when("part", "it is finished", |s| s["state"] == "finished")
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
        .subscription_when(name, "it is finished", |s| s["state"] == "finished")
        .await;
    let expected: Vec<_> = (5..15).map(|i| format!("e{i:03}")).collect();
    assert_eq!(of(name), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_is_refused() {
    let bench = Bench::start(&[], &links()).await;
    publish(&bench, 0..3).await;
    let analytics = bench.component("analytics").await;
    let code = |r: Result<subscriber::Subscription, SubscribeError>| match r.unwrap_err() {
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
