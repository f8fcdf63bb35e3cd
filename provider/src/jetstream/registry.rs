//! Remembers subscriptions, in a bucket that every instance of the provider reads.

use std::collections::BTreeMap;

use async_nats::jetstream::kv;
use bytes::Bytes;
use fanout_plan::subscription::{Progress, Registered};
use fanout_plan::{Code, Problem, SubscriptionId, SubscriptionName};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use tracing::debug;

use super::last::subject_of;
use super::store::API_DEADLINE;
use super::{Store, StoreError};

/// Reads of a bucket under way at once.
const READS: usize = 32;

/// What the registry holds under a name.
pub(crate) enum Entry {
    /// Nothing, and never did, or the store has lost it.
    Nothing,
    /// The mark of one that was ended.
    Ended,
    There(Box<Registered>),
    Unreadable(Problem),
}

/// The registry: what can be read of it, and what can't.
type Registry = (
    BTreeMap<SubscriptionName, Registered>,
    BTreeMap<SubscriptionName, Problem>,
);

impl Store {
    /// Every remembered subscription.
    pub(super) async fn registry(&self) -> Result<Registry, StoreError> {
        let found = match self.entries().await? {
            Some(found) => found,
            None => self.entries_by_keys().await?,
        };
        let mut registry = Registry::default();
        for (key, value) in found {
            // What has no subscription's name is none of ours.
            let Ok(name) = key.parse::<SubscriptionName>() else {
                continue;
            };
            match self.parse(&name, &value) {
                Ok(registered) => drop(registry.0.insert(name, registered)),
                Err(problem) => drop(registry.1.insert(name, problem)),
            }
        }
        Ok(registry)
    }

    /// What the registry holds, in one request that takes no consumer: where the store has no more of them, the bus still
    /// knows its subscriptions. `None` where it is too much for one answer.
    async fn entries(&self) -> Result<Option<Vec<(String, Bytes)>>, StoreError> {
        let bucket = self.names.registry();
        let prefix = format!("$KV.{bucket}.");
        let entries = tokio::time::timeout(
            API_DEADLINE,
            self.last_of(&format!("KV_{bucket}"), &format!("{prefix}>")),
        )
        .await
        .map_err(StoreError::when("list the registry"))?
        .map_err(StoreError::when("list the registry"))?;
        let Some(entries) = entries else { return Ok(None) };
        let mut found = Vec::with_capacity(entries.len());
        for entry in entries {
            let subject = subject_of(&entry).map_err(StoreError::when("list the registry"))?;
            let is_mark = entry.headers.as_ref().is_some_and(|h| h.get("KV-Operation").is_some());
            if let Some(key) = subject
                .strip_prefix(&prefix)
                .filter(|key| !is_mark && *key != super::held::SECRET)
            {
                found.push((key.to_owned(), entry.payload.clone()));
            }
        }
        Ok(Some(found))
    }

    /// The same key by key.
    async fn entries_by_keys(&self) -> Result<Vec<(String, Bytes)>, StoreError> {
        let bucket = &self.bucket(&self.names.registry()).await?;
        let keys = bucket.keys().await.map_err(StoreError::when("list the registry"))?;
        keys.map_err(|e| StoreError::when("list the registry")(e))
            .try_filter(|key| std::future::ready(key != super::held::SECRET))
            .map_ok(|key| async move {
                let entry = bucket.get(&key).await.map_err(StoreError::when("read the registry"))?;
                Ok(entry.map(|value| (key, value)))
            })
            .try_buffer_unordered(READS)
            .try_filter_map(|found| std::future::ready(Ok(found)))
            .try_collect()
            .await
    }

    /// One remembered subscription.
    pub(crate) async fn registered(&self, name: &SubscriptionName) -> Result<Option<Registered>, StoreError> {
        match self.entry_of(name, true).await? {
            Entry::There(registered) => Ok(Some(*registered)),
            Entry::Unreadable(problem) => Err(StoreError::Refused(vec![problem])),
            Entry::Nothing | Entry::Ended => Ok(None),
        }
    }

