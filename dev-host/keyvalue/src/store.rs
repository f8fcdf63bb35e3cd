//! Buckets, each a JetStream KV bucket that is made at its first use.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{Config, CreateErrorKind, Operation, Store, UpdateErrorKind};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::key;

const MAX_BUCKETS: usize = 256;
/// Bytes of one bucket: an account may want a size of everything (10113).
const MAX_BUCKET_BYTES: i64 = 64 << 20;
const MAX_BUCKET_NAME_BYTES: usize = 64;
/// Keys of one page of [`Bucket::list_keys`].
const PAGE_KEYS: usize = 1000;
/// Requests to JetStream at a time, for one batch.
const BATCH_WIDTH: usize = 32;
/// How often an increment may lose against another.
const INCREMENT_ATTEMPTS: usize = 1000;

/// The error of `wrpc:keyvalue/store`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    /// There can be no bucket of that name.
    NoSuchStore,
    /// Anything else.
    Other(String),
}

fn other(error: impl std::fmt::Display) -> Error {
    Error::Other(error.to_string())
}

/// All buckets.
#[derive(Clone, Debug)]
pub(crate) struct Buckets {
    jetstream: Context,
    open: Arc<Mutex<HashMap<String, Store>>>,
}

/// One bucket.
#[derive(Clone, Debug)]
pub(crate) struct Bucket(Store);

impl Buckets {
    pub(crate) fn new(jetstream: Context) -> Self {
        Self {
            jetstream,
            open: Arc::default(),
        }
    }

    /// The bucket of that name; made if there is none.
    pub(crate) async fn open(&self, name: &str) -> Result<Bucket, Error> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.len() > MAX_BUCKET_NAME_BYTES || !name.bytes().all(valid) {
            return Err(Error::NoSuchStore);
        }
        let known = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if open.len() >= MAX_BUCKETS && !open.contains_key(name) {
                return Err(Error::Other(format!("there are {MAX_BUCKETS} buckets already")));
            }
            open.get(name).cloned()
        };
        if let Some(store) = known {
            return Ok(Bucket(store));
        }
        let store = match self.jetstream.get_key_value(name).await {
            Ok(store) => store,
            Err(_) => self
                .jetstream
                .create_key_value(Config {
                    bucket: name.to_owned(),
                    max_bytes: MAX_BUCKET_BYTES,
                    ..Config::default()
                })
                .await
                .map_err(other)?,
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Bucket(open.entry(name.to_owned()).or_insert(store).clone()))
    }
}

