//! `publisher`.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fanout_plan::{Attributes, RawEvent, envelope};
use fanout_tests::event;
use fanout_tests::publisher;
use fanout_tests::types::{Cancellation, Event, PublishError, Receipt};
use fanout_transport::CallContext;

use crate::errors::Met;
use crate::world::{MAX_EVENT_BYTES, World};

/// An event of `acme` with a payload of so many bytes, each of which tells its place.
pub(crate) fn sized(id: &str, bytes: usize) -> Event {
    Event {
        data: (0..bytes).map(|i| (i % 251) as u8).collect::<Vec<_>>().into(),
        ..event("acme", "invoice.paid", id)
    }
}

/// The same that is as large as an event may be.
pub(crate) fn largest(id: &str) -> Event {
    let small = sized(id, 0);
    let raw = RawEvent {
        tenant: small.tenant,
        event_type: small.event_type,
        id: small.id,
        source: small.source,
        data_content_type: small.data_content_type,
        ..RawEvent::default()
    };
    let headers = envelope::to_headers(&Attributes::try_from(raw).unwrap());
    let attributes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    sized(id, MAX_EVENT_BYTES - attributes)
}

async fn publish(world: &World, event: &Event) -> Result<Receipt, PublishError> {
    publisher::publish_tenant_event(&world.bus, CallContext::default(), event)
        .await
        .expect("the bus answers")
}

async fn together(world: &World, events: &[Event]) -> Result<Vec<Receipt>, PublishError> {
    publisher::publish_tenant_events_together(&world.bus, CallContext::default(), events)
        .await
        .expect("the bus answers")
}

pub(crate) async fn functions(world: &World, met: &mut Met) {
    let byte = publish(world, &sized("byte", 1)).await.unwrap();
    let large = publish(world, &largest("large")).await.unwrap();
    assert_eq!((byte.position.offset, large.position.offset), (1, 2));
    let again = publish(world, &sized("byte", 1)).await.unwrap();
    assert_eq!((again.position.offset, again.duplicate), (1, true));
    let mut larger = largest("larger");
    larger.data = [&larger.data[..], b"x"].concat().into();
    assert_eq!(met.publish(publish(world, &larger).await), "too-large: event-too-large");

    let many = [
        event("globex", "invoice.paid", "many-1"),
        event("no\ntenant", "invoice.paid", "many-2"),
        event("globex", "invoice.paid", "many-3"),
    ];
    let results = publisher::publish_tenant_events(&world.bus, CallContext::default(), &many);
    let [first, second, third] = <[_; 3]>::try_from(results.await.expect("the bus answers")).unwrap();
    assert!(first.is_ok() && third.is_ok(), "one bad event takes no other along");
    assert_eq!(met.publish(second), "invalid-event: invalid-tenant");

    let head = publish(world, &event("globex", "invoice.paid", "head"))
        .await
        .unwrap()
        .position
        .offset;
    assert_eq!(
        met.publish(together(world, &many).await),
        "invalid-event: invalid-tenant"
    );
    let foreign = [
        event("globex", "invoice.paid", "all-1"),
        event("initech", "invoice.paid", "all-2"),
    ];
    assert_eq!(
        met.publish(together(world, &foreign).await),
        "not-permitted: tenant-not-permitted"
    );
    let all = ["all-1", "head", "all-3"].map(|id| event("globex", "invoice.paid", id));
    let places: Vec<_> = together(world, &all)
        .await
        .unwrap()
        .into_iter()
        .map(|r| (r.position.offset, r.duplicate))
        .collect();
    let expected = [(head + 1, false), (head, true), (head + 2, false)];
    assert_eq!(places, expected, "nothing was stored of those that were refused");

    let in_an_hour = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64 + 3_600_000_000_000;
    let later = event("acme", "invoice.due", "later");
    for duplicate in [false, true] {
        let at = in_an_hour + i64::from(duplicate);
        let kept = publisher::publish_tenant_event_at(&world.bus, CallContext::default(), &later, at);
        let kept = kept.await.expect("the bus answers").unwrap();
        assert_eq!((kept.due, kept.duplicate), (in_an_hour, duplicate));
    }
    for (id, expected) in [("later", Cancellation::Cancelled), ("never", Cancellation::NotWaiting)] {
        let cancelled = publisher::cancel_scheduled(&world.bus, CallContext::default(), "acme", "/tests", id);
        let cancelled = cancelled.await.expect("the bus answers").unwrap();
        assert_eq!(format!("{cancelled:?}"), format!("{expected:?}"), "{id}");
    }
}

pub(crate) async fn refusals(world: &World, met: &mut Met) {
    let foreign = publish(world, &event("initech", "invoice.paid", "e")).await;
    assert_eq!(met.publish(foreign), "not-permitted: tenant-not-permitted");
    let mut published = 0;
    let refused = loop {
        match publish(world, &event("loud", "invoice.paid", &format!("loud-{published}"))).await {
            Ok(_) => published += 1,
            refused => break refused,
        }
        assert!(published < 100, "a quota of one event a second lets everything through");
    };
    assert_eq!(met.publish(refused), "quota-exceeded: quota-exceeded");
}

/// The log stores and does not say so; then it says so again, and has no more room.
pub(crate) async fn unknown_then_full(world: &World, met: &mut Met) {
    world.spoil("fanout_payments_log", |log| log.no_ack = true).await;
    let event = event("globex", "invoice.paid", "unknown");
    assert_eq!(
        met.publish(publish(world, &event).await),
        "outcome-unknown: outcome-unknown"
    );
    world.spoil("fanout_payments_log", |log| log.no_ack = false).await;
    let again = publish(world, &event).await.unwrap();
    assert!(again.duplicate, "it was stored: the same id again is the same event");

    let mut published = 0;
    let refused = loop {
        let mut large = largest(&format!("full-{published:02}"));
        large.tenant = "globex".to_owned();
        large.data = Bytes::from(vec![0; large.data.len() - 64]);
        match publish(world, &large).await {
            Ok(_) => published += 1,
            refused => break refused,
        }
        assert!(published < 100, "the log never fills up");
    };
    assert_eq!(met.publish(refused), "store-full: store-full");
}
