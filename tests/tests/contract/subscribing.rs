//! `subscriber` and `status`.

use fanout_tests::types::{DeliveryOptions, Filter, LinkState, Need, Reach, Scope, Start, SubscriptionState};
use fanout_tests::{every_event, status, subscriber};
use fanout_transport::CallContext;

use crate::errors::Met;
use crate::world::{World, patient};

pub(crate) fn filter(tenants: &[&str]) -> Filter {
    Filter {
        tenants: tenants.iter().map(|&tenant| tenant.to_owned()).collect(),
        event_types: vec!["invoice.*".to_owned()],
        pattern: None,
    }
}

pub(crate) fn options(reach: Reach, tenants: &[&str]) -> DeliveryOptions {
    DeliveryOptions {
        filter: filter(tenants),
        reach,
        ..every_event()
    }
}

pub(crate) async fn functions(world: &World) {
    let (bus, cx) = (&world.bus, CallContext::default);
    let acme = options(Reach::Inbox, &["acme"]);
    for _ in 0..2 {
        let billing = subscriber::subscribe_durable(bus, cx(), "billing", &acme);
        let billing = billing.await.expect("the bus answers").unwrap();
        assert_eq!(billing.name, "billing");
        assert!(matches!(billing.need, Need::Durable), "{billing:?}");
    }
    let all = filter(&["acme"]);
    let fast = subscriber::subscribe_queue(bus, cx(), "fast", &all, Reach::Inbox);
    assert!(matches!(
        fast.await.expect("the bus answers").unwrap().need,
        Need::Queue
    ));
    let replay = subscriber::subscribe_backfill(bus, cx(), "replay", &Start::First, None, &acme);
    let replay = replay.await.expect("the bus answers").unwrap();
    assert!(matches!(replay.need, Need::Backfill(Start::First)), "{replay:?}");

    let names = || async {
        let listed = subscriber::list_subscriptions(bus, cx());
        let listed = listed.await.expect("the bus answers").unwrap();
        listed.into_iter().map(|s| s.name).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["billing", "fast", "replay"]);
    subscriber::unsubscribe(bus, cx(), "fast")
        .await
        .expect("the bus answers")
        .unwrap();
    assert_eq!(names().await, ["billing", "replay"]);

    let paused = subscriber::pause(bus, cx(), "billing").await.expect("the bus answers");
    let paused = paused.unwrap();
    assert!(matches!(paused.state, SubscriptionState::Paused), "{paused:?}");
    let resumed = subscriber::resume(bus, cx(), "billing").await.expect("the bus answers");
    assert!(!matches!(resumed.unwrap().state, SubscriptionState::Paused));
    // Back to before it was made: it is given what was published since the log began.
    let rewound = subscriber::rewind(bus, cx(), "billing", &Start::First);
    let rewound = rewound.await.expect("the bus answers").unwrap();
    assert_eq!(rewound.name, "billing");

    let links = status::links(bus, cx()).await.expect("the bus answers");
    let links: Vec<_> = links
        .iter()
        .map(|link| (link.name.as_str(), matches!(link.state, LinkState::Applied)))
        .collect();
    if world.is_on_a_lattice() {
        assert_eq!(links, [("broken", false), ("default", true)]);
    } else {
        assert_eq!(links, [], "a caller that is not on a lattice has no links");
    }
}

pub(crate) async fn refusals(world: &World, met: &mut Met) {
    let (bus, cx) = (&world.bus, CallContext::default);
    let all = options(Reach::Inbox, &[]);
    let no_name = subscriber::subscribe_durable(bus, cx(), "no name", &all).await;
    let refused = met.subscribe(no_name.expect("the bus answers"));
    assert!(refused.starts_with("invalid-request: "), "{refused}");
    let foreign = subscriber::subscribe_durable(bus, cx(), "foreign", &options(Reach::Inbox, &["initech"])).await;
    let refused = met.subscribe(foreign.expect("the bus answers"));
    assert_eq!(refused, "not-permitted: tenant-not-permitted");
    let other = subscriber::subscribe_queue(bus, cx(), "billing", &filter(&[]), Reach::Inbox).await;
    let refused = met.subscribe(other.expect("the bus answers"));
    assert_eq!(refused, "conflict: subscription-conflict");
    let here = DeliveryOptions {
        scope: Scope::Here,
        ..options(Reach::Inbox, &["acme"])
    };
    let of_one_place = subscriber::subscribe_durable(bus, cx(), "local", &here).await;
    let refused = met.subscribe(of_one_place.expect("the bus answers"));
    assert_eq!(
        refused, "invalid-request: conflicting-settings",
        "the bus has no places"
    );
    let unknown = subscriber::unsubscribe(bus, cx(), "nothing").await;
    let refused = met.subscribe(unknown.expect("the bus answers"));
    assert_eq!(refused, "unknown-subscription: unknown-subscription");
    let called = options(Reach::Handler, &["acme"]);
    let handled = subscriber::subscribe_durable(bus, cx(), "handled", &called).await;
    let handled = handled.expect("the bus answers");
    if world.is_on_a_lattice() {
        handled.unwrap();
    } else {
        assert_eq!(met.subscribe(handled), "invalid-request: not-callable");
    }
}

/// The registry takes nothing any more: what was asked for is not done, and may be done by asking again.
pub(crate) async fn unknown(world: &World, met: &mut Met) {
    world
        .spoil("KV_fanout_payments_registry", |registry| registry.sealed = true)
        .await;
    let globex = options(Reach::Inbox, &["globex"]);
    let asked = subscriber::subscribe_durable(&world.bus, patient(), "late", &globex).await;
    let refused = met.subscribe(asked.expect("the bus answers"));
    assert_eq!(refused, "outcome-unknown: store-unavailable");
}
