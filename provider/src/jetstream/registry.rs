//! Remembers subscriptions, in a bucket that every instance of the provider reads.

use std::collections::BTreeMap;

use async_nats::jetstream::kv;
use fanout_plan::subscription::{Progress, Registered};
use fanout_plan::{Problem, SubscriptionName};
use futures::TryStreamExt as _;
use tracing::warn;

use super::{Store, StoreError};

/// Reads of a bucket under way at once.
const READS: usize = 32;

impl Store {
    /// Every remembered subscription.
    pub(super) async fn registry(&self) -> Result<BTreeMap<SubscriptionName, Registered>, StoreError> {
        let bucket = &self.bucket(&self.names.registry()).await?;
        let keys = bucket.keys().await.map_err(StoreError::when("list the registry"))?;
        keys.map_err(|e| StoreError::when("list the registry")(e))
            .try_filter(|key| std::future::ready(key != super::held::SECRET))
            .map_ok(|key| async move {
                let entry = bucket.get(&key).await.map_err(StoreError::when("read the registry"))?;
                Ok(entry.and_then(|value| parse(&key, &value)))
            })
            .try_buffer_unordered(READS)
            .try_filter_map(|found| async move { Ok(found.map(|r| (r.subscription.name.clone(), r))) })
            .try_collect()
            .await
    }

    /// One remembered subscription.
    pub(crate) async fn registered(&self, name: &SubscriptionName) -> Result<Option<Registered>, StoreError> {
        let bucket = self.bucket(&self.names.registry()).await?;
        let value = bucket
            .get(name.as_str())
            .await
            .map_err(StoreError::when("read the registry"))?;
        Ok(value.and_then(|v| parse(name.as_str(), &v)))
    }

    /// Writes a subscription. The first writer of a name wins; a change goes through only on what was read.
    pub(super) async fn remember(&self, registered: &Registered) -> Result<(), StoreError> {
        let name = registered.subscription.name.clone();
        self.change(&name, |found| {
            Ok(match found {
                None => Some(registered.clone()),
                Some(have)
                    if have
                        .can_become(&registered.subscription, &registered.component, registered.made_by)
                        .is_err() =>
                {
                    return Err(StoreError::Raced {
                        what: format!("subscription {name}"),
                    });
                }
                // What another instance learned meanwhile is kept.
                Some(have) => Some(Registered {
                    subscription: registered.subscription.clone(),
                    component: registered.component.clone(),
                    link: registered.link.clone(),
                    made_by: registered.made_by,
                    // One that was rewound meanwhile has heads of its own.
                    head: if have.rewound == registered.rewound {
                        registered.head.clone()
                    } else {
                        have.head.clone()
                    },
                    ..have
                }),
            })
        })
        .await
    }

    /// Notes how many events a subscription found in the log, the first time that its consumer there is made.
    pub(super) async fn note_replayed(&self, name: &str, partition: u32, replayed: u64) -> Result<(), StoreError> {
        // A tenant's own consumer begins in the middle.
        let whole = Registered::tenant_of_consumer(name).is_none();
        let Some(name) = Registered::of_consumer(name).filter(|_| whole) else {
            return Ok(());
        };
        self.change(&name, |found| {
            Ok(found.filter(|r| !r.replayed.knows(partition)).map(|mut r| {
                r.replayed.0.insert(partition, replayed);
                r
            }))
        })
        .await
    }

    /// Moves a backfill's progress on if it is still what the caller saw. Of several instances one gets `true`.
    pub(crate) async fn advance(
        &self,
        name: &SubscriptionName,
        from: Progress,
        to: Progress,
    ) -> Result<bool, StoreError> {
        let mut moved = false;
        self.change(name, |found| {
            let next = found
                .filter(|r| r.progress == from)
                .map(|r| Registered { progress: to, ..r });
            moved = next.is_some();
            Ok(next)
        })
        .await?;
        Ok(moved)
    }