    /// What the registry holds under a name; nothing, if there is no registry.
    pub(super) async fn entry_of(&self, name: &SubscriptionName, there: bool) -> Result<Entry, StoreError> {
        if !there {
            return Ok(Entry::Nothing);
        }
        let bucket = self.bucket(&self.names.registry()).await?;
        let entry = bucket
            .entry(name.as_str())
            .await
            .map_err(StoreError::when("read the registry"))?;
        Ok(entry.map_or(Entry::Nothing, |entry| self.entry(name, &entry)))
    }

    /// Reads an entry, which must be of the name that it stands under.
    fn parse(&self, name: &SubscriptionName, value: &[u8]) -> Result<Registered, Problem> {
        let why = match serde_json::from_slice::<Registered>(value) {
            Ok(registered) if registered.subscription.name == *name => return Ok(registered),
            Ok(registered) => format!("it is of subscription {}", registered.subscription.name),
            Err(error) => error.to_string(),
        };
        Err(Problem::new(
            Code::UnreadableSubscription,
            format!(
                "subscription {name}: its entry in {} can't be read ({why}), and is left as it is: start the version that wrote it, or remove the entry if nobody needs it",
                self.names.registry()
            ),
        ))
    }

    /// Writes a subscription. The first writer of a name wins; a change goes through only on what was read.
    pub(super) async fn remember(&self, registered: &Registered) -> Result<(), StoreError> {
        let name = registered.subscription.name.clone();
        self.change(&name, |found| {
            let (asked, component, made_by) = (&registered.subscription, &registered.component, registered.made_by);
            Ok(match found {
                None => Some(registered.clone()),
                // It was moved aside before this.
                Some(have) if have.yields_to(asked, component, made_by) => Some(registered.clone()),
                // Another instance made it meanwhile, or ended it and made it again: its consumers have other names.
                Some(have) if have.id() != registered.id() || have.can_become(asked, component, made_by).is_err() => {
                    return Err(StoreError::Raced {
                        what: format!("subscription {name}"),
                    });
                }
                // It begins anew in a log that was lost.
                Some(have) if have.generation() < registered.generation() => Some(Registered {
                    paused: have.paused,
                    ..registered.clone()
                }),
                // What another instance learned meanwhile is kept. One that was rewound meanwhile has heads of its own.
                Some(have) => Some(Registered {
                    subscription: registered.subscription.clone(),
                    component: registered.component.clone(),
                    link: registered.link.clone(),
                    made_by: registered.made_by,
                    head: if have.rewound == registered.rewound {
                        registered.head.clone()
                    } else {
                        have.head.clone()
                    },
                    progress: if registered.progress == Progress::Finished && have.rewound == registered.rewound {
                        Progress::Finished
                    } else {
                        have.progress
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
        let Some(subscription) = Registered::of_consumer(name).filter(|_| whole) else {
            return Ok(());
        };
        self.change(&subscription, |found| {
            let unknown = |r: &Registered| r.has_consumer(name) && !r.replayed.knows(partition);
            Ok(found.filter(unknown).map(|mut r| {
                r.replayed.0.insert(partition, replayed);
                r
            }))
        })
        .await
    }

    /// Moves a backfill's progress on if it is still what the caller saw. Of several instances one gets `true`.
    pub(crate) async fn advance(
        &self,
        registered: &Registered,
        from: Progress,
        to: Progress,
    ) -> Result<bool, StoreError> {
        let mut moved = false;
        self.change(&registered.subscription.name, |found| {
            let next = found
                .filter(|r| r.id() == registered.id() && r.progress == from)
                .map(|r| Registered { progress: to, ..r });
            moved = next.is_some();
            Ok(next)
        })
        .await?;
        Ok(moved)
    }

    /// Stops a subscription's deliveries or lets them go on, and returns it as it is then; `None` if there is none of
    /// that name, or it is not `of`, where that is said.
    ///
    /// # Errors
    /// When the store can't be changed.
    pub async fn pause(
        &self,
        name: &SubscriptionName,
        of: Option<&SubscriptionId>,
        paused: bool,
    ) -> Result<Option<Registered>, StoreError> {
        self.amend(name, of, |have| Ok(Registered { paused, ..have.clone() }))
            .await
    }

    /// Reads tenants apart in a partition from an offset on, or everything together again, if the subscription still is
    /// what the caller saw. Says whether that was so.
    pub(crate) async fn reads_otherwise(&self, seen: &Registered, otherwise: &Registered) -> Result<bool, StoreError> {
        let mut changed = false;
        self.change(&seen.subscription.name, |found| {
            let same = |have: &Registered| {
                have.id() == seen.id()
                    && have.rewound == seen.rewound
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

    /// Changes a subscription on behalf of its component or its operator; that one and no other of its name, where it is
    /// said which.
    pub(super) async fn amend(
        &self,
        name: &SubscriptionName,
        of: Option<&SubscriptionId>,
        mut change: impl FnMut(&Registered) -> Result<Registered, Problem>,
    ) -> Result<Option<Registered>, StoreError> {
        let mut now = None;
        self.change(name, |found| {
            let Some(have) = found.filter(|have| of.is_none_or(|of| have.id() == *of)) else {
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

    /// Ends a subscription: that one and no other of its name, where it is said which. Its consumer goes with the next
    /// plan, its dead letters stay.
    pub(crate) async fn forget(&self, name: &SubscriptionName, of: Option<&SubscriptionId>) -> Result<(), StoreError> {
        let bucket = self.bucket(&self.names.registry()).await?;
        let action = || format!("forget subscription {name}");
        let entry = bucket.entry(name.as_str()).await.map_err(StoreError::when(action()))?;
        let Some(entry) = entry.filter(|e| e.operation == kv::Operation::Put) else {
            return Ok(());
        };
        let ended = self.parse(name, &entry.value).ok();
        if of.is_some_and(|of| ended.as_ref().is_none_or(|ended| ended.id() != *of)) {
            return Ok(());
        }
        let revision = of.map(|_| entry.revision);
        match bucket.delete_expect_revision(name.as_str(), revision).await {
            Ok(()) => {}
            Err(e) if e.kind() == kv::UpdateErrorKind::WrongLastRevision => {
                return Err(StoreError::Raced {
                    what: format!("subscription {name}"),
                });
            }
            Err(e) => return Err(StoreError::when(action())(e)),
        }
        // What is left behind comes to nobody: a subscription of this name that is made later is another.
        if let Some(ended) = ended
            && let Err(error) = self.let_go(&ended).await
        {
            debug!(subscription = %name, %error, "what it had is let go later");
        }
        Ok(())
    }

    /// Changes of the registry as they happen, by whichever instance, until the watch breaks off.
    pub(crate) async fn registry_changes(&self) -> Result<BoxStream<'static, (SubscriptionName, Entry)>, StoreError> {
        let bucket = self.bucket(&self.names.registry()).await?;
        let entries = bucket
            .watch_all()
            .await
            .map_err(StoreError::when("watch the registry"))?;
        let store = self.clone();
        let whole = entries.take_while(|entry| std::future::ready(entry.is_ok()));
        let changes = whole.filter_map(move |entry| {
            // What has no subscription's name is none of ours.
            let change = entry.ok().and_then(|entry| {
                let name = entry.key.parse::<SubscriptionName>().ok()?;
                let entry = store.entry(&name, &entry);
                Some((name, entry))
            });
            std::future::ready(change)
        });
        Ok(changes.boxed())
    }

    fn entry(&self, name: &SubscriptionName, entry: &kv::Entry) -> Entry {
        if entry.operation != kv::Operation::Put {
            return Entry::Ended;
        }
        match self.parse(name, &entry.value) {
            Ok(registered) => Entry::There(Box::new(registered)),
            Err(problem) => Entry::Unreadable(problem),
        }
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
            let found = entry.map(|e| self.parse(name, &e.value)).transpose();
            // What can't be read is not written over.
            let found = found.map_err(|problem| StoreError::Refused(vec![problem]))?;
            let Some(registered) = next(found)? else {
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
