//! Events for later.

use std::collections::BTreeMap;

use crate::Facts;
use crate::facts::Schedule;
use crate::history::{Answer, EventId, Micros};

/// The bus's clock and the history's are of one machine, read at different moments: what comes by so little too early is
/// no fault.
const CLOCKS: Micros = 50_000;

/// An event whose scheduling was answered with success is in the log at the end, once, if it was due before
/// publishing ended; one whose cancellation was answered with success is not, and is given to nobody. None is given to anybody, or
/// stored, before it is due.
///
/// One that was also published at once, or scheduled again after its cancellation, is left to the other laws. So is one
/// that a purge or a power loss may have taken, but for a cancelled one that is there all the same.
pub(super) fn scheduled(facts: &Facts<'_>) -> Vec<String> {
    let mut calls: BTreeMap<&EventId, Vec<&Schedule<'_>>> = BTreeMap::new();
    for call in facts.schedules.values() {
        calls.entry(&call.event.id).or_default().push(call);
    }
    for call in facts.publishes.values() {
        for event in call.events {
            calls.remove(&event.id);
        }
    }
    let mut first_given: BTreeMap<&EventId, Micros> = BTreeMap::new();
    for delivery in facts.deliveries.values() {
        first_given.entry(&delivery.event.id).or_insert(delivery.at);
    }
    let mut broken = Vec::new();
    for (id, calls) in calls {
        let given = first_given.get(id);
        let stored = facts.stored.get(id).and_then(|held| held.first());
        let due = calls.iter().map(|call| call.due).min().unwrap_or(0);
        let early = |at: Micros| at + CLOCKS < due;
        if let Some(at) = given.filter(|at| early(**at)) {
            broken.push(format!("{id} was given {} us before it was due", due - at));
        } else if let Some(held) = stored.filter(|held| early(held.stored)) {
            broken.push(format!("{id} was stored {} us before it was due", due - held.stored));
        }
        let cancels = facts.cancels.values().filter(|cancel| cancel.event == id);
        let (mut cancelled, mut may_be_cancelled) = (None, false);
        for cancel in cancels {
            match cancel.answered {
                Some((at, Answer::Done(true))) => cancelled = cancelled.max(Some(at)),
                Some((_, Answer::Done(false) | Answer::Refused(_))) => {}
                Some((_, Answer::Unknown(_))) | None => may_be_cancelled = true,
            }
        }
        let again = calls.iter().any(|call| cancelled.is_some_and(|at| call.sent > at));
        if cancelled.is_some() && !again {
            if given.is_some() || stored.is_some() {
                broken.push(format!("{id} was cancelled, and published all the same"));
            }
            continue;
        }
        let accepted = calls
            .iter()
            .find(|call| matches!(call.answered, Some((_, Answer::Done(())))));
        let (Some(call), Some(quiet)) = (accepted, facts.quiet) else {
            continue;
        };
        let answered = call.answered.map_or(call.sent, |(at, _)| at);
        let is_due = call.due.max(answered) <= quiet;
        // It has no receipt that names its position: any purge since may have taken it.
        let is_purged = facts.purges.iter().any(|purge| purge.at >= call.due);
        let may_be_gone = is_purged || facts.may_be_lost_with_power(call.sent, answered.max(call.due));
        if is_due && stored.is_none() && !may_be_cancelled && !may_be_gone {
            broken.push(format!("{id} was to be published later, is due, and is not in the log"));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::What;
    use crate::testing::{Told, broken};

    const DUE: Micros = 10_000_000;

    fn scheduled_then(cancelled: Option<Answer<bool>>) -> Told {
        let mut told = Told::durable();
        told.schedule("e1", DUE, Some(Answer::Done(())));
        if let Some(answer) = cancelled {
            told.cancel("e1", Some(answer));
        }
        told.pass(2 * DUE);
        told
    }

    #[test]
    fn one_that_is_never_published_breaks_it() {
        let mut told = scheduled_then(None);
        told.line(What::Quiet);
        assert_eq!(
            broken(scheduled, &told),
            ["e1 of acme/p was to be published later, is due, and is not in the log"]
        );
        told.stored("e1", 1);
        assert_eq!(broken(scheduled, &told), [""; 0]);
    }

    #[test]
    fn one_that_is_not_due_yet_does_not() {
        let mut told = Told::durable();
        told.schedule("e1", DUE, Some(Answer::Done(())));
        told.line(What::Quiet);
        assert_eq!(broken(scheduled, &told), [""; 0]);
    }

    #[test]
    fn a_cancelled_one_that_is_published_breaks_it() {
        let mut told = scheduled_then(Some(Answer::Done(true)));
        told.line(What::Quiet);
        assert_eq!(broken(scheduled, &told), [""; 0]);
        told.stored("e1", 1);
        assert_eq!(
            broken(scheduled, &told),
            ["e1 of acme/p was cancelled, and published all the same"]
        );
    }

    #[test]
    fn one_that_may_have_been_cancelled_may_be_either() {
        for answer in [None, Some(Answer::Unknown("outcome-unknown".into()))] {
            let mut told = Told::durable();
            told.schedule("e1", DUE, Some(Answer::Done(())));
            told.cancel("e1", answer);
            told.pass(2 * DUE);
            told.line(What::Quiet);
            assert_eq!(broken(scheduled, &told), [""; 0]);
            told.stored("e1", 1);
            assert_eq!(broken(scheduled, &told), [""; 0]);
        }
        let mut told = scheduled_then(Some(Answer::Done(false)));
        told.line(What::Quiet);
        assert_eq!(broken(scheduled, &told).len(), 1, "it was published, says the bus");
    }

    #[test]
    fn one_that_comes_before_it_is_due_breaks_it() {
        let mut told = Told::durable();
        told.schedule("e1", DUE, Some(Answer::Done(())));
        told.delivered("billing", "e1", 1, None);
        assert!(broken(scheduled, &told)[0].contains("before it was due"));
        let mut told = Told::durable();
        told.schedule("e1", DUE, Some(Answer::Done(())));
        told.pass(DUE);
        told.delivered("billing", "e1", 1, None);
        told.stored("e1", 1);
        assert_eq!(broken(scheduled, &told), [""; 0]);
    }

    #[test]
    fn one_that_was_published_at_once_as_well_is_no_matter_of_this_law() {
        let mut told = Told::durable();
        told.schedule("e1", DUE, Some(Answer::Done(())));
        told.published("e1", 1);
        told.stored("e1", 1);
        assert_eq!(broken(scheduled, &told), [""; 0]);
    }
}
