//! `publish-tenant-event-at` and `cancel-scheduled`: schedules an event. `scheduled` publishes it once it is due.

use std::fmt::Display;

use fanout_plan::Timestamp;
use fanout_plan::envelope::EventKey;
use fanout_plan::link::Grant;
use fanout_transport::Caller;
use fanout_wit::types::{Cancellation, PublishError, Scheduled};
use tracing::debug;

use super::publishing::Ready;
use crate::bus::Bus;
use crate::contract::errors::{not_admitted, not_cancelled, publish_refusal, unstored};
use crate::contract::publisher::{Named, Permitted, permit};
use crate::jetstream::{InLog, Mark};
use crate::quota::NotAdmitted;

pub(super) async fn schedule(
    bus: &Bus,
    caller: &Caller,
    event: Permitted,
    at: Timestamp,
) -> Result<Scheduled, PublishError> {
    let ready = Ready::check(bus, caller, event).await?;
    let (tenant, size) = (ready.event.tenant(), ready.outgoing.size);
    let mut place = match bus.gate().admit_scheduled(&ready.store, tenant, size).await {
        Ok(place) => place,
        Err(refused) => return again(&ready, &refused).await,
    };
    let _admitted = match bus.gate().admit_call(&ready.store, tenant, size).await {
        Ok(admitted) => admitted,
        Err(refused) => {
            place.is_free_again = true;
            return Err(not_admitted(
                &ready.store.policy().quotas,
                tenant,
                ready.event.id(),
                &refused,
            ));
        }
    };
    let Ready { store, event, outgoing } = ready;
    let (tenant, id) = (event.attributes.tenant(), event.attributes.id());
    let scheduled = store.schedule(&event.attributes, outgoing, at).await;
    if !matches!(&scheduled, Ok(None)) && !scheduled.as_ref().is_err_and(|e| e.is_unknown()) {
        place.is_free_again = true;
    }
    match scheduled {
        Ok(None) => Ok(Scheduled {
            due: at.nanoseconds(),
            duplicate: false,
        }),
        Ok(Some(due)) => Ok(Scheduled {
            due: due.nanoseconds(),
            duplicate: true,
        }),
        Err(e) => Err(unstored(tenant, id, &e)),
    }
}

/// The answer where no more of a tenant's events may wait: one that waits already goes on waiting.
async fn again(ready: &Ready, refused: &NotAdmitted) -> Result<Scheduled, PublishError> {
    let (tenant, id) = (ready.event.tenant(), ready.event.id());
    let key = EventKey::of(&ready.event.attributes);
    match ready.store.scheduled(tenant, &key).await {
        Ok(Some(there)) => Ok(Scheduled {
            due: there.due.nanoseconds(),
            duplicate: true,
        }),
        _ => Err(not_admitted(&ready.store.policy().quotas, tenant, id, refused)),
    }
}

pub(super) async fn cancel(
    bus: &Bus,
    caller: &Caller,
    grant: &Grant,
    event: Named<'_>,
) -> Result<Cancellation, PublishError> {
    let Named { tenant, source, id } = event;
    let view = bus.view();
    let store = view.store().map_err(publish_refusal)?;
    let key = EventKey::new(tenant, source, id);
    let not_cancelled = |e: &dyn Display| not_cancelled(tenant, id, e);
    let scheduled = store.scheduled(tenant, &key).await;
    let scheduled = scheduled.map_err(|e| match view.policy_problems.first() {
        // Nothing was begun: what keeps the bus from its policy keeps it from this.
        Some(problem) => publish_refusal(problem.clone()),
        None => not_cancelled(&e),
    })?;
    let Some(scheduled) = scheduled else {
        let marked = store.marked(tenant, &key).await.map_err(|e| not_cancelled(&e))?;
        if marked.is_none_or(|m| m.mark == Mark::Fires) {
            return Ok(Cancellation::NotWaiting);
        }
        // It may have been published at once after it was cancelled.
        let now = bus.store_for(tenant).await.map_err(publish_refusal)?;
        let in_log = now.in_log(tenant, &key).await.map_err(|e| not_cancelled(&e))?;
        return Ok(match in_log {
            InLog::Held(_) => Cancellation::NotWaiting,
            InLog::Gone | InLog::Unknown => Cancellation::Cancelled,
        });
    };
    if let Some(attributes) = scheduled.attributes() {
        permit(grant, caller, &attributes).map_err(publish_refusal)?;
        // What was published at once while it waited is the same event, and that is not taken back.
        let now = bus.store_for(tenant).await.map_err(publish_refusal)?;
        let is_published = now.let_go_if_published(&scheduled, &attributes).await;
        if is_published.map_err(|e| not_cancelled(&e))? {
            return Ok(Cancellation::NotWaiting);
        }
    }
    let marked = store
        .mark(&scheduled, Mark::Cancelled)
        .await
        .map_err(|e| not_cancelled(&e))?;
    if marked.mark == Mark::Fires {
        return Ok(Cancellation::NotWaiting);
    }
    // It is cancelled, whatever comes of this: who is given it removes it.
    if let Err(error) = store.remove_scheduled(&scheduled).await {
        debug!(%tenant, id, %error, "a cancelled event is removed later");
    }
    Ok(Cancellation::Cancelled)
}
