//! Lets one instance at a time own a thing.
//!
//! A lease is an entry of a bucket that its owner writes again and again. Another instance takes it over when the entry
//! has not changed for a whole term *by its own clock*, and the owner stops half a term after it last wrote by *its*
//! clock: no two clocks are compared. Both go on while a machine is suspended. Each write goes through only on the
//! revision that was read.
//!
//! The bucket is in memory, so that no full disk ends an ownership. A server that restarts may lose it; whoever misses it
//! makes it again, and the owner writes its entry anew.
//!
//! An entry names one ownership of one instance. So a writer whose answer was lost finds its own entry, and goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::kv;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use fanout_plan::SubscriptionId;
use fanout_plan::topology::{self, BucketSpec};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::apply::bucket_config;
use super::refusal::found;
use super::{Store, StoreError};
use crate::clock::Moment;

/// The header of an entry that is none: its owner has released it.
const OPERATION: &str = "KV-Operation";

/// How long an owner waits until it writes its entry again: an eighth of its term, and within these.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What an entry says.
#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    owner: String,
    /// Of this ownership alone.
    id: String,
}

/// What the owner of a subscription's order owns.
pub(crate) fn order_of(subscription: &SubscriptionId) -> String {
    format!("{subscription}=order")
}

/// What the owner of a subscription's redriven dead letters owns, where there is no order.
pub(crate) fn redrives_of(subscription: &SubscriptionId) -> String {
    format!("{subscription}=redrive")
}

/// Who would own a thing, and what it has seen of the entry.
#[derive(Debug)]
pub(crate) struct Contender {
    key: String,
    value: Bytes,
    term: Duration,
    seen: Option<(u64, Moment)>,
}

/// An entry as the bucket's leader has it.
struct Entry {
    revision: u64,
    /// None once it is released.
    value: Option<Bytes>,
}

/// Held by the owner.
#[derive(Debug)]
pub(crate) struct Lease {
    store: Store,
    bucket: kv::Store,
    key: String,
    value: Bytes,
    revision: u64,
    tenure: Tenure,
}

/// For how long an owner is one. Whoever acts for the owner asks before each act.
#[derive(Clone, Debug)]
pub(crate) struct Tenure(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    term: Duration,
    renewed: Mutex<Moment>,
    is_lost: AtomicBool,
}

impl Tenure {
    fn since(renewed: Moment, term: Duration) -> Self {
        Self(Arc::new(Inner {
            term,
            renewed: Mutex::new(renewed),
            is_lost: AtomicBool::new(false),
        }))
    }

    /// Of who owns what nobody else would have: without an end.
    pub(crate) fn endless() -> Self {
        Self::since(Moment::now(), Duration::MAX)
    }

    /// Whether the owner may go on acting as such.
    pub(crate) fn is_valid(&self) -> bool {
        !self.left().is_zero()
    }

    /// For how long it may, if it never writes again.
    pub(crate) fn left(&self) -> Duration {
        self.left_at(Moment::now())
    }

    fn left_at(&self, now: Moment) -> Duration {
        if self.0.is_lost.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        let renewed = *self.0.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        (self.0.term / 2).saturating_sub(renewed.until(now))
    }

    fn renew(&self, at: Moment) {
        *self.0.renewed.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn lose(&self) {
        self.0.is_lost.store(true, Ordering::Release);
    }
}

impl Contender {
    /// Contends for a thing as `owner`, the name that others read.
    pub(crate) fn new(store: &Store, name: &str, owner: &str, term: Duration) -> Self {
        let id = store.nats().new_inbox();
        let owner = Owner {
            owner: owner.to_owned(),
            id: id.rsplit('.').next().unwrap_or(&id).to_owned(),
        };
        Self {
            key: key_of(name),
            // It is made of strings: it always has this form.
            value: serde_json::to_vec(&owner).unwrap_or_default().into(),
            term,
            seen: None,
        }
    }

    /// The revision on which it may write now.
    fn may_write_on(&mut self, entry: Option<&Entry>) -> Option<u64> {
        let Some(Entry { revision, value }) = entry else {
            return match self.seen {
                None => Some(0),
                // The bucket was lost, and the owner may not know it yet.
                Some((0, since)) => (since.elapsed() >= self.term / 2).then_some(0),
                Some(_) => {
                    self.seen = Some((0, Moment::now()));
                    None
                }
            };
        };
        let Some(value) = value else {
            return Some(*revision);
        };
        // It has written that it owns it, and the answer was lost.
        if *value == self.value {
            return Some(*revision);
        }
        match self.seen {
            Some((seen, since)) if seen == *revision => (since.elapsed() >= self.term).then_some(seen),
            _ => {
                self.seen = Some((*revision, Moment::now()));
                None
            }
        }
    }
}

impl Store {
    /// Takes a lease if it is free, or its owner seems to be gone. To be called again and again.
    pub(crate) async fn contend(&self, contender: &mut Contender) -> Result<Option<Lease>, StoreError> {
        let bucket = self.leases().await?;
        let entry = entry(&bucket, &contender.key).await?;
        let Some(revision) = contender.may_write_on(entry.as_ref()) else {
            return Ok(None);
        };
        let began = Moment::now();
        Ok(self
            .write_lease(&contender.key, &contender.value, revision)
            .await?
            .map(|revision| Lease {
                store: self.clone(),
                bucket,
                key: contender.key.clone(),
                value: contender.value.clone(),
                revision,
                tenure: Tenure::since(began, contender.term),
            }))
    }

