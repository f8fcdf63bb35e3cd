//! What a receipt promises, and every way to be refused one.

use bytes::Bytes;
use fanout_tests::types::{Event, PublishError};
use fanout_tests::{Bench, LinkTo, event, publisher};
use fanout_transport::CallContext;

const PUBLISHER: &[&str] = &["publisher"];

fn code(e: &PublishError) -> &str {
    match e {
        PublishError::InvalidEvent(p)
        | PublishError::NotPermitted(p)
        | PublishError::TooLarge(p)
        | PublishError::StoreFull(p)
        | PublishError::Unavailable(p)
        | PublishError::OutcomeUnknown(p) => &p.code,
        PublishError::QuotaExceeded(r) => &r.problem.code,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_of_an_id_is_one_event_of_its_tenant() {
    let bench = Bench::start(&[], &[LinkTo::caller("ingress", PUBLISHER, "*")]).await;
    let ingress = bench.silent_component("ingress").await;
    let first = ingress.publish(event("acme", "invoice.paid", "evt_1")).await.unwrap();
    assert_eq!(
        (first.position.partition, first.position.offset, first.duplicate),
        (0, 1, false)
    );
    let again = ingress.publish(event("acme", "invoice.paid", "evt_1")).await.unwrap();
    assert_eq!((again.position.offset, again.duplicate), (1, true));
    // The store's own ids know no tenants: another tenant's same id must still be another event.
    let other = ingress.publish(event("globex", "invoice.paid", "evt_1")).await.unwrap();
    assert_eq!((other.position.offset, other.duplicate), (2, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_counts_the_durable_subscriptions_that_match() {
    let durable = |name: &str, types: &str| {
        LinkTo::subscriber(
            name,
            &["handler"],
            &[("subscription", name), ("need", "durable"), ("event-types", types)],
        )
    };
    let bench = Bench::start(
        &[],
        &[
            LinkTo::caller("ingress", PUBLISHER, "*"),
            durable("invoicing", "invoice.*"),
            durable("audit", "**"),
            LinkTo::subscriber("cache", &["handler"], &[("subscription", "cache"), ("need", "queue")]),
        ],
    )
    .await;
    let ingress = bench.silent_component("ingress").await;
    let both = ingress.publish(event("acme", "invoice.paid", "a")).await.unwrap();
    let one = ingress.publish(event("acme", "charge.failed", "b")).await.unwrap();
    assert_eq!((both.durable_subscriptions, one.durable_subscriptions), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_events_have_one_result_each_in_order() {
    let bench = Bench::start(&[], &[LinkTo::caller("ingress", PUBLISHER, "acme")]).await;
    let ingress = bench.silent_component("ingress").await;
    let mut events: Vec<Event> = (0..200).map(|i| event("acme", "a.b", &format!("e{i}"))).collect();
    events[7] = event("globex", "a.b", "x");
    events[9] = event("acme", "not a\ntype", "x");
    events[11].data = Bytes::from(vec![0; 600 << 10]);
    let results = publisher::publish_tenant_events(ingress.bus(), CallContext::default(), &events)
        .await
        .unwrap();
    assert_eq!(results.len(), events.len());
    let mut last = 0;
    for (i, result) in results.iter().enumerate() {
        match (i, result) {
            (7, Err(e)) => assert_eq!(code(e), "tenant-not-permitted"),
            (9, Err(e)) => assert_eq!(code(e), "invalid-event-type"),
            (11, Err(e)) => assert_eq!(code(e), "event-too-large"),
            (_, Ok(receipt)) => {
                assert!(receipt.position.offset > last, "stored in the order given");
                last = receipt.position.offset;
            }
            (i, Err(e)) => panic!("event {i}: {e:?}"),
        }
    }
    let many: Vec<Event> = (0..1001).map(|i| event("acme", "a.b", &format!("m{i}"))).collect();
    let refused = publisher::publish_tenant_events(ingress.bus(), CallContext::default(), &many)
        .await
        .unwrap();
    assert_eq!(refused.len(), 1001);
    assert!(
        refused
            .iter()
            .all(|r| r.as_ref().is_err_and(|e| code(e) == "too-many-events"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_legal_event_is_refused_and_changes_nothing() {
    let bench = Bench::start(&[], &[LinkTo::caller("ingress", PUBLISHER, "*")]).await;
    let ingress = bench.silent_component("ingress").await;
    let long = "x".repeat(300);
    for tenant in ["a\tb", "a\r\nb", "\u{0}", "\u{85}", "\u{fffe}", "", &long] {
        let refused = ingress.publish(event(tenant, "invoice.paid", "e")).await.unwrap_err();
        assert!(
            matches!(refused, PublishError::InvalidEvent(_)),
            "{tenant:?}: {refused:?}"
        );
        assert_eq!(code(&refused), "invalid-tenant", "{tenant:?}");
    }
    for event_type in ["", "a\nb", "a\u{7f}", &long] {
        let refused = ingress.publish(event("acme", event_type, "e")).await.unwrap_err();
        assert_eq!(code(&refused), "invalid-event-type", "{event_type:?}");
    }
    let empty = || Some(String::new());
    for broken in [
        Event {
            subject: empty(),
            ..event("acme", "invoice.paid", "e")
        },
        Event {
            data_content_type: empty(),
            ..event("acme", "invoice.paid", "e")
        },
        Event {
            source: "/a\nb".to_owned(),
            ..event("acme", "invoice.paid", "e")
        },
    ] {
        let refused = ingress.publish(broken).await.unwrap_err();
        assert_eq!(code(&refused), "invalid-attribute");
    }
    let mut large = event("acme", "invoice.paid", "e");
    large.data = Bytes::from(vec![0; 512 << 10]);
    let refused = ingress.publish(large).await.unwrap_err();
    assert!(matches!(refused, PublishError::TooLarge(_)), "{refused:?}");
    let stored = ingress.publish(event("acme", "invoice.paid", "e")).await.unwrap();
    assert_eq!(stored.position.offset, 1, "nothing before it was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_reaches_only_what_its_link_allows() {
    let bench = Bench::start(
        &[],
        &[
            LinkTo::caller("ingress", PUBLISHER, "acme,globex"),
            LinkTo::caller("ingress", PUBLISHER, "initech").named("second"),
            LinkTo::caller("reader", &["subscriber"], "*"),
            LinkTo::caller("broken", PUBLISHER, "a,,b"),
        ],
    )
    .await;
    let ingress = bench.silent_component("ingress").await;
    let reader = bench.silent_component("reader").await;
    let broken = bench.silent_component("broken").await;
    let stranger = bench.silent_component("stranger").await;
    let e = |tenant| event(tenant, "invoice.paid", tenant);
    ingress.publish(e("acme")).await.unwrap();
    ingress.publish_by("second", e("initech")).await.unwrap();
    for (result, expected) in [
        (ingress.publish(e("initech")).await, "tenant-not-permitted"),
        (ingress.publish_by("second", e("acme")).await, "tenant-not-permitted"),
        (ingress.publish_by("third", e("acme")).await, "not-linked"),
        (reader.publish(e("acme")).await, "interface-not-linked"),
        (broken.publish(e("acme")).await, "link-refused"),
        (stranger.publish(e("acme")).await, "not-linked"),
    ] {
        let refused = result.unwrap_err();
        assert!(matches!(refused, PublishError::NotPermitted(_)), "{refused:?}");
        assert_eq!(code(&refused), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_refuses_and_keeps_what_it_has() {
    let bench = Bench::start(
        &[("retention.max-bytes", "64KiB"), ("event.max-bytes", "16KiB")],
        &[
            LinkTo::caller("ingress", PUBLISHER, "*"),
            LinkTo::subscriber(
                "invoicing",
                &["handler"],
                &[("subscription", "invoicing"), ("need", "durable")],
            ),
        ],
    )
    .await;
    let ingress = bench.silent_component("ingress").await;
    let mut accepted = Vec::new();
    let refused = loop {
        let id = format!("e{:03}", accepted.len());
        let mut e = event("acme", "invoice.paid", &id);
        e.data = Bytes::from(vec![b'x'; 8 << 10]);
        match ingress.publish(e).await {
            Ok(receipt) => {
                assert!(!receipt.duplicate);
                accepted.push(id);
            }
            Err(refused) => break refused,
        }
        assert!(accepted.len() < 100, "the log never fills up");
    };
    assert!(matches!(refused, PublishError::StoreFull(_)), "{refused:?}");
    assert_eq!(code(&refused), "store-full");
    let invoicing = bench.component("invoicing").await;
    fanout_tests::eventually("every accepted event is handled", || async {
        (invoicing.handled() == accepted).then_some(())
    })
    .await;
}
