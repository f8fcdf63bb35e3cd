//! The key-value store of a component, and what is built on it.

use std::collections::{BTreeMap, BTreeSet};

/// What `wasi:keyvalue` offers on one bucket. A component uses `WasiStore`, a test [`crate::memory::MemoryStore`].
pub trait KeyValue {
    /// The value of `key`, if it has one.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Sets the value of `key`.
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError>;

    /// A page of the bucket's keys, in any order.
    fn list_keys(&self, cursor: Option<u64>) -> Result<Page, StoreError>;

    /// The entries of those `keys` that have a value, in any order.
    fn get_many(&self, keys: &[String]) -> Result<Vec<Entry>, StoreError>;

    /// Sets many values. On an error, some may be set and others not.
    fn set_many(&self, entries: &[Entry]) -> Result<(), StoreError>;

    /// Adds `delta` to the number at `key`, or to 0, and gives the sum.
    fn increment(&self, key: &str, delta: u64) -> Result<u64, StoreError>;
}

/// A key and its value.
pub type Entry = (String, Vec<u8>);

/// A page of keys.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Some of the keys.
    pub keys: Vec<String>,
    /// Where the next page begins; absent on the last one.
    pub next: Option<u64>,
}

/// Why the store did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The bucket does not exist.
    #[error("the key-value store has no such bucket")]
    NoSuchStore,
    /// The component may not use the bucket.
    #[error("the key-value store denies access to the bucket")]
    AccessDenied,
    /// The store failed.
    #[error("the key-value store failed: {0}")]
    Failed(String),
    /// The store went on listing keys beyond any reason.
    #[error("the key-value store lists its keys without end")]
    Endless,
}

/// The most keys in one call, so that a call stays far below the megabyte that a message of the lattice may have.
const KEYS_A_CALL: usize = 256;

/// The most pages that a listing may have.
const MAX_PAGES: usize = 10_000;

/// All keys that begin with `prefix`.
///
/// `wasi:keyvalue` can list only the whole bucket: keep what is listed often in a bucket of its own.
pub fn keys_under(store: &impl KeyValue, prefix: &str) -> Result<BTreeSet<String>, StoreError> {
    let mut keys = BTreeSet::new();
    let mut cursor = None;
    for _ in 0..MAX_PAGES {
        let page = store.list_keys(cursor)?;
        keys.extend(page.keys.into_iter().filter(|key| key.starts_with(prefix)));
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(keys),
        }
    }
    Err(StoreError::Endless)
}

/// All entries whose keys begin with `prefix`.
pub fn entries_under(store: &impl KeyValue, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
    let keys: Vec<_> = keys_under(store, prefix)?.into_iter().collect();
    let mut entries = BTreeMap::new();
    for keys in keys.chunks(KEYS_A_CALL) {
        entries.extend(store.get_many(keys)?);
    }
    Ok(entries)
}

/// Sets many values and gives the keys of those that are **not** stored.
///
/// What was written is read back: `set-many` makes no promise for each entry, and the key-value provider for NATS that
/// wasmCloud ships answers success when single entries failed. An event settled on such an answer would be lost.
pub fn set_all(store: &impl KeyValue, entries: &[Entry]) -> Result<BTreeSet<String>, StoreError> {
    let mut missing = BTreeSet::new();
    for entries in entries.chunks(KEYS_A_CALL) {
        store.set_many(entries)?;
        let keys: Vec<_> = entries.iter().map(|(key, _)| key.clone()).collect();
        let stored: BTreeMap<_, _> = store.get_many(&keys)?.into_iter().collect();
        missing.extend(
            entries
                .iter()
                .filter(|(key, value)| stored.get(key) != Some(value))
                .map(|(key, _)| key.clone()),
        );
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;

    fn entry(key: &str, value: &str) -> Entry {
        (key.to_owned(), value.as_bytes().to_vec())
    }

    #[test]
    fn a_listing_follows_every_page_and_keeps_the_prefix() {
        let store = MemoryStore::with_page_size(2);
        for index in 0..1000 {
            store.set(&format!("a/{index:04}"), b"1").unwrap();
            store.set(&format!("b/{index:04}"), b"2").unwrap();
        }
        assert_eq!(keys_under(&store, "b/").unwrap().len(), 1000);
        let entries = entries_under(&store, "b/09").unwrap();
        assert_eq!(entries.len(), 100);
        assert!(
            entries
                .iter()
                .all(|(key, value)| key.starts_with("b/09") && value == b"2")
        );
        assert!(keys_under(&MemoryStore::default(), "").unwrap().is_empty());
    }

    #[test]
    fn a_listing_without_end_is_given_up() {
        let store = MemoryStore::with_page_size(0);
        store.set("a", b"1").unwrap();
        assert_eq!(keys_under(&store, ""), Err(StoreError::Endless));
    }

    #[test]
    fn what_was_not_stored_is_named_even_if_the_store_is_silent_about_it() {
        let store = MemoryStore::default();
        store.drop_writes_of("b");
        let entries = [entry("a", "1"), entry("b", "2"), entry("c", "3")];
        assert_eq!(set_all(&store, &entries).unwrap(), BTreeSet::from(["b".to_owned()]));
        assert_eq!(store.get("c").unwrap().unwrap(), b"3");
        assert!(set_all(&store, &[]).unwrap().is_empty());
    }

    #[test]
    fn a_failing_store_is_said() {
        let store = MemoryStore::default();
        store.fail();
        assert!(set_all(&store, &[entry("a", "1")]).is_err());
        assert!(entries_under(&store, "").is_err());
    }
}
