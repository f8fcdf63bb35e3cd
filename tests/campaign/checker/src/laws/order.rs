//! Each key's order.

use std::collections::{BTreeMap, BTreeSet};

use crate::Facts;
use crate::facts::Ordered;
use crate::history::{EventId, Micros, Ordering, Position};

/// For how long after an order is in force what was fetched before it may still be on its way: a lease, and a call.
const ON_ITS_WAY: Micros = 5_000_000;

/// For a subscription of a bus with an order, an event is never given for the first time after a later event of its key.
///
/// One event is later than another if it stands behind it in the same partition, or, in different partitions, if it was
/// sent after the other's receipt came. What was delivered before may come again. A power loss that takes a majority's
/// log gives its positions anew: order begins anew there. So it does where a policy gives the bus another order, once
/// every instance goes by it; until then there is none.
pub(super) fn order(facts: &Facts<'_>) -> Vec<String> {
    let resets: Vec<_> = facts.power_losses().map(|(_, at)| at).collect();
    let stretches = facts.ordered();
    let mut receipts: BTreeMap<&EventId, Micros> = BTreeMap::new();
    for (event, _, at, _) in facts.receipts() {
        let first = receipts.entry(&event.id).or_insert(at);
        *first = at.min(*first);
    }
    let mut broken = Vec::new();
    let mut furthest: BTreeMap<_, Given<'_>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for delivery in facts.deliveries.values() {
        let epoch = resets.iter().filter(|at| **at <= delivery.at).count();
        if !seen.insert((epoch, delivery.subscription, &delivery.event.id)) {
            continue;
        }
        let is_in = |stretch: &Ordered| {
            let from = stretch.from
                + if stretch.from == first_moment(facts) {
                    0
                } else {
                    ON_ITS_WAY
                };
            (from..stretch.until.unwrap_or(Micros::MAX)).contains(&delivery.at)
        };
        let Some(stretch) = stretches.iter().position(is_in) else {
            continue;
        };
        let event = delivery.event;
        let key = match stretches[stretch].ordering {
            Ordering::Key => event.key.as_deref(),
            _ => None,
        };
        let sent = facts.meant.get(&event.id).map_or(0, |(sent, _)| *sent);
        let line = (epoch, stretch, delivery.subscription, event.id.tenant.as_str(), key);
        let now = Given {
            id: &event.id,
            position: delivery.position,
            sent,
        };
        let last = furthest.entry(line).or_insert(now);
        if now.is_before(last, &receipts) {
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

fn first_moment(facts: &Facts<'_>) -> Micros {
    facts.policies.first().map_or(0, |(at, _)| *at)
}

#[derive(Clone, Copy)]
struct Given<'h> {
    id: &'h EventId,
    position: Position,
    sent: u64,
}

impl Given<'_> {
    /// `receipts` says when each event's first one came.
    fn is_before(&self, other: &Self, receipts: &BTreeMap<&EventId, Micros>) -> bool {
        if self.position.0 == other.position.0 {
            return self.position.1 < other.position.1;
        }
        receipts.get(self.id).is_some_and(|at| *at < other.sent)
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
    fn order_begins_once_every_instance_keeps_it_and_ends_when_they_are_told() {
        let goes_back = |told: &mut Told| {
            told.delivered("billing", "e2", 2, None);
            told.delivered("billing", "e1", 1, None);
        };
        let mut told = two();
        told.ordering(Ordering::None, true);
        goes_back(&mut told);
        assert_eq!(broken(order, &told), [""; 0], "there is none any more");

        let mut told = two();
        told.ordering(Ordering::None, true);
        told.ordering(Ordering::Key, false);
        told.pass(2 * ON_ITS_WAY);
        goes_back(&mut told);
        assert_eq!(broken(order, &told), [""; 0], "an instance may not know of it yet");

        for (pass, broken_by) in [(0, 0), (2 * ON_ITS_WAY, 1)] {
            let mut told = two();
            told.ordering(Ordering::None, true);
            told.ordering(Ordering::Key, true);
            told.pass(pass);
            goes_back(&mut told);
            assert_eq!(broken(order, &told).len(), broken_by, "{pass}");
        }
    }

    #[test]
    fn a_policy_with_the_same_order_interrupts_nothing_and_what_came_before_an_order_is_no_first_delivery() {
        let mut told = two();
        told.delivered("billing", "e2", 2, None);
        told.ordering(Ordering::Key, false);
        told.delivered("billing", "e1", 1, None);
        assert_eq!(broken(order, &told).len(), 1);
        let mut told = two();
        told.ordering(Ordering::None, true);
        told.delivered("billing", "e1", 1, None);
        told.ordering(Ordering::Key, true);
        told.pass(2 * ON_ITS_WAY);
        told.delivered("billing", "e2", 2, None);
        told.delivered("billing", "e1", 1, None);
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
