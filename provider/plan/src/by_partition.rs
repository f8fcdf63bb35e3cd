//! A number for each partition of a log, as it is remembered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Numbers by partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByPartition(pub BTreeMap<u32, u64>);

impl ByPartition {
    /// A partition's number; 0 for one that was not there.
    pub fn of(&self, partition: u32) -> u64 {
        self.0.get(&partition).copied().unwrap_or(0)
    }

    /// Whether a partition has a number.
    pub fn knows(&self, partition: u32) -> bool {
        self.0.contains_key(&partition)
    }

    /// Whether no partition has a number.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All together.
    pub fn sum(&self) -> u64 {
        self.0.values().sum()
    }
}

impl FromIterator<(u32, u64)> for ByPartition {
    fn from_iter<I: IntoIterator<Item = (u32, u64)>>(numbers: I) -> Self {
        Self(numbers.into_iter().collect())
    }
}
