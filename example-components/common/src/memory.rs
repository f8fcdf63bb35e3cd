//! A key-value store in memory, for tests: it pages, it fails, and it can lose writes in silence, as real ones do.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
};

use crate::store::{Entry, KeyValue, Page, StoreError};

/// A key-value store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    entries: RefCell<BTreeMap<String, Vec<u8>>>,
    lost: RefCell<BTreeSet<String>>,
    failing: Cell<bool>,
    page_size: usize,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_page_size(100)
    }
}

impl MemoryStore {
    /// An empty store that lists so many keys at a time. With 0, its listing never ends.
    pub fn with_page_size(page_size: usize) -> Self {
        Self {
            entries: RefCell::default(),
            lost: RefCell::default(),
            failing: Cell::new(false),
            page_size,
        }
    }

    /// From now on, every call fails.
    pub fn fail(&self) {
        self.failing.set(true);
    }

    /// From now on, writes of `key` within a batch succeed and have no effect.
    pub fn drop_writes_of(&self, key: &str) {
        self.lost.borrow_mut().insert(key.to_owned());
    }

    /// Every entry, as text.
    pub fn dump(&self) -> BTreeMap<String, String> {
        let text = |(key, value): (&String, &Vec<u8>)| (key.clone(), String::from_utf8_lossy(value).into_owned());
        self.entries.borrow().iter().map(text).collect()
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.failing.get() {
            Err(StoreError::Failed("told to".to_owned()))
        } else {
            Ok(())
        }
    }
}

impl KeyValue for MemoryStore {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.check()?;
        Ok(self.entries.borrow().get(key).cloned())
    }

    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.check()?;
        self.entries.borrow_mut().insert(key.to_owned(), value.to_vec());
        Ok(())
    }

    fn list_keys(&self, cursor: Option<u64>) -> Result<Page, StoreError> {
        self.check()?;
        let entries = self.entries.borrow();
        let start = usize::try_from(cursor.unwrap_or(0)).unwrap_or(usize::MAX);
        let keys: Vec<_> = entries.keys().skip(start).take(self.page_size).cloned().collect();
        let end = start.saturating_add(keys.len());
        let next = if end < entries.len() {
            u64::try_from(end).ok()
        } else {
            None
        };
        Ok(Page { keys, next })
    }

    fn get_many(&self, keys: &[String]) -> Result<Vec<Entry>, StoreError> {
        self.check()?;
        let entries = self.entries.borrow();
        // Backwards: the order of the answer is not promised.
        let found = keys
            .iter()
            .rev()
            .filter_map(|key| Some((key.clone(), entries.get(key)?.clone())));
        Ok(found.collect())
    }

    fn set_many(&self, entries: &[Entry]) -> Result<(), StoreError> {
        self.check()?;
        let lost = self.lost.borrow();
        let kept = entries.iter().filter(|(key, _)| !lost.contains(key)).cloned();
        self.entries.borrow_mut().extend(kept);
        Ok(())
    }

    fn increment(&self, key: &str, delta: u64) -> Result<u64, StoreError> {
        self.check()?;
        let number = |value: &Vec<u8>| std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        let old: u64 = self.entries.borrow().get(key).and_then(number).unwrap_or(0);
        let new = old.saturating_add(delta);
        self.entries
            .borrow_mut()
            .insert(key.to_owned(), new.to_string().into_bytes());
        Ok(new)
    }
}
