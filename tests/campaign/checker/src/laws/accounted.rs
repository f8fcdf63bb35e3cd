//! Nothing that was accepted is lost unsaid.

use std::collections::BTreeMap;

use crate::Facts;
use crate::facts::{Accepted, Made};
use crate::history::{Need, Verdict};

/// Each accepted event was handled by each durable and backfill subscription that matches it, or is a dead letter, or is
/// pending, or is named in a retention gap.
///
/// An event is owed to a durable subscription if it was first sent after the subscription was told to be made, and to a
/// backfill from the first event in any case, as long as the log holds it. Nothing is owed to a subscription whose end was asked for. An event is handled if the subscriber sent its `ack`, whatever became of that. It
/// is pending if the subscription says that so many are left. A power loss that the policy's durability does not exclude
/// may take an event that was accepted, or a settlement that was sent, in the time that was not synced.
pub(super) fn accounted(facts: &Facts<'_>) -> Vec<String> {
    let accepted = facts.accepted();
    let mut broken = Vec::new();
    for (name, made) in &facts.subscriptions {
        let owed = accepted.iter().filter(|event| is_owed(made, event));
        let lost = unaccounted(facts, name, owed);
        let left = usize::try_from(facts.left.get(name).copied().unwrap_or(0)).unwrap_or(usize::MAX);
        if lost.len() > left {
            let named = lost.iter().take(5).map(|e| format!("{} at {}", e.event.id, e.position));
            let named: Vec<_> = named.collect();
            broken.push(format!(
                "{name}: {} accepted events are neither handled, nor dead letters, nor in a gap, and {left} are pending: {}",
                lost.len(),
                named.join(", ")
            ));
        }
    }
    broken
}

/// Whether a subscription must be given an event.
pub(crate) fn is_owed(made: &Made<'_>, event: &Accepted<'_>) -> bool {
    let Some(since) = made.since else { return false };
    made.ending.is_none()
        && made.matches(event.event)
        && match made.wanted.need {
            Need::Queue => false,
            Need::Durable => event.sent >= since,
            Need::Backfill => true,
        }
}

