//! What a place writes down of a subscription that another place has, so that it can go on here should that place be lost: the
//! subscription, and how far its events were settled.
//!
//! It is older than what is so by a moment: what was settled since comes again. Nothing is lost by that: where it is not known
//! that an event was settled, it is delivered.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::by_partition::ByPartition;
use crate::floor::Floor;
use crate::handed::Given;
use crate::isolation::Reader;
use crate::subscription::Registered;
use crate::{ConsumerName, Position};

/// The most offsets that it names one by one. Where more wait for a retry, all from the first on that is not named is delivered.
const MOST_WAITING: usize = 5_000;

/// What is written down of a subscription at another place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastKnown {
    /// The subscription as its place remembered it.
    pub registered: Registered,
    /// Up to where each of its consumers had settled everything, but for what waited for a retry.
    pub given: Vec<Given>,
    /// The last offset of each partition that was known there.
    #[serde(default, skip_serializing_if = "ByPartition::is_empty")]
    pub heads: ByPartition,
}

impl LastKnown {
    /// What is known of a subscription by the floors of its consumers, each in one of these partitions, and by the positions of the
    /// events that wait for a retry, which are read after the floors: what waits is behind its consumer's floor.
    pub fn of(
        registered: &Registered,
        partitions: &BTreeSet<u32>,
        floor: impl Fn(u32, &ConsumerName) -> Option<Floor>,
        waiting: &BTreeSet<Position>,
    ) -> Self {
        let (mut given, mut heads) = (Vec::new(), ByPartition::default());
        let known_before = registered.rejoined.iter().flat_map(|joined| joined.after.0.keys());
        let isolated = || registered.isolated.iter();
        let isolated_in = isolated().flat_map(|(_, from)| from.0.keys());
        let all: BTreeSet<u32> = partitions
            .iter()
            .chain(known_before)
            .chain(isolated_in)
            .copied()
            .collect();
        let mut named = 0;
        for partition in all {
            let mut except: Vec<u64> = waiting
                .range(Position::new(partition, 0)..=Position::new(partition, u64::MAX))
                .map(|position| position.offset)
                .collect();
            let unnamed = except.get(MOST_WAITING.saturating_sub(named)).copied();
            except.truncate(MOST_WAITING.saturating_sub(named));
            named += except.len();
            let tenants = isolated().filter(|(_, from)| from.knows(partition));
            let readers = [None]
                .into_iter()
                .chain(tenants.map(|(tenant, _)| Some(tenant.clone())));
            for tenant in readers {
                let reader = Reader { partition, tenant };
                let floor = floor(partition, &registered.consumer_of(&reader));
                let to = match (&floor, &reader.tenant) {
                    (Some(floor), _) => Some(floor.settled_to),
                    // Its consumer is new: what came before belongs to the subscription's own.
                    (None, Some(_)) => registered.isolated_from(&reader).map(|from| from.saturating_sub(1)),
                    (None, None) => {
                        let joined = registered.rejoined.as_ref();
                        joined
                            .filter(|j| j.after.knows(partition))
                            .map(|j| j.after.of(partition))
                    }
                };
                if let Some(floor) = floor {
                    let head = heads.0.entry(partition).or_insert(0);
                    *head = floor.head.max(*head);
                }
                let Some(to) = to else { continue };
                let to = unnamed.map_or(to, |first| to.min(first.saturating_sub(1)));
                given.push(Given {
                    partition,
                    tenant: reader.tenant,
                    to,
                    except: except.iter().copied().filter(|offset| *offset <= to).collect(),
                });
            }
        }
        Self {
            registered: registered.clone(),
            given,
            heads,
        }
    }

    /// How many events wait for a retry, as far as they are named.
    pub fn waiting(&self) -> usize {
        let named = self
            .given
            .iter()
            .flat_map(|g| g.except.iter().map(|offset| (g.partition, *offset)));
        named.collect::<BTreeSet<_>>().len()
    }

    /// The subscription as another place begins it.
    pub fn begun_elsewhere(&self) -> Registered {
        let given = self.given.iter().map(|given| {
            let reader = Reader {
                partition: given.partition,
                tenant: given.tenant.clone(),
            };
            (reader, given.to, given.except.clone())
        });
        self.registered.handed_over(given.collect())
    }

