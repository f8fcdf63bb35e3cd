//! What components at an edge do by calls: they subscribe, fetch and schedule, as at the bus itself. The edge
//! remembers whose a subscription is, through the end of every process.

use std::time::Duration;

use fanout_plan::subscription::MadeBy;
use fanout_tests::types::{
    Cancellation, DeliveryOptions, InboxError, LeasedDelivery, PublishError, Reach, SettleError, Settlement,
    SettlementOutcome, Start, SubscribeError, Subscription, SubscriptionOrigin, SubscriptionState, Verdict as Settles,
};
use fanout_tests::{BusStatus, Component, EdgeWorld, LinkTo, State, event, eventually, every_event};
use fanout_tests::{inbox, publisher, subscriber};
use fanout_transport::CallContext;
use fanout_transport::testing::NatsSettings;

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "acme,globex"),
        LinkTo::caller("reports", &["subscriber", "inbox", "status"], "acme"),
        LinkTo::caller("other", &["subscriber", "inbox"], "*"),
    ]
}

fn patient() -> CallContext {
    CallContext::within(Duration::from_secs(10))
}

fn options(reach: Reach) -> DeliveryOptions {
    DeliveryOptions { reach, ..every_event() }
}

/// Asks until the bus and the edge are both there, as a component does.
async fn durable(who: &Component, name: &str, reach: Reach) -> Result<Subscription, SubscribeError> {
    eventually("the bus answers", || async {
        let answer = subscriber::subscribe_durable(who.bus(), patient(), name, &options(reach)).await;
        settled(answer)
    })
    .await
}

async fn backfill(who: &Component, name: &str) -> Subscription {
    eventually("the bus answers", || async {
        let (start, wanted) = (Start::First, options(Reach::Handler));
        settled(subscriber::subscribe_backfill(who.bus(), patient(), name, &start, None, &wanted).await)
    })
    .await
    .unwrap()
}

/// `None` for what is to be asked again.
fn settled<T>(answer: anyhow::Result<Result<T, SubscribeError>>) -> Option<Result<T, SubscribeError>> {
    match answer {
        Err(_) | Ok(Err(SubscribeError::Unavailable(_) | SubscribeError::OutcomeUnknown(_))) => None,
        Ok(answer) => Some(answer),
    }
}

async fn listed(who: &Component) -> Vec<Subscription> {
    eventually("the bus lists them", || async {
        settled(subscriber::list_subscriptions(who.bus(), patient()).await)
    })
    .await
    .unwrap()
}

async fn publish(ingress: &Component, tenant: &str, ids: std::ops::Range<usize>) {
    for i in ids {
        let sent = event(tenant, "invoice.paid", &format!("e{i:03}"));
        eventually("the event is stored", || async {
            ingress.publish(copy(&sent)).await.ok()
        })
        .await;
    }
}

fn copy(e: &fanout_tests::types::Event) -> fanout_tests::types::Event {
    event(&e.tenant, &e.event_type, &e.id)
}

async fn handles(who: &Component, count: usize) {
    eventually("all are handled", || async {
        (who.handled().len() == count).then_some(())
    })
    .await;
}

