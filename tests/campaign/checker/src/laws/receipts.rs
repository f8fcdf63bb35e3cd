//! A receipt means stored.

use crate::Facts;

/// The log holds each event that has a receipt, at the position that the receipt names.
///
/// An operator may have purged it; and where the policy promises no more than `acknowledged`, a power loss may have taken
/// it from most of the copies before they synced it. Where the log's end was lost so, its positions are given anew: the
/// event may stand elsewhere.
pub(super) fn receipts(facts: &Facts<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    for (event, sent, at, receipt) in facts.receipts() {
        let held = facts.stored.get(&event.id);
        let is_held = held.is_some_and(|held| held.iter().any(|s| s.position == receipt.position));
        if !is_held && !facts.is_purged(receipt.position) && !facts.may_be_lost_with_power(sent, at) {
            let found = held.map(|held| {
                held.iter()
                    .map(|s| s.position.to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            });
            broken.push(format!(
                "{} has a receipt for {}, and the log has it {}",
                event.id,
                receipt.position,
                found.map_or("nowhere".to_owned(), |at| format!("at {at}"))
            ));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::What;
    use crate::testing::{Told, broken};

    #[test]
    fn a_receipt_for_nothing_breaks_it() {
        let mut told = Told::durable();
        told.published("e1", 1);
        assert_eq!(
            broken(receipts, &told),
            ["e1 of acme/p has a receipt for 0/1, and the log has it nowhere"]
        );
        told.stored("e1", 2);
        assert_eq!(
            broken(receipts, &told),
            ["e1 of acme/p has a receipt for 0/1, and the log has it at 0/2"]
        );
    }

    #[test]
    fn what_is_held_or_was_purged_or_has_no_receipt_does_not() {
        let mut told = Told::durable();
        told.published("e1", 1);
        told.published("e2", 2);
        told.publish("e3", None);
        told.stored("e1", 1);
        told.line(What::Purged {
            partition: 0,
            first: 2,
            last: 2,
        });
        assert_eq!(broken(receipts, &told), [""; 0]);
    }

    #[test]
    fn power_takes_what_the_policy_does_not_promise_and_nothing_else() {
        let mut told = Told::durable();
        told.published("e1", 1);
        told.power_loss(0);
        assert_eq!(broken(receipts, &told), [""; 0]);
        told.published("e2", 1);
        assert_eq!(broken(receipts, &told).len(), 1, "accepted after the power came back");
        let mut told = Told::durable();
        told.on_disk();
        told.published("e1", 1);
        told.power_loss(0);
        assert_eq!(broken(receipts, &told).len(), 1);
    }
}
