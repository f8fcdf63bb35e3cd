//! From when to when a subscription is given anything.

use std::collections::BTreeMap;

use crate::Facts;
use crate::history::{Micros, Need};

/// A durable or queue subscription is given nothing that was stored before it was asked for, and no subscription is given
/// anything that was fetched for it after it was told to be ended. One that is made again under a name that was ended is
/// another: nothing of the earlier one reaches it, and it counts attempts from the first.
///
/// An event was stored before if a receipt for it came, or it was delivered to any subscription, before.
pub(super) fn lifetimes(facts: &Facts<'_>) -> Vec<String> {
    let mut stored: BTreeMap<_, Micros> = BTreeMap::new();
    let receipts = facts.receipts().map(|(event, _, at, _)| (&event.id, at));
    let delivered = facts.deliveries.values().map(|d| (&d.event.id, d.at));
    for (id, at) in receipts.chain(delivered) {
        let first = stored.entry(id).or_insert(at);
        *first = at.min(*first);
    }
    let by_event = facts.deliveries_by_event();
    let mut broken = Vec::new();
    for delivery in facts.deliveries.values() {
        let (name, id) = (delivery.subscription, &delivery.event.id);
        let Some(made) = facts.subscriptions.get(name) else {
            continue;
        };
        if let Some(ended) = made.ended.filter(|ended| *ended < delivery.at) {
            let late = delivery.at - ended;
            broken.push(format!("{name} was given {id} {late} us after it was ended"));
        }
        let before = stored.get(id).is_some_and(|at| *at < made.asked);
        if before && made.wanted.need != Need::Backfill {
            broken.push(format!(
                "{name} was given {id} at {}, which was stored before it was asked for",
                delivery.position
            ));
        }
        // What is fetched counts attempts from 1, and each but the last was refused by its subscriber, whatever came of that.
        let others = by_event.get(&(name, id)).into_iter().flatten();
        let refused = others.filter(|d| {
            d.settled
                .is_some_and(|(at, v)| at <= delivery.at && v.refusal().is_some())
        });
        if made.wanted.fetched && delivery.attempt as usize > 1 + refused.count() {
            broken.push(format!(
                "{name} was given {id} as attempt {}, and has not refused it as often",
                delivery.attempt
            ));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Verdict;
    use crate::testing::{Told, broken};

    #[test]
    fn what_was_stored_before_it_was_asked_for_breaks_it_but_for_a_backfill() {
        for (need, broken_by) in [(Need::Durable, 1), (Need::Backfill, 0)] {
            let mut told = Told::durable();
            told.published("e1", 1);
            told.unsubscribed("billing");
            told.subscribed("billing.2", need);
            told.delivered("billing.2", "e1", 1, None);
            assert_eq!(broken(lifetimes, &told).len(), broken_by, "{need:?}");
        }
    }

    #[test]
    fn what_is_published_while_it_is_made_may_be_its_or_not() {
        let mut told = Told::durable();
        told.publish("e1", None);
        told.subscribed("audit", Need::Durable);
        told.delivered("audit", "e1", 1, None);
        assert_eq!(broken(lifetimes, &told), [""; 0]);
    }

    #[test]
    fn one_that_is_ended_is_given_nothing() {
        let mut told = Told::durable();
        told.published("e1", 1);
        told.delivered("billing", "e1", 1, None);
        told.unsubscribed("billing");
        assert_eq!(broken(lifetimes, &told), [""; 0]);
        told.delivered("billing", "e1", 1, None);
        assert_eq!(
            broken(lifetimes, &told),
            ["billing was given e1 of acme/p 1 us after it was ended"]
        );
    }

    #[test]
    fn attempts_that_it_did_not_make_are_anothers() {
        let mut told = Told::durable();
        told.published("e1", 1);
        told.delivered("billing", "e1", 1, Some(Verdict::Retry("no".into())));
        told.delivered_as_attempt("billing", "e1", 1, 2);
        assert_eq!(broken(lifetimes, &told), [""; 0]);
        told.delivered_as_attempt("billing", "e1", 1, 3);
        assert_eq!(
            broken(lifetimes, &told),
            ["billing was given e1 of acme/p as attempt 3, and has not refused it as often"]
        );
    }
}