    /// Writes an entry on a revision; `None` if it has another.
    async fn write_lease(&self, key: &str, value: &Bytes, revision: u64) -> Result<Option<u64>, StoreError> {
        let subject = self.entry_subject(&self.names.leases(), key);
        let message = PublishMessage::build().payload(value.clone());
        let written = self.swap(subject, message, revision).await;
        written.map_err(StoreError::when("write an owner"))
    }

    /// Who wrote last that it owns this.
    pub(crate) async fn owner(&self, name: &str) -> Result<Option<String>, StoreError> {
        let bucket = self.leases().await?;
        let value = entry(&bucket, &key_of(name)).await?.and_then(|entry| entry.value);
        let owner = value.and_then(|value| serde_json::from_slice::<Owner>(&value).ok());
        Ok(owner.map(|owner| owner.owner))
    }

    /// The bucket of leases, made again if it was lost.
    async fn leases(&self) -> Result<kv::Store, StoreError> {
        let name = self.names.leases();
        let error = match self.bucket(&name).await {
            Ok(bucket) => return Ok(bucket),
            Err(error) => error,
        };
        if self.stream_info(&format!("KV_{name}")).await?.is_some() {
            return Err(error);
        }
        let spec = topology::leases(&self.policy);
        if let Ok(bucket) = self.js.create_key_value(bucket_config(&spec)).await {
            return Ok(bucket);
        }
        // There may be no memory for it.
        let storage = self.policy.retention.storage;
        let made = self.js.create_key_value(bucket_config(&BucketSpec { storage, ..spec }));
        made.await.map_err(StoreError::when("make the bucket of leases"))
    }
}

impl Lease {
    /// For how long the owner is one.
    pub(crate) fn tenure(&self) -> Tenure {
        self.tenure.clone()
    }

    /// Writes it again and again. Returns once another instance owns it. What fails meanwhile is no loss yet: it is lost
    /// when its tenure is over.
    pub(crate) async fn keep(&mut self) {
        let term = self.tenure.0.term;
        let pause = (term / 8).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        sleep(pause).await;
        loop {
            // An answer that a connection has lost is awaited for seconds: by then the tenure may be over.
            match timeout(term / 4, self.renew()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => {
                    self.tenure.lose();
                    return;
                }
                Ok(Err(error)) => {
                    debug!(%error, key = self.key, "a lease was not renewed");
                    if let Err(error) = self.store.leases().await {
                        debug!(%error, "the bucket of leases can't be opened");
                    }
                }
                Err(_) => {
                    debug!(key = self.key, "a lease was not renewed in time");
                    continue;
                }
            }
            sleep(pause).await;
        }
    }

    /// Writes it once more; `false` if another owns it.
    async fn renew(&mut self) -> Result<bool, StoreError> {
        let began = Moment::now();
        let mut written = self.store.write_lease(&self.key, &self.value, self.revision).await?;
        if written.is_none()
            && let Some(revision) = self.is_still_there().await?
        {
            written = self.store.write_lease(&self.key, &self.value, revision).await?;
        }
        let Some(revision) = written else { return Ok(false) };
        self.revision = revision;
        self.tenure.renew(began);
        Ok(true)
    }

    /// The revision of its entry: another than the last one that is known, if the answer to a write was lost.
    async fn is_still_there(&self) -> Result<Option<u64>, StoreError> {
        Ok(match entry(&self.bucket, &self.key).await? {
            // The bucket has lost it, and nobody has taken it since.
            None => Some(0),
            Some(entry) => (entry.value.as_ref() == Some(&self.value)).then_some(entry.revision),
        })
    }

    /// Lets another instance take it at once. To be called once nothing is under way any more.
    pub(crate) async fn release(mut self) {
        self.tenure.lose();
        let released = async {
            if let Some(revision) = self.is_still_there().await? {
                self.revision = revision;
                let deleted = self.bucket.delete_expect_revision(&self.key, Some(revision)).await;
                deleted.map_err(StoreError::when("release an owner"))?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = released.await {
            debug!(%error, key = self.key, "a lease was not released; it ends by itself");
        }
    }
}

/// Read from the leader: another copy may lag behind.
async fn entry(bucket: &kv::Store, key: &str) -> Result<Option<Entry>, StoreError> {
    let subject = format!("{}{key}", bucket.prefix);
    let entry = bucket.stream.get_last_raw_message_by_subject(&subject).await;
    Ok(found(entry, "read an owner")?.map(|entry| Entry {
        revision: entry.sequence,
        value: entry.headers.get(OPERATION).is_none().then_some(entry.payload),
    }))
}

fn key_of(name: &str) -> String {
    format!("{name}.owner")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Duration = Duration::from_secs(30);

    #[test]
    fn a_tenure_is_over_half_a_term_after_the_last_write() {
        let began = Moment::now();
        let tenure = Tenure::since(began, TERM);
        assert_eq!(tenure.left_at(began), TERM / 2);
        assert_eq!(tenure.left_at(began + TERM / 2), Duration::ZERO);
        // A machine that was suspended: the clock has gone on, and nothing else has happened.
        assert_eq!(tenure.left_at(began + TERM * 100), Duration::ZERO);
        tenure.renew(began + TERM);
        assert_eq!(tenure.left_at(began + TERM), TERM / 2);
        tenure.lose();
        assert_eq!(tenure.left_at(began + TERM), Duration::ZERO);
    }
}
