//! Isolates tenants, so that no tenant's events stand behind the many of another.
//!
//! The log has one order, and a subscription's consumer gives events in that order. Where thousands wait, a sample of
//! them shows whose they are: a tenant with a large part of them is isolated from then on, in turn with all others,
//! and joins them again when nothing of its waits ([`fanout_plan::isolation`]). What is under way in the meantime goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fanout_plan::TenantId;
use fanout_plan::by_partition::ByPartition;
use fanout_plan::isolation::Reader;
use fanout_plan::partition::{Partition, Slot};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tracing::{debug, info};

use super::Context;
use super::permits::InFlightPermits;
use crate::clock;
use crate::jetstream::{ConsumerState, StoreError};

/// How often the backlog is observed.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);
/// Fewer events that wait are soon handled.
const MANY: u64 = 2_000;
/// Events whose tenants are looked up to see whose events wait.
const SAMPLES: u64 = 32;
/// A tenant with one in `LARGE_PART` samples is isolated.
const LARGE_PART: usize = 4;
/// Reads under way at once.
const READS: usize = 8;

/// Permits for events in flight: as many as the subscription may have for all tenants together, and as many for each isolated
/// tenant.
pub(super) struct Permits {
    of_tenants: BTreeMap<Option<TenantId>, (InFlightPermits, usize)>,
    none: InFlightPermits,
}

impl Permits {
    pub(super) fn new(context: &Context) -> Self {
        let largest = context.store.policy().max_event_bytes;
        let make = |events| InFlightPermits::new(events, largest);
        let count = context.registered.subscription.max_unsettled();
        let mut of_tenants = BTreeMap::new();
        for (_, reader) in context.store.readers_of(&context.registered) {
            let (_, readers) = of_tenants.entry(reader.tenant).or_insert_with(|| (make(count), 0));
            *readers += 1;
        }
        let none = make(0);
        Self { of_tenants, none }
    }

    pub(super) fn of(&self, reader: &Reader) -> InFlightPermits {
        let permits = self.of_tenants.get(&reader.tenant).map(|(permits, _)| permits);
        // A reader that was not there gets none.
        permits.unwrap_or(&self.none).clone()
    }

    /// Whether one reader alone takes from its permits.
    pub(super) fn has_one_reader(&self, reader: &Reader) -> bool {
        self.of_tenants
            .get(&reader.tenant)
            .is_some_and(|(_, readers)| *readers == 1)
    }
}

/// Looks until stopped.
pub(super) async fn watch(context: Arc<Context>) {
    let subscription = &context.registered.subscription;
    let one_tenant = context.store.policy().tenants.len() == 1 || subscription.filter.narrowed().tenants.len() == 1;
    let mut partitions = context.store.partitions_of(subscription);
    if one_tenant || partitions.all(|p| matches!(p.slot, Slot::Tenant(_))) {
        return;
    }
    loop {
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(OBSERVE_EVERY) => {}
        }
        let waiting = context.health.most_waiting();
        if waiting < MANY && context.registered.isolated.is_empty() {
            continue;
        }
        match observe(&context).await {
            Ok(false) => {}
            // The deliveries begin anew as soon as it is heard.
            Ok(true) => context.replan.notify_one(),
            Err(error) => {
                context.health.sees_waiting(waiting);
                debug!(subscription = %context.name(), %error, "the backlog of tenants could not be read");
            }
        }
    }
}

/// Isolates tenants, or lets all rejoin, if that is called for. Returns whether the registry says so now.
async fn observe(context: &Context) -> Result<bool, StoreError> {
    let (store, registered) = (&context.store, &context.registered);
    let states = store.reader_states(registered).await?;
    if !registered.isolated.is_empty() && states.iter().all(|(_, s)| s.is_idle()) {
        let joined = registered.rejoin(settled(&states));
        info!(subscription = %context.name(), "no tenant is isolated any more");
        return store.change_isolation(registered, &joined).await;
    }
    let many = states
        .iter()
        .filter(|(reader, state)| reader.tenant.is_none() && state.pending >= MANY);
    for (reader, state) in many {
        let partition = store.layout().partitions.get(&reader.partition);
        let Some(partition) =
            partition.filter(|p| registered.can_isolate_more(p) && !matches!(p.slot, Slot::Tenant(_)))
        else {
            continue;
        };
        let tenants = loud(context, partition, state).await?;
        if !tenants.is_empty() {
            for tenant in &tenants {
                info!(subscription = %context.name(), %tenant, pending = state.pending, "a tenant with many waiting events is isolated");
            }
            let isolated = registered.isolate(&tenants, reader.partition, state.delivered_to + 1);
            return store.change_isolation(registered, &isolated).await;
        }
        // The same backlog is observed again.
        context.health.sees_waiting(state.pending);
    }
    Ok(false)
}

/// In each partition, how far everything is settled when nothing is pending: the subscription's own consumer was asked
/// first, so that what it had passed over by then was pending for others, or handled.
fn settled(states: &[(Reader, ConsumerState)]) -> ByPartition {
    states
        .iter()
        .filter(|(reader, _)| reader.tenant.is_none())
        .map(|(reader, state)| (reader.partition, state.settled_to))
        .collect()
}

/// Tenants with a large part of what waits in a partition.
async fn loud(context: &Context, partition: &Partition, state: &ConsumerState) -> Result<Vec<TenantId>, StoreError> {
    let span = state.log_head.saturating_sub(state.delivered_to).max(1);
    let stride = (span / SAMPLES).max(1);
    // Somewhere in each part, so that tenants that publish in turn are all met.
    let chance = u64::from_ne_bytes(clock::now().nanoseconds().to_ne_bytes());
    let offsets = (0..SAMPLES).map(|i| state.delivered_to + 1 + i * stride + chance.rotate_left(i as u32 * 5) % stride);
    let found: Vec<Option<TenantId>> = stream::iter(offsets)
        .map(|offset| context.store.owner_tenant(&context.registered, partition, offset))
        .buffer_unordered(READS)
        .try_collect()
        .await?;
    let mut counts: BTreeMap<TenantId, usize> = BTreeMap::new();
    let mut all = 0;
    for tenant in found.into_iter().flatten() {
        *counts.entry(tenant).or_default() += 1;
        all += 1;
    }
    // Too few of them are not passed over already.
    if all * 2 < SAMPLES as usize {
        return Ok(Vec::new());
    }
    counts.retain(|_, n| *n * LARGE_PART >= all);
    Ok(counts.into_keys().collect())
}
