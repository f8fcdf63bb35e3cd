//! How many events, and bytes, may wait for each tenant until they are due.
//!
//! What waits is counted in the store: so much as is kept, whenever it came, and what this instance adds to it in between is taken out of what was left then. With
//! several instances each takes its share of what was left, and asks again after ten seconds: together they let a tenant
//! have at most what the others keep for it in that time too much, and never more than twice its quota.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanout_plan::TenantId;

use super::{Entry, Gate, NotAdmitted};
use crate::jetstream::{Store, Waits};

/// For how long a count holds beside other instances.
const HOLDS: Duration = Duration::from_secs(10);

/// How long after a count that left nothing the store is not asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of a tenant's waiting events.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    counted: Option<Counted>,
    /// Events that were admitted and of which the store has not answered yet.
    under_way: Waits,
    /// One call at a time counts.
    counting: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    share: Waits,
    at: Instant,
    /// How much more this instance may admit.
    left: Waits,
    /// What the count left in all.
    left_in_all: Waits,
    /// What waited.
    waiting: Waits,
}

/// Leave to keep one event until it is due.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    gate: &'a Gate,
    tenant: TenantId,
    size: u64,
    /// Whether nothing was kept, so that the place is free again.
    pub(crate) is_free_again: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.gate.entry(&self.tenant, |e| {
            e.waiting.under_way.events = e.waiting.under_way.events.saturating_sub(1);
            e.waiting.under_way.bytes = e.waiting.under_way.bytes.saturating_sub(self.size);
            if let Some(counted) = e.waiting.counted.as_mut().filter(|_| self.is_free_again) {
                counted.left.events += 1;
                counted.left.bytes += self.size;
            }
        });
    }
}

impl Waiting {
    /// Whether this may be forgotten.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way == Waits::default()
    }

    /// Takes a place for so many bytes, if the last count left one; `None` when it has to be counted again.
    fn take(&mut self, share: Waits, size: u64, alone: bool) -> Option<Result<(), Waits>> {
        let counted = self.counted.as_mut().filter(|c| c.share == share)?;
        let age = counted.at.elapsed();
        if !alone && age > HOLDS {
            return None;
        }
        let fits = |left: Waits| left.events > 0 && left.bytes >= size;
        if !fits(counted.left) {
            return (!fits(counted.left_in_all) && age < PAUSE).then_some(Err(counted.waiting));
        }
        counted.left.events -= 1;
        counted.left.bytes -= size;
        self.under_way.events += 1;
        self.under_way.bytes += size;
        Some(Ok(()))
    }
}

impl Gate {
    /// Takes a place for an event of so many bytes among a tenant's waiting events.
    ///
    /// # Errors
    /// When as much waits as may, or the store can't say how much does.
    pub(crate) async fn admit_scheduled(
        &self,
        store: &Store,
        tenant: &TenantId,
        size: u64,
    ) -> Result<Place<'_>, NotAdmitted> {
        let (events, bytes) = store.policy().scheduled_share(tenant);
        let share = Waits { events, bytes };
        let alone = || self.instances.count() <= 1;
        let take = |e: &mut Entry| e.waiting.take(share, size, alone());
        let mut taken = self.entry(tenant, take);
        if taken.is_none() {
            let counting = self.entry(tenant, |e| Arc::clone(&e.waiting.counting));
            let _counting = counting.lock().await;
            // Another call may have counted meanwhile.
            taken = self.entry(tenant, take);
            if taken.is_none() {
                let waiting = store.waiting_for(tenant, size, share).await;
                let waiting = waiting.map_err(NotAdmitted::Unknown)?;
                let instances = u64::from(self.instances.count().max(1));
                taken = self.entry(tenant, |e| {
                    let left =
                        |share: u64, waiting: u64, under_way| share.saturating_sub(waiting).saturating_sub(under_way);
                    let under_way = e.waiting.under_way;
                    let left_in_all = Waits {
                        events: left(share.events, waiting.events, under_way.events),
                        bytes: left(share.bytes, waiting.bytes, under_way.bytes),
                    };
                    // A share of the bytes that holds no event would be none.
                    let of_bytes = (left_in_all.bytes / instances).max(size.min(left_in_all.bytes));
                    e.waiting.counted = Some(Counted {
                        share,
                        at: Instant::now(),
                        left: Waits {
                            events: left_in_all.events.div_ceil(instances),
                            bytes: of_bytes,
                        },
                        left_in_all,
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
                size,
                is_free_again: false,
            }),
            Some(Err(waiting)) => Err(NotAdmitted::Scheduled { waiting, share, size }),
            None => Err(NotAdmitted::Scheduled {
                waiting: share,
                share,
                size,
            }),
        }
    }
}
