//! What was published and what was handled, noted by those who did it. It knows no bus.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A place, or another name for where an event is published or handled.
pub(crate) type Where = &'static str;

/// Everything that was noted, for whoever publishes and handles at once.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Notes>);

#[derive(Debug, Default)]
struct Notes {
    /// Events whose sender was told that they are stored, with where that was.
    accepted: BTreeMap<String, Where>,
    /// Events of which nobody knows whether they are stored there, and which are sent no more.
    unsure: BTreeMap<String, Where>,
    /// How often a place answered that it is retired.
    turned_away: BTreeMap<Where, u64>,
    /// By subscription and event, where its settlement was confirmed, each time that it was.
    settled: BTreeMap<(&'static str, String), Vec<Where>>,
}

/// What became of the events that a subscription is to be given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// So many were to be handled.
    pub(crate) wanted: u64,
    /// So many were handled there, each counted once.
    pub(crate) handled: BTreeMap<Where, u64>,
    /// These were not handled.
    pub(crate) missing: Vec<String>,
    /// These were handled again after their settlement was confirmed.
    pub(crate) twice: Vec<String>,
}

impl Account {
    /// How many were handled, anywhere.
    pub(crate) fn total(&self) -> u64 {
        self.handled.values().sum()
    }

    /// How many were handled there.
    pub(crate) fn at(&self, place: Where) -> u64 {
        self.handled.get(place).copied().unwrap_or_default()
    }
}

impl Ledger {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the bus took an event.
    pub(crate) fn note_accepted(&self, id: String, origin: Where) {
        self.notes().accepted.insert(id, origin);
    }

    /// Notes that an event may be stored there or not, and is sent no more.
    pub(crate) fn note_unsure(&self, id: String, origin: Where) {
        self.notes().unsure.insert(id, origin);
    }

    /// Those events that may be stored or not.
    pub(crate) fn unsure(&self) -> BTreeMap<String, Where> {
        self.notes().unsure.clone()
    }

    /// Notes that a place is retired and takes no event.
    pub(crate) fn note_turned_away(&self, origin: Where) {
        *self.notes().turned_away.entry(origin).or_default() += 1;
    }

    /// How often a place took no event because it is retired.
    pub(crate) fn turned_away(&self, origin: Where) -> u64 {
        self.notes().turned_away.get(origin).copied().unwrap_or_default()
    }

    /// Notes that the bus confirmed a settlement.
    pub(crate) fn note_settled(&self, subscription: &'static str, id: String, place: Where) {
        let mut notes = self.notes();
        notes.settled.entry((subscription, id)).or_default().push(place);
    }

    /// The events that were published there.
    pub(crate) fn accepted(&self, origin: Where) -> BTreeSet<String> {
        let notes = self.notes();
        let of_origin = notes.accepted.iter().filter(|(_, at)| **at == origin);
        of_origin.map(|(id, _)| id.clone()).collect()
    }

    /// What became of some events at a subscription.
    pub(crate) fn account(&self, subscription: &'static str, events: &BTreeSet<String>) -> Account {
        let notes = self.notes();
        let mut account = Account {
            wanted: events.len() as u64,
            ..Account::default()
        };
        for id in events {
            match notes.settled.get(&(subscription, id.clone())).map(Vec::as_slice) {
                None | Some([]) => account.missing.push(id.clone()),
                Some([first, again @ ..]) => {
                    *account.handled.entry(*first).or_default() += 1;
                    if !again.is_empty() {
                        account.twice.push(id.clone());
                    }
                }
            }
        }
        account
    }

    /// What a subscription handled and nobody published.
    pub(crate) fn unknown(&self, subscription: &'static str) -> Vec<String> {
        let notes = self.notes();
        let of_it = notes.settled.keys().filter(|(name, _)| *name == subscription);
        let unknown = of_it.filter(|(_, id)| !notes.accepted.contains_key(id));
        unknown.map(|(_, id)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_comes_again_is_named() {
        let ledger = Ledger::default();
        for id in ["a", "b", "c"] {
            ledger.note_accepted(id.to_owned(), "here");
        }
        ledger.note_accepted("d".to_owned(), "there");
        for (id, place) in [("a", "here"), ("b", "there"), ("b", "here"), ("x", "here")] {
            ledger.note_settled("billing", id.to_owned(), place);
        }
        ledger.note_settled("other", "c".to_owned(), "here");

        let events = ledger.accepted("here");
        assert_eq!(events, ["a", "b", "c"].map(str::to_owned).into());
        let account = ledger.account("billing", &events);
        assert_eq!((account.wanted, account.total()), (3, 2));
        assert_eq!((account.at("here"), account.at("there")), (1, 1));
        assert_eq!(
            (account.missing, account.twice),
            (vec!["c".to_owned()], vec!["b".to_owned()])
        );
        assert_eq!(ledger.unknown("billing"), ["x"]);
        assert!(ledger.unknown("other").is_empty());
    }
}