    /// Which of two that places wrote down of one subscription knows more: the greater.
    pub fn knows(&self) -> impl Ord + use<> {
        let r = &self.registered;
        let joined = r.rejoined.as_ref().map_or(0, |j| j.generation);
        let settled: u64 = self.given.iter().map(|given| given.to).sum();
        (r.incarnation, r.stay, r.generation(), joined, settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Incarnation, TenantId, Timestamp};

    fn registered() -> Registered {
        let written = r#"{"name":"invoicing","need":"durable","filter":{"tenants":[],"event_types":["**"]},"reach":"handler",
            "batch_size":1,"concurrency":4,"tell_caught_up":false,"component":"c","link":"default","made_by":"link",
            "made_at":1,"head":{"0":7},"replayed":{},"progress":"replaying"}"#;
        serde_json::from_str(written).unwrap()
    }

    fn floor(settled_to: u64) -> Floor {
        Floor {
            settled_to,
            delivered_to: settled_to + 2,
            head: settled_to + 10,
            head_at: Timestamp::EPOCH,
            made_at: Timestamp::EPOCH,
            log: Incarnation::default(),
        }
    }

    fn waiting(offsets: impl IntoIterator<Item = u64>) -> BTreeSet<Position> {
        offsets.into_iter().map(|offset| Position::new(0, offset)).collect()
    }

    #[test]
    fn what_waits_for_a_retry_is_delivered_where_it_goes_on_and_what_was_settled_is_not() {
        let acme: TenantId = "acme".parse().unwrap();
        let known = LastKnown::of(
            &registered(),
            &[0].into(),
            |_, _| Some(floor(20)),
            // One beyond the floor is delivered in any case.
            &waiting([12, 15, 31]),
        );
        assert_eq!((known.waiting(), known.heads.of(0)), (2, 30));
        let next = known.begun_elsewhere();
        assert_eq!((next.stay, next.id()), (1, registered().id()));
        assert_eq!(next.rejoined.as_ref().unwrap().after.of(0), 11);
        let settled: Vec<_> = (10..=22)
            .filter(|o| next.was_settled_before(&acme, Position::new(0, *o)))
            .collect();
        assert_eq!(settled, [10, 11, 13, 14, 16, 17, 18, 19, 20]);
        let read: LastKnown = serde_json::from_str(&serde_json::to_string(&known).unwrap()).unwrap();
        assert_eq!(read, known);
    }

    #[test]
    fn where_nothing_is_known_nothing_is_passed_over() {
        let acme: TenantId = "acme".parse().unwrap();
        let nothing = LastKnown::of(&registered(), &[0].into(), |_, _| None, &waiting([]));
        let next = nothing.begun_elsewhere();
        assert!(!next.was_settled_before(&acme, Position::new(0, 8)));
        assert!(!next.rejoined.unwrap().after.knows(0), "it begins where it was made");
        // What an earlier stay had settled is known although its consumer here has not settled anything.
        let moved = registered().handed_over(vec![(
            Reader {
                partition: 0,
                tenant: None,
            },
            9,
            vec![],
        )]);
        let known = LastKnown::of(&moved, &BTreeSet::new(), |_, _| None, &waiting([]));
        assert_eq!(known.begun_elsewhere().rejoined.unwrap().after.of(0), 9);
    }

    #[test]
    fn more_than_can_be_named_come_again() {
        let many = u64::try_from(MOST_WAITING).unwrap() + 10;
        let known = LastKnown::of(
            &registered(),
            &[0].into(),
            |_, _| Some(floor(20_000)),
            &waiting(1..=many),
        );
        assert_eq!(known.waiting(), MOST_WAITING);
        assert_eq!(
            known.given[0].to,
            many - 10,
            "what is not named is not taken for settled"
        );
    }

    #[test]
    fn an_isolated_tenants_events_are_not_taken_for_settled() {
        let (acme, globex): (TenantId, TenantId) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let isolated = registered().isolate(std::slice::from_ref(&acme), 0, 10);
        let own = isolated.consumer_name();
        let known = LastKnown::of(
            &isolated,
            &[0].into(),
            |_, name| (*name == own).then(|| floor(40)),
            &waiting([]),
        );
        let next = known.begun_elsewhere();
        assert_eq!(next.rejoined.as_ref().unwrap().after.of(0), 9);
        let settled = |tenant, offset| next.was_settled_before(tenant, Position::new(0, offset));
        assert!(settled(&globex, 40) && !settled(&acme, 10) && !settled(&acme, 40));
    }
}
