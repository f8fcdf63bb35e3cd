//! `publish-tenant-events-together`: every event is checked and has its part of its tenant's quota before the first is
//! stored.

use std::collections::BTreeMap;

use fanout_plan::{Code, Problem, TenantId};
use fanout_transport::Caller;
use fanout_wit::types::{PublishError, Receipt};

use super::publishing::{Ready, in_order, send};
use crate::bus::Bus;
use crate::contract::convert::problem;
use crate::contract::errors::{not_admitted, publish_problem};
use crate::contract::publisher::Permitted;
use crate::quota::Together;

/// Stores all events, or none of them unless the store fails meanwhile.
pub(super) async fn publish(bus: &Bus, caller: &Caller, events: Vec<Permitted>) -> Result<Vec<Receipt>, PublishError> {
    let mut ready = Vec::with_capacity(events.len());
    for event in events {
        ready.push(Ready::check(bus, caller, event).await?);
    }
    let admitted = admit(bus, &ready).await?;
    let begun = ready.into_iter().map(|ready| {
        let together = admitted.get(ready.event.tenant());
        async move {
            let admitted = match together {
                Some(all) => {
                    bus.gate()
                        .one_of(all, &ready.store, ready.event.tenant(), ready.outgoing.size)
                        .await
                }
                None => unreachable!("each tenant of them was admitted"),
            };
            send(bus, ready, admitted).await
        }
    });
    all(in_order(bus, begun).await)
}

/// Takes all of them out of their tenants' quotas, or nothing.
async fn admit(bus: &Bus, ready: &[Ready]) -> Result<BTreeMap<TenantId, Together>, PublishError> {
    let mut wanted: BTreeMap<&TenantId, (&Ready, u64, u64)> = BTreeMap::new();
    for one in ready {
        let (_, events, bytes) = wanted.entry(one.event.tenant()).or_insert((one, 0, 0));
        *events += 1;
        *bytes += one.outgoing.size;
    }
    let mut admitted = BTreeMap::new();
    for (tenant, (first, events, bytes)) in wanted {
        match bus.gate().admit_together(&first.store, tenant, events, bytes).await {
            Ok(together) => drop(admitted.insert(tenant.clone(), together)),
            Err(refused) => {
                for (tenant, together) in &admitted {
                    bus.gate().put_all_back(tenant, together);
                }
                return Err(not_admitted(
                    &first.store.policy().quotas,
                    tenant,
                    first.event.id(),
                    &refused,
                ));
            }
        }
    }
    Ok(admitted)
}

/// A receipt for each, or what came of them together.
fn all(results: Vec<Result<Receipt, PublishError>>) -> Result<Vec<Receipt>, PublishError> {
    let events = results.len();
    let mut receipts = Vec::with_capacity(events);
    let mut refused = Vec::new();
    for result in results {
        match result {
            Ok(receipt) => receipts.push(receipt),
            Err(e) => refused.push(e),
        }
    }
    let maybe = |e: &PublishError| matches!(e, PublishError::OutcomeUnknown(_));
    let unknown = refused.iter().position(maybe);
    if refused.is_empty() {
        return Ok(receipts);
    }
    let mut first = refused.swap_remove(unknown.unwrap_or_default());
    if receipts.is_empty() && unknown.is_none() {
        return Err(first);
    }
    Err(PublishError::OutcomeUnknown(problem(Problem::new(
        Code::OutcomeUnknown,
        format!(
            "{} of {events} events that belong together are stored: publish all of them again with the same ids; {}",
            receipts.len(),
            publish_problem(&mut first).message
        ),
    ))))
}