fn reached(is: bool) -> impl Fn(&BusStatus) -> bool {
    move |status| status.upstream.as_ref().is_some_and(|u| u.is_reached == is)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_by_a_call_lasts_until_it_is_ended() {
    let mut world = EdgeWorld::new(&links()).await;
    let ingress = world.edge.silent_component("ingress").await;
    let reports = world.edge.component("reports").await;
    let other = world.edge.component("other").await;
    let made = durable(&reports, "report", Reach::Handler).await.unwrap();
    assert_eq!(made.made_by, SubscriptionOrigin::Call);
    assert_eq!(made.filter.tenants, ["acme"], "narrowed to what its link allows");
    publish(&ingress, "acme", 0..5).await;
    publish(&ingress, "globex", 5..6).await;
    handles(&reports, 5).await;

    // To the bus all components of an edge are one; to each other they are not.
    let taken = durable(&other, "report", Reach::Handler).await.unwrap_err();
    assert!(
        matches!(&taken, SubscribeError::Conflict(p) if p.code == "subscription-conflict"),
        "{taken:?}"
    );
    let not_its = subscriber::unsubscribe(other.bus(), patient(), "report").await.unwrap();
    assert!(
        matches!(&not_its, Err(SubscribeError::UnknownSubscription(p)) if p.code == "unknown-subscription"),
        "{not_its:?}"
    );
    assert!(listed(&other).await.is_empty());

    // The edge is killed, then the bus.
    world.edge.providers[0].kill();
    world.edge.restart_provider(0).await;
    publish(&ingress, "acme", 10..15).await;
    handles(&reports, 10).await;
    world.restart_hub();
    publish(&ingress, "acme", 20..25).await;
    handles(&reports, 15).await;
    let mine = listed(&reports).await;
    assert_eq!((mine.len(), mine[0].name.as_str()), (1, "report"));
    assert_eq!(mine[0].made_by, SubscriptionOrigin::Call);

    // Paused, its events wait at the bus, and the edge says how many.
    let paused = eventually("it is paused", || async {
        settled(subscriber::pause(reports.bus(), patient(), "report").await)
    })
    .await
    .unwrap();
    assert!(matches!(paused.state, SubscriptionState::Paused), "{:?}", paused.state);
    publish(&ingress, "acme", 30..34).await;
    let waiting = world
        .edge
        .subscription_when("report", "four wait", |s| {
            s.pending == Some(4) && s.state == State::Paused
        })
        .await;
    assert_eq!(
        (waiting.component.as_deref(), waiting.made_by),
        (Some("reports"), Some(MadeBy::Call))
    );
    assert_eq!(reports.handled().len(), 15);
    subscriber::resume(reports.bus(), patient(), "report")
        .await
        .unwrap()
        .unwrap();
    handles(&reports, 19).await;

    subscriber::unsubscribe(reports.bus(), patient(), "report")
        .await
        .unwrap()
        .unwrap();
    eventually("the bus has ended it", || async {
        world.left("report").await.is_none().then_some(())
    })
    .await;
    world.edge.restart_provider(0).await;
    assert!(listed(&reports).await.is_empty(), "it is not made again");
    assert!(world.left("report").await.is_none());
    // The name is free again.
    durable(&other, "report", Reach::BatchHandler).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_is_told_once_and_again_when_it_is_put_back() {
    let mut world = EdgeWorld::new(&links()).await;
    let ingress = world.edge.silent_component("ingress").await;
    let reports = world.edge.component("reports").await;
    publish(&ingress, "acme", 0..8).await;
    backfill(&reports, "late").await;
    let told = |times: usize| {
        let reports = &reports;
        async move {
            eventually("it is told that it caught up", || async {
                reports.seen(|s| s.caught_up.len() == times).then_some(())
            })
            .await;
        }
    };
    told(1).await;
    reports.seen(|s| {
        assert_eq!((s.caught_up[0].replayed, s.deliveries.len()), (8, 8));
        assert_eq!(s.caught_up[0].reached.as_ref().map(|p| p.offset), Some(8));
    });
    // An edge that is killed before it noted that it told tells again.
    world.has_noted_told("late").await;
    world.edge.restart_provider(0).await;
    publish(&ingress, "acme", 8..10).await;
    handles(&reports, 10).await;
    assert_eq!(
        reports.seen(|s| s.caught_up.len()),
        1,
        "the edge remembers that it was told"
    );

    let back = eventually("it is put back", || async {
        settled(subscriber::rewind(reports.bus(), patient(), "late", &Start::First).await)
    })
    .await;
    back.unwrap();
    told(2).await;
    assert!(reports.seen(|s| s.deliveries.len()) >= 20, "everything came again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_subscription_by_a_call_hears_what_comes() {
    let world = EdgeWorld::new(&links()).await;
    let ingress = world.edge.silent_component("ingress").await;
    let reports = world.edge.component("reports").await;
    eventually("it is made", || async {
        let filter = options(Reach::Handler).filter;
        settled(subscriber::subscribe_queue(reports.bus(), patient(), "fast", &filter, Reach::Handler).await)
    })
    .await
    .unwrap();
    // What is published while nobody fetches is not kept for it, so it is published until one is heard.
    let mut i = 0;
    while reports.handled().is_empty() {
        publish(&ingress, "acme", i..i + 1).await;
        i += 1;
        assert!(i < 500, "nothing is heard");
    }
    assert!(reports.seen(|s| s.deliveries[0].subscription == "fast"));
}

async fn next(who: &Component, name: &str) -> LeasedDelivery {
    eventually("a delivery comes", || async {
        let fetched = inbox::fetch(who.bus(), patient(), name, 1, None, 500).await.ok()?;
        fetched.ok()?.deliveries.pop()
    })
    .await
}

async fn settle(who: &Component, held: &LeasedDelivery, verdict: Settles) -> Result<SettlementOutcome, SettleError> {
    let settlement = Settlement {
        token: held.token.clone(),
        verdict,
    };
    let mut answers = inbox::settle(who.bus(), patient(), &[settlement]).await.unwrap();
    answers.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fetched_is_its_fetchers_alone_and_outlives_the_edge() {
    let mut links = links();
    links.push(LinkTo::subscriber(
        "other",
        &["inbox"],
        &[("subscription", "declared"), ("need", "durable")],
    ));
    let mut world = EdgeWorld::with_long_leases(&links).await;
    let ingress = world.edge.silent_component("ingress").await;
    let reports = world.edge.silent_component("reports").await;
    let other = world.edge.silent_component("other").await;
    durable(&reports, "report", Reach::Inbox).await.unwrap();
    // That of a link is made before anyone fetches.
    world.made("declared").await;
    publish(&ingress, "acme", 0..3).await;

    let held = next(&reports, "report").await;
    assert_eq!((held.delivery.event.id.as_str(), held.delivery.attempt), ("e000", 1));
    let stolen = settle(&other, &held, Settles::Handled).await;
    assert!(
        matches!(&stolen, Err(SettleError::InvalidToken(p)) if p.code == "invalid-token"),
        "{stolen:?}"
    );
    let peeked = inbox::fetch(other.bus(), patient(), "report", 1, None, 0)
        .await
        .unwrap();
    assert!(
        matches!(&peeked, Err(InboxError::UnknownSubscription(p)) if p.code == "unknown-subscription"),
        "{peeked:?}"
    );
    world.edge.providers[0].kill();
    world.edge.restart_provider(0).await;
    let again = match settle(&reports, &held, Settles::StillWorking).await.unwrap() {
        SettlementOutcome::Extended(token) => LeasedDelivery { token, ..held },
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        settle(&reports, &again, Settles::Handled).await,
        Ok(SettlementOutcome::Settled)
    ));
    for _ in 0..2 {
        let held = next(&reports, "report").await;
        settle(&reports, &held, Settles::Handled).await.unwrap();
    }
    world.drained("report").await;
    for _ in 0..3 {
        let held = next(&other, "declared").await;
        settle(&other, &held, Settles::Handled).await.unwrap();
    }
    world.drained("declared").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_instance_takes_over() {
    let mut world = EdgeWorld::new(&links()).await;
    let ingress = world.edge.silent_component("ingress").await;
    let reports = world.edge.component("reports").await;
    durable(&reports, "report", Reach::Handler).await.unwrap();
    world.edge.add_provider().await;
    publish(&ingress, "acme", 0..5).await;
    handles(&reports, 5).await;
    world.edge.providers[0].kill();
    publish(&ingress, "acme", 5..10).await;
    handles(&reports, 10).await;
    world.drained("report").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_allows_less_stops_it_and_one_that_allows_it_again_goes_on() {
    let mut world = EdgeWorld::new(&links()).await;
    let ingress = world.edge.silent_component("ingress").await;
    let reports = world.edge.component("reports").await;
    durable(&reports, "report", Reach::Handler).await.unwrap();
    let may = LinkTo::caller("reports", &["subscriber"], "acme");
    let may_not = LinkTo::caller("reports", &["subscriber"], "globex");
    world.edge.put_link(&may_not).await;
    let waiting = world
        .edge
        .subscription_when("report", "it waits", |s| s.state == State::Waiting)
        .await;
    assert_eq!(waiting.code(), "subscriber-unlinked");
    publish(&ingress, "acme", 0..3).await;
    world
        .edge
        .subscription_when("report", "they wait at the bus", |s| {
            s.pending
                .zip(s.in_flight)
                .is_some_and(|(pending, held)| pending + held == 3)
        })
        .await;
    assert_eq!(reports.handled().len(), 0);
    world.edge.put_link(&may).await;
    handles(&reports, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_says_when_its_bus_is_away() {
    let mut world = EdgeWorld::new(&links()).await;
    let reports = world.edge.component("reports").await;
    durable(&reports, "report", Reach::Handler).await.unwrap();
    world.edge.status_when("the bus is there", reached(true)).await;
    world.kill_hub();
    let away = world.edge.status_when("the bus is away", reached(false)).await;
    assert!(
        away.upstream
            .and_then(|u| u.problem)
            .is_some_and(|p| p.message.contains("can't be reached")),
        "it says so"
    );
    let within = CallContext::within(Duration::from_secs(12));
    let answer = subscriber::list_subscriptions(reports.bus(), within).await.unwrap();
    assert!(
        matches!(
            answer,
            Err(SubscribeError::Unavailable(_) | SubscribeError::OutcomeUnknown(_))
        ),
        "{answer:?}"
    );
    world.restart_hub();
    world.edge.status_when("the bus is there again", reached(true)).await;
    assert_eq!(listed(&reports).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_for_later_are_kept_at_the_bus() {
    let mut narrow = LinkTo::caller("narrow", &["publisher"], "acme");
    narrow.settings.push(("event-types".to_owned(), "invoice.*".to_owned()));
    let mut links = links();
    links.push(narrow);
    let world = EdgeWorld::new(&links).await;
    let ingress = world.edge.silent_component("ingress").await;
    let narrow = world.edge.silent_component("narrow").await;
    let far = i64::MAX;
    let scheduled = eventually("the bus answers", || async {
        let sent = event("acme", "invoice.due", "later");
        let kept = publisher::publish_tenant_event_at(ingress.bus(), patient(), &sent, 1_900_000_000_000_000_000);
        kept.await.ok()?.ok()
    })
    .await;
    assert_eq!((scheduled.due, scheduled.duplicate), (1_900_000_000_000_000_000, false));
    let sent = event("acme", "invoice.due", "x");
    let too_far = publisher::publish_tenant_event_at(narrow.bus(), patient(), &sent, far);
    let refused = too_far.await.unwrap().unwrap_err();
    assert!(
        matches!(&refused, PublishError::InvalidEvent(p) if p.code == "invalid-due-time"),
        "{refused:?}"
    );
    let refused = publisher::cancel_scheduled(narrow.bus(), patient(), "acme", "/tests", "later")
        .await
        .unwrap();
    assert!(
        matches!(&refused, Err(PublishError::InvalidEvent(p)) if p.code == "not-at-an-edge"),
        "{refused:?}"
    );
    let cancelled = publisher::cancel_scheduled(ingress.bus(), patient(), "acme", "/tests", "later").await;
    assert_eq!(cancelled.unwrap().unwrap(), Cancellation::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_from_publisher_to_handler_through_the_bus() {
    let world = EdgeWorld::new(&links()).await;
    let ingress = world.edge.silent_component("ingress").await;
    let reports = world.edge.component("reports").await;
    durable(&reports, "report", Reach::Handler).await.unwrap();
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let cx = CallContext {
        traceparent: Some(traceparent.to_owned()),
        ..patient()
    };
    publisher::publish_tenant_event(ingress.bus(), cx, &event("acme", "invoice.paid", "traced"))
        .await
        .unwrap()
        .unwrap();
    handles(&reports, 1).await;
    assert_eq!(reports.seen(|s| s.traceparents.clone()), [Some(traceparent.to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_jetstream_on_the_lattice_an_edge_says_why_it_can_not_remember() {
    let config = "accounts { PLAIN { users: [ { user: plain, password: plain } ] } }\nno_auth_user: plain\n";
    let lattice = NatsSettings {
        config: Some(config.to_owned()),
        ..NatsSettings::default()
    };
    let mut links = links();
    links.push(LinkTo::subscriber(
        "invoicing",
        &["handler"],
        &[("subscription", "invoicing"), ("need", "durable")],
    ));
    let world = EdgeWorld::on(lattice, &links).await;
    let ingress = world.edge.silent_component("ingress").await;
    let reports = world.edge.component("reports").await;
    let refused = durable(&reports, "report", Reach::Handler).await.unwrap_err();
    assert!(
        matches!(&refused, SubscribeError::InvalidRequest(p) if p.code == "not-at-an-edge" && p.message.contains("JetStream")),
        "{refused:?}"
    );
    assert!(
        world.left("report").await.is_none(),
        "nothing is made that would be forgotten"
    );
    // What links declare needs no memory.
    let invoicing = world.edge.component("invoicing").await;
    world.made("invoicing").await;
    publish(&ingress, "acme", 0..3).await;
    handles(&invoicing, 3).await;
}
