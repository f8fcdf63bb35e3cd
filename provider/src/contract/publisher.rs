//! `publisher`: what a caller may publish.

use std::iter;
use std::time::Duration;

use bytes::Bytes;
use fanout_plan::link::Grant;
use fanout_plan::{Attributes, Code, Problem, TenantId, Timestamp, authority, source};
use fanout_transport::{Caller, Shape};
use fanout_wit::bus::exports::fanout::bus::publisher::Handler;
use fanout_wit::types::{Cancellation, Event, PublishError, Receipt, Scheduled};

use super::backend::{Authority, Backend};
use super::convert::{problem, raw_event};
use super::errors::{publish_problem, publish_refusal};
use super::exports::Exports;
use super::guard::{Interface, granted, once};
use super::sending::Sending;
use super::shapes::{EVENT, SOME_EVENTS};
use crate::clock;

/// The furthest that an event may be put off: ten years, in nanoseconds.
const FURTHEST: Duration = Duration::from_secs(10 * 366 * 86_400);

/// An event that its caller may publish.
pub(super) struct Permitted {
    pub(super) attributes: Attributes,
    pub(super) data: Bytes,
}

/// An event that its caller may name.
pub(super) struct Named<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) source: &'a str,
    pub(super) id: &'a str,
}

/// What is asked of a backend.
pub(super) trait Publish: Authority {
    /// The source of what a component publishes without one.
    fn own_source(component: &str) -> String;

    fn publish(&self, caller: &Caller, event: Permitted) -> impl Future<Output = Result<Receipt, PublishError>> + Send;

    /// One result for each event, in order.
    fn publish_many(
        &self,
        caller: &Caller,
        events: Vec<Permitted>,
    ) -> impl Future<Output = Vec<Result<Receipt, PublishError>>> + Send;

    fn publish_together(
        &self,
        caller: &Caller,
        events: Vec<Permitted>,
    ) -> impl Future<Output = Result<Vec<Receipt>, PublishError>> + Send;

    /// Keeps an event until `due`.
    fn schedule(
        &self,
        caller: &Caller,
        event: Permitted,
        due: Timestamp,
    ) -> impl Future<Output = Result<Scheduled, PublishError>> + Send;

    /// Cancels an event of a tenant and a source that `grant` allows; its type only a backend knows.
    fn cancel(
        &self,
        caller: &Caller,
        grant: &Grant,
        event: Named<'_>,
    ) -> impl Future<Output = Result<Cancellation, PublishError>> + Send;
}

/// The parameters of its functions.
pub(super) fn shape(func: &str) -> Option<&'static Shape> {
    Some(match func {
        "publish-tenant-event" => &Shape::Fields(&[EVENT]),
        "publish-tenant-events" | "publish-tenant-events-together" => &SOME_EVENTS,
        "publish-tenant-event-at" => &Shape::Fields(&[EVENT, Shape::Number]),
        "cancel-scheduled" => &Shape::Fields(&[Shape::Bytes, Shape::Bytes, Shape::Bytes]),
        _ => return None,
    })
}

impl<B: Backend> Handler<Caller> for Exports<B> {
    async fn publish_tenant_event(
        &self,
        mut caller: Caller,
        event: Event,
    ) -> anyhow::Result<Result<Receipt, PublishError>> {
        let sending = Sending::begin(&self.backend, &mut caller, std::slice::from_ref(&event));
        let result = match self.permitted(&caller, event) {
            Ok(event) => self.backend.publish(&caller, event).await,
            Err(e) => Err(e),
        };
        sending.sent(std::slice::from_ref(&result));
        Ok(result)
    }

    async fn publish_tenant_events(
        &self,
        mut caller: Caller,
        events: Vec<Event>,
    ) -> anyhow::Result<Vec<Result<Receipt, PublishError>>> {
        let sending = Sending::begin(&self.backend, &mut caller, &events);
        let mut permitted = Vec::with_capacity(events.len());
        let mut refused = Vec::with_capacity(events.len());
        for event in events {
            match self.permitted(&caller, event) {
                Ok(event) => {
                    permitted.push(event);
                    refused.push(None);
                }
                Err(e) => refused.push(Some(e)),
            }
        }
        let stored = self.backend.publish_many(&caller, permitted).await;
        // There is one answer for each that was permitted.
        let mut stored = stored.into_iter().chain(iter::repeat_with(|| Err(unanswered())));
        let mut results: Vec<_> = refused
            .into_iter()
            .filter_map(|refused| refused.map(Err).or_else(|| stored.next()))
            .collect();
        sending.sent(&results);
        once(&mut results, publish_problem);
        Ok(results)
    }

    async fn publish_tenant_events_together(
        &self,
        mut caller: Caller,
        events: Vec<Event>,
    ) -> anyhow::Result<Result<Vec<Receipt>, PublishError>> {
        let (sending, count) = (Sending::begin(&self.backend, &mut caller, &events), events.len());
        let permitted: Result<Vec<_>, _> = events.into_iter().map(|event| self.permitted(&caller, event)).collect();
        let result = match permitted {
            Ok(events) => self.backend.publish_together(&caller, events).await,
            Err(e) => Err(e),
        };
        sending.sent_together(count, &result);
        Ok(result)
    }

