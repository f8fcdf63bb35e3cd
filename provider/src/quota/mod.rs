//! Holds each tenant to its quota before anything of an event is stored, so that no tenant can starve or evict another.
//!
//! - Events a second: a token bucket a tenant. Each instance grants its share of the rate; instances know of each
//!   other by their beats (`instances`).
//! - Bytes stored: counted as they are stored, by when, in counters that all instances share (`count`).
//! - Events that wait until they are due, and their bytes: counted in the store (`scheduled`).
//! - Events in flight: whatever its quota, a tenant may hold at most a quarter of what this instance has under way at the store.
//!
//! The decisions are the planner's (`rate`, `usage`); here is who has which bucket. Memory: one entry for each tenant
//! that published in the last minute.

mod count;
mod instances;
mod scheduled;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fanout_plan::rate::{Bucket, Rate};
use fanout_plan::usage::{Refused, Slots, Usage};
use fanout_plan::{TenantId, Timestamp, show_duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

use crate::jetstream::{Store, StoreError, Waits};

use count::Unanswered;
use instances::Instances;

/// After how long without a publish a tenant's entry is forgotten.
const IDLE: Duration = Duration::from_secs(60);

/// Which part of what is under way at the store one tenant may have.
const IN_FLIGHT_SHARES: u32 = 4;

/// The quotas of one bus, as this instance keeps them.
#[derive(Debug)]
pub(crate) struct Gate {
    started: Instant,
    tenants: Mutex<HashMap<TenantId, Entry>>,
    instances: Instances,
    unanswered: tokio::sync::Mutex<Unanswered>,
}

#[derive(Debug, Default)]
struct Entry {
    bucket: Bucket,
    /// Bytes stored; absent until they were read, and without such a quota.
    usage: Option<Box<Usage>>,
    in_flight: Option<Arc<Semaphore>>,
    /// Events that wait until they are due.
    waiting: scheduled::Waiting,
    /// When it was last used.
    seen: u64,
}

/// A publish permit.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// What to give back if nothing is stored.
    taken: Option<Taken>,
    /// A part of the tenant's in-flight share, for as long as the store has not answered.
    _in_flight: OwnedSemaphorePermit,
}

/// Bytes that were taken out of a quota, and when.
#[derive(Clone, Copy, Debug)]
struct Taken {
    slots: Slots,
    size: u64,
    at: Timestamp,
}

/// An event that is published now. Its bytes are counted when this is dropped, also by what cuts the publishing short: the
/// event may be stored then.
#[derive(Debug)]
pub(crate) struct Counting<'a> {
    gate: &'a Gate,
    tenant: TenantId,
    bytes: Taken,
    /// Whether nothing was stored, or was before, so that nothing is counted.
    pub(crate) is_not_stored: bool,
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        if self.is_not_stored {
            return;
        }
        let Taken { slots, size, at } = self.bytes;
        self.gate.entry(&self.tenant, |e| {
            if let Some(usage) = &mut e.usage {
                usage.count(slots, size, at);
            }
        });
    }
}

/// Leave to publish so many events of one tenant, if others have it too.
#[derive(Debug)]
pub(crate) struct Together {
    rate: Option<Rate>,
    events: u64,
    taken: Option<Taken>,
}

