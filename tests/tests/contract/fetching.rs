//! `inbox`.

use std::collections::BTreeMap;

use bytes::Bytes;
use fanout_tests::eventually;
use fanout_tests::inbox;
use fanout_tests::types::{
    FetchedDeliveries, InboxError, LeasedDelivery, Rejection, SettleError, Settlement, SettlementOutcome, Verdict,
};

use crate::errors::Met;
use crate::publishing::{largest, sized};
use crate::world::{World, patient};

/// Each waits half a second for an event: half a minute in all.
const FETCHES: usize = 60;

async fn fetch(world: &World, subscription: &str) -> Result<FetchedDeliveries, InboxError> {
    inbox::fetch(&world.bus, patient(), subscription, 1, None, 500)
        .await
        .expect("the bus answers")
}

/// The next delivery, however long it takes to come.
async fn next(world: &World, subscription: &str) -> LeasedDelivery {
    eventually("a delivery comes", || async {
        fetch(world, subscription).await.unwrap().deliveries.pop()
    })
    .await
}

async fn settle(world: &World, token: &Bytes, verdict: Verdict) -> Result<SettlementOutcome, SettleError> {
    let settlements = [Settlement {
        token: token.clone(),
        verdict,
    }];
    let settled = inbox::settle(&world.bus, patient(), &settlements);
    settled
        .await
        .expect("the bus answers")
        .pop()
        .expect("one answer for each")
}

pub(crate) async fn functions(world: &World) {
    // The smallest and the largest payload come as they were published.
    let mut payloads = BTreeMap::new();
    let mut caught_up = None;
    for _ in 0..FETCHES {
        let fetched = fetch(world, "replay").await.unwrap();
        assert!(fetched.lease_ms > 0);
        for held in fetched.deliveries {
            let settled = settle(world, &held.token, Verdict::Handled).await;
            assert!(matches!(settled, Ok(SettlementOutcome::Settled)), "{settled:?}");
            payloads.insert(held.delivery.event.id, held.delivery.event.data);
        }
        caught_up = fetched.caught_up;
        if caught_up.is_some() {
            break;
        }
    }
    let caught_up = caught_up.expect("the backfill catches up");
    assert_eq!((caught_up.replayed, caught_up.finished), (2, false));
    let expected = [("byte", sized("byte", 1)), ("large", largest("large"))];
    let expected = expected.map(|(id, event)| (id.to_owned(), event.data));
    assert_eq!(payloads, expected.into());

    // Every verdict.
    let held = next(world, "billing").await;
    assert_eq!(held.delivery.attempt, 1);
    let Ok(SettlementOutcome::Extended(token)) = settle(world, &held.token, Verdict::StillWorking).await else {
        panic!("the hold does not begin anew");
    };
    assert!(matches!(
        settle(world, &token, Verdict::Released).await,
        Ok(SettlementOutcome::Settled)
    ));
    for attempt in 1..=2 {
        let held = next(world, "billing").await;
        let id = held.delivery.event.id.clone();
        let verdict = if attempt == 1 {
            Verdict::Rejected(Rejection::DeadLetter("no amount".to_owned()))
        } else {
            Verdict::Rejected(Rejection::RetryNow("busy".to_owned()))
        };
        let settled = settle(world, &held.token, verdict).await;
        assert!(matches!(settled, Ok(SettlementOutcome::Settled)), "{id}: {settled:?}");
    }
}

pub(crate) async fn refusals(world: &World, met: &mut Met) {
    let unknown = fetch(world, "nothing").await;
    assert_eq!(met.inbox(unknown), "unknown-subscription: unknown-subscription");
    if world.is_on_a_lattice() {
        assert_eq!(
            met.inbox(fetch(world, "handled").await),
            "invalid-request: not-an-inbox"
        );
    }
    let token = settle(world, &Bytes::from_static(b"not a token"), Verdict::Handled).await;
    assert_eq!(met.settle(token), "invalid-token: invalid-token");
    // A hold is over once the delivery is delivered again.
    let held = next(world, "billing").await;
    let again = next(world, "billing").await;
    assert_eq!(held.delivery.event.id, again.delivery.event.id);
    let late = settle(world, &held.token, Verdict::StillWorking).await;
    assert_eq!(met.settle(late), "lease-expired: lease-expired");
}

/// Returns the token of what was fetched before.
pub(crate) async fn no_longer_allowed(world: &mut World, met: &mut Met) -> Bytes {
    let held = next(world, "billing").await;
    world.allow_only("globex").await;
    eventually("it may not fetch any more", || async {
        fetch(world, "billing").await.err()
    })
    .await;
    let refused = met.inbox(fetch(world, "billing").await);
    assert!(refused.starts_with("not-permitted: "), "{refused}");
    let refused = met.settle(settle(world, &held.token, Verdict::Handled).await);
    assert!(refused.starts_with("not-permitted: "), "{refused}");
    held.token
}

/// An edge knows its components' subscriptions, also while its bus can't give their deliveries.
pub(crate) async fn bus_is_away(world: &mut World, token: &Bytes, met: &mut Met) {
    if world.kill_bus_of_edge() {
        let refused = met.inbox(fetch(world, "billing").await);
        assert!(refused.starts_with("unavailable: "), "{refused}");
        let refused = met.settle(settle(world, token, Verdict::Handled).await);
        assert!(refused.starts_with("unavailable: "), "{refused}");
    }
}
