//! How an event goes into the store: checked, taken out of its tenant's quota, handed over, and answered with a receipt.

use std::time::Duration;

use bytes::Bytes;
use fanout_plan::{Attributes, Code, Problem, TenantId, source};
use fanout_transport::Caller;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use tokio::time::Instant;

use super::convert::{position, raw_event};
use super::errors::{not_admitted, publish_refusal, unstored};
use super::publisher::permit;
use crate::bus::Bus;
use crate::jetstream::{Outgoing, Sent, Store, Stored, Unstored};
use crate::quota::Admitted;
use crate::view::View;
use fanout_forward::wit::{Event, PublishError, Receipt};

/// An event that its caller may publish, and where it goes.
pub(super) struct Ready {
    pub(super) store: Store,
    pub(super) event: Checked,
    pub(super) outgoing: Outgoing,
}

/// An event as it was checked, from which it can be handed to the store, and again to another place.
pub(super) struct Checked {
    pub(super) attributes: Attributes,
    traceparent: Option<String>,
    data: Bytes,
}

impl Checked {
    pub(super) fn tenant(&self) -> &TenantId {
        self.attributes.tenant()
    }

    pub(super) fn id(&self) -> &str {
        self.attributes.id()
    }

    fn outgoing(&self, store: &Store) -> Result<Outgoing, Unstored> {
        let limit = store.policy().max_event_bytes;
        Outgoing::within(limit, &self.attributes, self.traceparent.as_deref(), self.data.clone())
    }

    fn unstored(&self, e: &Unstored) -> PublishError {
        unstored(self.tenant(), self.id(), e)
    }
}

/// An event that the store has been handed.
pub(super) struct Underway {
    store: Store,
    sent: Sent,
    durable_subscriptions: u32,
    event: Checked,
    admitted: Admitted,
}

impl Ready {
    /// Checks everything that does not change with what else is published.
    pub(super) async fn check(bus: &Bus, caller: &Caller, mut event: Event) -> Result<Self, PublishError> {
        let view = bus.view();
        let attributes = Attributes::try_from(raw_event(&mut event, || source::own(&caller.component)));
        let attributes = attributes.map_err(publish_refusal)?;
        let tenant = attributes.tenant();
        view.publish_grant(&caller.component, &caller.link)
            .and_then(|grant| permit(grant, caller, &attributes))
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
        Ok(Self { store, event, outgoing })
    }
}

/// Takes an event out of its tenant's quota.
pub(super) async fn admit(bus: &Bus, ready: &Ready) -> Result<Admitted, PublishError> {
    let (tenant, size) = (ready.event.tenant(), ready.outgoing.size);
    let admitted = bus.gate().admit(&ready.store, tenant, size).await;
    admitted.map_err(|e| not_admitted(tenant, ready.event.id(), &e))
}

/// Hands an event to the store, if everything allows it.
pub(super) async fn begin(bus: &Bus, caller: &Caller, event: Event) -> Result<Underway, PublishError> {
    let ready = Ready::check(bus, caller, event).await?;
    let admitted = admit(bus, &ready).await?;
    send(bus, ready, admitted).await
}

/// Hands an event to the store.
pub(super) async fn send(bus: &Bus, ready: Ready, admitted: Admitted) -> Result<Underway, PublishError> {
    let Ready { store, event, outgoing } = ready;
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
            bus.gate().put_back(event.tenant(), &admitted);
            Err(event.unstored(&e))
        }
    }
}

/// Hands events over one after another, without a round trip for each, and gathers the answers in order.
pub(super) async fn in_order(
    bus: &Bus,
    beginnings: impl Iterator<Item = impl Future<Output = Result<Underway, PublishError>>>,
) -> Vec<Result<Receipt, PublishError>> {
    let mut results = Vec::with_capacity(beginnings.size_hint().0);
    let mut answers = FuturesOrdered::new();
    for beginning in beginnings {
        // Answers are taken meanwhile: each gives its place at the store to the next, of this call or another.
        let mut beginning = std::pin::pin!(beginning);
        let begun = loop {
            tokio::select! {
                biased;
                begun = &mut beginning => break begun,
                Some(answer) = answers.next(), if !answers.is_empty() => results.push(answer),
            }
        };
        answers.push_back(async {
            match begun {
                Ok(underway) => receipt(bus, underway).await,
                Err(e) => Err(e),
            }
        });
    }
    while let Some(answer) = answers.next().await {
        results.push(answer);
    }
    results
}

/// Waits for the store's answer.
pub(super) async fn receipt(bus: &Bus, underway: Underway) -> Result<Receipt, PublishError> {
    let Underway {
        store,
        sent,
        durable_subscriptions,
        event,
        admitted,
    } = underway;
    let mut stored = store.stored(&event.attributes, sent, || event.outgoing(&store)).await;
    if stored.as_ref().is_err_and(Unstored::has_moved) {
        stored = Box::pin(again(bus, store, &event, stored)).await;
    }
    if stored.as_ref().map_or_else(|e| !e.is_unknown(), |s| s.duplicate) {
        bus.gate().put_back(event.tenant(), &admitted);
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
        let Ok(now) = bus.store_for(event.tenant()).await else {
            continue;
        };
        store = now;
        let sent = store.send(&event.attributes, event.outgoing(&store)?).await?;
        stored = store.stored(&event.attributes, sent, || event.outgoing(&store)).await;
    }
    stored
}

/// Whether the bus serves this tenant.
fn served(view: &View, tenant: &TenantId) -> Result<(), Problem> {
    if view.serves(tenant) {
        return Ok(());
    }
    Err(Problem::new(
        Code::TenantNotPermitted,
        format!("the bus does not serve tenant {tenant}: add it to the policy's `tenants.allowed`"),
    ))
}
