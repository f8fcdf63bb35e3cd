//! How many events may wait for each tenant until they are due.
//!
//! What waits is counted in the store, and what this instance adds to it in between is taken out of what was left then. With
//! several instances each takes its share of what was left, and asks again after ten seconds: together they let a tenant
//! have at most what the others keep for it in that time too much, and never more than twice its quota.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanout_plan::TenantId;

use super::{Entry, Gate, NotAdmitted};
use crate::jetstream::Store;

/// For how long a count holds beside other instances.
const HOLDS: Duration = Duration::from_secs(10);

/// How long after a count that left nothing the store is not asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of a tenant's waiting events.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    counted: Option<Counted>,
    /// Events that were admitted and of which the store has not answered yet.
    under_way: u64,
    /// One call at a time counts.
    counting: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    quota: u64,
    at: Instant,
    /// How many more this instance may admit.
    left: u64,
    /// Whether the count left nothing to admit.
    is_full: bool,
    /// How many waited.
    waiting: u64,
}

/// Leave to keep one event until it is due.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    gate: &'a Gate,
    tenant: TenantId,
    /// Whether nothing was kept, so that the place is free again.
    pub(crate) is_free_again: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.gate.entry(&self.tenant, |e| {
            e.waiting.under_way = e.waiting.under_way.saturating_sub(1);
            if let Some(counted) = e.waiting.counted.as_mut().filter(|_| self.is_free_again) {
                counted.left += 1;
            }
        });
    }
}

impl Waiting {
    /// Whether this may be forgotten.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// Takes one place, if the last count left one; `None` when it has to be counted again.
    fn take(&mut self, quota: u64, alone: bool) -> Option<Result<(), u64>> {
        let counted = self.counted.as_mut().filter(|c| c.quota == quota)?;
        let age = counted.at.elapsed();
        if !alone && age > HOLDS {
            return None;
        }
        if counted.left == 0 {
            return (counted.is_full && age < PAUSE).then_some(Err(counted.waiting));
        }
        counted.left -= 1;
        self.under_way += 1;
        Some(Ok(()))
    }
}

impl Gate {
    /// Takes a place among a tenant's waiting events.
    ///
    /// # Errors
    /// When as many wait as may, or the store can't say how many do.
    pub(crate) async fn admit_scheduled(&self, store: &Store, tenant: &TenantId) -> Result<Place<'_>, NotAdmitted> {
        let quota = store.policy().quotas.of(tenant).scheduled();
        let alone = || self.instances.count() <= 1;
        let take = |e: &mut Entry| e.waiting.take(quota, alone());
        let mut taken = self.entry(tenant, take);
        if taken.is_none() {
            let counting = self.entry(tenant, |e| Arc::clone(&e.waiting.counting));
            let _counting = counting.lock().await;
            // Another call may have counted meanwhile.
            taken = self.entry(tenant, take);
            if taken.is_none() {
                let waiting = store.waiting_for(tenant, quota).await.map_err(NotAdmitted::Unknown)?;
                let instances = u64::from(self.instances.count().max(1));
                taken = self.entry(tenant, |e| {
                    let left = quota.saturating_sub(waiting).saturating_sub(e.waiting.under_way);
                    e.waiting.counted = Some(Counted {
                        quota,
                        at: Instant::now(),
                        left: left.div_ceil(instances),
                        is_full: left == 0,
                        waiting,
                    });
                    take(e)
                });
            }
        }
        match taken {
            Some(Ok(())) => Ok(Place {
                gate: self,
                tenant: tenant.clone(),
                is_free_again: false,
            }),
            Some(Err(waiting)) => Err(NotAdmitted::Scheduled { waiting, quota }),
            None => Err(NotAdmitted::Scheduled { waiting: quota, quota }),
        }
    }
}
