//! Remembers subscriptions, in a bucket that every instance of the provider reads.
//!
//! What is read here decides what is ended and what goes on: it is the word of the bucket's leader, never of a copy that may
//! lag. An entry that is absent ends nothing, and one that can't be read is left as it is; only a tombstone ends a
//! subscription, and says which of its name that was.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::{kv, stream};
use fanout_plan::remembered::remembered;
use fanout_plan::subscription::{MadeBy, Progress, Registered};
use fanout_plan::unregistered::Tombstone;
use fanout_plan::withheld::Withheld;
use fanout_plan::{Code, ConsumerName, Problem, SubscriptionId, SubscriptionName, Timestamp, entry};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;
use tracing::debug;

use super::headers::text;
use super::last::subject_of;
use super::refusal::found;
use super::store::API_DEADLINE;
use super::swap::RACES;
use super::{Full, Store, StoreError};

/// Reads of entries under way at once.
const READS: usize = 32;
/// How often a copy of the bucket that lags is asked once more before the leader is asked for each entry.
const TRIES: u32 = 3;
/// How long a copy is given to follow.
const FOLLOWS: Duration = Duration::from_millis(50);

/// Which subscription a tombstone ended.
const ENDED: &str = "fanout-ended";
/// Whose it was, if its caller made it.
const ENDED_OF: &str = "fanout-ended-of";

/// What the registry holds under a name.
pub(crate) enum Entry {
    /// Nothing, and never did, or the store has lost it.
    Nothing,
    /// The mark of one that was ended.
    Ended(Tombstone),
    There(Box<Registered>),
    Unreadable(Problem),
}

/// The registry: what can be read of it, what can't, and what was ended.
#[derive(Default)]
pub(super) struct Registry {
    pub(super) entries: BTreeMap<SubscriptionName, Registered>,
    pub(super) unreadable: BTreeMap<SubscriptionName, Problem>,
    pub(super) ended: BTreeMap<SubscriptionName, Tombstone>,
}

/// A message of the registry's bucket.
struct Raw {
    headers: HeaderMap,
    payload: bytes::Bytes,
    /// When it was written, nanoseconds since the Unix epoch.
    at: Timestamp,
}

impl Raw {
    fn of(message: StreamMessage) -> Self {
        Self {
            headers: message.headers,
            payload: message.payload,
            at: super::observe::moment(message.time),
        }
    }
}

impl Store {
    /// Every remembered subscription.
    pub(super) async fn registry(&self) -> Result<Registry, StoreError> {
        let mut registry = Registry::default();
        for (key, raw) in self.entries().await? {
            // What has no subscription's name is none of ours.
            let Ok(name) = key.parse::<SubscriptionName>() else {
                continue;
            };
            match self.parse(&name, &raw) {
                Entry::There(registered) => drop(registry.entries.insert(name, *registered)),
                Entry::Unreadable(problem) => drop(registry.unreadable.insert(name, problem)),
                Entry::Ended(tombstone) => drop(registry.ended.insert(name, tombstone)),
                Entry::Nothing => {}
            }
        }
        Ok(registry)
    }

    /// What the registry holds, in one request that takes no consumer: where the store has no more of them, the bus still
    /// knows its subscriptions.
    async fn entries(&self) -> Result<Vec<(String, Raw)>, StoreError> {
        let when = |e| StoreError::when("list the registry")(e);
        let prefix = self.registry_prefix();
        let filter = format!("{prefix}>");
        for _ in 0..TRIES {
            let leader = self.registry_stream().await?;
            let state = &leader.cached_info().state;
            let (messages, last) = (state.messages, state.last_sequence);
            let name = format!("KV_{}", self.names.registry());
            let asked = timeout(API_DEADLINE, self.last_known(&name, &filter)).await;
            let known = asked.map_err(StoreError::when("list the registry"))?.map_err(when)?;
            let Some(known) = known else { break };
            if known.up_to >= last || (messages == 0 && known.messages.is_empty()) {
                let raw = known.messages.into_iter().map(|m| listed(m, &prefix));
                return raw.collect::<Result<_, _>>().map_err(when);
            }
            debug!(up_to = known.up_to, last, "a copy of the registry lags");
            tokio::time::sleep(FOLLOWS).await;
        }
        self.entries_by_keys(&prefix).await
    }

    /// The same from the leader, entry by entry.
    async fn entries_by_keys(&self, prefix: &str) -> Result<Vec<(String, Raw)>, StoreError> {
        let leader = &self.registry_stream().await?;
        let subjects = leader
            .info_with_subjects(format!("{prefix}>"))
            .await
            .map_err(StoreError::when("list the registry"))?;
        subjects
            .map_err(|e| StoreError::when("list the registry")(e))
            .map_ok(|(subject, _)| async move {
                let raw = leader.get_last_raw_message_by_subject(&subject).await;
                let raw = found(raw, "read the registry")?;
                Ok(raw.map(|raw| (subject[prefix.len()..].to_owned(), Raw::of(raw))))
            })
            .try_buffer_unordered(READS)
            .try_filter_map(|found| std::future::ready(Ok(found)))
            .try_collect()
            .await
    }

