//! What had become of a subscription's events at the place that handed it over: which of them were settled there beyond the
//! last before which all were.
//!
//! The next place begins behind what was settled without a hole, and passes over what was settled beyond it. So nothing is lost,
//! and nothing comes twice but what was not settled.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::by_partition::ByPartition;
use crate::isolation::Reader;
use crate::subscription::Registered;
use crate::{Position, TenantId};

/// What one consumer had given and settled in its partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The partition.
    pub partition: u32,
    /// The tenant that was isolated; absent for the subscription's own consumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// The last offset that was delivered.
    pub to: u64,
    /// Those up to it that were not settled, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<u64>,
}

impl Given {
    /// Everything up to this offset was settled.
    fn floor(&self) -> u64 {
        self.except.first().map_or(self.to, |first| first.saturating_sub(1))
    }
}

/// What was settled at the place that had a subscription before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    /// Of each consumer.
    given: Vec<Given>,
    /// The tenants that had a consumer of their own, in each partition from this offset on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    isolated: BTreeMap<TenantId, ByPartition>,
    /// The same of the place before, where that had come further than this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Box<Self>>,
}

impl Handed {
    /// Whether an event was settled.
    pub fn has_settled(&self, tenant: &TenantId, position: Position) -> bool {
        let Position { partition, offset } = position;
        let own = self
            .isolated
            .get(tenant)
            .is_some_and(|from| from.knows(partition) && offset >= from.of(partition));
        let of = own.then_some(tenant);
        let here = self.given.iter().any(|g| {
            g.partition == partition
                && g.tenant.as_ref() == of
                && offset <= g.to
                && g.except.binary_search(&offset).is_err()
        });
        here || self.before.as_ref().is_some_and(|b| b.has_settled(tenant, position))
    }

    /// Whether an event may have been delivered.
    pub fn was_given(&self, position: Position) -> bool {
        let here = self
            .given
            .iter()
            .any(|g| g.partition == position.partition && position.offset <= g.to);
        here || self.before.as_ref().is_some_and(|b| b.was_given(position))
    }

    /// Up to where a partition's events were settled but for those that are named; `None` where nothing of it is known.
    pub fn given_to(&self, partition: u32) -> Option<u64> {
        let given = self.given.iter().filter(|g| g.partition == partition);
        given.map(|g| g.to).min()
    }

    /// How many events were delivered and not settled.
    pub fn unsettled(&self) -> usize {
        self.given.iter().map(|g| g.except.len()).sum()
    }

    /// Up to where everything was settled, in each partition.
    fn floors(&self) -> ByPartition {
        let mut all = BTreeMap::new();
        for given in &self.given {
            let least = all.entry(given.partition).or_insert_with(|| given.floor());
            *least = given.floor().min(*least);
        }
        ByPartition(all)
    }

    /// Whether it says nothing of events beyond what another says.
    fn is_within(&self, later: &Self) -> bool {
        let floors = later.floors();
        self.before.as_ref().is_none_or(|before| before.is_within(later))
            && self.given.iter().all(|g| g.to <= floors.of(g.partition))
    }
}

impl Registered {
    /// The same as the next place begins it, by what its consumers had given here.
    #[must_use]
    pub fn handed_over(&self, given: Vec<(Reader, u64, Vec<u64>)>) -> Self {
        let given = given.into_iter().map(|(reader, to, except)| Given {
            partition: reader.partition,
            tenant: reader.tenant,
            to,
            except,
        });
        let mut handed = Handed {
            given: given.collect(),
            isolated: self.isolated.clone(),
            before: None,
        };
        handed.before = self.handed.clone().filter(|before| !before.is_within(&handed));
        // What its consumers here are called is said of none that it has later, should it come back.
        Self {
            withheld: None,
            ..self.rejoin(handed.floors())
        }
        .with_handed(handed)
    }

    fn with_handed(self, handed: Handed) -> Self {
        Self {
            handed: Some(Box::new(handed)),
            stay: self.stay.saturating_add(1),
            ..self
        }
    }

    /// Whether an event was settled at the place that had the subscription before.
    pub fn was_settled_before(&self, tenant: &TenantId, position: Position) -> bool {
        self.handed.as_ref().is_some_and(|h| h.has_settled(tenant, position))
    }

    /// Whether an event may have been delivered at the place that had the subscription before.
    pub fn was_given_before(&self, position: Position) -> bool {
        self.handed.as_ref().is_some_and(|h| h.was_given(position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered() -> Registered {
        let written = r#"{"name":"invoicing","need":"durable","filter":{"tenants":[],"event_types":["**"]},"reach":"handler",
            "batch_size":1,"concurrency":4,"tell_caught_up":false,"component":"c","link":"default","made_by":"link",
            "made_at":1,"head":{"0":7},"replayed":{},"progress":"replaying","paused":true}"#;
        serde_json::from_str(written).unwrap()
    }

    fn reader(tenant: Option<&str>) -> Reader {
        Reader {
            partition: 0,
            tenant: tenant.map(|t| t.parse().unwrap()),
        }
    }

    #[test]
    fn what_was_settled_is_passed_over_and_nothing_else() {
        let acme: TenantId = "acme".parse().unwrap();
        let moved = registered().handed_over(vec![(reader(None), 20, vec![12, 15])]);
        assert_eq!(moved.rejoined.as_ref().unwrap().after.of(0), 11);
        assert!(moved.paused && moved.made_at == registered().made_at);
        assert_ne!(moved.consumer_name(), registered().consumer_name());
        let settled: Vec<_> = (10..=22)
            .filter(|o| moved.was_settled_before(&acme, Position::new(0, *o)))
            .collect();
        assert_eq!(settled, [10, 11, 13, 14, 16, 17, 18, 19, 20]);
        assert!(!moved.was_settled_before(&acme, Position::new(100_000, 3)));
        let read: Registered = serde_json::from_str(&serde_json::to_string(&moved).unwrap()).unwrap();
        assert_eq!(read, moved);

        // Handed on before it has come as far: what the first place had settled is passed over at the third, too.
        let on = moved.handed_over(vec![(reader(None), 14, vec![12])]);
        let settled: Vec<_> = (10..=22)
            .filter(|o| on.was_settled_before(&acme, Position::new(0, *o)))
            .collect();
        assert_eq!(settled, [10, 11, 13, 14, 16, 17, 18, 19, 20]);
        let far = on.handed_over(vec![(reader(None), 30, vec![])]);
        assert!(
            far.handed.unwrap().before.is_none(),
            "what says nothing more is forgotten"
        );
    }

    #[test]
    fn an_isolated_tenant_has_what_its_own_consumer_had_settled() {
        let (acme, globex): (TenantId, TenantId) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let isolated = registered().isolate(std::slice::from_ref(&acme), 0, 10);
        let moved = isolated.handed_over(vec![(reader(None), 40, vec![]), (reader(Some("acme")), 20, vec![18])]);
        assert_eq!(moved.rejoined.as_ref().unwrap().after.of(0), 17);
        assert!(moved.isolated.is_empty());
        let settled = |tenant, offset| moved.was_settled_before(tenant, Position::new(0, offset));
        assert!(settled(&globex, 40) && settled(&acme, 9) && settled(&acme, 19));
        assert!(!settled(&acme, 18) && !settled(&acme, 21) && !settled(&globex, 41));
    }
}
