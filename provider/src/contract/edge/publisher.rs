//! `publisher` at an edge.

use fanout_plan::{Attributes, Code, EventPattern, Problem, TenantId, authority, source};
use fanout_transport::Caller;
use fanout_wit::types::{Cancellation, Event, Problem as WitProblem, PublishError, Receipt, Scheduled};

use super::{AtEdge, onward};
use crate::contract::convert::{event, raw_event};
use crate::contract::errors::{publish_refusal, said};
use crate::contract::guard::once;
use crate::contract::publisher::{permit, permit_source};
use fanout_wit::bus::exports::fanout::bus::publisher::Handler;

impl AtEdge {
    /// The event as the bus is given it, if this link allows it.
    fn checked(&self, caller: &Caller, mut given: Event) -> Result<Event, PublishError> {
        let data = std::mem::take(&mut given.data);
        let attributes = Attributes::try_from(raw_event(&mut given, || source::own_at_an_edge(&caller.component)));
        let attributes = attributes.map_err(publish_refusal)?;
        self.edge
            .grant(&caller.component, &caller.link)
            .and_then(|grant| permit(&grant, caller, &attributes))
            .map_err(publish_refusal)?;
        Ok(event(attributes, data))
    }

    /// Whether this link may cancel a tenant's events. Which type the event has is known at the bus alone, so a link
    /// that is for some types can't be checked.
    fn may_cancel(&self, caller: &Caller, tenant: &str, source: &str, id: &str) -> Result<(), Problem> {
        let tenant: TenantId = tenant.parse()?;
        Attributes::check_source_and_id(source, id)?;
        let grant = self.edge.grant(&caller.component, &caller.link)?;
        permit_source(&grant, caller, &tenant, source)?;
        if grant.allows.event_types == [EventPattern::any()] {
            return Ok(());
        }
        Err(Problem::new(
            Code::NotAtAnEdge,
            format!(
                "{} is for some event types, and of which type event {id:?} of tenant {tenant} is, only the bus knows: cancel it through a link whose `event-types` is `**`, or at the bus itself",
                authority::describe(&caller.component, &caller.link)
            ),
        ))
    }
}

impl Handler<Caller> for AtEdge {
    async fn publish_tenant_event(
        &self,
        caller: Caller,
        event: Event,
    ) -> anyhow::Result<Result<Receipt, PublishError>> {
        Ok(match self.checked(&caller, event) {
            Ok(event) => self.edge.upstream().publish(&onward(&caller), &event).await,
            Err(e) => Err(e),
        })
    }

    async fn publish_tenant_events(
        &self,
        caller: Caller,
        events: Vec<Event>,
    ) -> anyhow::Result<Vec<Result<Receipt, PublishError>>> {
        let mut allowed = Vec::with_capacity(events.len());
        let mut refused = Vec::with_capacity(events.len());
        for event in events {
            refused.push(match self.checked(&caller, event) {
                Ok(event) => {
                    allowed.push(event);
                    None
                }
                Err(e) => Some(e),
            });
        }
        let stored = if allowed.is_empty() {
            Vec::new()
        } else {
            self.edge.upstream().publish_many(&onward(&caller), &allowed).await
        };
        let mut stored = stored.into_iter();
        let one = |refused: Option<PublishError>| match refused {
            Some(e) => Err(e),
            // There is one answer for each that was allowed.
            None => stored.next().unwrap_or_else(|| {
                Err(PublishError::OutcomeUnknown(WitProblem {
                    code: "outcome-unknown".to_owned(),
                    message: "the bus gave no answer: publish it again with the same id".to_owned(),
                }))
            }),
        };
        let mut results: Vec<_> = refused.into_iter().map(one).collect();
        once(&mut results, said);
        Ok(results)
    }

    async fn publish_tenant_events_together(
        &self,
        caller: Caller,
        events: Vec<Event>,
    ) -> anyhow::Result<Result<Vec<Receipt>, PublishError>> {
        let checked: Result<Vec<_>, _> = events.into_iter().map(|event| self.checked(&caller, event)).collect();
        Ok(match checked {
            Ok(events) => self.edge.upstream().publish_together(&onward(&caller), &events).await,
            Err(e) => Err(e),
        })
    }

    async fn publish_tenant_event_at(
        &self,
        caller: Caller,
        event: Event,
        at: i64,
    ) -> anyhow::Result<Result<Scheduled, PublishError>> {
        Ok(match self.checked(&caller, event) {
            Ok(event) => self.edge.upstream().publish_at(&onward(&caller), &event, at).await,
            Err(e) => Err(e),
        })
    }

    async fn cancel_scheduled(
        &self,
        caller: Caller,
        tenant: String,
        mut source: String,
        id: String,
    ) -> anyhow::Result<Result<Cancellation, PublishError>> {
        if source.is_empty() {
            source = source::own_at_an_edge(&caller.component);
        }
        if let Err(p) = self.may_cancel(&caller, &tenant, &source, &id) {
            return Ok(Err(publish_refusal(p)));
        }
        let upstream = self.edge.upstream();
        Ok(upstream.cancel(&onward(&caller), &tenant, &source, &id).await)
    }
}
