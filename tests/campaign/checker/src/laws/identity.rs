//! A repeat is one event.

use std::collections::{BTreeMap, BTreeSet};

use crate::Facts;
use crate::history::{EventId, Micros, Position};

/// Within the de-duplication window, one tenant, source and id has one position: every receipt names it, and the log holds
/// the event there alone. One receipt at most calls it new there.
///
/// An operator's purge of the position, and a power loss that may have taken it, make the next one a new event.
pub(super) fn identity(facts: &Facts<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    let mut first: BTreeMap<&EventId, (Micros, Position)> = BTreeMap::new();
    let mut new = BTreeSet::new();
    let mut receipts: Vec<_> = facts.receipts().collect();
    receipts.sort_by_key(|(_, _, at, _)| *at);
    for (event, sent, at, receipt) in receipts {
        let before = *first.entry(&event.id).or_insert((at, receipt.position));
        let Some(policy) = facts.policy_at(at) else { continue };
        let is_within = sent.saturating_sub(before.0) < policy.dedupe;
        if before.1 != receipt.position && is_within && !may_be_gone(facts, before, at) {
            broken.push(format!(
                "{} has receipts for {} and {}",
                event.id, before.1, receipt.position
            ));
        }
        if before.1 != receipt.position {
            first.insert(&event.id, (at, receipt.position));
        }
        if !receipt.duplicate && !new.insert((&event.id, receipt.position)) {
            broken.push(format!("{} was called new twice at {}", event.id, receipt.position));
        }
    }
    for (id, copies) in &facts.stored {
        for pair in copies.windows(2) {
            let apart = pair[1].stored.abs_diff(pair[0].stored);
            if facts
                .policy_at(pair[0].stored)
                .is_some_and(|policy| apart < policy.dedupe)
            {
                broken.push(format!(
                    "{id} is in the log at {} and at {}",
                    pair[0].position, pair[1].position
                ));
            }
        }
    }
    broken
}

fn may_be_gone(facts: &Facts<'_>, (since, position): (Micros, Position), now: Micros) -> bool {
    let taken = facts
        .power_losses()
        .any(|(from, at)| since >= from && since <= at && at <= now);
    facts.is_purged(position) || taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::What;
    use crate::testing::{Told, WINDOW, broken};

    #[test]
    fn two_positions_break_it() {
        let mut told = Told::durable();
        told.published("e1", 1);
        told.published("e1", 2);
        assert_eq!(broken(identity, &told), ["e1 of acme/p has receipts for 0/1 and 0/2"]);
        let mut told = Told::durable();
        told.stored("e1", 1);
        told.stored("e1", 2);
        assert_eq!(
            broken(identity, &told),
            ["e1 of acme/p is in the log at 0/1 and at 0/2"]
        );
    }

    #[test]
    fn the_same_position_does_not_nor_another_source() {
        let mut told = Told::durable();
        told.published("e1", 1);
        told.published_again("e1", 1);
        told.published_of("/other", "e1", 2);
        told.stored("e1", 1);
        assert_eq!(broken(identity, &told), [""; 0]);
    }

    #[test]
    fn what_is_called_new_twice_breaks_it() {
        let mut told = Told::durable();
        told.published("e1", 1);
        told.published("e1", 1);
        assert_eq!(broken(identity, &told), ["e1 of acme/p was called new twice at 0/1"]);
    }

    #[test]
    fn nor_a_second_one_after_the_window_or_a_purge_or_a_power_loss() {
        let mut told = Told::durable();
        told.published("e1", 1);
        told.pass(WINDOW);
        told.published("e1", 2);
        assert_eq!(broken(identity, &told), [""; 0]);
        let mut told = Told::durable();
        told.published("e1", 1);
        told.line(What::Purged {
            partition: 0,
            first: 1,
            last: 1,
        });
        told.published("e1", 2);
        assert_eq!(broken(identity, &told), [""; 0]);
        let mut told = Told::durable();
        told.published("e1", 1);
        told.power_loss(0);
        told.published("e1", 2);
        assert_eq!(broken(identity, &told), [""; 0]);
    }

    #[test]
    fn a_purge_elsewhere_is_no_excuse() {
        let mut told = Told::durable();
        told.published("e1", 3);
        told.line(What::Purged {
            partition: 0,
            first: 1,
            last: 2,
        });
        told.published("e1", 4);
        assert_eq!(broken(identity, &told).len(), 1);
    }
}
