//! What a status says.

use std::collections::BTreeSet;

use crate::Facts;
use crate::history::{EventId, Micros, Need, Verdict};
use crate::laws::accounted::is_owed;

/// From so many events on that wait, tenants may be isolated, and their events are counted twice until nothing waits any more: the
/// documents of the bus say so.
const MANY_WAIT: u64 = 2_000;

/// What was stored for so long before the question is counted. A consumer counts what its stream stores by a queue of the server's
/// own (nats-server 2.15.1), which on a machine with too much to do may be a moment behind.
const COUNTED_WITHIN: Micros = 1_000_000;

/// What a status told of a subscription's backlog (pending, in flight and waiting for a retry, together) was true at some
/// moment between the question and the answer.
///
/// The figures are read one after another, so an event that is on its way from one to the other meanwhile may be counted
/// in both or in neither. So the least is every event that had a receipt a second before the question, has no dead letter and was
/// refused for good by nobody, and no settlement of which was under way before the answer; and the most is every event
/// that was sent before the answer and whose settlement was not confirmed before the question, twice if it was refused.
/// A rewind brings back what was settled before it was answered, and so may a server that a fault made forget it: the
/// promise is at least once.
/// What an operator's purge may have taken need not be counted, and may be: of what was published without an answer, or for
/// later, nothing else remains to show that it was there. After a power loss that may take settlements back, no
/// status is judged.
pub(super) fn status(facts: &Facts<'_>) -> Vec<String> {
    let accepted = facts.accepted();
    let unseen = facts.purged_unseen();
    let deliveries = facts.deliveries_by_event();
    let (mut broken, mut had_many) = (Vec::new(), BTreeSet::new());
    for (answered, told) in &facts.statuses {
        let Some(made) = facts.subscriptions.get(told.subscription.as_str()) else {
            continue;
        };
        let is_there =
            made.since.is_some_and(|since| since <= told.asked) && made.ending.is_none_or(|at| at > *answered);
        if !is_there || facts.power_losses().any(|(_, at)| at <= *answered) {
            continue;
        }
        let dead = facts.dead(&told.subscription);
        // A backfill begins with all that is there.
        let (mut least, mut most, mut began_with) = (0, 0, 0);
        let replays =
            |sent: Micros| made.wanted.need == Need::Backfill && made.since.is_some_and(|since| sent <= since);
        let settled = |event: &EventId| {
            let (mut touched, mut done, mut refused) = (false, false, false);
            for delivery in deliveries
                .get(&(told.subscription.as_str(), event))
                .into_iter()
                .flatten()
            {
                let Some((at, verdict)) = delivery.settled else {
                    continue;
                };
                touched |= at <= *answered;
                let confirmed = delivery.answered;
                let by_then = confirmed.is_some_and(|(at, answer)| at <= told.asked && answer.done().is_some());
                let stays = !facts.may_come_again(&told.subscription, at, *answered);
                done |= by_then && stays && *verdict == Verdict::Ack;
                refused |= verdict.refusal().is_some() && at <= *answered;
            }
            (touched, done, refused)
        };
        let at_most = |sent: Micros, done: bool, refused: bool| match sent <= *answered && !done {
            true if refused => 2,
            may_be_there => u64::from(may_be_there),
        };
        for event in accepted.iter().filter(|event| made.matches(event.event)) {
            let (touched, done, refused) = settled(&event.event.id);
            let is_there =
                event.receipt.is_some_and(|at| at + COUNTED_WITHIN <= told.asked) && !facts.is_purged(event.position);
            least += u64::from(is_owed(made, event) && is_there && !touched && !dead.contains(&event.event.id));
            most += at_most(event.sent, done, refused);
            began_with += u64::from(replays(event.sent));
        }
        for (sent, event) in unseen.iter().filter(|(_, event)| made.matches(event)) {
            let (_, done, refused) = settled(&event.id);
            most += at_most(*sent, done, refused);
        }
        if most.max(began_with) >= MANY_WAIT {
            had_many.insert(told.subscription.as_str());
        }
        // Nothing says which, so all may be counted twice.
        if had_many.contains(told.subscription.as_str()) {
            most *= 2;
        }
        let backlog = told.pending + told.in_flight + told.waiting;
        if backlog < least {
            broken.push(format!(
                "{} told a backlog of {backlog} between {} and {answered}, and at least {least} events were not settled",
                told.subscription, told.asked
            ));
        }
        if backlog > most {
            broken.push(format!(
                "{} told a backlog of {backlog} between {} and {answered}, and at most {most} events were not settled",
                told.subscription, told.asked
            ));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, What};
    use crate::testing::{Told, broken};

    fn three() -> Told {
        let mut told = Told::durable();
        for (id, at) in [("e1", 1), ("e2", 2), ("e3", 3)] {
            told.published(id, at);
        }
        told.pass(COUNTED_WITHIN);
        told
    }

    #[test]
    fn too_little_and_too_much_break_it() {
        let mut told = three();
        told.status("billing", 2);
        assert!(broken(status, &told)[0].contains("at least 3"));
        let mut told = three();
        told.status("billing", 4);
        assert!(broken(status, &told)[0].contains("at most 3"));
    }

    #[test]
    fn what_was_stored_a_moment_ago_need_not_be_counted() {
        let mut told = three();
        told.published("e4", 4);
        told.status("billing", 3);
        assert_eq!(broken(status, &told), [""; 0]);
        told.pass(COUNTED_WITHIN);
        told.status("billing", 3);
        assert!(broken(status, &told)[0].contains("at least 4"));
    }

    #[test]
    fn of_whom_many_waited_may_count_twice_from_then_on() {
        for (before, backlog, broken_by) in [(2_000, 3_998, 0), (2_000, 3_999, 1), (1_999, 1_999, 1)] {
            let mut told = Told::durable();
            for i in 1..=before {
                told.published(&format!("e{i}"), i);
            }
            told.pass(COUNTED_WITHIN);
            told.status("billing", before);
            let delivery = told.delivered("billing", "e1", 1, Some(Verdict::Ack));
            told.settled(delivery, Answer::Done(()));
            told.status("billing", backlog);
            assert_eq!(broken(status, &told).len(), broken_by, "{backlog} of {before}");
        }
    }

    #[test]
    fn what_is_on_its_way_may_be_counted_or_not() {
        for backlog in [2, 3, 4] {
            let mut told = three();
            told.delivered("billing", "e1", 1, Some(Verdict::Retry("later".into())));
            told.status("billing", backlog);
            assert_eq!(broken(status, &told), [""; 0], "{backlog}");
        }
        let mut told = three();
        told.delivered("billing", "e1", 1, Some(Verdict::Ack));
        told.status("billing", 3);
        assert_eq!(broken(status, &told), [""; 0], "the answer to the ack never came");
    }

    #[test]
    fn what_was_settled_before_the_question_may_not() {
        let mut told = three();
        let delivery = told.delivered("billing", "e1", 1, Some(Verdict::Ack));
        told.settled(delivery, Answer::Done(()));
        told.status("billing", 3);
        assert!(broken(status, &told)[0].contains("at most 2"));
        let mut told = three();
        let delivery = told.delivered("billing", "e1", 1, Some(Verdict::Ack));
        told.settled(delivery, Answer::Done(()));
        told.status("billing", 2);
        assert_eq!(broken(status, &told), [""; 0]);
    }

    #[test]
    fn a_server_may_forget_what_was_settled_before_it_was_back() {
        let mut told = three();
        let delivery = told.delivered("billing", "e1", 1, Some(Verdict::Ack));
        told.settled(delivery, Answer::Done(()));
        told.forgetful_fault(1);
        told.status("billing", 3);
        assert_eq!(broken(status, &told), [""; 0]);
        told.status("billing", 4);
        assert_eq!(broken(status, &told).len(), 1);
    }

    #[test]
    fn what_is_published_without_an_answer_may_be_there() {
        for backlog in [3, 4] {
            let mut told = three();
            told.publish("e4", None);
            told.status("billing", backlog);
            told.stored("e4", 4);
            assert_eq!(broken(status, &told), [""; 0], "{backlog}");
        }
    }

    #[test]
    fn what_was_published_without_an_answer_and_purged_may_have_been_there() {
        for (answer, backlog, broken_by) in [
            (None, 4, 0),
            (None, 5, 1),
            (Some(Answer::Unknown("outcome-unknown".into())), 4, 0),
            (Some(Answer::Refused("quota-exceeded".into())), 4, 1),
        ] {
            let mut told = three();
            told.publish("e4", answer);
            told.status("billing", backlog);
            told.line(What::Purged {
                partition: 0,
                first: 1,
                last: 4,
            });
            assert_eq!(broken(status, &told).len(), broken_by, "{backlog}");
        }
        let mut told = three();
        told.publish("e4", None);
        told.status("billing", 4);
        assert_eq!(broken(status, &told).len(), 1, "without a purge the log would hold it");
    }

    #[test]
    fn where_many_wait_they_may_be_counted_twice_and_no_oftener() {
        for (events, backlog, broken_by) in [(2_000, 4_000, 0), (2_000, 4_001, 1), (1_999, 2_000, 1)] {
            let mut told = Told::durable();
            for n in 1..=events {
                told.published(&format!("e{n}"), n);
            }
            told.status("billing", backlog);
            assert_eq!(broken(status, &told).len(), broken_by, "{backlog} of {events}");
        }
    }

    #[test]
    fn a_rewind_brings_back_what_was_settled_before_it() {
        for (backlog, broken_by) in [(3, 0), (4, 1)] {
            let mut told = three();
            let delivery = told.delivered("billing", "e1", 1, Some(Verdict::Ack));
            told.settled(delivery, Answer::Done(()));
            told.rewind("billing");
            told.status("billing", backlog);
            assert_eq!(broken(status, &told).len(), broken_by, "{backlog}");
        }
        let mut told = three();
        told.rewind("billing");
        let delivery = told.delivered("billing", "e1", 1, Some(Verdict::Ack));
        told.settled(delivery, Answer::Done(()));
        told.status("billing", 3);
        assert_eq!(broken(status, &told).len(), 1, "it was settled after the rewind");
    }
}
