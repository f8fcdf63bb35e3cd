//! Publishing to a bus elsewhere.

use fanout_plan::link::Grant;
use fanout_plan::{Code, Problem, Timestamp, TypePattern, authority, source};
use fanout_transport::Caller;
use fanout_wit::publisher;
use fanout_wit::types::{Cancellation, Event, PublishError, Receipt, Scheduled};

use super::onward;
use crate::contract::convert::event;
use crate::contract::errors::publish_refusal;
use crate::contract::publisher::{Named, Permitted, Publish};
use crate::edge::Edge;

impl Publish for Edge {
    fn own_source(component: &str) -> String {
        source::own_at_an_edge(component)
    }

    async fn publish(&self, caller: &Caller, event: Permitted) -> Result<Receipt, PublishError> {
        self.upstream().publish(&onward(caller), &event.into()).await
    }

    async fn publish_many(&self, caller: &Caller, events: Vec<Permitted>) -> Vec<Result<Receipt, PublishError>> {
        if events.is_empty() {
            return Vec::new();
        }
        self.upstream().publish_many(&onward(caller), &sent(events)).await
    }

    async fn publish_together(&self, caller: &Caller, events: Vec<Permitted>) -> Result<Vec<Receipt>, PublishError> {
        let (bus, events) = (self.upstream(), &sent(events));
        bus.ask(onward(caller), |cx| {
            publisher::publish_tenant_events_together(bus, cx, events)
        })
        .await
    }

    async fn schedule(&self, caller: &Caller, event: Permitted, due: Timestamp) -> Result<Scheduled, PublishError> {
        let (bus, event) = (self.upstream(), &event.into());
        bus.ask(onward(caller), |cx| {
            publisher::publish_tenant_event_at(bus, cx, event, due.nanoseconds())
        })
        .await
    }

    /// Which type the event has is known at the bus alone, so that a link for some types can't be checked.
    async fn cancel(&self, caller: &Caller, grant: &Grant, event: Named<'_>) -> Result<Cancellation, PublishError> {
        let Named { tenant, source, id } = event;
        if grant.allows.event_types != [TypePattern::any()] {
            return Err(publish_refusal(Problem::new(
                Code::NotAtAnEdge,
                format!(
                    "{} is for some event types, and of which type event {id:?} of tenant {tenant} is, only the bus knows: cancel it through a link whose `event-types` is `**`, or at the bus itself",
                    authority::describe(&caller.component, &caller.link)
                ),
            )));
        }
        let bus = self.upstream();
        bus.ask(onward(caller), |cx| {
            publisher::cancel_scheduled(bus, cx, tenant.as_str(), source, id)
        })
        .await
    }
}

impl From<Permitted> for Event {
    fn from(permitted: Permitted) -> Self {
        event(permitted.attributes, permitted.data)
    }
}

fn sent(events: Vec<Permitted>) -> Vec<Event> {
    events.into_iter().map(Event::from).collect()
}