    async fn registry_stream(&self) -> Result<stream::Stream, StoreError> {
        let name = format!("KV_{}", self.names.registry());
        let stream = self.js.get_stream(name).await;
        stream.map_err(StoreError::when("open the registry"))
    }

    fn registry_prefix(&self) -> String {
        format!("$KV.{}.", self.names.registry())
    }

    /// One remembered subscription.
    pub(crate) async fn registered(&self, name: &SubscriptionName) -> Result<Option<Registered>, StoreError> {
        match self.entry_of(name).await?.0 {
            Entry::There(registered) => Ok(Some(*registered)),
            Entry::Unreadable(problem) => Err(StoreError::Refused(vec![problem])),
            Entry::Nothing | Entry::Ended(_) => Ok(None),
        }
    }

    /// Whether a subscription was ended. What is not there was not.
    pub(crate) async fn has_ended(&self, registered: &Registered) -> Result<bool, StoreError> {
        Ok(match self.entry_of(&registered.subscription.name).await?.0 {
            Entry::Ended(tombstone) => tombstone.ends(registered.incarnation, Some(registered.made_at)),
            // Another has its name.
            Entry::There(now) => now.incarnation > registered.incarnation,
            Entry::Nothing | Entry::Unreadable(_) => false,
        })
    }

    /// What the registry holds under a name, and the revision that a change of it is made on.
    pub(super) async fn entry_of(&self, name: &SubscriptionName) -> Result<(Entry, u64), StoreError> {
        let (bucket, prefix) = (format!("KV_{}", self.names.registry()), self.registry_prefix());
        let found = self.last_message(bucket, &format!("{prefix}{name}")).await?;
        Ok(match found {
            None => (Entry::Nothing, 0),
            Some(message) => {
                let revision = message.sequence;
                (self.parse(name, &Raw::of(message)), revision)
            }
        })
    }

