//! `publisher`: checks the caller's link, checks the event, stores it, and answers with a receipt.

use fanout_plan::authority;
use fanout_plan::link::Grant;
use fanout_plan::{Attributes, Code, EventType, Problem, TenantId};
use fanout_transport::Caller;

use super::bindings::exports::fanout::bus::publisher::Handler;
use super::bindings::fanout::bus::types::{Event, PublishError, Receipt};
use super::convert::{position, raw_event};
use super::errors::{publish_refusal, unstored};
use super::serve::Exports;
use crate::jetstream::{Sent, Unstored};

/// The most events in one call.
const MAX_EVENTS: usize = 1_000;

/// An event that the store has been handed.
struct Underway {
    sent: Sent,
    durable_subscriptions: u32,
    tenant: TenantId,
    id: String,
}

impl Handler<Caller> for Exports {
    async fn publish_tenant_event(
        &self,
        caller: Caller,
        event: Event,
    ) -> anyhow::Result<Result<Receipt, PublishError>> {
        Ok(match self.begin(&caller, event).await {
            Ok(underway) => receipt(underway).await,
            Err(e) => Err(e),
        })
    }

    async fn publish_tenant_events(
        &self,
        caller: Caller,
        events: Vec<Event>,
    ) -> anyhow::Result<Vec<Result<Receipt, PublishError>>> {
        if let Some(refusal) = too_many(events.len()) {
            return Ok(events.iter().map(|_| Err(publish_refusal(refusal.clone()))).collect());
        }
        // All are handed over before the first answer is awaited: in order, and without a round trip for each.
        let mut underway = Vec::with_capacity(events.len());
        for event in events {
            underway.push(self.begin(&caller, event).await);
        }
        let mut results = Vec::with_capacity(underway.len());
        for u in underway {
            results.push(match u {
                Ok(u) => receipt(u).await,
                Err(e) => Err(e),
            });
        }
        Ok(results)
    }
}

impl Exports {
    async fn begin(&self, caller: &Caller, mut event: Event) -> Result<Underway, PublishError> {
        let view = self.bus.view();
        let attributes = Attributes::try_from(raw_event(&mut event)).map_err(publish_refusal)?;
        view.publish_grant(&caller.component, &caller.link)
            .and_then(|grant| permit(grant, caller, attributes.tenant(), attributes.event_type()))
            .map_err(publish_refusal)?;
        let (tenant, id) = (attributes.tenant().clone(), attributes.id().to_owned());
        let store = self.bus.store_for(&tenant).await.map_err(publish_refusal)?;
        let durable_subscriptions = view.durable_matches(&attributes);
        match store.send(&attributes, caller.traceparent.as_deref(), event.data).await {
            Ok(sent) => Ok(Underway {
                sent,
                durable_subscriptions,
                tenant,
                id,
            }),
            Err(e) => Err(unstored(&tenant, &id, &e)),
        }
    }
}

async fn receipt(underway: Underway) -> Result<Receipt, PublishError> {
    let Underway {
        sent,
        durable_subscriptions,
        tenant,
        id,
    } = underway;
    let stored = sent.stored().await.map_err(|e: Unstored| unstored(&tenant, &id, &e))?;
    Ok(Receipt {
        position: position(stored.position),
        duplicate: stored.duplicate,
        durable_subscriptions,
    })
}

/// Why so many events are not taken in one call, if so.
pub(super) fn too_many(events: usize) -> Option<Problem> {
    (events > MAX_EVENTS).then(|| {
        Problem::new(
            Code::TooManyEvents,
            format!("{events} events in one call: at most {MAX_EVENTS} are taken, and none of these was stored"),
        )
    })
}

/// Whether the caller may publish this.
pub(super) fn permit(grant: &Grant, caller: &Caller, tenant: &TenantId, event_type: &EventType) -> Result<(), Problem> {
    let link = || authority::describe(&caller.component, &caller.link);
    if !grant.publish {
        return Err(Problem::new(
            Code::InterfaceNotLinked,
            format!("{} does not include `publisher`: add it to its interfaces", link()),
        ));
    }
    if !grant.allows.allows_tenant(tenant) {
        return Err(Problem::new(
            Code::TenantNotPermitted,
            format!("{} does not allow tenant {tenant}: add it to its `tenants`", link()),
        ));
    }
    if !grant.allows.matches(tenant, event_type) {
        return Err(Problem::new(
            Code::EventTypeNotPermitted,
            format!(
                "{} does not allow event type {event_type}: add it to its `event-types`",
                link()
            ),
        ));
    }
    Ok(())
}
