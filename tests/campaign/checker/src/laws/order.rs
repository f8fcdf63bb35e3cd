//! Each key's order.

use std::collections::BTreeMap;

use crate::Facts;
use crate::history::{EventId, Ordering, Position};

/// For a subscription of a bus with an order, an event is never given for the first time after a later event of its key.
///
/// One event is later than another if it stands behind it in the same partition, or, in different partitions, if it was
/// sent after the other's receipt came. What was delivered before may come again. A power loss that takes a majority's
/// log gives its positions anew: order begins anew there.
pub(super) fn order(facts: &Facts<'_>) -> Vec<String> {
    let ordering = facts.ordering();
    if ordering == Ordering::None {
        return Vec::new();
    }
    let resets: Vec<_> = facts.power_losses().map(|(_, at)| at).collect();
    let mut broken = Vec::new();
    let mut furthest: BTreeMap<_, Given<'_>> = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    for delivery in facts.deliveries.values() {
        let epoch = resets.iter().filter(|at| **at <= delivery.at).count();
        if !seen.insert((epoch, delivery.subscription, &delivery.event.id)) {
            continue;
        }
        let event = delivery.event;
        let key = match ordering {
            Ordering::Key => event.key.as_deref(),
            _ => None,
        };
        let sent = facts.meant.get(&event.id).map_or(0, |(sent, _)| *sent);
        let line = (epoch, delivery.subscription, event.id.tenant.as_str(), key);
        let now = Given {
            id: &event.id,
            position: delivery.position,
            sent,
        };
        let last = furthest.entry(line).or_insert(now);
        if now.is_before(last, facts) {
            broken.push(format!(
                "{}: {} at {} came for the first time after {} at {} of its key {}",
                delivery.subscription,
                now.id,
                now.position,
                last.id,
                last.position,
                key.unwrap_or("-")
            ));
        } else {
            *last = now;
        }
    }
    broken
}

#[derive(Clone, Copy)]
struct Given<'h> {
    id: &'h EventId,
    position: Position,
    sent: u64,
}

impl Given<'_> {
    fn is_before(&self, other: &Self, facts: &Facts<'_>) -> bool {
        if self.position.0 == other.position.0 {
            return self.position.1 < other.position.1;
        }
        let receipts = facts.receipts().filter(|(event, ..)| event.id == *self.id);
        receipts.map(|(_, _, at, _)| at).min().is_some_and(|at| at < other.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Verdict;
    use crate::testing::{Told, broken};

    fn two() -> Told {
        let mut told = Told::durable();
        told.published("e1", 1);
        told.published("e2", 2);
        told
    }

    #[test]
    fn a_first_delivery_that_goes_back_breaks_it() {
        let mut told = two();
        told.delivered("billing", "e2", 2, Some(Verdict::Ack));
        told.delivered("billing", "e1", 1, Some(Verdict::Ack));
        assert_eq!(
            broken(order, &told),
            ["billing: e1 of acme/p at 0/1 came for the first time after e2 of acme/p at 0/2 of its key k"]
        );
    }

    #[test]
    fn what_comes_again_does_not() {
        let mut told = two();
        for (id, at) in [("e1", 1), ("e2", 2), ("e1", 1)] {
            told.delivered("billing", id, at, None);
        }
        assert_eq!(broken(order, &told), [""; 0]);
    }

    #[test]
    fn nor_another_key_nor_another_subscription_nor_a_bus_without_order() {
        let mut told = two();
        told.delivered("billing", "e2", 2, None);
        told.delivered("audit", "e1", 1, None);
        told.delivered_of_key("billing", "e1", 1, "other");
        assert_eq!(broken(order, &told), [""; 0]);
        let mut told = two();
        told.without_order();
        told.delivered("billing", "e2", 2, None);
        told.delivered("billing", "e1", 1, None);
        assert_eq!(broken(order, &told), [""; 0]);
    }

    #[test]
    fn across_partitions_the_clock_decides() {
        let mut told = Told::durable();
        told.published_at("e1", Position(0, 9));
        told.published_at("e2", Position(1, 1));
        told.delivered_at("billing", "e2", Position(1, 1));
        told.delivered_at("billing", "e1", Position(0, 9));
        assert_eq!(broken(order, &told).len(), 1);
        // Published beside each other, neither is first.
        let mut told = Told::durable();
        told.published_beside(["e1", "e2"], [Position(0, 9), Position(1, 1)]);
        told.delivered_at("billing", "e2", Position(1, 1));
        told.delivered_at("billing", "e1", Position(0, 9));
        assert_eq!(broken(order, &told), [""; 0]);
    }

    #[test]
    fn a_log_that_lost_its_end_begins_anew() {
        let mut told = two();
        told.delivered("billing", "e2", 2, None);
        told.power_loss(0);
        told.delivered("billing", "e1", 1, None);
        assert_eq!(broken(order, &told), [""; 0]);
    }
}
