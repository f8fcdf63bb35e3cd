//! `publisher`: checks the caller's link, checks the event, asks the tenant's quota, stores the event, and answers with
//! a receipt.

use std::time::Duration;

use bytes::Bytes;
use fanout_plan::authority;
use fanout_plan::link::Grant;
use fanout_plan::{Attributes, Code, EventType, Problem, TenantId};
use fanout_transport::Caller;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use tokio::time::Instant;

use super::bindings::exports::fanout::bus::publisher::{Cancellation, Handler, Scheduled};
use super::convert::{position, raw_event};
use super::errors::{not_admitted, not_cancelled, publish_refusal, unstored};
use super::serve::Exports;
use crate::bus::Bus;
use crate::clock;
use crate::jetstream::{Outgoing, Sent, State, Store, Stored, Unstored};
use crate::quota::Admitted;
use crate::view::View;
use fanout_forward::wit::{Event, PublishError, Receipt};

/// The most events in one call.
const MAX_EVENTS: usize = 1_000;

/// The furthest that an event may be put off: ten years.
const FURTHEST: i64 = 10 * 366 * 86_400 * 1_000_000_000;

/// An event that may be published.
struct Accepted {
    store: Store,
    event: Checked,
    outgoing: Outgoing,
    admitted: Admitted,
}

/// An event as it was checked, from which it can be handed to the store, and again to another place.
struct Checked {
    attributes: Attributes,
    traceparent: Option<String>,
    data: Bytes,
}

impl Checked {
    fn outgoing(&self, store: &Store) -> Result<Outgoing, Unstored> {
        let limit = store.policy().max_event_bytes;
        Outgoing::new(&self.attributes, self.traceparent.as_deref(), self.data.clone(), limit)
    }

    fn unstored(&self, e: &Unstored) -> PublishError {
        unstored(self.attributes.tenant(), self.attributes.id(), e)
    }
}

/// An event that the store has been handed.
struct Underway {
    store: Store,
    sent: Sent,
    durable_subscriptions: u32,
    event: Checked,
    admitted: Admitted,
}

