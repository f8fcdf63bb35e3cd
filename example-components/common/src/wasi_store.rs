//! The key-value store that the host gives a component.
//!
//! A wasmCloud 1.x host traps the component when the provider behind the store can't be reached, and on most errors of
//! the store itself; only `get` and `increment` answer them. A trap in a handler counts as `retry`, and over HTTP it
//! ends the request: nothing is lost, and less is said.

use wasmcloud_component::wasi::keyvalue::{
    atomics, batch,
    store::{self, Bucket},
};

use crate::store::{Entry, KeyValue, Page, StoreError};

/// An open bucket of `wasi:keyvalue`.
pub struct WasiStore(Bucket);

impl WasiStore {
    /// Opens a bucket.
    pub fn open(bucket: &str) -> Result<Self, StoreError> {
        Ok(Self(store::open(bucket)?))
    }
}

impl KeyValue for WasiStore {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key)?)
    }

    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        Ok(self.0.set(key, value)?)
    }

    fn list_keys(&self, cursor: Option<u64>) -> Result<Page, StoreError> {
        let page = self.0.list_keys(cursor)?;
        Ok(Page {
            keys: page.keys,
            next: page.cursor,
        })
    }

    fn get_many(&self, keys: &[String]) -> Result<Vec<Entry>, StoreError> {
        Ok(batch::get_many(&self.0, keys)?.into_iter().flatten().collect())
    }

    fn set_many(&self, entries: &[Entry]) -> Result<(), StoreError> {
        Ok(batch::set_many(&self.0, entries)?)
    }

    fn increment(&self, key: &str, delta: u64) -> Result<u64, StoreError> {
        Ok(atomics::increment(&self.0, key, delta)?)
    }
}

impl From<store::Error> for StoreError {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::NoSuchStore => Self::NoSuchStore,
            store::Error::AccessDenied => Self::AccessDenied,
            store::Error::Other(reason) => Self::Failed(reason),
        }
    }
}
