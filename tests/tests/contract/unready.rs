//! A bus that is not brought to its policy: every function says that it can't, and none does something by half.

use bytes::Bytes;
use fanout_tests::types::{Reach, Settlement, Start, Verdict};
use fanout_tests::{event, publisher, status};
use fanout_tests::{inbox, subscriber};
use fanout_transport::CallContext;

use crate::errors::Met;
use crate::subscribing::{filter, options};
use crate::world::World;

pub(crate) async fn everything_is_unavailable(world: &World, met: &mut Met) {
    let (bus, cx) = (&world.bus, CallContext::default);
    let one = event("acme", "invoice.paid", "e");
    let mut refused = Vec::new();

    let answer = publisher::publish_tenant_event(bus, cx(), &one).await;
    refused.push(met.publish(answer.expect("the bus answers")));
    let answer = publisher::publish_tenant_events(bus, cx(), &[one.clone(), one.clone()]).await;
    for answer in answer.expect("the bus answers") {
        refused.push(met.publish(answer));
    }
    let answer = publisher::publish_tenant_events_together(bus, cx(), &[one.clone(), one.clone()]).await;
    refused.push(met.publish(answer.expect("the bus answers")));
    let answer = publisher::publish_tenant_event_at(bus, cx(), &one, 0).await;
    refused.push(met.publish(answer.expect("the bus answers")));
    let answer = publisher::cancel_scheduled(bus, cx(), "acme", "/tests", "e").await;
    refused.push(met.publish(answer.expect("the bus answers")));

    let inbox = options(Reach::Inbox, &["acme"]);
    let answer = subscriber::subscribe_queue(bus, cx(), "s", &filter(&["acme"]), Reach::Inbox).await;
    refused.push(met.subscribe(answer.expect("the bus answers")));
    let answer = subscriber::subscribe_durable(bus, cx(), "s", &inbox).await;
    refused.push(met.subscribe(answer.expect("the bus answers")));
    let answer = subscriber::subscribe_backfill(bus, cx(), "s", &Start::First, None, &inbox).await;
    refused.push(met.subscribe(answer.expect("the bus answers")));

    // Nothing was made of what was refused.
    let answer = inbox::fetch(bus, cx(), "s", 1, None, 0).await;
    let answer = met.inbox(answer.expect("the bus answers"));
    assert!(
        [
            "unavailable: bus-not-ready",
            "unknown-subscription: unknown-subscription"
        ]
        .contains(&answer.as_str()),
        "{answer}"
    );
    let settlement = Settlement {
        token: Bytes::from_static(b"token"),
        verdict: Verdict::Handled,
    };
    let answer = inbox::settle(bus, cx(), &[settlement]).await;
    for answer in answer.expect("the bus answers") {
        let answer = met.settle(answer);
        assert!(
            answer.starts_with("unavailable: ") || answer == "invalid-token: invalid-token",
            "{answer}"
        );
    }
    for refusal in refused {
        // On a machine that is busy the server may not answer in time, which is as good a reason.
        let reasons = ["bus-not-ready", "foreign-topology", "store-unavailable"];
        let is_refused = refusal
            .strip_prefix("unavailable: ")
            .is_some_and(|why| reasons.contains(&why));
        assert!(is_refused, "{refusal}");
    }
    // The caller is still told of its links.
    status::links(bus, cx()).await.expect("the bus answers");
}