    /// Stops a subscription's deliveries or lets them go on, and returns it as it is then; `None` if there is none of
    /// that name.
    ///
    /// # Errors
    /// When the store can't be changed.
    pub async fn pause(&self, name: &SubscriptionName, paused: bool) -> Result<Option<Registered>, StoreError> {
        self.amend(name, |have| Ok(Registered { paused, ..have.clone() })).await
    }

    /// Reads tenants apart in a partition from an offset on, or everything together again, if the subscription still is
    /// what the caller saw. Says whether that was so.
    pub(crate) async fn reads_otherwise(&self, seen: &Registered, otherwise: &Registered) -> Result<bool, StoreError> {
        let mut changed = false;
        self.change(&seen.subscription.name, |found| {
            let same = |have: &Registered| {
                have.rewound == seen.rewound
                    && have.apart == seen.apart
                    && have.joined == seen.joined
                    && have.subscription == seen.subscription
            };
            let next = found.filter(same).map(|have| Registered {
                apart: otherwise.apart.clone(),
                joined: otherwise.joined.clone(),
                ..have
            });
            changed = next.is_some();
            Ok(next)
        })
        .await?;
        Ok(changed)
    }

    /// Changes a subscription on behalf of its component or its operator.
    pub(super) async fn amend(
        &self,
        name: &SubscriptionName,
        mut change: impl FnMut(&Registered) -> Result<Registered, Problem>,
    ) -> Result<Option<Registered>, StoreError> {
        let mut now = None;
        self.change(name, |found| {
            let Some(have) = found else {
                now = None;
                return Ok(None);
            };
            let next = change(&have).map_err(|p| StoreError::Refused(vec![p]))?;
            now = Some(next.clone());
            Ok(Some(next).filter(|next| *next != have))
        })
        .await?;
        Ok(now)
    }

    /// Forgets a subscription; its consumer goes with the next plan.
    pub(crate) async fn forget(&self, name: &SubscriptionName) -> Result<(), StoreError> {
        let bucket = self.bucket(&self.names.registry()).await?;
        bucket
            .delete(name.as_str())
            .await
            .map_err(StoreError::when(format!("forget subscription {name}")))
    }

    /// Changes of the registry as they happen, by whichever instance.
    pub(crate) async fn watch_registry(&self) -> Result<kv::Watch, StoreError> {
        let bucket = self.bucket(&self.names.registry()).await?;
        bucket.watch_all().await.map_err(StoreError::when("watch the registry"))
    }

    /// Compare and swap; on a lost race it reads again.
    async fn change(
        &self,
        name: &SubscriptionName,
        mut next: impl FnMut(Option<Registered>) -> Result<Option<Registered>, StoreError>,
    ) -> Result<(), StoreError> {
        let key = name.as_str();
        let bucket = self.bucket(&self.names.registry()).await?;
        for _ in 0..10 {
            let entry = bucket
                .entry(key)
                .await
                .map_err(StoreError::when("read the registry"))?
                .filter(|e| e.operation == kv::Operation::Put);
            let revision = entry.as_ref().map(|e| e.revision);
            let Some(registered) = next(entry.and_then(|e| parse(key, &e.value)))? else {
                return Ok(());
            };
            let value = serde_json::to_vec(&registered)
                .map_err(StoreError::when("write the registry"))?
                .into();
            match revision {
                None => match bucket.create(key, value).await {
                    Ok(_) => return Ok(()),
                    Err(e) if e.kind() == kv::CreateErrorKind::AlreadyExists => {}
                    Err(e) => return Err(StoreError::when("write the registry")(e)),
                },
                Some(revision) => match bucket.update(key, value, revision).await {
                    Ok(_) => return Ok(()),
                    Err(e) if e.kind() == kv::UpdateErrorKind::WrongLastRevision => {}
                    Err(e) => return Err(StoreError::when("write the registry")(e)),
                },
            }
        }
        Err(StoreError::Raced {
            what: format!("subscription {key}"),
        })
    }
}

fn parse(key: &str, value: &[u8]) -> Option<Registered> {
    match serde_json::from_slice(value) {
        Ok(registered) => Some(registered),
        Err(error) => {
            warn!(subscription = key, %error, "an entry of the registry is not readable and is passed over");
            None
        }
    }
}