    async fn publish_tenant_event_at(
        &self,
        mut caller: Caller,
        event: Event,
        at: i64,
    ) -> anyhow::Result<Result<Scheduled, PublishError>> {
        let at = Timestamp::from_nanoseconds(at);
        let sending = Sending::begin(&self.backend, &mut caller, std::slice::from_ref(&event));
        let permitted = within_reach(&event, at).and_then(|()| self.permitted(&caller, event));
        let result = match permitted {
            Ok(event) => self.backend.schedule(&caller, event, at).await,
            Err(e) => Err(e),
        };
        sending.scheduled(&result);
        Ok(result)
    }

    async fn cancel_scheduled(
        &self,
        caller: Caller,
        tenant: String,
        source: String,
        id: String,
    ) -> anyhow::Result<Result<Cancellation, PublishError>> {
        Ok(self.cancel(&caller, &tenant, source, &id).await)
    }
}

impl<B: Backend> Exports<B> {
    /// The event, if the caller may publish it.
    fn permitted(&self, caller: &Caller, mut event: Event) -> Result<Permitted, PublishError> {
        let attributes = Attributes::try_from(raw_event(&mut event, || B::own_source(&caller.component)));
        let attributes = attributes.map_err(publish_refusal)?;
        granted(&*self.backend.view(), caller, Interface::Publisher)
            .and_then(|grant| permit(grant, caller, &attributes))
            .map_err(publish_refusal)?;
        Ok(Permitted {
            attributes,
            data: event.data,
        })
    }

    async fn cancel(
        &self,
        caller: &Caller,
        tenant: &str,
        mut source: String,
        id: &str,
    ) -> Result<Cancellation, PublishError> {
        if source.is_empty() {
            source = B::own_source(&caller.component);
        }
        let tenant = tenant.parse().map_err(publish_refusal)?;
        Attributes::check_source_and_id(&source, id).map_err(publish_refusal)?;
        let view = self.backend.view();
        let grant = granted(&*view, caller, Interface::Publisher).map_err(publish_refusal)?;
        permit_source(grant, caller, &tenant, &source).map_err(publish_refusal)?;
        let event = Named {
            tenant: &tenant,
            source: &source,
            id,
        };
        self.backend.cancel(caller, grant, event).await
    }
}

/// Whether an event may be put off for so long.
fn within_reach(event: &Event, at: Timestamp) -> Result<(), PublishError> {
    if at <= clock::now() + FURTHEST {
        return Ok(());
    }
    Err(publish_refusal(Problem::new(
        Code::InvalidDueTime,
        format!(
            "event {:?} of tenant {} is to be published at {}, more than ten years from now: give nanoseconds since 1970-01-01T00:00:00Z",
            event.id,
            event.tenant,
            at.nanoseconds(),
        ),
    )))
}

/// Whether a caller's link, which includes `publisher`, allows this event.
pub(super) fn permit(grant: &Grant, caller: &Caller, event: &Attributes) -> Result<(), Problem> {
    let (tenant, event_type) = (event.tenant(), event.event_type());
    permit_source(grant, caller, tenant, event.source())?;
    if !grant.allows.allows(tenant, event_type) {
        return Err(Problem::new(
            Code::EventTypeNotPermitted,
            format!(
                "{} does not allow event type {event_type}: add it to {}",
                authority::describe(&caller.component, &caller.link),
                authority::setting(&caller.component, "publish.event-types")
            ),
        ));
    }
    Ok(())
}

/// Whether the link allows anything of this tenant and this source.
fn permit_source(grant: &Grant, caller: &Caller, tenant: &TenantId, source: &str) -> Result<(), Problem> {
    let link = || authority::describe(&caller.component, &caller.link);
    if !grant.allows.allows_tenant(tenant) {
        return Err(Problem::new(
            Code::TenantNotPermitted,
            format!(
                "{} does not allow tenant {tenant}: add it to {}",
                link(),
                authority::setting(&caller.component, "publish.tenants")
            ),
        ));
    }
    if source::is_anothers(source, &caller.component) {
        return Err(Problem::new(
            Code::SourceNotPermitted,
            format!(
                "source {source:?} is another publisher's own, and not that of {}: leave it out, or publish under another",
                link()
            ),
        ));
    }
    if !grant.sources.allows(source) {
        return Err(Problem::new(
            Code::SourceNotPermitted,
            format!(
                "{} does not allow events of source {source:?}: publish them under a source of its own, or add this one to {}",
                link(),
                authority::setting(&caller.component, "publish.sources")
            ),
        ));
    }
    Ok(())
}

fn unanswered() -> PublishError {
    PublishError::OutcomeUnknown(problem(Problem::new(
        Code::OutcomeUnknown,
        "the bus gave no answer: publish it again with the same id",
    )))
}
