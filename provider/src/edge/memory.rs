//! What an edge remembers: the subscriptions that its components made by calls, whose backfills were notified that they
//! have caught up, and what seals the tokens of its inbox. In a bucket of the lattice, which every instance of the edge
//! reads: the bus knows the edge alone, not its components.
//!
//! Deliberately absent: events. Without JetStream on the lattice an edge forwards all the same, and remembers nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, context::AccountErrorKind, kv};
use bytes::Bytes;
use fanout_plan::subscription::Subscription;
use fanout_plan::{Code, Problem, SubscriptionName};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OnceCell};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::inbox::{Seal, fresh_secret};
use crate::jetstream::{SECRET, shared_secret};

/// The most bytes that an edge remembers.
const MAX_BYTES: i64 = 64 << 20;
/// Before the name of a subscription in a key of the second kind. With a dot, it is no subscription's name.
const NOTIFIED: &str = "told.";
/// How long the secret of the tokens may take to be read, and after what time it is read again though nobody wrote one: what is
/// purged from the bucket's stream is told to nobody.
const SECRET_WITHIN: Duration = Duration::from_secs(2);
const READ_AGAIN: Duration = Duration::from_secs(30);
/// The wait before the bucket is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// A subscription that a component made by a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Called {
    pub(super) component: String,
    /// The link that it was made through, which goes on to say what it may be given.
    pub(super) link: String,
    pub(super) subscription: Subscription,
}

#[derive(Debug, Default)]
struct Known {
    called: BTreeMap<SubscriptionName, Called>,
    notified: BTreeMap<SubscriptionName, Subscription>,
}

/// What seals, of which secret it is made, and when that was read.
#[derive(Debug)]
struct KeptSeal {
    read_at: Instant,
    secret: Bytes,
    seal: Arc<Seal>,
}

/// The memory of one edge.
pub(super) struct Memory {
    js: jetstream::Context,
    name: String,
    bucket: OnceCell<kv::Store>,
    seal: tokio::sync::Mutex<Option<KeptSeal>>,
    /// Whether somebody wrote or deleted the secret since it was read.
    is_secret_changed: AtomicBool,
    known: Mutex<Known>,
    /// Whether all that there was has been read.
    is_read: AtomicBool,
}

impl Memory {
    pub(super) fn new(nats: async_nats::Client, lattice: &str, provider: &str) -> Self {
        let plain = |s: &str| s.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_");
        Self {
            js: jetstream::new(nats),
            name: format!("fanout_edge_{}_{}", plain(lattice), plain(provider)),
            bucket: OnceCell::new(),
            seal: tokio::sync::Mutex::default(),
            is_secret_changed: AtomicBool::new(false),
            known: Mutex::default(),
            is_read: AtomicBool::new(false),
        }
    }

    /// The subscriptions that were made by calls.
    pub(super) fn called(&self) -> BTreeMap<SubscriptionName, Called> {
        self.known().called.clone()
    }

    /// Whether a subscription that is not known is none.
    pub(super) fn is_read(&self) -> bool {
        self.is_read.load(Ordering::Acquire)
    }

    /// Whether a backfill's subscriber was notified that it has caught up.
    pub(super) fn is_notified(&self, subscription: &Subscription) -> bool {
        // A name that came to mean another backfill has not been notified of that one.
        let notified = self
            .known()
            .notified
            .get(&subscription.name)
            .map(|s| (s.need, s.filter.clone()));
        notified.is_some_and(|(need, filter)| need == subscription.need && filter == subscription.filter)
    }

