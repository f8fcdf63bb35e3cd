//! Lets one instance at a time own a thing.
//!
//! A lease is an entry of a bucket that its owner writes again and again. Another instance takes it over when the entry
//! has not changed for a whole term *by its own clock*, and the owner stops half a term after it last wrote by *its*
//! clock: no two clocks are compared. Each write goes through only on the revision that was read.

use std::time::{Duration, Instant};

use async_nats::jetstream::kv;
use tracing::debug;

use super::{Store, StoreError};

/// A contender's memory of the entry.
#[derive(Debug, Default)]
pub(crate) struct Contender {
    seen: Option<(u64, Instant)>,
}

/// Held by the owner.
#[derive(Debug)]
pub(crate) struct Lease {
    bucket: kv::Store,
    key: String,
    owner: String,
    revision: u64,
    renewed: Instant,
    term: Duration,
}

impl Store {
    /// Takes a lease if it is free, or its owner seems to be gone. To be called again and again.
    pub(crate) async fn contend(
        &self,
        contender: &mut Contender,
        (name, owner): (&str, &str),
        term: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let bucket = self.bucket(&self.names.attempts()).await?;
        let key = key_of(name);
        let owner = owner.to_owned();
        let renewed = Instant::now();
        let entry = bucket
            .entry(&key)
            .await
            .map_err(StoreError::when("read an owner"))?
            .filter(|e| e.operation == kv::Operation::Put);
        let taken = match entry {
            None => match bucket.create(&key, owner.clone().into()).await {
                Ok(revision) => Some(revision),
                Err(e) if e.kind() == kv::CreateErrorKind::AlreadyExists => None,
                Err(e) => return Err(StoreError::when("write an owner")(e)),
            },
            Some(entry) => match contender.seen {
                Some((revision, since)) if revision == entry.revision => {
                    if since.elapsed() < term {
                        return Ok(None);
                    }
                    match bucket.update(&key, owner.clone().into(), revision).await {
                        Ok(revision) => Some(revision),
                        Err(e) if e.kind() == kv::UpdateErrorKind::WrongLastRevision => None,
                        Err(e) => return Err(StoreError::when("write an owner")(e)),
                    }
                }
                _ => {
                    contender.seen = Some((entry.revision, Instant::now()));
                    None
                }
            },
        };
        Ok(taken.map(|revision| Lease {
            bucket,
            key,
            owner,
            revision,
            renewed,
            term,
        }))
    }

    /// Who wrote last that it owns this.
    pub(crate) async fn owner(&self, name: &str) -> Result<Option<String>, StoreError> {
        let bucket = self.bucket(&self.names.attempts()).await?;
        let owner = bucket
            .get(key_of(name))
            .await
            .map_err(StoreError::when("read an owner"))?;
        Ok(owner.and_then(|owner| String::from_utf8(owner.into()).ok()))
    }
}

impl Lease {
    /// Whether the owner may go on acting as such.
    pub(crate) fn is_valid(&self) -> bool {
        self.renewed.elapsed() < self.term / 2
    }

    /// Writes it again. An error is no loss yet: it is lost when it is not valid any more.
    pub(crate) async fn renew(&mut self) -> Result<(), StoreError> {
        let renewed = Instant::now();
        self.revision = self
            .bucket
            .update(&self.key, self.owner.clone().into(), self.revision)
            .await
            .map_err(StoreError::when("renew an owner"))?;
        self.renewed = renewed;
        Ok(())
    }

    /// Lets another instance take it at once. To be called once nothing is under way any more.
    pub(crate) async fn release(self) {
        if let Err(error) = self.bucket.delete_expect_revision(&self.key, Some(self.revision)).await {
            debug!(%error, key = self.key, "a lease was not released; it ends by itself");
        }
    }
}

fn key_of(name: &str) -> String {
    format!("{name}.owner")
}
