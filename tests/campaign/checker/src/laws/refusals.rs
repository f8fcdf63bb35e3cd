//! A refusal means not stored.

use crate::Facts;

/// The log does not hold an event whose every call was refused; neither one event of a call that was to store all or
/// none, nor one that was refused by itself. An answer that says that the outcome is unknown is no refusal, nor is a call
/// without an answer, and a call to schedule may have stored the event.
pub(super) fn refusals(facts: &Facts<'_>) -> Vec<String> {
    let may_be_stored = facts.may_be_stored();
    let stored = facts
        .stored
        .iter()
        .filter(|(id, _)| facts.meant.contains_key(**id) && !may_be_stored.contains(**id));
    let named = stored.map(|(id, at)| format!("{id} was refused each time, and the log has it at {}", at[0].position));
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Answer;
    use crate::testing::{Told, broken};

    #[test]
    fn what_was_refused_and_is_stored_breaks_it() {
        let mut told = Told::durable();
        told.publish("e1", Some(Answer::Refused("quota-exceeded".into())));
        told.stored("e1", 1);
        assert_eq!(
            broken(refusals, &told),
            ["e1 of acme/p was refused each time, and the log has it at 0/1"]
        );
    }

    #[test]
    fn what_was_accepted_later_or_may_have_been_stored_does_not() {
        for answer in [None, Some(Answer::Unknown("outcome-unknown".into()))] {
            let mut told = Told::durable();
            told.publish("e1", Some(Answer::Refused("quota-exceeded".into())));
            told.publish("e1", answer);
            told.stored("e1", 1);
            assert_eq!(broken(refusals, &told), [""; 0]);
        }
        let mut told = Told::durable();
        told.publish("e1", Some(Answer::Refused("quota-exceeded".into())));
        assert_eq!(broken(refusals, &told), [""; 0]);
    }
}
