//! `wasi:keyvalue` in memory: buckets that live as long as the process and are shared by its components.
//!
//! Deliberately without persistence: what must outlast the process belongs to a store of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::Result;
use wasmtime::component::Resource;
use wasmtime::error::Context as _;

use crate::bindings::surroundings::wasi::keyvalue::store::{Error, KeyResponse};
use crate::bindings::surroundings::wasi::keyvalue::{atomics, batch, store};
use crate::guest::Guest;

/// Keys in one answer of `list-keys`.
const PAGE: usize = 1_000;
/// The most bytes of keys and values that all buckets hold.
const LIMIT: usize = 256 << 20;

type Answer<T> = Result<std::result::Result<T, Error>>;

/// A bucket that a component has open: its name.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
#[derive(Debug)]
pub struct Bucket(Arc<str>);

/// Every bucket; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Buckets(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    /// By bucket and key.
    entries: BTreeMap<(String, String), Vec<u8>>,
    bytes: usize,
}

impl Buckets {
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        self.lock().entries.get(&place(bucket, key)).cloned()
    }

    fn set(&self, bucket: &str, key: &str, value: Vec<u8>) -> std::result::Result<(), Error> {
        self.lock().set(place(bucket, key), value)
    }

    fn delete(&self, bucket: &str, key: &str) {
        self.lock().delete(&place(bucket, key));
    }

    /// The keys from the `cursor`th on, and where the next page begins.
    fn keys(&self, bucket: &str, cursor: u64) -> (Vec<String>, Option<u64>) {
        let content = self.lock();
        let skip = usize::try_from(cursor).unwrap_or(usize::MAX);
        let from = (bucket.to_owned(), String::new());
        let mut keys = content.entries.range(from..);
        let mut keys = keys
            .by_ref()
            .take_while(|((of, _), _)| of == bucket)
            .skip(skip)
            .map(|((_, key), _)| key.clone());
        let page: Vec<_> = keys.by_ref().take(PAGE).collect();
        let next = keys.next().map(|_| cursor.saturating_add(page.len() as u64));
        (page, next)
    }

    fn increment(&self, bucket: &str, key: &str, delta: u64) -> std::result::Result<u64, Error> {
        let mut content = self.lock();
        let place = place(bucket, key);
        let now: u64 = match content.entries.get(&place) {
            None => 0,
            Some(value) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| Error::Other(format!("the value of {key:?} is no number")))?,
        };
        let sum = now
            .checked_add(delta)
            .ok_or_else(|| Error::Other(format!("the value of {key:?} would be too large")))?;
        content.set(place, sum.to_string().into_bytes())?;
        Ok(sum)
    }
}

impl Content {
    fn set(&mut self, place: (String, String), value: Vec<u8>) -> std::result::Result<(), Error> {
        let before = self.entries.get(&place).map_or(0, |old| size(&place, old));
        let bytes = self.bytes - before + size(&place, &value);
        if bytes > LIMIT {
            return Err(Error::Other(format!(
                "the key-value store in memory is full: it holds {LIMIT} bytes"
            )));
        }
        self.bytes = bytes;
        self.entries.insert(place, value);
        Ok(())
    }

    fn delete(&mut self, place: &(String, String)) {
        if let Some(old) = self.entries.remove(place) {
            self.bytes -= size(place, &old);
        }
    }
}

fn place(bucket: &str, key: &str) -> (String, String) {
    (bucket.to_owned(), key.to_owned())
}

fn size(place: &(String, String), value: &[u8]) -> usize {
    place.0.len() + place.1.len() + value.len()
}

impl Guest {
    fn bucket(&self, bucket: &Resource<Bucket>) -> Result<(Buckets, Arc<str>)> {
        let name = self.table.get(bucket).context("no such bucket")?;
        Ok((self.surroundings.buckets.clone(), Arc::clone(&name.0)))
    }
}

impl store::Host for Guest {
    async fn open(&mut self, name: String) -> Answer<Resource<Bucket>> {
        let bucket = self.table.push(Bucket(Arc::from(name))).context("too many buckets")?;
        Ok(Ok(bucket))
    }
}

impl store::HostBucket for Guest {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        let (buckets, name) = self.bucket(&bucket)?;
        Ok(Ok(buckets.get(&name, &key)))
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        let (buckets, name) = self.bucket(&bucket)?;
        Ok(buckets.set(&name, &key, value))
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        let (buckets, name) = self.bucket(&bucket)?;
        buckets.delete(&name, &key);
        Ok(Ok(()))
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        let (buckets, name) = self.bucket(&bucket)?;
        Ok(Ok(buckets.get(&name, &key).is_some()))
    }

    async fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<u64>) -> Answer<KeyResponse> {
        let (buckets, name) = self.bucket(&bucket)?;
        let (keys, cursor) = buckets.keys(&name, cursor.unwrap_or(0));
        Ok(Ok(KeyResponse { keys, cursor }))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> Result<()> {
        self.table.delete(bucket).context("no such bucket")?;
        Ok(())
    }
}

impl batch::Host for Guest {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        let (buckets, name) = self.bucket(&bucket)?;
        let found = keys
            .into_iter()
            .map(|key| buckets.get(&name, &key).map(|value| (key, value)));
        Ok(Ok(found.collect()))
    }

    async fn set_many(&mut self, bucket: Resource<Bucket>, entries: Vec<(String, Vec<u8>)>) -> Answer<()> {
        let (buckets, name) = self.bucket(&bucket)?;
        Ok(entries
            .into_iter()
            .try_for_each(|(key, value)| buckets.set(&name, &key, value)))
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        let (buckets, name) = self.bucket(&bucket)?;
        keys.iter().for_each(|key| buckets.delete(&name, key));
        Ok(Ok(()))
    }
}

impl atomics::Host for Guest {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> Answer<u64> {
        let (buckets, name) = self.bucket(&bucket)?;
        Ok(buckets.increment(&name, &key, delta))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_pages_and_stay_in_their_bucket() {
        let buckets = Buckets::default();
        for i in 0..PAGE + 5 {
            buckets.set("b", &format!("{i:05}"), vec![1]).expect("room");
        }
        buckets.set("a", "other", vec![]).expect("room");
        buckets.set("c", "other", vec![]).expect("room");
        let (first, next) = buckets.keys("b", 0);
        assert_eq!((first.len(), next), (PAGE, Some(PAGE as u64)));
        let (rest, next) = buckets.keys("b", PAGE as u64);
        assert_eq!((rest.len(), next), (5, None));
        assert_eq!(buckets.keys("none", 0), (vec![], None));
        assert_eq!(buckets.keys("b", u64::MAX), (vec![], None));
    }

    #[test]
    fn counters_count_and_never_wrap() {
        let buckets = Buckets::default();
        assert_eq!(buckets.increment("b", "n", 2).expect("a number"), 2);
        assert_eq!(buckets.increment("b", "n", 3).expect("a number"), 5);
        assert!(buckets.increment("b", "n", u64::MAX).is_err());
        buckets.set("b", "text", b"x".to_vec()).expect("room");
        assert!(buckets.increment("b", "text", 1).is_err());
        assert_eq!(buckets.get("b", "n"), Some(b"5".to_vec()));
    }

    #[test]
    fn the_store_is_bounded_and_counts_what_it_holds() {
        let buckets = Buckets::default();
        buckets.set("b", "k", vec![0; LIMIT - 2]).expect("just fits");
        assert!(buckets.set("b", "l", vec![]).is_err());
        buckets.set("b", "k", vec![1]).expect("smaller");
        buckets.delete("b", "k");
        assert_eq!(buckets.lock().bytes, 0);
    }
}