impl Bucket {
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        self.0.get(key::encode(key)?).await.map_err(other)
    }

    pub(crate) async fn set(&self, key: &str, value: Bytes) -> Result<(), Error> {
        let revision = self.0.put(key::encode(key)?, value).await;
        revision.map(drop).map_err(other)
    }

    pub(crate) async fn delete(&self, key: &str) -> Result<(), Error> {
        self.0.delete(key::encode(key)?).await.map_err(other)
    }

    pub(crate) async fn exists(&self, key: &str) -> Result<bool, Error> {
        Ok(self.get(key).await?.is_some())
    }

    /// A page of the keys, and the cursor of the next.
    ///
    /// Keys come in the order of their hashes, and the cursor is a hash: a key keeps its place whatever is set or
    /// deleted between two pages, so none is skipped or listed twice.
    pub(crate) async fn list_keys(&self, after: Option<u64>) -> Result<(Vec<String>, Option<u64>), Error> {
        let keys: Vec<String> = self.0.keys().await.map_err(other)?.try_collect().await.map_err(other)?;
        let mut keys: Vec<(u64, String)> = keys
            .iter()
            .filter_map(|key| key::decode(key))
            .map(|key| (place(&key), key))
            .filter(|(place, _)| after.is_none_or(|after| *place > after))
            .collect();
        keys.sort_unstable();
        let cursor = cut(&mut keys, PAGE_KEYS);
        Ok((keys.into_iter().map(|(_, key)| key).collect(), cursor))
    }

    /// Adds to a number, by compare-and-swap. A number is kept as decimal digits.
    pub(crate) async fn increment(&self, key: &str, delta: u64) -> Result<u64, Error> {
        let key = key::encode(key)?;
        for _ in 0..INCREMENT_ATTEMPTS {
            let entry = self.0.entry(&key).await.map_err(other)?;
            let present = entry.filter(|entry| entry.operation == Operation::Put);
            let (value, revision) = match &present {
                Some(entry) => (number(&entry.value)?, Some(entry.revision)),
                None => (0, None),
            };
            let sum = value
                .checked_add(delta)
                .ok_or_else(|| Error::Other("the number would exceed 64 bits".into()))?;
            let digits = Bytes::from(sum.to_string());
            let lost = match revision {
                Some(revision) => match self.0.update(&key, digits, revision).await {
                    Ok(_) => return Ok(sum),
                    Err(error) => (error.kind() != UpdateErrorKind::WrongLastRevision).then(|| other(error)),
                },
                None => match self.0.create(&key, digits).await {
                    Ok(_) => return Ok(sum),
                    Err(error) => (error.kind() != CreateErrorKind::AlreadyExists).then(|| other(error)),
                },
            };
            if let Some(error) = lost {
                return Err(error);
            }
        }
        Err(Error::Other("too many increments of one key at a time".into()))
    }

    pub(crate) async fn get_many(&self, keys: Vec<String>) -> Result<Vec<Option<(String, Bytes)>>, Error> {
        let get = |key: String| async move { Ok(self.get(&key).await?.map(|value| (key, value))) };
        stream::iter(keys.into_iter().map(get))
            .buffered(BATCH_WIDTH)
            .try_collect()
            .await
    }

    /// Not atomic: the interface does not ask for that.
    pub(crate) async fn set_many(&self, entries: Vec<(String, Bytes)>) -> Result<(), Error> {
        let set = |(key, value): (String, Bytes)| async move { self.set(&key, value).await };
        stream::iter(entries.into_iter().map(set))
            .buffered(BATCH_WIDTH)
            .try_collect()
            .await
    }

    pub(crate) async fn delete_many(&self, keys: Vec<String>) -> Result<(), Error> {
        let delete = |key: String| async move { self.delete(&key).await };
        stream::iter(keys.into_iter().map(delete))
            .buffered(BATCH_WIDTH)
            .try_collect()
            .await
    }
}

/// The same in every process of one build.
fn place(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Leaves one page of what is sorted. Keys of one place stay together, so a page may be longer by those.
fn cut(keys: &mut Vec<(u64, String)>, page: usize) -> Option<u64> {
    let last = keys.get(page.checked_sub(1)?)?.0;
    let end = keys.partition_point(|(place, _)| *place <= last);
    let more = end < keys.len();
    keys.truncate(end);
    more.then_some(last)
}

fn number(value: &[u8]) -> Result<u64, Error> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Error::Other("the value is no number".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(places: &[u64], size: usize) -> (usize, Option<u64>) {
        let mut keys: Vec<_> = places.iter().map(|place| (*place, String::new())).collect();
        let cursor = cut(&mut keys, size);
        (keys.len(), cursor)
    }

    #[test]
    fn a_page_never_separates_what_has_one_place() {
        assert_eq!(page(&[], 2), (0, None));
        assert_eq!(page(&[1, 2], 2), (2, None));
        assert_eq!(page(&[1, 2, 3], 2), (2, Some(2)));
        assert_eq!(page(&[1, 2, 2, 3], 2), (3, Some(2)));
        assert_eq!(page(&[1, 2, 2], 2), (3, None));
    }

    #[test]
    fn only_decimal_digits_are_a_number() {
        assert_eq!(number(b"42"), Ok(42));
        assert!(number(b"4 2").is_err());
        assert!(number(&[0xff]).is_err());
    }
}
