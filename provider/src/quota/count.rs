//! Bytes stored, in counters that all instances share: read when a tenant first publishes here, and added to once a
//! second. What an instance that is killed stored in its last second is not counted.
//!
//! What other instances store for a tenant is learned with each answer, so that several instances together let a tenant
//! have at most what they store of it in a second too much.

use std::collections::HashMap;
use std::sync::PoisonError;

use fanout_plan::usage::{Slots, Usage};
use fanout_plan::{TenantId, Timestamp};
use futures::{StreamExt as _, stream};
use tracing::warn;

use super::Gate;
use super::instances::BEAT;
use crate::jetstream::{Store, StoreError};

/// The most additions under way at once.
const ADDITIONS: usize = 64;

/// Additions without an answer: each is made again under the same id, which the store counts once. They outlive the policy
/// under which they were begun: bytes that were added under one id are never added under another.
#[derive(Debug, Default)]
pub(super) struct Unanswered(HashMap<(TenantId, i64), Addition>);

#[derive(Clone, Debug)]
struct Addition {
    bytes: u64,
    id: String,
    /// The counter's name: the retention, by which slots are named, may be another when it is made again.
    counter: String,
}

impl Gate {
    /// Reads what is stored for a tenant.
    pub(super) async fn read_usage(
        &self,
        store: &Store,
        tenant: &TenantId,
        slots: Slots,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let counting = slots.counting(now);
        let mut parts: HashMap<i64, u64> = HashMap::new();
        for (name, bytes) in store.usage(tenant).await? {
            if let Some(slot) = slots.named(&name).filter(|s| counting.contains(s)) {
                *parts.entry(slot).or_default() += bytes;
            }
        }
        let mut usage = Box::new(Usage::default());
        for (slot, bytes) in parts {
            usage.flush(slot, Some(bytes), 0);
        }
        // Another call of the tenant may have been faster, and may have taken from it since.
        self.entry(tenant, |e| {
            if e.usage.is_none() {
                e.usage = Some(usage);
            }
        });
        Ok(())
    }

    /// Keeps the count of instances and the counters, until it is dropped.
    pub(crate) async fn keep(&self, store: &Store) {
        let nats = store.nats();
        let beats = self.instances.keep(&nats, store.names());
        let flushing = async {
            loop {
                tokio::time::sleep(BEAT).await;
                self.flush(store).await;
                self.forget_idle();
            }
        };
        tokio::select! {
            () = beats => {}
            () = flushing => {}
        }
    }

    /// Adds what was stored since the last flush to the counters. Cut short, it is gone on with by the next.
    pub(crate) async fn flush(&self, store: &Store) {
        let mut unanswered = self.unanswered.lock().await;
        let slots = Slots::of(store.policy().retention.max_age);
        {
            let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            for (tenant, entry) in tenants.iter() {
                let Some(usage) = &entry.usage else { continue };
                for (slot, bytes) in usage.unflushed() {
                    let new = || Addition {
                        bytes,
                        id: store.nats().new_inbox().to_string(),
                        counter: slots.name(slot),
                    };
                    unanswered.0.entry((tenant.clone(), slot)).or_insert_with(new);
                }
            }
        }
        let additions: Vec<_> = unanswered.0.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let answers: Vec<_> = stream::iter(additions)
            .map(|((tenant, slot), Addition { bytes, id, counter })| async move {
                let total = store.add_usage(&tenant, &counter, bytes, &id).await;
                (tenant, slot, bytes, total)
            })
            .buffer_unordered(ADDITIONS)
            .collect()
            .await;
        let mut failed = None;
        for (tenant, slot, bytes, total) in answers {
            match total {
                Ok(total) => {
                    self.entry(&tenant, |e| {
                        if let Some(usage) = &mut e.usage {
                            usage.flush(slot, total, bytes);
                        }
                    });
                    unanswered.0.remove(&(tenant, slot));
                }
                Err(error) => failed = Some((tenant, error)),
            }
        }
        if let Some((tenant, error)) = failed {
            warn!(%tenant, %error, "stored bytes could not be added to the counters; adding is tried again");
        }
    }
}
