//! Everything that there is to show at one moment.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fanout_plan::status::BusStatus;
use fanout_plan::{SubscriptionName, TenantId, Timestamp};

use super::instruments::Durations;
use crate::bus::Bus;
use crate::clock;
use crate::status;

/// The bus in numbers.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) status: BusStatus,
    pub(crate) at: Timestamp,
    /// How long an event is kept; absent at an edge.
    pub(crate) max_age: Option<Duration>,
    /// Of the deliveries that this instance makes.
    pub(crate) here: BTreeMap<SubscriptionName, Here>,
    /// What part of its bytes a tenant has used, of those that the policy names.
    pub(crate) quotas: Vec<(TenantId, f64)>,
}

/// What only the instance that delivers knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Here {
    pub(crate) process: Durations,
    pub(crate) unreachable: u64,
}

impl Snapshot {
    /// Of a bus: its store is asked.
    pub(crate) async fn of(bus: &Bus) -> Self {
        let status = status::document(bus).await;
        let view = bus.view();
        let here = view.health.iter().map(|(name, health)| {
            let here = Here {
                process: health.process.read(),
                unreachable: health.unreachable.load(Relaxed),
            };
            (name.clone(), here)
        });
        Self {
            at: view.store.as_ref().map_or_else(clock::now, |store| store.now()),
            max_age: view.store.as_ref().map(|store| store.policy().retention.max_age),
            here: here.collect(),
            quotas: view.store.as_ref().map(|s| bus.gate().used(s)).unwrap_or_default(),
            status,
        }
    }

    /// Of an instance of which its status is all there is.
    pub(crate) fn of_status(status: BusStatus) -> Self {
        Self {
            status,
            at: clock::now(),
            max_age: None,
            here: BTreeMap::new(),
            quotas: Vec::new(),
        }
    }

    /// The bus's name; empty where it is not known.
    pub(crate) fn bus(&self) -> &str {
        self.status.bus.as_ref().map_or("", |bus| bus.as_str())
    }
}
