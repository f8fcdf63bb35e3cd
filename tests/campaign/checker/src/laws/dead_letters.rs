//! Dead letters and their reasons.

use std::collections::BTreeSet;

use crate::Facts;
use crate::history::Verdict;

/// A dead letter is one of an event that its subscription was given, and that its subscriber refused for good once, or
/// refused for now as often as the policy says. Each reason in it is one that the subscriber gave, and there is at least
/// one. Of a handler that is called, no more is demanded than that it was called.
pub(super) fn dead_letters(facts: &Facts<'_>) -> Vec<String> {
    let deliveries = facts.deliveries_by_event();
    let most = facts
        .policies
        .iter()
        .map(|(_, policy)| policy.max_attempts)
        .min()
        .unwrap_or(1);
    let mut broken = Vec::new();
    for letter in &facts.letters {
        let (name, id) = (letter.subscription, &letter.event.id);
        let Some(deliveries) = deliveries.get(&(name, id)) else {
            broken.push(format!("{name}: {id} is a dead letter, and was never delivered"));
            continue;
        };
        // A call that its deadline ended is a refusal that its handler knows nothing of.
        if facts.subscriptions.get(name).is_some_and(|made| !made.wanted.fetched) {
            continue;
        }
        let verdicts: Vec<_> = deliveries
            .iter()
            .filter_map(|d| d.settled)
            .map(|(_, verdict)| verdict)
            .collect();
        let refusals = verdicts.iter().filter(|v| v.refusal().is_some()).count();
        let for_good = verdicts.iter().any(|v| matches!(v, Verdict::DeadLetter(_)));
        if !for_good && refusals < most as usize {
            broken.push(format!(
                "{name}: {id} is a dead letter after {refusals} refusals, of {most} that it takes"
            ));
        }
        let given: BTreeSet<_> = verdicts.iter().filter_map(|v| v.refusal()).collect();
        if letter.reasons.is_empty() {
            broken.push(format!("{name}: {id} is a dead letter without a reason"));
        }
        for reason in letter.reasons.iter().filter(|reason| !given.contains(reason.as_str())) {
            broken.push(format!(
                "{name}: {id} is a dead letter for {reason:?}, which its subscriber never said"
            ));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Told, broken};

    fn refused(times: usize) -> Told {
        let mut told = Told::durable();
        told.published("e1", 1);
        for i in 0..times {
            told.delivered("billing", "e1", 1, Some(Verdict::Retry(format!("no {i}"))));
        }
        told
    }

    #[test]
    fn one_before_its_attempts_are_used_up_breaks_it() {
        let mut told = refused(2);
        told.letter("billing", "e1", 1, &["no 0", "no 1"]);
        assert_eq!(
            broken(dead_letters, &told),
            ["billing: e1 of acme/p is a dead letter after 2 refusals, of 3 that it takes"]
        );
    }

    #[test]
    fn so_does_a_reason_that_nobody_gave_and_none_at_all_and_one_that_nobody_was_given() {
        let mut told = refused(3);
        told.letter("billing", "e1", 1, &["no 0", "the network"]);
        assert_eq!(broken(dead_letters, &told).len(), 1);
        let mut told = refused(3);
        told.letter("billing", "e1", 1, &[]);
        assert_eq!(
            broken(dead_letters, &told),
            ["billing: e1 of acme/p is a dead letter without a reason"]
        );
        let mut told = refused(0);
        told.letter("billing", "e1", 1, &["no"]);
        assert_eq!(
            broken(dead_letters, &told),
            ["billing: e1 of acme/p is a dead letter, and was never delivered"]
        );
    }

    #[test]
    fn one_whose_attempts_are_used_up_or_that_was_refused_for_good_does_not() {
        let mut told = refused(3);
        told.letter("billing", "e1", 1, &["no 0", "no 1", "no 2"]);
        assert_eq!(broken(dead_letters, &told), [""; 0]);
        let mut told = refused(1);
        told.delivered("billing", "e1", 1, Some(Verdict::DeadLetter("never".into())));
        told.letter("billing", "e1", 1, &["no 0", "never"]);
        assert_eq!(broken(dead_letters, &told), [""; 0]);
    }
}
