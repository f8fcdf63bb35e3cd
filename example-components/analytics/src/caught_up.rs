//! When a backfill reached the present.

use component_support::{
    key,
    store::{KeyValue, StoreError},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How a backfill stood when it had caught up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaughtUp {
    /// When.
    pub at: Timestamp,
    /// How many events the log held for it when it began.
    pub replayed: u64,
    /// Whether it ended there.
    pub finished: bool,
}

/// Remembers it. Told twice, the later word counts.
pub fn record(store: &impl KeyValue, subscription: &str, caught_up: &CaughtUp) -> Result<(), StoreError> {
    let value = serde_json::to_vec(caught_up).map_err(|error| StoreError::Failed(error.to_string()))?;
    store.set(&key(subscription), &value)
}

/// Whether a subscription has caught up, and how.
pub fn find(store: &impl KeyValue, subscription: &str) -> Result<Option<CaughtUp>, StoreError> {
    Ok(store
        .get(&key(subscription))?
        .and_then(|value| serde_json::from_slice(&value).ok()))
}

fn key(subscription: &str) -> String {
    key::join(&["caught-up", subscription])
}

#[cfg(test)]
mod tests {
    use component_support::memory::MemoryStore;

    use super::*;

    #[test]
    fn what_is_recorded_is_found() {
        let store = MemoryStore::default();
        assert_eq!(find(&store, "late"), Ok(None));
        let caught_up = CaughtUp {
            at: Timestamp::UNIX_EPOCH,
            replayed: 7,
            finished: false,
        };
        record(&store, "late", &caught_up).unwrap();
        assert_eq!(find(&store, "late"), Ok(Some(caught_up)));
        assert_eq!(
            store.dump()["caught-up/late"],
            r#"{"at":"1970-01-01T00:00:00Z","replayed":7,"finished":false}"#
        );
        assert_eq!(find(&store, "other"), Ok(None));
    }
}
