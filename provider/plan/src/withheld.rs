//! Why a place that has a subscription does not deliver it: the subscription is at one place, and that is another.
//!
//! It is written down with the subscription, so that it holds while the other place can't be read. What was kept for the
//! subscription stays: its consumers, attempts and retries wait where they are.

use serde::{Deserialize, Serialize};

use crate::place::Scope;
use crate::subscription::{Need, Registered};
use crate::{Code, PlaceName, Problem, SubscriptionName};

/// Why a place does not deliver a subscription that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Withheld {
    /// It was made at two places that could not see each other, and that of this place stands.
    StandsAt(PlaceName),
    /// It is being handed over to this place.
    MovesTo(PlaceName),
    /// It was handed over to this place: nothing is kept for it here.
    MovedTo(PlaceName),
    /// Its bus goes to this JetStream domain, and what it has in flight is awaited.
    Migrates(String),
    /// Its bus goes to this JetStream domain, and it says here where it goes on there.
    Migrated(String),
}

impl Withheld {
    /// What is said of a subscription that is withheld.
    pub fn problem(&self, name: &SubscriptionName) -> Problem {
        match self {
            Self::StandsAt(place) => Problem::new(
                Code::AtAnotherPlace,
                format!(
                    "subscription {name} was made here and at place {place} while these could not see each other, and that of place {place} is the older one: events are delivered there, and nothing of it is deleted here; end one of both, at its own place, or give it another name"
                ),
            ),
            Self::MovesTo(place) => Problem::new(
                Code::Moving,
                format!(
                    "subscription {name} is being handed over to place {place}, where its deliveries go on: if that does not end, run `fanout move` again with `--to {place}`, or with `--to` this place to take it back"
                ),
            ),
            Self::MovedTo(place) => Problem::new(
                Code::AtAnotherPlace,
                format!("subscription {name} was handed over to place {place}: its events are delivered there"),
            ),
            Self::Migrates(domain) | Self::Migrated(domain) => Problem::new(
                Code::BusMoved,
                format!(
                    "subscription {name}: its bus goes to JetStream domain {domain} by `fanout migrate`, and its deliveries go on there: if that does not end, run it again, or take it back with `--back`"
                ),
            ),
        }
    }
}

impl Registered {
    /// Whether this place delivers it: it is not paused, and not withheld.
    pub fn delivers(&self) -> bool {
        !self.paused && self.withheld.is_none()
    }

    /// Why this place does not deliver it, if another does.
    pub fn withheld_problem(&self) -> Option<Problem> {
        let withheld = self.withheld.as_ref()?;
        Some(withheld.problem(&self.subscription.name))
    }

    /// Whether it was handed over, so that nothing of it is kept here.
    pub fn has_moved(&self) -> bool {
        self.moved_to().is_some()
    }

    /// The place that it was handed over to.
    pub fn moved_to(&self) -> Option<&PlaceName> {
        match &self.withheld {
            Some(Withheld::MovedTo(place)) => Some(place),
            _ => None,
        }
    }

    /// Whether its bus is on its way to another JetStream domain.
    pub fn migrates(&self) -> bool {
        matches!(self.withheld, Some(Withheld::Migrates(_) | Withheld::Migrated(_)))
    }

    /// Whether it is at one place of its bus, and given the events of all.
    pub fn is_at_one_place(&self) -> bool {
        self.subscription.is_at_one_place()
    }
}

impl crate::subscription::Subscription {
    /// Whether it is at one place of its bus, and given the events of all.
    pub fn is_at_one_place(&self) -> bool {
        self.need != Need::Queue && self.scope == Scope::Everywhere
    }
}
