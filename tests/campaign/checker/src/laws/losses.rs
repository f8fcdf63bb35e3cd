//! What is said to be lost.

use crate::Facts;
use crate::history::Verdict;
use crate::laws::accounted::is_owed;

/// A gap that calls itself exact counts as many events as the subscription was owed in it and did not handle: at least
/// those whose `ack` nobody sent, and no more than all that were published there.
///
/// A purge that takes an event while it is in a subscriber's hands may count it or not; so may one between an `ack` and
/// its answer.
pub(super) fn losses(facts: &Facts<'_>) -> Vec<String> {
    let accepted = facts.accepted();
    let deliveries = facts.deliveries_by_event();
    let mut broken = Vec::new();
    for gap in facts.gaps.iter().filter(|gap| gap.exact) {
        let Some(made) = facts.subscriptions.get(gap.subscription) else {
            continue;
        };
        let dead = facts.dead(gap.subscription);
        let (mut least, mut most) = (0, 0);
        for event in &accepted {
            let is_there = gap.partition == event.position.0 && (gap.first..=gap.last).contains(&event.position.1);
            if !is_there || !made.matches(event.event) {
                continue;
            }
            let deliveries = deliveries
                .get(&(gap.subscription, &event.event.id))
                .map_or(&[][..], Vec::as_slice);
            let acked = deliveries.iter().any(|d| matches!(d.settled, Some((_, Verdict::Ack))));
            most += 1;
            // A call without a receipt may have been lost on its way, and what was given may be in somebody's hands.
            if is_owed(made, event)
                && event.receipt.is_some()
                && deliveries.is_empty()
                && !acked
                && !dead.contains(&event.event.id)
            {
                least += 1;
            }
        }
        if gap.count < least || gap.count > most {
            broken.push(format!(
                "{} says that exactly {} events were lost between {} and {}, and it was {least} to {most}",
                gap.subscription, gap.count, gap.first, gap.last
            ));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Told, broken};

    fn three() -> Told {
        let mut told = Told::durable();
        for (id, at) in [("e1", 1), ("e2", 2), ("e3", 3)] {
            told.published(id, at);
        }
        told.delivered("billing", "e1", 1, Some(Verdict::Ack));
        told
    }

    #[test]
    fn too_few_and_too_many_break_it() {
        let mut told = three();
        told.gap("billing", 1, 3, 1);
        assert_eq!(
            broken(losses, &told),
            ["billing says that exactly 1 events were lost between 1 and 3, and it was 2 to 3"]
        );
        let mut told = three();
        told.gap("billing", 1, 3, 4);
        assert_eq!(broken(losses, &told).len(), 1);
    }

    #[test]
    fn what_was_lost_does_not_nor_what_was_in_somebodys_hands() {
        let mut told = three();
        told.gap("billing", 1, 3, 2);
        assert_eq!(broken(losses, &told), [""; 0]);
        told.delivered("billing", "e2", 2, None);
        told.gap("billing", 1, 3, 1);
        assert_eq!(broken(losses, &told), [""; 0]);
    }
}
