//! One subscription's handler never holds up anybody else: neither receipts, nor calls, nor other subscriptions, however
//! long it takes and whatever is changed meanwhile.

use std::time::Duration;

use fanout_tests::subscriber;
use fanout_tests::types::{Rejection, SubscriptionState};
use fanout_tests::{Bench, Component, LinkTo, SubscriptionStatus, Verdict, event, eventually, every_event, publisher};
use fanout_transport::CallContext;

/// A handler that hangs is given up long after the end of a test.
const HUNG: [(&str, &str); 2] = [("delivery.deadline", "10m"), ("delivery.ack-wait", "12m")];

fn declared(component: &str, interface: &str, settings: &[(&str, &str)]) -> LinkTo {
    let all = [&[("subscription", component), ("need", "durable")], settings].concat();
    LinkTo::subscriber(component, &[interface], &all)
}

fn within(seconds: u64) -> CallContext {
    CallContext::within(Duration::from_secs(seconds))
}

/// Hangs with events whose id says so, and handles the others.
fn hangs_where_told(component: &Component) {
    component.judge(|d| match d.event.id.starts_with("hang") {
        true => Verdict::Hang,
        false => Verdict::Handle,
    });
}

async fn publish(ingress: &Component, id: &str) {
    ingress.publish(event("acme", "invoice.paid", id)).await.unwrap();
}

/// It has been given an event that it does not answer for.
async fn is_at(component: &Component, id: &str) {
    eventually(&format!("{} works on {id}", component.id), || async {
        component
            .seen(|s| s.deliveries.iter().any(|d| d.event.id == id))
            .then_some(())
    })
    .await;
}

/// Events that the instance handled since its deliveries began.
fn handled_here(status: &SubscriptionStatus) -> Option<u64> {
    status.this_instance.as_ref().map(|i| i.handled)
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_go_on_when_the_topology_changes_while_handlers_work() {
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        declared("invoicing", "handler", &[]),
    ];
    let mut bench = Bench::start(&HUNG, &links).await;
    let (ingress, invoicing) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
    );
    hangs_where_told(&invoicing);
    publish(&ingress, "hang").await;
    is_at(&invoicing, "hang").await;
    bench.change("topology", "sharded(2)").await;
    let mut number = 0;
    eventually("events are stored under the new topology", || {
        number += 1;
        let one = event("acme", "invoice.paid", &format!("e{number}"));
        let ingress = &ingress;
        async move {
            let receipt = publisher::publish_tenant_event(ingress.bus(), within(2), &one).await;
            let receipt = receipt.expect("the bus answers within the deadline").unwrap();
            (receipt.position.partition > 0).then_some(())
        }
    })
    .await;
    assert!(
        invoicing.seen(|s| s.handled.iter().all(|id| id != "hang")),
        "the handler is still at work"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_does_not_wait_for_the_handlers_of_others() {
    const MANY: usize = 10;
    let names: Vec<String> = (0..MANY).map(|i| format!("slow{i}")).collect();
    let mut links = vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("other", &["subscriber"], "*"),
    ];
    links.extend(names.iter().map(|name| declared(name, "handler", &[])));
    let mut bench = Bench::start(&HUNG, &links).await;
    let ingress = bench.silent_component("ingress").await;
    let mut slow = Vec::new();
    for name in &names {
        let component = bench.component(name).await;
        hangs_where_told(&component);
        slow.push(component);
    }
    publish(&ingress, "first").await;
    for component in &slow {
        let handled_one = |s: &SubscriptionStatus| handled_here(s) == Some(1);
        bench
            .subscription_when(&component.id, "it handles one", handled_one)
            .await;
    }
    publish(&ingress, "hang").await;
    for component in &slow {
        is_at(component, "hang").await;
    }
    // All deliveries begin anew: how they are made is another now.
    bench.change("delivery.deadline", "9m").await;
    for component in &slow {
        let begun_anew = |s: &SubscriptionStatus| handled_here(s) == Some(0);
        bench
            .subscription_when(&component.id, "it begins anew", begun_anew)
            .await;
    }
    let other = bench.component("other").await;
    let options = every_event();
    let made = subscriber::subscribe_durable(other.bus(), within(5), "mine", &options).await;
    made.expect("the bus answers within the deadline").unwrap();
    publish(&ingress, "second").await;
    eventually("who subscribed is given what is published", || async {
        (other.handled() == ["second"]).then_some(())
    })
    .await;
    for component in &slow {
        let given = component.seen(|s| s.deliveries.iter().filter(|d| d.event.id == "second").count());
        assert_eq!(
            given, 0,
            "{} is given nothing before the last invocation is over",
            component.id
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_retries_are_taken_over_while_a_handler_works() {
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        declared("invoicing", "handler", &[]),
    ];
    let settings = [&HUNG[..], &[("retry.schedule", "1h"), ("retry.max-attempts", "5")]].concat();
    let mut bench = Bench::start(&settings, &links).await;
    let (ingress, invoicing) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
    );
    invoicing.judge(|d| match &d.event.id[..4] {
        "hang" => Verdict::Hang,
        "fail" => Verdict::Refuse(Rejection::Retry("not now".into())),
        _ => Verdict::Handle,
    });
    publish(&ingress, "good").await;
    publish(&ingress, "hang").await;
    is_at(&invoicing, "hang").await;
    bench.change("retry.max-attempts", "1").await;
    let mut number = 0;
    eventually("what is refused once is a dead letter", || {
        number += 1;
        let (bench, ingress, id) = (&bench, &ingress, format!("fail{number}"));
        async move {
            publish(ingress, &id).await;
            let status = bench.subscription_when("invoicing", "it is there", |s| s.dead_letters.is_some());
            status.await.dead_letters.filter(|n| *n > 0)
        }
    })
    .await;
    let status = bench.subscription_when("invoicing", "it is there", |_| true).await;
    assert_eq!(handled_here(&status), Some(1), "its deliveries went on: {status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_failed_batch_are_not_tried_alone_once_it_is_paused() {
    const EVENTS: usize = 10;
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("invoicing", &["subscriber"], "*"),
        declared("invoicing", "batch-handler", &[("batch-size", "10")]),
    ];
    let settings = [("delivery.deadline", "3s"), ("delivery.ack-wait", "4s")];
    let bench = Bench::start(&settings, &links).await;
    let (ingress, invoicing) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
    );
    let pause = || subscriber::pause(invoicing.bus(), within(10), "invoicing");
    pause().await.unwrap().unwrap();
    for i in 0..EVENTS {
        publish(&ingress, &format!("e{i}")).await;
    }
    // The first of all breaks its batch, and whatever is tried alone after it hangs.
    let broken = std::sync::atomic::AtomicBool::new(false);
    invoicing.judge(move |_| match broken.swap(true, std::sync::atomic::Ordering::SeqCst) {
        false => Verdict::Trap,
        true => Verdict::Hang,
    });
    let resumed = subscriber::resume(invoicing.bus(), within(10), "invoicing").await;
    resumed.unwrap().unwrap();
    eventually("the first of them is tried alone", || async {
        invoicing.seen(|s| s.batches == [EVENTS, 1]).then_some(())
    })
    .await;
    // Its answer comes when nothing is under way any more.
    let paused = pause().await.unwrap().unwrap();
    assert!(matches!(paused.state, SubscriptionState::Paused));
    assert_eq!(invoicing.seen(|s| s.batches.clone()), [EVENTS, 1], "no other was tried");
}
