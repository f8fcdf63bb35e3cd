//! What a component does that fetches its deliveries.

use std::time::Duration;

use fanout_transport::CallContext;

use crate::inbox;
use crate::types::{
    FetchedDeliveries, InboxError, LeasedDelivery, Rejection, SettleError, Settlement, SettlementOutcome, Verdict,
};
use crate::{Bench, Component, event, eventually};

/// Publishes a tenant's events, numbered.
///
/// # Panics
/// If one is refused.
pub async fn publish(bench: &Bench, numbers: std::ops::Range<usize>) {
    let ingress = bench.silent_component("ingress").await;
    for i in numbers {
        let published = ingress.publish(event("acme", "invoice.paid", &format!("e{i:03}")));
        published.await.expect("it is stored");
    }
}

/// For a call that may wait.
#[must_use]
pub fn patient() -> CallContext {
    CallContext::within(Duration::from_secs(12))
}

/// One fetch.
///
/// # Errors
/// As the bus refuses it.
///
/// # Panics
/// If the bus does not answer.
pub async fn try_fetch(who: &Component, name: &str, most: u32, wait_ms: u32) -> Result<FetchedDeliveries, InboxError> {
    inbox::fetch(who.bus(), patient(), name, most, None, wait_ms)
        .await
        .expect("the bus answers")
}

/// What one fetch brings.
///
/// # Panics
/// If it may not fetch.
pub async fn fetch(who: &Component, name: &str, most: u32, wait_ms: u32) -> Vec<LeasedDelivery> {
    let fetched = try_fetch(who, name, most, wait_ms).await;
    fetched.expect("it may fetch").deliveries
}

/// The next delivery, however long it takes to come, and though an instance is gone.
pub async fn next(who: &Component, name: &str) -> LeasedDelivery {
    eventually("a delivery comes", || async {
        let fetched = inbox::fetch(who.bus(), patient(), name, 1, None, 500).await.ok()?;
        fetched.expect("it may fetch").deliveries.pop()
    })
    .await
}

/// Settles one delivery.
///
/// # Errors
/// As the bus refuses it.
///
/// # Panics
/// If the bus does not answer.
pub async fn settle(
    who: &Component,
    held: &LeasedDelivery,
    verdict: Verdict,
) -> Result<SettlementOutcome, SettleError> {
    let settlement = Settlement {
        token: held.token.clone(),
        verdict,
    };
    let answers = inbox::settle(who.bus(), patient(), &[settlement]).await;
    answers.expect("the bus answers").pop().expect("one answer for each")
}

/// Settles one delivery, which must be taken.
///
/// # Panics
/// If it is not.
pub async fn settles(who: &Component, held: &LeasedDelivery, verdict: Verdict) {
    let answer = settle(who, held, verdict).await;
    assert!(matches!(answer, Ok(SettlementOutcome::Settled)), "{answer:?}");
}

/// Whether an event that is published now is fetched and settled at once, whichever instances are asked.
pub async fn goes_through(ingress: &Component, who: &Component, name: &str, id: &str) -> bool {
    if ingress.publish(event("acme", "invoice.paid", id)).await.is_err() {
        return false;
    }
    let fetched = try_fetch(who, name, 1, 500).await;
    match fetched.ok().and_then(|mut fetched| fetched.deliveries.pop()) {
        Some(held) => settle(who, &held, Verdict::Handled).await.is_ok(),
        None => false,
    }
}

/// Refuses it for now.
#[must_use]
pub fn retry(reason: &str) -> Verdict {
    Verdict::Rejected(Rejection::RetryNow(reason.into()))
}

/// Refuses it for good.
#[must_use]
pub fn never(reason: &str) -> Verdict {
    Verdict::Rejected(Rejection::DeadLetter(reason.into()))
}

/// The events' ids, in the order in which they came.
#[must_use]
pub fn ids(held: &[LeasedDelivery]) -> Vec<&str> {
    held.iter().map(|h| h.delivery.event.id.as_str()).collect()
}
