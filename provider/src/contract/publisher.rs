//! `publisher`: what a caller may publish. How an event goes into the store is in `publishing`, how
//! many go together or not at all in `together`, and how one is kept for later in `scheduling`.

use fanout_plan::authority;
use fanout_plan::link::Grant;
use fanout_plan::{Attributes, Code, Problem, TenantId, source};
use fanout_transport::Caller;

use super::errors::said;
use super::guard::once;
use super::publishing::{begin, in_order, receipt};
use super::serve::Exports;
use super::{scheduling, together};
use fanout_wit::bus::exports::fanout::bus::publisher::Handler;
use fanout_wit::types::{Cancellation, Event, PublishError, Receipt, Scheduled};

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
        let begun = events.into_iter().map(|event| begin(&self.bus, &caller, event));
        let mut results = in_order(&self.bus, begun).await;
        once(&mut results, said);
        Ok(results)
    }

    async fn publish_tenant_events_together(
        &self,
        caller: Caller,
        events: Vec<Event>,
    ) -> anyhow::Result<Result<Vec<Receipt>, PublishError>> {
        Ok(together::publish(&self.bus, &caller, events).await)
    }

    async fn publish_tenant_event_at(
        &self,
        caller: Caller,
        event: Event,
        at: i64,
    ) -> anyhow::Result<Result<Scheduled, PublishError>> {
        Ok(scheduling::schedule(&self.bus, &caller, event, at).await)
    }

    async fn cancel_scheduled(
        &self,
        caller: Caller,
        tenant: String,
        source: String,
        id: String,
    ) -> anyhow::Result<Result<Cancellation, PublishError>> {
        Ok(scheduling::cancel(&self.bus, &caller, &tenant, &source, &id).await)
    }
}

/// Whether the caller may publish this.
pub(super) fn permit(grant: &Grant, caller: &Caller, event: &Attributes) -> Result<(), Problem> {
    let (tenant, event_type) = (event.tenant(), event.event_type());
    permit_source(grant, caller, tenant, event.source())?;
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

/// Whether the caller may publish anything of this tenant and this source.
pub(super) fn permit_source(grant: &Grant, caller: &Caller, tenant: &TenantId, source: &str) -> Result<(), Problem> {
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
                "{} does not allow events of source {source:?}: publish them under a source of its own, or add this one to its `sources`",
                link()
            ),
        ));
    }
    Ok(())
}