impl Handler<Caller> for Exports {
    async fn publish_tenant_event(
        &self,
        caller: Caller,
        event: Event,
    ) -> anyhow::Result<Result<Receipt, PublishError>> {
        Ok(match begin(&self.bus, &caller, event).await {
            Ok(underway) => receipt(&self.bus, underway).await,
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
        let mut results = Vec::with_capacity(events.len());
        let mut answers = FuturesOrdered::new();
        for event in events {
            // Handed over one after another, in order, without a round trip for each. Answers are taken meanwhile:
            // each gives its place at the store to the next, of this call or another.
            let mut beginning = std::pin::pin!(begin(&self.bus, &caller, event));
            let begun = loop {
                tokio::select! {
                    biased;
                    begun = &mut beginning => break begun,
                    Some(answer) = answers.next(), if !answers.is_empty() => results.push(answer),
                }
            };
            answers.push_back(async {
                match begun {
                    Ok(underway) => receipt(&self.bus, underway).await,
                    Err(e) => Err(e),
                }
            });
        }
        while let Some(answer) = answers.next().await {
            results.push(answer);
        }
        Ok(results)
    }

    async fn publish_tenant_event_at(
        &self,
        caller: Caller,
        event: Event,
        at: i64,
    ) -> anyhow::Result<Result<Scheduled, PublishError>> {
        Ok(schedule(&self.bus, &caller, event, at).await)
    }

    async fn cancel_scheduled(
        &self,
        caller: Caller,
        tenant: String,
        id: String,
    ) -> anyhow::Result<Result<Cancellation, PublishError>> {
        Ok(cancel(&self.bus, &caller, &tenant, &id).await)
    }
}

/// Checks everything that is checked before an event is stored.
async fn accept(bus: &Bus, caller: &Caller, mut event: Event) -> Result<Accepted, PublishError> {
    let view = bus.view();
    let attributes = Attributes::try_from(raw_event(&mut event)).map_err(publish_refusal)?;
    let tenant = attributes.tenant();
    view.publish_grant(&caller.component, &caller.link)
        .and_then(|grant| permit(grant, caller, tenant, attributes.event_type()))
        .and_then(|()| served(&view, tenant))
        .map_err(publish_refusal)?;
    if let Some(problem) = &view.nothing_is_published {
        return Err(publish_refusal(problem.clone()));
    }
    let store = bus.store_for(tenant).await.map_err(publish_refusal)?;
    let event = Checked {
        traceparent: caller.traceparent.clone(),
        data: event.data,
        attributes,
    };
    let outgoing = event.outgoing(&store).map_err(|e| event.unstored(&e))?;
    let (tenant, id) = (event.attributes.tenant(), event.attributes.id());
    let admitted = bus
        .gate()
        .admit(&store, tenant, outgoing.size)
        .await
        .map_err(|e| not_admitted(tenant, id, &e))?;
    Ok(Accepted {
        store,
        event,
        outgoing,
        admitted,
    })
}

async fn begin(bus: &Bus, caller: &Caller, event: Event) -> Result<Underway, PublishError> {
    let Accepted {
        store,
        event,
        outgoing,
        admitted,
    } = accept(bus, caller, event).await?;
    let durable_subscriptions = bus.view().durable_matches(&event.attributes);
    match store.send(&event.attributes, outgoing).await {
        Ok(sent) => Ok(Underway {
            store,
            sent,
            durable_subscriptions,
            event,
            admitted,
        }),
        Err(e) => {
            bus.gate().put_back(event.attributes.tenant(), &admitted);
            Err(event.unstored(&e))
        }
    }
}

async fn receipt(bus: &Bus, underway: Underway) -> Result<Receipt, PublishError> {
    let Underway {
        store,
        sent,
        durable_subscriptions,
        event,
        admitted,
    } = underway;
    let mut stored = sent.stored().await;
    if stored.as_ref().is_err_and(Unstored::has_moved) {
        stored = again(bus, store, &event, stored).await;
    }
    if stored.as_ref().map_or_else(|e| !e.is_unknown(), |s| s.duplicate) {
        bus.gate().put_back(event.attributes.tenant(), &admitted);
    }
    let stored = stored.map_err(|e| event.unstored(&e))?;
    Ok(Receipt {
        position: position(stored.position),
        duplicate: stored.duplicate,
        durable_subscriptions,
    })
}

/// Publishes an event again whose place in the log is gone, in the place that a change of the topology makes for it
/// now, if it makes one in the time that a publish has. Events of one call keep their order: each waits for the one
/// before it.
async fn again(
    bus: &Bus,
    mut store: Store,
    event: &Checked,
    mut stored: Result<Stored, Unstored>,
) -> Result<Stored, Unstored> {
    let until = Instant::now() + store.policy().publish_deadline;
    let mut pause = Duration::from_millis(10);
    while stored.as_ref().is_err_and(Unstored::has_moved) && Instant::now() < until {
        // The moment after a stream was given its subject, nothing listens there yet: it may be no other place.
        bus.changed_from(&store, (Instant::now() + pause).min(until)).await;
        pause = (pause * 2).min(Duration::from_millis(320));
        let _turn = bus.turn().await;
        // In the middle of a change, its tenant may have no place at all.
        let Ok(now) = bus.store_for(event.attributes.tenant()).await else {
            continue;
        };
        store = now;
        let sent = store.send(&event.attributes, event.outgoing(&store)?).await?;
        stored = sent.stored().await;
    }
    stored
}

async fn schedule(bus: &Bus, caller: &Caller, event: Event, at: i64) -> Result<Scheduled, PublishError> {
    if at > clock::now().saturating_add(FURTHEST) {
        return Err(publish_refusal(Problem::new(
            Code::InvalidDueTime,
            format!(
                "event {:?} of tenant {} is to be published at {at}, more than ten years from now: give nanoseconds since 1970-01-01T00:00:00Z",
                event.id, event.tenant
            ),
        )));
    }
    let Accepted {
        store,
        event,
        outgoing,
        admitted,
    } = accept(bus, caller, event).await?;
    let (tenant, id) = (event.attributes.tenant(), event.attributes.id());
    let kept = store.keep_for_later(&event.attributes, outgoing, at).await;
    if !matches!(&kept, Ok(None)) && !kept.as_ref().is_err_and(|e| e.is_unknown()) {
        bus.gate().put_back(tenant, &admitted);
    }
    match kept {
        Ok(None) => Ok(Scheduled {
            due: at,
            duplicate: false,
        }),
        Ok(Some(there)) => Ok(Scheduled {
            due: there.due,
            duplicate: true,
        }),
        Err(e) => Err(unstored(tenant, id, &e)),
    }
}

async fn cancel(bus: &Bus, caller: &Caller, tenant: &str, id: &str) -> Result<Cancellation, PublishError> {
    /// How often a change that another call makes at the same time is looked at again.
    const RACES: usize = 10;
    let view = bus.view();
    let tenant: TenantId = tenant.parse().map_err(publish_refusal)?;
    Attributes::check_id(id).map_err(publish_refusal)?;
    let grant = view
        .publish_grant(&caller.component, &caller.link)
        .map_err(publish_refusal)?;
    permit_tenant(grant, caller, &tenant).map_err(publish_refusal)?;
    let store = view.store().map_err(publish_refusal)?;
    for _ in 0..RACES {
        let kept = store
            .kept_for_later(&tenant, id)
            .await
            .map_err(|e| not_cancelled(&tenant, id, &e))?;
        let Some(kept) = kept else {
            return Ok(Cancellation::NotWaiting);
        };
        if let Some(attributes) = kept.attributes() {
            permit(grant, caller, &tenant, attributes.event_type()).map_err(publish_refusal)?;
        }
        match kept.state {
            State::Cancelled => return Ok(Cancellation::Cancelled),
            State::Firing | State::Fired => return Ok(Cancellation::NotWaiting),
            State::Waiting => {}
        }
        let cancelled = store
            .move_on(&kept, State::Cancelled)
            .await
            .map_err(|e| not_cancelled(&tenant, id, &e))?;
        if cancelled {
            return Ok(Cancellation::Cancelled);
        }
    }
    Ok(Cancellation::NotWaiting)
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
    permit_tenant(grant, caller, tenant)?;
    if !grant.allows.matches(tenant, event_type) {
        return Err(Problem::new(
            Code::EventTypeNotPermitted,
            format!(
                "{} does not allow event type {event_type}: add it to its `event-types`",
                authority::describe(&caller.component, &caller.link)
            ),
        ));
    }
    Ok(())
}

/// Whether the caller may publish anything of this tenant.
pub(super) fn permit_tenant(grant: &Grant, caller: &Caller, tenant: &TenantId) -> Result<(), Problem> {
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
    Ok(())
}

/// Whether the bus serves this tenant.
fn served(view: &View, tenant: &TenantId) -> Result<(), Problem> {
    if view.store.as_ref().is_none_or(|s| s.policy().serves(tenant)) {
        return Ok(());
    }
    Err(Problem::new(
        Code::TenantNotPermitted,
        format!("the bus does not serve tenant {tenant}: add it to the policy's `tenants.allowed`"),
    ))
}
