//! A number for each partition of a log, as it is remembered.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Numbers by partition. A bus that was never divided wrote one number, for partition 0; that is still read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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

impl<'de> Deserialize<'de> for ByPartition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl<'de> Visitor<'de> for Numbers {
            type Value = ByPartition;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or one for each partition")
            }

            fn visit_u64<E>(self, number: u64) -> Result<ByPartition, E> {
                Ok([(0, number)].into_iter().collect())
            }

            fn visit_unit<E>(self) -> Result<ByPartition, E> {
                Ok(ByPartition::default())
            }

            fn visit_none<E>(self) -> Result<ByPartition, E> {
                Ok(ByPartition::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ByPartition, A::Error> {
                let mut numbers = BTreeMap::new();
                while let Some((partition, number)) = map.next_entry()? {
                    numbers.insert(partition, number);
                }
                Ok(ByPartition(numbers))
            }
        }
        deserializer.deserialize_any(Numbers)
    }
}