fn unaccounted<'f, 'h>(
    facts: &Facts<'h>,
    name: &str,
    owed: impl Iterator<Item = &'f Accepted<'h>>,
) -> Vec<&'f Accepted<'h>>
where
    'h: 'f,
{
    let mut missing: BTreeMap<_, _> = owed.map(|event| (&event.event.id, event)).collect();
    for delivery in facts.deliveries.values().filter(|d| d.subscription == name) {
        let Some((at, verdict)) = delivery.settled else {
            continue;
        };
        // What was written of the settlement may be gone, though the server said that it has it.
        if *verdict == Verdict::Ack || facts.may_be_lost_with_power(at, at) {
            missing.remove(&delivery.event.id);
        }
    }
    for id in facts.dead(name) {
        missing.remove(id);
    }
    let need = facts.subscriptions.get(name).map(|made| made.wanted.need);
    missing.retain(|_, event| {
        let is_said = facts.gaps.iter().any(|gap| {
            gap.subscription == name
                && gap.partition == event.position.0
                && (gap.first..=gap.last).contains(&event.position.1)
        });
        let is_gone = event
            .receipt
            .is_some_and(|receipt| facts.may_be_lost_with_power(event.sent, receipt));
        // A backfill asks for what the log holds: what is gone was never its.
        let is_none_of_its = need == Some(Need::Backfill) && facts.is_purged(event.position);
        !is_said && !is_gone && !is_none_of_its
    });
    missing.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Need, What};
    use crate::testing::{Told, broken};

    fn published() -> Told {
        let mut told = Told::durable();
        told.published("e1", 5);
        told
    }

    #[test]
    fn an_event_that_nobody_handled_is_lost() {
        assert_eq!(
            broken(accounted, &published()),
            [
                "billing: 1 accepted events are neither handled, nor dead letters, nor in a gap, and 0 are pending: e1 of acme/p at 0/5"
            ]
        );
    }

    #[test]
    fn so_is_one_that_was_refused_once() {
        let mut told = published();
        told.delivered("billing", "e1", 5, Some(Verdict::Retry("later".into())));
        assert_eq!(broken(accounted, &told).len(), 1);
    }

    #[test]
    fn and_one_that_another_subscription_handled() {
        let mut told = Told::durable();
        told.subscribed("audit", Need::Durable);
        told.published("e1", 5);
        told.delivered("audit", "e1", 5, Some(Verdict::Ack));
        assert_eq!(broken(accounted, &told).len(), 1);
    }

    #[test]
    fn one_that_the_log_holds_is_owed_without_a_receipt() {
        let mut told = Told::durable();
        told.publish("e1", None);
        assert_eq!(broken(accounted, &told), [""; 0]);
        told.stored("e1", 5);
        assert_eq!(broken(accounted, &told).len(), 1);
    }

    #[test]
    fn what_is_handled_though_the_answer_is_lost_is_not() {
        let mut told = published();
        told.delivered("billing", "e1", 5, Some(Verdict::Ack));
        assert_eq!(broken(accounted, &told), [""; 0]);
    }

    #[test]
    fn nor_a_dead_letter_nor_what_is_pending_nor_what_is_in_a_gap() {
        let mut told = published();
        told.letter("billing", "e1", 5, &["no"]);
        assert_eq!(broken(accounted, &told), [""; 0]);
        let mut told = published();
        told.line(What::Left {
            subscription: "billing".into(),
            backlog: 1,
        });
        assert_eq!(broken(accounted, &told), [""; 0]);
        let mut told = published();
        told.gap("billing", 1, 5, 1);
        assert_eq!(broken(accounted, &told), [""; 0]);
    }

    #[test]
    fn a_gap_beside_it_says_nothing_of_it() {
        let mut told = published();
        told.gap("billing", 1, 4, 1);
        assert_eq!(broken(accounted, &told).len(), 1);
    }

    #[test]
    fn nothing_is_owed_from_before_the_subscription_but_to_a_backfill() {
        let mut told = Told::new();
        told.published("e1", 5);
        told.subscribed("billing", Need::Durable);
        assert_eq!(broken(accounted, &told), [""; 0]);
        told.subscribed("replay", Need::Backfill);
        assert_eq!(broken(accounted, &told).len(), 1);
        let (partition, first, last) = (0, 5, 5);
        told.line(What::Purged { partition, first, last });
        assert_eq!(broken(accounted, &told), [""; 0], "the log holds it no more");
    }

    #[test]
    fn nothing_is_owed_to_a_subscription_that_was_ended() {
        let mut told = published();
        told.unsubscribed("billing");
        assert_eq!(broken(accounted, &told), [""; 0]);
        told.subscribed("billing.2", Need::Durable);
        told.published("e2", 6);
        assert_eq!(
            broken(accounted, &told).len(),
            1,
            "what it is made for again is owed to it"
        );
    }

    #[test]
    fn a_purge_alone_says_nothing_to_a_durable_subscription() {
        let mut told = published();
        let (partition, first, last) = (0, 5, 5);
        told.line(What::Purged { partition, first, last });
        assert_eq!(broken(accounted, &told).len(), 1);
    }

    #[test]
    fn power_may_take_what_was_not_synced_unless_the_policy_promises_the_disk() {
        let mut told = published();
        told.power_loss(0);
        assert_eq!(broken(accounted, &told), [""; 0]);
        let mut told = published();
        told.on_disk();
        told.power_loss(0);
        assert_eq!(broken(accounted, &told).len(), 1);
        let mut told = published();
        let after = told.now();
        told.power_loss(after + 1);
        assert_eq!(broken(accounted, &told).len(), 1);
    }
}
