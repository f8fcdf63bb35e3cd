//! Holds each tenant to its quota before anything of an event is stored, so that no tenant can starve or evict another.
//!
//! - Events a second: a token bucket a tenant. Each instance gives out its share of the rate; instances know of each
//!   other by their beats (`instances`).
//! - Bytes stored: counted as they are stored, by when, in counters that all instances share (`count`).
//! - Turns: whatever its quota, a tenant may hold at most a quarter of what this instance has under way at the store.
//!
//! The decisions are the planner's (`rate`, `usage`); here is who has which bucket. Memory: one entry for each tenant
//! that published in the last minute.

mod count;
mod instances;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fanout_plan::rate::{Bucket, Rate};
use fanout_plan::usage::{Refused, Slots, Usage};
use fanout_plan::{TenantId, show_duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock;
use crate::jetstream::{Store, StoreError};

pub(crate) use count::Unanswered;
use instances::Instances;

/// After how long without a publish a tenant's entry is forgotten.
const IDLE: Duration = Duration::from_secs(60);

/// Which part of what is under way at the store one tenant may have.
const TURNS: u32 = 4;

/// The quotas of one bus, as this instance keeps them.
#[derive(Debug)]
pub(crate) struct Gate {
    started: Instant,
    tenants: Mutex<HashMap<TenantId, Entry>>,
    instances: Instances,
}

#[derive(Debug, Default)]
struct Entry {
    bucket: Bucket,
    /// Bytes stored; absent until they were read, and without such a quota.
    usage: Option<Box<Usage>>,
    turns: Option<Arc<Semaphore>>,
    /// When it was last asked for.
    seen: u64,
}

/// Leave to publish one event.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// What to give back if nothing is stored: the bytes, and when they were taken.
    taken: Option<(Slots, u64, i64)>,
    /// The tenant's turn, for as long as the store has not answered.
    _turn: OwnedSemaphorePermit,
}

/// Why there is no leave.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    #[error("it may publish {events_per_second} events a second{share}")]
    Rate {
        events_per_second: u64,
        share: String,
        retry_after: Duration,
    },
    #[error("{stored} bytes of its {max_bytes} are stored, and this event is {size}; the first of them expire in {}", show_duration(Duration::from_secs(.retry_after.as_secs().max(1))))]
    Bytes {
        stored: u64,
        max_bytes: u64,
        size: u64,
        retry_after: Duration,
    },
    #[error("the event is {size} bytes, and the tenant may have {max_bytes} stored in all")]
    TooLarge { size: u64, max_bytes: u64 },
    #[error("what is stored for it could not be read")]
    Unknown(#[source] StoreError),
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            tenants: Mutex::default(),
            instances: Instances::default(),
        }
    }

    /// Nanoseconds of a clock that does not go back.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn entry<T>(&self, tenant: &TenantId, act: impl FnOnce(&mut Entry) -> T) -> T {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        // The name is copied only for a tenant that is not there.
        if let Some(entry) = tenants.get_mut(tenant) {
            entry.seen = now;
            return act(entry);
        }
        let entry = tenants.entry(tenant.clone()).or_default();
        entry.seen = now;
        act(entry)
    }

    /// Takes an event of so many bytes out of a tenant's quota. Waits only for the tenant's own earlier events.
    ///
    /// # Errors
    /// When there is no room in it.
    pub(crate) async fn admit(&self, store: &Store, tenant: &TenantId, size: u64) -> Result<Admitted, NotAdmitted> {
        let policy = store.policy();
        let quota = policy.quotas.of(tenant);
        if let Some(events_per_second) = quota.events_per_second {
            self.take_event(tenant, events_per_second)?;
        }
        let mut taken = None;
        if let Some(max_bytes) = quota.max_bytes {
            let slots = Slots::of(policy.max_age);
            let now = clock::now();
            if self.entry(tenant, |e| e.usage.is_none()) {
                self.read_usage(store, tenant, slots, now)
                    .await
                    .map_err(NotAdmitted::Unknown)?;
            }
            self.take_bytes(tenant, slots, max_bytes, size, now)?;
            taken = Some((slots, size, now));
        }
        let most = (policy.publish_max_in_flight / TURNS).max(1);
        let turns = self.entry(tenant, |e| {
            Arc::clone(e.turns.get_or_insert_with(|| Arc::new(Semaphore::new(most as usize))))
        });
        match turns.acquire_owned().await {
            Ok(turn) => Ok(Admitted { taken, _turn: turn }),
            // It is never closed.
            Err(_) => unreachable!("turns are open for as long as they exist"),
        }
    }

    fn take_event(&self, tenant: &TenantId, events_per_second: u64) -> Result<(), NotAdmitted> {
        let instances = self.instances.count();
        let rate = Rate::share(events_per_second, instances);
        let now = self.now();
        self.entry(tenant, |e| e.bucket.take(rate, now))
            .map_err(|retry_after| NotAdmitted::Rate {
                events_per_second,
                share: match instances {
                    1 => String::new(),
                    n => format!(", a {n}th of it through each of {n} instances"),
                },
                retry_after,
            })
    }

    fn take_bytes(
        &self,
        tenant: &TenantId,
        slots: Slots,
        max_bytes: u64,
        size: u64,
        now: i64,
    ) -> Result<(), NotAdmitted> {
        self.entry(tenant, |e| {
            let usage = e.usage.get_or_insert_default();
            usage
                .take(slots, max_bytes, size, now)
                .map_err(|refused| match refused {
                    Refused::For(retry_after) => NotAdmitted::Bytes {
                        stored: usage.stored(slots, now),
                        max_bytes,
                        size,
                        retry_after,
                    },
                    Refused::ForGood => NotAdmitted::TooLarge { size, max_bytes },
                })
        })
    }

    /// Gives back the bytes of an event that was not stored, or was stored before.
    pub(crate) fn put_back(&self, tenant: &TenantId, admitted: &Admitted) {
        if let Some((slots, size, then)) = admitted.taken {
            self.entry(tenant, |e| {
                if let Some(usage) = &mut e.usage {
                    usage.put_back(slots, size, then);
                }
            });
        }
    }

    /// Forgets tenants that have been quiet: their buckets are full, and what they stored is in the counters.
    fn forget_idle(&self) {
        let now = self.now();
        let idle = u64::try_from(IDLE.as_nanos()).unwrap_or(u64::MAX);
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.retain(|_, e| {
            let busy = e.turns.as_ref().is_some_and(|t| Arc::strong_count(t) > 1);
            let told = e.usage.as_ref().is_none_or(|u| u.is_told());
            busy || !told || !e.bucket.is_full(now) || e.seen.saturating_add(idle) > now
        });
        if tenants.capacity() > 4 * tenants.len().max(256) {
            tenants.shrink_to_fit();
        }
    }
}
