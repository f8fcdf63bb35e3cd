//! How an event goes into the store: checked, taken out of its tenant's quota, handed over, and answered with a receipt.

use std::time::Duration;

use bytes::Bytes;
use fanout_plan::link::Grant;
use fanout_plan::publisher::Publisher;
use fanout_plan::{Attributes, Code, Problem, TenantId, Timestamp, source};
use fanout_transport::Caller;
use fanout_wit::types::{Cancellation, PublishError, Receipt, Scheduled};
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use tokio::time::Instant;

use super::{Local, scheduling, together};
use crate::bus::Bus;
use crate::contract::convert::position;
use crate::contract::errors::{not_admitted, publish_refusal, unstored};
use crate::contract::exports::proved;
use crate::contract::publisher::{Named, Permitted, Publish};
use crate::jetstream::{Beside, Outgoing, Sent, Store, Stored, Unstored};
use crate::quota::Admitted;
use crate::telemetry::INSTRUMENTS;
use crate::telemetry::instruments::StoreOperation;
use crate::view::View;

impl Publish for Local {
    fn own_source(component: &str) -> String {
        source::own(component)
    }

    async fn publish(&self, caller: &Caller, event: Permitted) -> Result<Receipt, PublishError> {
        receipt(&self.bus, begin(&self.bus, caller, event).await?).await
    }

    async fn publish_many(&self, caller: &Caller, events: Vec<Permitted>) -> Vec<Result<Receipt, PublishError>> {
        let begun = events.into_iter().map(|event| begin(&self.bus, caller, event));
        in_order(&self.bus, begun).await
    }

    async fn publish_together(&self, caller: &Caller, events: Vec<Permitted>) -> Result<Vec<Receipt>, PublishError> {
        together::publish(&self.bus, caller, events).await
    }

    async fn schedule(&self, caller: &Caller, event: Permitted, due: Timestamp) -> Result<Scheduled, PublishError> {
        scheduling::schedule(&self.bus, caller, event, due).await
    }

    async fn cancel(&self, caller: &Caller, grant: &Grant, event: Named<'_>) -> Result<Cancellation, PublishError> {
        scheduling::cancel(&self.bus, caller, grant, event).await
    }
}

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
    /// Who publishes it, as the store keeps that.
    publisher: Option<String>,
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
        let beside = Beside {
            traceparent: self.traceparent.as_deref(),
            publisher: self.publisher.as_deref(),
        };
        Outgoing::within(limit, &self.attributes, beside, self.data.clone())
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
    /// When it was handed over.
    since: Instant,
}

impl Ready {
    /// Checks everything of the bus that does not change with what else is published.
    pub(super) async fn check(bus: &Bus, caller: &Caller, event: Permitted) -> Result<Self, PublishError> {
        let view = bus.view();
        let Permitted { attributes, data } = event;
        let tenant = attributes.tenant();
        served(&view, tenant).map_err(publish_refusal)?;
        let why_not = view
            .nothing_is_published
            .clone()
            .or_else(|| view.unknown_partition.clone());
        if let Some(problem) = why_not.or_else(|| view.place_is_retired()) {
            return Err(publish_refusal(problem));
        }
        let store = bus.store_for(tenant).await.map_err(publish_refusal)?;
        let event = Checked {
            traceparent: caller.traceparent.clone(),
            publisher: store.state_publisher(&publisher(&view, caller), &attributes, &data),
            data,
            attributes,
        };
        let outgoing = event.outgoing(&store).map_err(|e| event.unstored(&e))?;
        Ok(Self { store, event, outgoing })
    }
}

/// Takes an event out of its tenant's quota.
async fn admit(bus: &Bus, ready: &Ready) -> Result<Admitted, PublishError> {
    let (tenant, size) = (ready.event.tenant(), ready.outgoing.size);
    let admitted = bus.gate().admit(&ready.store, tenant, size).await;
    admitted.map_err(|e| not_admitted(&ready.store.policy().quotas, tenant, ready.event.id(), &e))
}

/// Hands an event to the store, if everything allows it.
async fn begin(bus: &Bus, caller: &Caller, event: Permitted) -> Result<Underway, PublishError> {
    let ready = Ready::check(bus, caller, event).await?;
    let admitted = admit(bus, &ready).await?;
    send(bus, ready, admitted).await
}