    /// Reads what there is, then follows what other instances write. Never ends.
    pub(super) async fn follow(&self, changed: &Notify) {
        let mut said = None;
        loop {
            let Err(problem) = self.read(changed).await;
            if problem.code == Code::NotAtAnEdge {
                // There is nothing to remember it by.
                self.is_read.store(true, Ordering::Release);
                changed.notify_one();
            }
            if said.as_ref() != Some(&problem) {
                debug!(code = %problem.code, "{}", problem.message);
                said = Some(problem);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn read(&self, changed: &Notify) -> Result<std::convert::Infallible, Problem> {
        let bucket = self.bucket().await?;
        let keys: Vec<_> = bucket
            .keys()
            .await
            .map_err(|e| cant("read", e))?
            .try_collect()
            .await
            .map_err(|e| cant("read", e))?;
        for key in keys {
            if let Some(value) = bucket.get(&key).await.map_err(|e| cant("read", e))? {
                self.note(&key, Some(&value));
            }
        }
        self.is_read.store(true, Ordering::Release);
        changed.notify_one();
        let mut entries = bucket.watch_with_history(">").await.map_err(|e| cant("read", e))?;
        while let Some(entry) = entries.next().await {
            let entry = entry.map_err(|e| cant("read", e))?;
            let value = (entry.operation == kv::Operation::Put).then_some(&entry.value);
            if self.note(&entry.key, value) {
                changed.notify_one();
            }
        }
        Err(cant("read", "the watch ended"))
    }

    /// Takes an entry in, and says whether that changed anything.
    fn note(&self, key: &str, value: Option<&Bytes>) -> bool {
        if key == SECRET {
            self.is_secret_changed.store(true, Ordering::Release);
            return false;
        }
        let mut known = self.known();
        match key.strip_prefix(NOTIFIED) {
            Some(name) => put(&mut known.notified, name, value),
            None => put(&mut known.called, key, value),
        }
    }

    /// Remembers a subscription. Of two components that ask for one name the first gets it.
    pub(super) async fn remember(&self, called: Called) -> Result<(), Unremembered> {
        let bucket = self.bucket().await?;
        let key = called.subscription.name.to_string();
        let value: Bytes = serde_json::to_vec(&called).map_err(|e| cant("write", e))?.into();
        let before = bucket.entry(&key).await.map_err(|e| cant("write", e))?;
        let before = before.filter(|e| e.operation == kv::Operation::Put);
        match before {
            None => match bucket.create(&key, value).await {
                Ok(_) => {}
                Err(e) if e.kind() == kv::CreateErrorKind::AlreadyExists => return Err(Unremembered::Taken),
                Err(e) => return Err(cant("write", e).into()),
            },
            Some(entry) => {
                let theirs = serde_json::from_slice::<Called>(&entry.value);
                if theirs.is_ok_and(|theirs| theirs.component != called.component) {
                    return Err(Unremembered::Taken);
                }
                match bucket.update(&key, value, entry.revision).await {
                    Ok(_) => {}
                    Err(e) if e.kind() == kv::UpdateErrorKind::WrongLastRevision => return Err(Unremembered::Taken),
                    Err(e) => return Err(cant("write", e).into()),
                }
            }
        }
        let name = called.subscription.name.clone();
        self.known().called.insert(name, called);
        Ok(())
    }

    /// Forgets a subscription that was made by a call, and that it was notified.
    pub(super) async fn forget(&self, name: &SubscriptionName) -> Result<(), Problem> {
        self.forget_notified(name).await?;
        let bucket = self.bucket().await?;
        bucket.delete(name.as_str()).await.map_err(|e| cant("write", e))?;
        self.known().called.remove(name);
        Ok(())
    }

    /// Notes that a backfill's subscriber was notified. What is not noted is notified once more after a restart.
    pub(super) async fn note_notified(&self, subscription: &Subscription) {
        self.known()
            .notified
            .insert(subscription.name.clone(), subscription.clone());
        let noted = async {
            let value: Bytes = serde_json::to_vec(subscription).map_err(|e| cant("write", e))?.into();
            let key = format!("{NOTIFIED}{}", subscription.name);
            self.bucket().await?.put(key, value).await.map_err(|e| cant("write", e))
        };
        if let Err(problem) = noted.await {
            debug!(code = %problem.code, "{}", problem.message);
        }
    }

    /// A backfill begins anew, and notifies its subscriber again.
    pub(super) async fn forget_notified(&self, name: &SubscriptionName) -> Result<(), Problem> {
        if self.known().notified.remove(name).is_some() {
            let key = format!("{NOTIFIED}{name}");
            self.bucket().await?.delete(key).await.map_err(|e| cant("write", e))?;
        }
        Ok(())
    }

    /// What seals the inbox's tokens: shared by the instances, or this instance's own where nothing is remembered. Its secret is
    /// read again when somebody wrote it, and now and then: one that was deleted is put back, and one that another instance has put
    /// there is taken over.
    pub(super) async fn seal(&self) -> Result<Arc<Seal>, Problem> {
        let mut kept = self.seal.lock().await;
        let is_changed = self.is_secret_changed.swap(false, Ordering::AcqRel);
        let is_fresh = |kept: &&KeptSeal| !is_changed && kept.read_at.elapsed() < READ_AGAIN;
        if let Some(kept) = kept.as_ref().filter(is_fresh) {
            return Ok(Arc::clone(&kept.seal));
        }
        let ours = match &*kept {
            Some(kept) => kept.secret.clone(),
            None => {
                let fresh = fresh_secret().map_err(|e| Problem::new(Code::BusNotReady, e.to_string()))?;
                Bytes::copy_from_slice(&fresh)
            }
        };
        let secret = match self.bucket().await {
            Ok(bucket) => match timeout(SECRET_WITHIN, shared_secret(bucket, ours.clone())).await {
                Ok(Ok(secret)) => secret,
                // It seals as before until the lattice's JetStream is there again.
                _ if kept.is_some() => ours,
                Ok(Err(error)) => return Err(cant("read", error)),
                Err(late) => return Err(cant("read", late)),
            },
            Err(problem) if problem.code == Code::NotAtAnEdge => ours,
            Err(_) if kept.is_some() => ours,
            Err(problem) => return Err(problem),
        };
        let seal = match kept.take() {
            Some(kept) if kept.secret == secret => kept.seal,
            _ => Arc::new(Seal::new(&secret)),
        };
        let read_at = Instant::now();
        let now = kept.insert(KeptSeal { read_at, secret, seal });
        Ok(Arc::clone(&now.seal))
    }

    /// Whether anything can be remembered.
    ///
    /// # Errors
    /// `not-at-an-edge` where the lattice keeps nothing, otherwise what a retry can mend.
    pub(super) async fn is_there(&self) -> Result<(), Problem> {
        self.bucket().await.map(drop)
    }

    async fn bucket(&self) -> Result<&kv::Store, Problem> {
        let open = || async {
            match self.js.query_account().await.map_err(|e| (e.kind(), e)) {
                Ok(_) => {}
                Err((AccountErrorKind::JetStreamUnavailable | AccountErrorKind::JetStream(_), _)) => {
                    return Err(Problem::new(
                        Code::NotAtAnEdge,
                        "an edge remembers subscriptions that are made by calls in the lattice's JetStream, and this lattice has none: enable it, or declare the subscription in a link from the edge to the component",
                    ));
                }
                Err((_, e)) => return Err(cant("open", e)),
            }
            if let Ok(bucket) = self.js.get_key_value(&self.name).await {
                return Ok(bucket);
            }
            let config = kv::Config {
                bucket: self.name.clone(),
                history: 1,
                // An account may want a size of everything (10113).
                max_bytes: MAX_BYTES,
                ..kv::Config::default()
            };
            // Another instance may just have made it, which is the same.
            self.js.create_key_value(config).await.map_err(|e| cant("open", e))
        };
        self.bucket.get_or_try_init(open).await
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a subscription is not remembered.
#[derive(Debug)]
pub(super) enum Unremembered {
    /// Another component, or another instance at this moment, has the name.
    Taken,
    Problem(Problem),
}

impl From<Problem> for Unremembered {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

fn put<T>(kept: &mut BTreeMap<SubscriptionName, T>, name: &str, value: Option<&Bytes>) -> bool
where
    T: PartialEq + for<'a> Deserialize<'a>,
{
    // Other entries are no subscription's.
    let Ok(name) = name.parse::<SubscriptionName>() else {
        return false;
    };
    match value.map(|value| serde_json::from_slice::<T>(value)) {
        None => kept.remove(&name).is_some(),
        Some(Ok(now)) => {
            let differs = kept.get(&name) != Some(&now);
            kept.insert(name, now);
            differs
        }
        Some(Err(error)) => {
            warn!(subscription = %name, %error, "an entry of the edge's memory is not readable and is skipped");
            false
        }
    }
}

fn cant(what: &str, e: impl std::fmt::Display) -> Problem {
    Problem::new(
        Code::StoreUnavailable,
        format!("can't {what} what this edge remembers in the lattice's JetStream: {e}: try again"),
    )
}
