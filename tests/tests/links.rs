//! Links and calls: how subscriptions come, change and go.

use fanout_tests::types::{
    DeliveryOptions, Filter, LinkState, PublishError, Reach, SubscribeError, SubscriptionOrigin,
};
use fanout_tests::{Bench, Component, LinkTo, OutcomeState, State, event, eventually, every_event, stored};
use fanout_tests::{status, subscriber};
use fanout_transport::CallContext;

fn cx() -> CallContext {
    CallContext::default()
}

fn ingress() -> LinkTo {
    LinkTo::caller("ingress", &["publisher", "status"], "*")
}

fn durable(name: &str, types: &str) -> LinkTo {
    LinkTo::subscriber(
        "worker",
        &["handler"],
        &[("subscription", name), ("need", "durable"), ("event-types", types)],
    )
    .named(name)
}

fn everything(tenants: &[&str]) -> DeliveryOptions {
    DeliveryOptions {
        filter: Filter {
            tenants: tenants.iter().map(|t| (*t).to_owned()).collect(),
            event_types: vec![],
            pattern: None,
        },
        reach: Reach::Handler,
        ..every_event()
    }
}

async fn handles(who: &Component, ids: &[&str]) {
    eventually(&format!("{ids:?} are handled"), || async {
        (who.handled() == ids).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_deleted_and_put_back_loses_nothing() {
    let link = durable("work", "**");
    let mut bench = Bench::start(&[], &[ingress(), link.clone()]).await;
    let caller = bench.silent_component("ingress").await;
    let worker = bench.component("worker").await;
    caller.publish(event("acme", "a", "1")).await.unwrap();
    handles(&worker, &["1"]).await;
    bench.delete_link(&link).await;
    let gone = bench
        .subscription_when("work", "it waits", |s| s.state == State::Waiting)
        .await;
    assert_eq!(gone.code(), "subscriber-unlinked");
    caller.publish(event("acme", "a", "2")).await.unwrap();
    bench
        .subscription_when("work", "the event waits", |s| {
            // What is published while its deliveries end may come to them, and is given back.
            s.pending.zip(s.in_flight).map(|(p, f)| p + f) == Some(1)
        })
        .await;
    bench.put_link(&link).await;
    handles(&worker, &["1", "2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_links_of_one_component_are_two_subscriptions() {
    let (invoices, charges) = (durable("invoices", "invoice.*"), durable("charges", "charge.*"));
    let mut bench = Bench::start(&[], &[ingress(), invoices.clone(), charges]).await;
    let caller = bench.silent_component("ingress").await;
    let worker = bench.component("worker").await;
    caller.publish(event("acme", "invoice.paid", "1")).await.unwrap();
    caller.publish(event("acme", "charge.failed", "2")).await.unwrap();
    handles(&worker, &["1", "2"]).await;
    worker.seen(|s| {
        for d in &s.deliveries {
            let expected = if d.event.id == "1" { "invoices" } else { "charges" };
            assert_eq!(d.subscription, expected);
        }
    });
    // The one goes, the other stays.
    bench.delete_link(&invoices).await;
    bench
        .subscription_when("invoices", "it waits", |s| s.state == State::Waiting)
        .await;
    caller.publish(event("acme", "charge.failed", "3")).await.unwrap();
    handles(&worker, &["1", "2", "3"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_link_counts_from_then_on() {
    let mut bench = Bench::start(&[], &[ingress(), durable("work", "invoice.*")]).await;
    let caller = bench.silent_component("ingress").await;
    let worker = bench.component("worker").await;
    caller.publish(event("acme", "charge.failed", "before")).await.unwrap();
    bench.put_link(&durable("work", "**")).await;
    let js = async_nats::jetstream::new(bench.client().clone());
    eventually("the store has the new filter", || async {
        let log = js.get_stream("fanout_payments_log").await.ok()?;
        let info = log
            .consumer_info(stored::consumer_name(&log, "work").await?)
            .await
            .ok()?;
        (info.config.filter_subjects == ["payments.*.webhook.>"]
            || info.config.filter_subject == "payments.*.webhook.>")
            .then_some(())
    })
    .await;
    caller.publish(event("acme", "charge.failed", "after")).await.unwrap();
    eventually("the wider filter holds", || async {
        worker.handled().contains(&"after".to_owned()).then_some(())
    })
    .await;

    let narrower = LinkTo::caller("ingress", &["publisher"], "globex");
    bench.put_link(&narrower).await;
    eventually("the caller's link is narrower", || async {
        caller.publish(event("acme", "a", "x")).await.is_err().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_link_says_all_its_problems() {
    let broken = LinkTo::subscriber(
        "worker",
        &["handler", "batch-handler"],
        &[("need", "often"), ("tenants", "a,,b"), ("colour", "red")],
    );
    let asks = LinkTo::caller("worker", &["status"], "*");
    let bench = Bench::start(&[], &[ingress(), broken, durable("work", "**"), asks]).await;
    let status = bench
        .status_when("links are judged", |s| s.subscriptions.len() == 1)
        .await;
    let link = |component: &str, name: &str| {
        let mut links = status.links.iter();
        let found = links.find(|l| l.component == component && l.name == name);
        &found.unwrap().outcome
    };
    let refused = link("worker", "worker");
    assert_eq!(refused.state, OutcomeState::Refused);
    let codes: Vec<_> = refused.problems.iter().map(|p| p.code.as_str()).collect();
    assert_eq!(
        codes,
        [
            "missing-setting",
            "invalid-setting",
            "invalid-tenant",
            "conflicting-settings",
            "unknown-setting"
        ]
    );
    let work = link("worker", "work");
    assert_eq!(work.state, OutcomeState::Applied, "others are not affected");

    let worker = bench.silent_component("worker").await;
    let mine = status::links(worker.bus(), cx()).await.unwrap();
    let names: Vec<_> = mine.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(
        names,
        ["default", "work", "worker"],
        "a component sees its own links only: {mine:?}"
    );
    assert!(
        matches!(&mine[2].state, LinkState::Refused(problems) if problems.len() == 5),
        "{mine:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_policy_says_all_its_problems_and_takes_nothing() {
    let mut bench = Bench::without_provider(
        &[
            ("retention.max-age", "soon"),
            ("delivery.ack-wait", "100ms"),
            ("colour", "red"),
        ],
        &[ingress()],
    )
    .await;
    bench.add_provider().await;
    let policy = bench.status().await.unwrap().policy.unwrap();
    assert_eq!(
        (policy.state, policy.problems.len()),
        (OutcomeState::Refused, 3),
        "{policy:?}"
    );
    let caller = bench.silent_component("ingress").await;
    let refused = caller.publish(event("acme", "a", "1")).await.unwrap_err();
    assert!(
        matches!(&refused, PublishError::Unavailable(p) if p.code == "bus-not-ready" && p.message.contains("soon"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_by_call_is_remembered_across_restarts_of_provider_and_server() {
    let links = [ingress(), LinkTo::caller("worker", &["subscriber"], "acme")];
    let mut bench = Bench::start(&[], &links).await;
    let worker = bench.component("worker").await;
    let made = subscriber::subscribe_durable(worker.bus(), cx(), "mine", &everything(&[]))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (made.made_by, made.filter.tenants),
        (SubscriptionOrigin::Call, vec!["acme".to_owned()])
    );
    let again = subscriber::subscribe_durable(worker.bus(), cx(), "mine", &everything(&[]))
        .await
        .unwrap();
    assert!(again.is_ok(), "the same twice is one");
    bench.nats.restart().await;
    bench.restart_provider(0).await;
    let caller = bench.silent_component("ingress").await;
    eventually("the bus takes events again", || async {
        caller.publish(event("acme", "a", "1")).await.ok()
    })
    .await;
    handles(&worker, &["1"]).await;

    subscriber::unsubscribe(worker.bus(), cx(), "mine")
        .await
        .unwrap()
        .unwrap();
    let receipt = caller.publish(event("acme", "a", "2")).await.unwrap();
    assert_eq!(receipt.durable_subscriptions, 0);
    let unknown = subscriber::unsubscribe(worker.bus(), cx(), "mine")
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(unknown, SubscribeError::UnknownSubscription(_)), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_stays_with_its_owner() {
    let links = [
        ingress(),
        durable("work", "**"),
        LinkTo::caller("thief", &["subscriber"], "*"),
        LinkTo::caller("narrow", &["subscriber"], "acme"),
    ];
    let bench = Bench::start(&[], &links).await;
    let thief = bench.component("thief").await;
    let taken = subscriber::subscribe_durable(thief.bus(), cx(), "work", &everything(&[]))
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(&taken, SubscribeError::Conflict(p) if p.code == "subscription-conflict"),
        "{taken:?}"
    );
    let ended = subscriber::unsubscribe(thief.bus(), cx(), "work")
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(ended, SubscribeError::UnknownSubscription(_)), "{ended:?}");
    let narrow = bench.component("narrow").await;
    let beyond = subscriber::subscribe_durable(narrow.bus(), cx(), "n", &everything(&["globex"]))
        .await
        .unwrap();
    assert!(
        matches!(&beyond, Err(SubscribeError::NotPermitted(p)) if p.code == "tenant-not-permitted"),
        "{beyond:?}"
    );
    let worker = bench.silent_component("ingress").await;
    let unlinked = subscriber::list_subscriptions(worker.bus(), cx())
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(&unlinked, SubscribeError::NotPermitted(p) if p.code == "interface-not-linked"),
        "{unlinked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_instance_learns_of_a_subscription_by_call() {
    let links = [ingress(), LinkTo::caller("worker", &["subscriber"], "*")];
    let mut bench = Bench::start(&[], &links).await;
    bench.add_provider().await;
    let worker = bench.component("worker").await;
    let caller = bench.silent_component("ingress").await;
    subscriber::subscribe_durable(worker.bus(), cx(), "mine", &everything(&[]))
        .await
        .unwrap()
        .unwrap();
    // Whichever instance took the call dies; the other delivers.
    eventually("both instances deliver", || async {
        bench
            .providers
            .iter()
            .all(|p| p.log().contains("delivering subscription=mine"))
            .then_some(())
    })
    .await;
    bench.providers[0].kill();
    caller.publish(event("acme", "a", "1")).await.unwrap();
    handles(&worker, &["1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_told_to_stop_stops_cleanly() {
    let mut bench = Bench::start(&[], &[ingress(), durable("work", "**")]).await;
    let caller = bench.silent_component("ingress").await;
    caller.publish(event("acme", "a", "1")).await.unwrap();
    let stop = serde_json::json!({ "host_id": "test-host" }).to_string();
    bench
        .client()
        .request("wasmbus.rpc.default.bus.default.shutdown", stop.into())
        .await
        .unwrap();
    let provider = &mut bench.providers[0];
    let mut ended = None;
    for _ in 0..600 {
        ended = provider.ended();
        if ended.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(ended, Some(true), "{}", provider.log());
}