/// Hands an event to the store.
pub(super) async fn send(bus: &Bus, ready: Ready, admitted: Admitted) -> Result<Underway, PublishError> {
    let Ready { store, event, outgoing } = ready;
    let durable_subscriptions = bus.view().durable_matches(&event.attributes);
    let since = Instant::now();
    match store.send(&event.attributes, outgoing).await {
        Ok(sent) => Ok(Underway {
            since,
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

/// Hands events over one after another, without a round trip for each, and gathers the answers in order. Once an event's
/// place in the log is gone, nothing more of the call is handed over before it has another.
pub(super) async fn in_order(
    bus: &Bus,
    beginnings: impl Iterator<Item = impl Future<Output = Result<Underway, PublishError>>>,
) -> Vec<Result<Receipt, PublishError>> {
    let mut call = Call {
        bus,
        results: Vec::with_capacity(beginnings.size_hint().0),
        moved: Vec::new(),
    };
    let mut answers = FuturesOrdered::new();
    for beginning in beginnings {
        if !call.moved.is_empty() {
            while let Some(answer) = answers.next().await {
                call.take(answer);
            }
            call.move_on().await;
        }
        // Answers are taken meanwhile: each gives its place at the store to the next, of this call or another.
        let mut beginning = std::pin::pin!(beginning);
        let begun = loop {
            tokio::select! {
                biased;
                begun = &mut beginning => break begun,
                Some(answer) = answers.next(), if !answers.is_empty() => call.take(answer),
            }
        };
        answers.push_back(async {
            match begun {
                Ok(underway) => Ok(underway.answered().await),
                Err(e) => Err(e),
            }
        });
    }
    while let Some(answer) = answers.next().await {
        call.take(answer);
    }
    call.move_on().await;
    call.results.into_iter().flatten().collect()
}

/// The events of one call, in its order.
struct Call<'a> {
    bus: &'a Bus,
    results: Vec<Option<Result<Receipt, PublishError>>>,
    /// Events whose place is gone, by their index: they have no result yet.
    moved: Vec<(usize, Answered)>,
}

impl Call<'_> {
    /// Takes the first answer to the next event.
    fn take(&mut self, answer: Result<Answered, PublishError>) {
        let answered = match answer {
            Ok(answered) => answered,
            Err(e) => return self.results.push(Some(Err(e))),
        };
        match &answered.stored {
            Err(e) if e.has_moved() => {
                self.moved.push((self.results.len(), answered));
                return self.results.push(None);
            }
            Ok(stored) if !stored.duplicate => {
                // It was on its way already: events of its tenant that went before it can't be stored before it any more.
                for (_, before) in &mut self.moved {
                    if before.event.tenant() == answered.event.tenant() {
                        before.stored = Err(Unstored::Overtaken);
                    }
                }
            }
            _ => {}
        }
        self.results.push(Some(answered.receipt(self.bus)));
    }

    /// Publishes what has moved in the place that it has now: one event after the other.
    async fn move_on(&mut self) {
        let Some((_, first)) = self.moved.first() else { return };
        let until = Instant::now() + first.store.policy().publish.deadline;
        for (index, mut answered) in std::mem::take(&mut self.moved) {
            Box::pin(answered.again(self.bus, until)).await;
            if let Some(result) = self.results.get_mut(index) {
                *result = Some(answered.receipt(self.bus));
            }
        }
    }
}

/// Waits for the store's answer.
async fn receipt(bus: &Bus, underway: Underway) -> Result<Receipt, PublishError> {
    let mut answered = underway.answered().await;
    if answered.stored.as_ref().is_err_and(Unstored::has_moved) {
        let until = Instant::now() + answered.store.policy().publish.deadline;
        Box::pin(answered.again(bus, until)).await;
    }
    answered.receipt(bus)
}

impl Underway {
    async fn answered(self) -> Answered {
        let (store, event) = (self.store, self.event);
        let stored = store
            .stored(&event.attributes, self.sent, || event.outgoing(&store))
            .await;
        INSTRUMENTS.store(StoreOperation::Publish).record(self.since.elapsed());
        Answered {
            stored,
            store,
            durable_subscriptions: self.durable_subscriptions,
            event,
            admitted: self.admitted,
        }
    }
}

/// An event of which the store has said what came of it.
struct Answered {
    stored: Result<Stored, Unstored>,
    store: Store,
    durable_subscriptions: u32,
    event: Checked,
    admitted: Admitted,
}

impl Answered {
    fn receipt(self, bus: &Bus) -> Result<Receipt, PublishError> {
        if self.stored.as_ref().map_or_else(|e| !e.is_unknown(), |s| s.duplicate) {
            bus.gate().put_back(self.event.tenant(), &self.admitted);
        }
        let stored = self.stored.map_err(|e| self.event.unstored(&e))?;
        Ok(Receipt {
            position: position(stored.position),
            duplicate: stored.duplicate,
            durable_subscriptions: self.durable_subscriptions,
        })
    }

    /// Publishes an event again whose place in the log is gone, in the place that a change of the topology makes for it
    /// now, if it makes one in time.
    async fn again(&mut self, bus: &Bus, until: Instant) {
        let mut pause = Duration::from_millis(10);
        while self.stored.as_ref().is_err_and(Unstored::has_moved) && Instant::now() < until {
            // The moment after a stream was given its subject, nothing listens there yet: it may be no other place.
            bus.changed_from(&self.store, (Instant::now() + pause).min(until)).await;
            pause = (pause * 2).min(Duration::from_millis(320));
            let _lock = bus.republish_lock().await;
            // In the middle of a change, its tenant may have no place at all.
            let Ok(now) = bus.store_for(self.event.tenant()).await else {
                continue;
            };
            self.store = now;
            let (store, event) = (&self.store, &self.event);
            let again = async {
                let sent = store.send(&event.attributes, event.outgoing(store)?).await?;
                store.stored(&event.attributes, sent, || event.outgoing(store)).await
            };
            self.stored = again.await;
        }
    }
}

/// Who publishes: by the name that its rights were judged by, and by what it proves of itself. Nothing of it is the caller's word but
/// what a component on the lattice calls itself.
fn publisher(view: &View, caller: &Caller) -> Publisher {
    let proved = proved(&caller.identity);
    let callers = view.policy.as_ref().map(|policy| &policy.callers);
    match callers.and_then(|callers| callers.proof(&proved)).or(proved.first()) {
        Some(identity) => Publisher::caller(&caller.component, identity),
        None => Publisher::component(&caller.component, &caller.link),
    }
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
