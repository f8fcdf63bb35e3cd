//! What keeps a retired place in the policy: what others do not have of it yet, and what is still to be done there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{PlaceName, SubscriptionName};

/// What is left at a place that is retired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiringPlace {
    /// Which one.
    pub place: PlaceName,
    /// The subscriptions that are at it, and are given the events of all places.
    pub subscriptions: BTreeSet<SubscriptionName>,
    /// Events of its own that subscriptions with `scope = "here"` have not handled there.
    pub not_handled: u64,
    /// Events that are to be published there later.
    pub scheduled: u64,
    /// Events of its log that another place does not have yet, by place.
    pub not_mirrored: BTreeMap<PlaceName, u64>,
    /// Events that it holds and no place keeps that stays.
    #[serde(default)]
    pub kept_nowhere: u64,
    /// Places, itself included, that can't be read now: of these it is not known.
    pub unread: BTreeSet<PlaceName>,
    /// Whether it may be taken out of the policy.
    pub may_be_removed: bool,
}

impl RetiringPlace {
    /// A place of which nothing is left, as far as is known.
    pub fn new(place: PlaceName) -> Self {
        Self {
            place,
            subscriptions: BTreeSet::new(),
            not_handled: 0,
            scheduled: 0,
            not_mirrored: BTreeMap::new(),
            kept_nowhere: 0,
            unread: BTreeSet::new(),
            may_be_removed: false,
        }
    }

    /// The same, with what follows from it.
    #[must_use]
    pub fn judged(self) -> Self {
        let may_be_removed = self.left().is_empty();
        Self { may_be_removed, ..self }
    }

    fn left(&self) -> Vec<String> {
        let names = |names: &mut dyn Iterator<Item = String>| names.collect::<Vec<_>>().join(", ");
        let mut left: Vec<String> = self
            .not_mirrored
            .iter()
            .filter(|(_, events)| **events > 0)
            .map(|(place, events)| format!("{events} of its events are not at {place} yet"))
            .collect();
        if self.kept_nowhere > 0 {
            let events = self.kept_nowhere;
            left.push(format!(
                "{events} events that it holds are kept by no place that is not retired, until they expire"
            ));
        }
        if !self.subscriptions.is_empty() {
            let at_it = names(&mut self.subscriptions.iter().map(ToString::to_string));
            left.push(format!("subscriptions {at_it} are at it (`fanout move`)"));
        }
        if self.not_handled > 0 {
            let events = self.not_handled;
            left.push(format!(
                "{events} events wait there for subscriptions with `scope` = `here`"
            ));
        }
        if self.scheduled > 0 {
            left.push(format!("{} events are to be published there later", self.scheduled));
        }
        if !self.unread.is_empty() {
            let unread = names(&mut self.unread.iter().map(ToString::to_string));
            left.push(format!("{unread} can't be read now"));
        }
        left
    }
}

impl fmt::Display for RetiringPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        match self.left().as_slice() {
            [] => write!(f, "place {place} is retired, and may be taken out of the policy"),
            left => write!(f, "place {place} is retired: {}", left.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_may_go_once_nothing_is_left_at_it() {
        let place = RetiringPlace::new("frankfurt".parse().unwrap()).judged();
        assert!(place.may_be_removed, "{place}");
        assert_eq!(
            place.to_string(),
            "place frankfurt is retired, and may be taken out of the policy"
        );
        let virginia: PlaceName = "virginia".parse().unwrap();
        let mirrored = RetiringPlace {
            not_mirrored: [(virginia.clone(), 0)].into(),
            ..place.clone()
        };
        assert!(mirrored.judged().may_be_removed);
        for left in [
            RetiringPlace {
                not_mirrored: [(virginia.clone(), 3)].into(),
                ..place.clone()
            },
            RetiringPlace {
                subscriptions: ["billing".parse().unwrap()].into(),
                ..place.clone()
            },
            RetiringPlace {
                scheduled: 1,
                ..place.clone()
            },
            RetiringPlace {
                kept_nowhere: 1,
                ..place.clone()
            },
            RetiringPlace {
                not_handled: 1,
                ..place.clone()
            },
            RetiringPlace {
                unread: [virginia].into(),
                ..place
            },
        ] {
            assert!(!left.clone().judged().may_be_removed, "{left}");
        }
    }
}