    /// Reads an entry, which must be of the name that it stands under.
    fn parse(&self, name: &SubscriptionName, raw: &Raw) -> Entry {
        let header = |name: &str| raw.headers.get(name).map(|value| value.as_str());
        if header("Nats-Marker-Reason").is_some() {
            // Its age or a purge took it.
            return Entry::Nothing;
        }
        if header("KV-Operation").is_some() {
            return Entry::Ended(Tombstone {
                incarnation: header(ENDED).and_then(|ended| ended.parse().ok()),
                at: raw.at,
                caller: header(ENDED_OF).map(str::to_owned),
            });
        }
        let why = match entry::read(&raw.payload) {
            Ok(registered) if registered.subscription.name == *name => return Entry::There(Box::new(registered)),
            Ok(registered) => format!("it is of subscription {}", registered.subscription.name),
            Err(error) => error,
        };
        Entry::Unreadable(Problem::new(
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
        let raced = || StoreError::Raced {
            what: format!("subscription {name}"),
        };
        self.change_or_make(&name, |found, ended| {
            remembered(registered, found, ended).map(Some).ok_or_else(raced)
        })
        .await
    }

    /// Notes how many events a subscription found in the log, the first time that its consumer there is made.
    pub(super) async fn note_replayed(
        &self,
        name: &ConsumerName,
        partition: u32,
        replayed: u64,
    ) -> Result<(), StoreError> {
        // A tenant's own consumer begins in the middle.
        let whole = name.tenant().is_none();
        let Some(subscription) = name.subscription().filter(|_| whole) else {
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

    /// Isolates tenants in a partition from an offset on, or lets all rejoin, if the subscription still is what the caller
    /// saw. Returns whether it was.
    pub(crate) async fn change_isolation(&self, seen: &Registered, next: &Registered) -> Result<bool, StoreError> {
        let mut changed = false;
        self.change(&seen.subscription.name, |found| {
            let same = |have: &Registered| {
                have.id() == seen.id()
                    && have.rewound == seen.rewound
                    && have.isolated == seen.isolated
                    && have.rejoined == seen.rejoined
                    && have.subscription == seen.subscription
            };
            let next = found.filter(same).map(|have| Registered {
                isolated: next.isolated.clone(),
                rejoined: next.rejoined.clone(),
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
            if let Some(problem) = have.withheld_problem() {
                return Err(StoreError::Refused(vec![problem]));
            }
            let next = change(&have).map_err(|p| StoreError::Refused(vec![p]))?;
            now = Some(next.clone());
            Ok(Some(next).filter(|next| *next != have))
        })
        .await?;
        Ok(now)
    }

    /// Withholds a subscription at this place, or lets it go on, while it is what the caller saw. Returns it as it is then.
    pub(super) async fn withhold(
        &self,
        seen: &Registered,
        withheld: Option<&Withheld>,
    ) -> Result<Option<Registered>, StoreError> {
        let mut now = None;
        self.change(&seen.subscription.name, |found| {
            let is_same = |r: &Registered| r.id() == seen.id() && r.withheld == seen.withheld;
            now = found.filter(is_same).map(|have| Registered {
                withheld: withheld.cloned(),
                ..have
            });
            Ok(now.clone().filter(|next| next.withheld != seen.withheld))
        })
        .await?;
        Ok(now)
    }

    /// Has what another place may have of a subscription be of an earlier stay than this one, while it is what the caller saw.
    pub(super) async fn begin_later_stay(&self, seen: &Registered) -> Result<(), StoreError> {
        self.change(&seen.subscription.name, |found| {
            let is_same = |r: &Registered| r.id() == seen.id() && r.withheld == seen.withheld && r.stay == seen.stay;
            Ok(found.filter(is_same).map(|have| Registered {
                // One more than the place that it was on its way to would have.
                stay: have.stay.saturating_add(2),
                ..have
            }))
        })
        .await
    }

    /// Writes where a subscription goes on, in place of what the caller saw. Returns whether it still was that.
    pub(super) async fn hand_on(&self, seen: &Registered, next: &Registered) -> Result<bool, StoreError> {
        let mut changed = false;
        self.change(&seen.subscription.name, |found| {
            let is_same = |have: &Registered| {
                have.id() == seen.id()
                    && have.withheld == seen.withheld
                    && have.rewound == seen.rewound
                    && have.isolated == seen.isolated
                    && have.rejoined == seen.rejoined
                    && have.handed == seen.handed
                    && have.stay == seen.stay
            };
            let next = found.filter(is_same).map(|have| Registered {
                withheld: next.withheld.clone(),
                isolated: next.isolated.clone(),
                rejoined: next.rejoined.clone(),
                handed: next.handed.clone(),
                stay: next.stay,
                ..have
            });
            changed = next.is_some();
            Ok(next)
        })
        .await?;
        Ok(changed)
    }

    /// Writes a subscription that another place hands over. What the name stands for here since is not written over.
    pub(super) async fn take_over(&self, next: &Registered) -> Result<(), StoreError> {
        let name = &next.subscription.name;
        let (entry, revision) = self.entry_of(name).await?;
        match entry {
            Entry::Nothing | Entry::Ended(_) => {}
            Entry::There(have) if have.id() == next.id() && have.has_moved() => {}
            // It was on its way to the place that is lost, and got there.
            Entry::There(have) if have.id() == next.id() && have.withheld.is_some() && have.stay < next.stay => {}
            Entry::There(have) if have.id() == next.id() && have.withheld.is_none() => return Ok(()),
            Entry::There(_) => {
                let problem = Problem::new(
                    Code::SubscriptionConflict,
                    format!(
                        "subscription {name}: the place that it is to move to has another of this name: end that one first"
                    ),
                );
                return Err(StoreError::Refused(vec![problem]));
            }
            Entry::Unreadable(problem) => return Err(StoreError::Refused(vec![problem])),
        }
        if self.write(name, Change::Put(next), revision).await? {
            return Ok(());
        }
        Err(StoreError::Raced {
            what: format!("subscription {name}"),
        })
    }

    /// Ends a subscription: that one and no other of its name, where it is said which. A tombstone stands for it from then on,
    /// and its consumers go with the next plan; its dead letters stay.
    ///
    /// # Errors
    /// When its entry can't be read, it is said which and that one is at another place, or on its way there, another instance changed it, or the store can't be changed.
    pub(crate) async fn forget(&self, name: &SubscriptionName, of: Option<&SubscriptionId>) -> Result<(), StoreError> {
        let (entry, revision) = self.entry_of(name).await?;
        let ended = match entry {
            Entry::Nothing | Entry::Ended(_) => return Ok(()),
            Entry::There(ended) if of.is_some_and(|of| ended.id() != *of) => return Ok(()),
            Entry::There(ended) => {
                let is_elsewhere = matches!(ended.withheld, Some(Withheld::MovesTo(_) | Withheld::MovedTo(_)));
                // It would go on there, and whoever ended it here would think that it is over.
                if let Some(problem) = ended.withheld_problem().filter(|_| is_elsewhere && of.is_some()) {
                    return Err(StoreError::Refused(vec![problem]));
                }
                ended
            }
            Entry::Unreadable(problem) => return Err(StoreError::Refused(vec![problem])),
        };
        if !self.write(name, Change::End(&ended), revision).await? {
            return Err(StoreError::Raced {
                what: format!("subscription {name}"),
            });
        }
        // What is left behind comes to nobody: a subscription of this name that is made later is another.
        if let Err(error) = self.let_go(&ended).await {
            debug!(subscription = %name, %error, "attempts and retries of an ended subscription were not deleted; they are deleted later");
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

    /// What a watch tells; a tombstone's headers are not among it.
    fn entry(&self, name: &SubscriptionName, entry: &kv::Entry) -> Entry {
        let at = super::observe::moment(entry.created);
        if entry.operation != kv::Operation::Put {
            return Entry::Ended(Tombstone {
                at,
                ..Tombstone::default()
            });
        }
        let raw = Raw {
            headers: HeaderMap::new(),
            payload: entry.value.clone(),
            at,
        };
        self.parse(name, &raw)
    }

    /// Compare and swap; on a lost race it reads again.
    async fn change(
        &self,
        name: &SubscriptionName,
        mut next: impl FnMut(Option<Registered>) -> Result<Option<Registered>, StoreError>,
    ) -> Result<(), StoreError> {
        self.change_or_make(name, |found, _| next(found)).await
    }

    /// The same, where nothing is found with the tombstone that stands there.
    async fn change_or_make(
        &self,
        name: &SubscriptionName,
        mut next: impl FnMut(Option<Registered>, Option<Tombstone>) -> Result<Option<Registered>, StoreError>,
    ) -> Result<(), StoreError> {
        for _ in 0..RACES {
            let (entry, revision) = self.entry_of(name).await?;
            let next = match entry {
                Entry::Nothing => next(None, None),
                Entry::Ended(tombstone) => next(None, Some(tombstone)),
                Entry::There(registered) => next(Some(*registered), None),
                // What can't be read is not written over.
                Entry::Unreadable(problem) => return Err(StoreError::Refused(vec![problem])),
            };
            let Some(registered) = next? else {
                return Ok(());
            };
            if self.write(name, Change::Put(&registered), revision).await? {
                return Ok(());
            }
        }
        Err(StoreError::Raced {
            what: format!("subscription {name}"),
        })
    }

    /// Writes an entry or a tombstone on the revision that was read. Returns whether no other instance was faster.
    async fn write(&self, name: &SubscriptionName, change: Change<'_>, revision: u64) -> Result<bool, StoreError> {
        let action = "write the registry";
        let message = match change {
            Change::Put(registered) => {
                let written = entry::write(registered).map_err(StoreError::when(action))?;
                PublishMessage::build().payload(written.into())
            }
            // As the bucket's own deletions are marked, for whoever else reads it.
            Change::End(ended) => {
                let message = PublishMessage::build()
                    .header("KV-Operation", "DEL")
                    .header(ENDED, ended.incarnation.to_string().as_str());
                match ended.made_by {
                    MadeBy::Call => message.header(ENDED_OF, text(&ended.component)),
                    MadeBy::Link | MadeBy::Policy => message,
                }
            }
        };
        let subject = self.entry_subject(&self.names.registry(), name.as_str());
        let written = self.swap(subject, message, revision).await;
        let written = written
            .map_err(StoreError::when(action))
            .map_err(|error| match error.full() {
                Some(what) => self.is_full(name, what),
                None => error,
            });
        Ok(written?.is_some())
    }

    /// The registry takes nothing more. That lasts until an operator acts, and what was to be written is not there.
    fn is_full(&self, name: &SubscriptionName, what: Full) -> StoreError {
        let bus = &self.policy.bus;
        let what_to_do = match what {
            Full::Storage => {
                format!("{what} is full, and the registry of bus {bus} with it: give the server or the account more")
            }
            _ => format!("the registry of bus {bus} is full: raise `registry.max-bytes`"),
        };
        StoreError::Refused(vec![Problem::new(
            Code::StoreFull,
            format!("subscription {name}: what is to be remembered of it was not stored: {what_to_do}"),
        )])
    }
}

/// What is written under a name.
enum Change<'a> {
    Put(&'a Registered),
    /// Ends this subscription.
    End(&'a Registered),
}

/// A message of a list: its key, and what it holds.
fn listed(message: async_nats::Message, prefix: &str) -> Result<(String, Raw), async_nats::Error> {
    let subject = subject_of(&message)?;
    let key = subject.strip_prefix(prefix).unwrap_or(subject).to_owned();
    let headers = message.headers.unwrap_or_default();
    let at = headers.get("Nats-Time-Stamp").map(|at| at.as_str());
    let at = at.and_then(|at| at.parse().ok()).unwrap_or(Timestamp::MAX);
    let payload = message.payload;
    Ok((key, Raw { headers, payload, at }))
}
