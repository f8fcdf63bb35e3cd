//! Permits for what a subscription has in flight at one instance: for the number of its events, and for their bytes.
//!
//! The number is the subscription's own. The bytes are bounded whatever a subscription asks for: large events of one tenant
//! and a slow subscriber must not fill the memory of all.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of events that one subscription has in flight at one instance. 16 invocations of 100 events of 20 KiB each go beyond it.
const BYTES: usize = 32 << 20;
/// Subject and headers of a message beside its event, counted generously.
const OVERHEAD_BYTES: usize = 16 << 10;

/// The bytes that events of one subscription may take at one instance while they are in flight, and as many again those of each
/// isolated tenant: 32 MiB, and at least two of the largest events. `largest` is the policy's `event.max-bytes`.
pub(super) fn in_flight_bytes(largest: u64) -> usize {
    BYTES.max(2 * least_bytes(largest) as usize)
}

/// What the largest event takes. A semaphore hands out 32 bits at once.
fn least_bytes(largest: u64) -> u32 {
    let bytes = largest.saturating_add(OVERHEAD_BYTES as u64);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// What there is to take; clones share it.
#[derive(Clone, Debug)]
pub(super) struct InFlightPermits {
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// What the largest event takes: with fewer bytes nothing is pulled.
    least_bytes: u32,
}

/// What is taken; given back on drop.
#[derive(Debug)]
pub(super) struct InFlightPermit {
    events: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
}

impl InFlightPermits {
    /// Permits for a number of events, each of at most `largest` bytes.
    pub(super) fn new(events: u32, largest: u64) -> Self {
        Self {
            events: Arc::new(Semaphore::new(events as usize)),
            bytes: Arc::new(Semaphore::new(in_flight_bytes(largest))),
            least_bytes: least_bytes(largest),
        }
    }

    /// Permits for one event of the largest at least, and all others that are free then.
    pub(super) async fn take(&self) -> InFlightPermit {
        let events = take_free(&self.events, 1).await;
        InFlightPermit {
            events,
            bytes: take_free(&self.bytes, self.least_bytes).await,
        }
    }
}

impl InFlightPermit {
    pub(super) fn events(&self) -> usize {
        self.events.num_permits()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.num_permits()
    }

    /// Parts with permits for some of the events; `None` when they are not covered. Bytes that are not covered are those of
    /// subjects and headers.
    pub(super) fn split(&mut self, events: usize, bytes: usize) -> Option<Self> {
        let events = self.events.split(events)?;
        let bytes = self.bytes.split(bytes.min(self.bytes.num_permits()))?;
        Some(Self { events, bytes })
    }
}

/// One permit.
pub(super) async fn free_permit(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    match Arc::clone(permits).acquire_owned().await {
        Ok(permit) => permit,
        // The semaphore is never closed: a closed one would mean no permit, for ever.
        Err(_) => std::future::pending().await,
    }
}

/// At least one permit, and all others that are free now.
pub(super) async fn free_permits(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    take_free(permits, 1).await
}

/// At least `least` permits, and all others that are free now.
async fn take_free(permits: &Arc<Semaphore>, least: u32) -> OwnedSemaphorePermit {
    let mut taken = match Arc::clone(permits).acquire_many_owned(least).await {
        Ok(taken) => taken,
        // The semaphore is never closed: a closed one would mean no permit, for ever.
        Err(_) => std::future::pending().await,
    };
    let more = u32::try_from(permits.available_permits()).unwrap_or(u32::MAX);
    if more > 0
        && let Ok(others) = Arc::clone(permits).try_acquire_many_owned(more)
    {
        taken.merge(others);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn large_events_are_bounded_by_their_bytes_and_small_ones_by_their_number() {
        let permits = InFlightPermits::new(1_600, 512 << 10);
        let mut all = permits.take().await;
        assert_eq!((all.events(), all.bytes()), (1_600, BYTES));
        let large = all.split(60, 60 * (512 << 10)).expect("they are free");
        let small = all.split(1_000, 1_000 << 10).expect("they are free");
        drop(all);
        let rest = permits.take().await;
        assert_eq!(rest.events(), 540);
        assert_eq!(rest.bytes(), BYTES - (60 * (512 << 10)) - (1_000 << 10));
        drop((large, small, rest));
        assert_eq!(permits.take().await.bytes(), BYTES);
    }

    #[tokio::test]
    async fn what_is_larger_than_the_bound_still_fits() {
        let permits = InFlightPermits::new(1, 32 << 20);
        let mut one = permits.take().await;
        assert!(one.bytes() >= 32 << 20);
        assert!(one.split(2, 0).is_none(), "there is one");
    }
}