/// Why there is no leave.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    #[error("it may publish {events_per_second} events a second{}", share(*.instances))]
    Rate {
        events_per_second: u64,
        instances: u32,
        retry_after: Duration,
    },
    #[error("{stored} bytes of its {max_bytes} are stored, and this is {size}; the first of them expire in {}", show_duration(Duration::from_secs(.retry_after.as_secs().max(1))))]
    Bytes {
        stored: u64,
        max_bytes: u64,
        size: u64,
        retry_after: Duration,
    },
    #[error("this is {size} bytes, and the tenant may have {max_bytes} stored in all")]
    TooLarge { size: u64, max_bytes: u64 },
    #[error("{} events of it, of {} bytes, wait until they are due; {} events of {} bytes may, and this is {size} bytes", .waiting.events, .waiting.bytes, .share.events, .share.bytes)]
    Scheduled { waiting: Waits, share: Waits, size: u64 },
    #[error("what is stored for it could not be read")]
    Unknown(#[source] StoreError),
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            tenants: Mutex::default(),
            instances: Instances::default(),
            unanswered: tokio::sync::Mutex::default(),
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
        let Together { taken, .. } = self.admit_together(store, tenant, 1, size).await?;
        let permit = self.in_flight_permit(store, tenant).await;
        Ok(Admitted {
            taken,
            _in_flight: permit,
        })
    }

    /// Takes an event out of a tenant's rate that is kept until it is due: its bytes count among those that wait, and among
    /// the stored ones once it is published.
    ///
    /// # Errors
    /// When there is no place in it, or the event would never have one.
    pub(crate) async fn admit_call(
        &self,
        store: &Store,
        tenant: &TenantId,
        size: u64,
    ) -> Result<OwnedSemaphorePermit, NotAdmitted> {
        let quota = store.policy().quotas.of(tenant);
        if let Some(max_bytes) = quota.max_bytes.filter(|max_bytes| size > *max_bytes) {
            return Err(NotAdmitted::TooLarge { size, max_bytes });
        }
        if let Some(events_per_second) = quota.events_per_second {
            self.take_events(tenant, events_per_second, 1)?;
        }
        Ok(self.in_flight_permit(store, tenant).await)
    }

    /// Begins to count an event that was accepted earlier and is published now. It is published in any case; the tenant's
    /// next events find its bytes counted. `None` where the tenant's bytes are not bounded.
    pub(crate) async fn count(&self, store: &Store, tenant: &TenantId, size: u64) -> Option<Counting<'_>> {
        store.policy().quotas.of(tenant).max_bytes?;
        let (slots, at) = (Slots::of(store.policy().retention.max_age), store.now());
        if self.entry(tenant, |e| e.usage.is_none())
            && let Err(error) = Box::pin(self.read_usage(store, tenant, slots, at)).await
        {
            debug!(%tenant, %error, "the tenant's stored bytes could not be read; this event is not counted");
        }
        Some(Counting {
            gate: self,
            tenant: tenant.clone(),
            bytes: Taken { slots, size, at },
            is_not_stored: false,
        })
    }

    /// Takes events of so many bytes in all out of a tenant's quota, or none.
    ///
    /// # Errors
    /// When there is no room in it.
    pub(crate) async fn admit_together(
        &self,
        store: &Store,
        tenant: &TenantId,
        events: u64,
        size: u64,
    ) -> Result<Together, NotAdmitted> {
        let policy = store.policy();
        let quota = policy.quotas.of(tenant);
        let rate = match quota.events_per_second {
            None => None,
            Some(events_per_second) => Some(self.take_events(tenant, events_per_second, events)?),
        };
        let mut together = Together {
            rate,
            events,
            taken: None,
        };
        if let Some(max_bytes) = quota.max_bytes {
            match self.take_bytes(store, tenant, max_bytes, size).await {
                Ok(taken) => together.taken = Some(taken),
                Err(refused) => {
                    self.put_all_back(tenant, &together);
                    return Err(refused);
                }
            }
        }
        Ok(together)
    }

    /// A publish permit for one event of `size` bytes, of those that are published together. Waits as [`Gate::admit`] does.
    pub(crate) async fn one_of(&self, together: &Together, store: &Store, tenant: &TenantId, size: u64) -> Admitted {
        Admitted {
            taken: together.taken.map(|all| Taken { size, ..all }),
            _in_flight: self.in_flight_permit(store, tenant).await,
        }
    }

    async fn in_flight_permit(&self, store: &Store, tenant: &TenantId) -> OwnedSemaphorePermit {
        let most = (store.policy().publish.max_in_flight / IN_FLIGHT_SHARES).max(1);
        let share = self.entry(tenant, |e| {
            Arc::clone(
                e.in_flight
                    .get_or_insert_with(|| Arc::new(Semaphore::new(most as usize))),
            )
        });
        match share.acquire_owned().await {
            Ok(permit) => permit,
            // It is never closed.
            Err(_) => unreachable!("a share is open for as long as it exists"),
        }
    }

    fn take_events(&self, tenant: &TenantId, events_per_second: u64, events: u64) -> Result<Rate, NotAdmitted> {
        let instances = self.instances.count();
        let rate = Rate::share(events_per_second, instances);
        let now = self.now();
        self.entry(tenant, |e| e.bucket.take_together(rate, events, now))
            .map_err(|retry_after| NotAdmitted::Rate {
                events_per_second,
                instances,
                retry_after,
            })?;
        Ok(rate)
    }

    async fn take_bytes(
        &self,
        store: &Store,
        tenant: &TenantId,
        max_bytes: u64,
        size: u64,
    ) -> Result<Taken, NotAdmitted> {
        let slots = Slots::of(store.policy().retention.max_age);
        let at = store.now();
        if self.entry(tenant, |e| e.usage.is_none()) {
            Box::pin(self.read_usage(store, tenant, slots, at))
                .await
                .map_err(NotAdmitted::Unknown)?;
        }
        self.entry(tenant, |e| {
            let usage = e.usage.get_or_insert_default();
            usage.take(slots, max_bytes, size, at).map_err(|refused| match refused {
                Refused::For(retry_after) => NotAdmitted::Bytes {
                    stored: usage.stored(slots, at),
                    max_bytes,
                    size,
                    retry_after,
                },
                Refused::ForGood => NotAdmitted::TooLarge { size, max_bytes },
            })
        })?;
        Ok(Taken { slots, size, at })
    }

    /// Gives back the bytes of an event that was not stored, or was stored before.
    pub(crate) fn put_back(&self, tenant: &TenantId, admitted: &Admitted) {
        if let Some(taken) = admitted.taken {
            self.put_back_bytes(tenant, taken);
        }
    }

    /// Gives back everything that was taken for events of which none is published.
    pub(crate) fn put_all_back(&self, tenant: &TenantId, together: &Together) {
        if let Some(rate) = together.rate {
            self.entry(tenant, |e| e.bucket.put_back(rate, together.events));
        }
        if let Some(taken) = together.taken {
            self.put_back_bytes(tenant, taken);
        }
    }

    fn put_back_bytes(&self, tenant: &TenantId, Taken { slots, size, at }: Taken) {
        self.entry(tenant, |e| {
            if let Some(usage) = &mut e.usage {
                usage.put_back(slots, size, at);
            }
        });
    }

    /// What part of its bytes each tenant has stored that the policy has shown, as far as this instance knows.
    pub(crate) fn used(&self, store: &Store) -> Vec<(TenantId, f64)> {
        let policy = store.policy();
        let (slots, now) = (Slots::of(policy.retention.max_age), store.now());
        let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let used = policy.telemetry.tenants.iter().filter_map(|tenant| {
            let max_bytes = policy.quotas.of(tenant).max_bytes?;
            let stored = tenants.get(tenant)?.usage.as_ref()?.stored(slots, now);
            #[expect(
                clippy::cast_precision_loss,
                reason = "a part of a quota is shown, and no byte of it counted"
            )]
            let part = stored as f64 / max_bytes as f64;
            Some((tenant.clone(), part))
        });
        used.collect()
    }

    /// Forgets tenants that have been quiet: their buckets are full, and what they stored is in the counters.
    fn forget_idle(&self) {
        let now = self.now();
        let idle = u64::try_from(IDLE.as_nanos()).unwrap_or(u64::MAX);
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.retain(|_, e| {
            let busy = e.in_flight.as_ref().is_some_and(|t| Arc::strong_count(t) > 1);
            let flushed = e.usage.as_ref().is_none_or(|u| u.is_flushed());
            busy || !e.waiting.is_idle() || !flushed || !e.bucket.is_full(now) || e.seen.saturating_add(idle) > now
        });
        if tenants.capacity() > 4 * tenants.len().max(256) {
            tenants.shrink_to_fit();
        }
    }
}

/// What of a rate one of several instances gives out.
fn share(instances: u32) -> String {
    match instances {
        1 => String::new(),
        n => format!(", a {n}th of it through each of {n} instances"),
    }
}
