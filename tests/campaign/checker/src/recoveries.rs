//! How long the bus took to work again, fault by fault. The law of recovery and the report read the same figures.

use crate::Facts;
use crate::facts::Fault;
use crate::history::{Answer, Micros};

/// What came after a fault.
#[derive(Debug)]
pub struct Recovery<'f, 'h> {
    /// The fault.
    pub fault: &'f Fault<'h>,
    /// From its end to the first receipt of a call that was sent after it.
    pub publish: Option<Micros>,
    /// From its end to the first delivery after it.
    pub delivery: Option<Micros>,
    /// The bound of the policy.
    pub bound: Micros,
    /// Somebody published within the bound, no other fault is in the way, and the campaign went on for as long as that.
    pub is_judged: bool,
}

/// Of every fault that was healed.
#[must_use]
pub fn of<'f, 'h>(facts: &'f Facts<'h>) -> Vec<Recovery<'f, 'h>> {
    let last = last_moment(facts);
    let mut accepted: Vec<_> = facts
        .publishes
        .values()
        .filter_map(|call| {
            let (at, answers) = call.answered?;
            answers
                .iter()
                .any(|a| matches!(a, Answer::Done(_)))
                .then_some((call.sent, at))
        })
        .collect();
    accepted.sort_unstable();
    let faults = facts.faults.values();
    faults
        .filter_map(|fault| {
            let healed = fault.healed?;
            let bound = facts.policy_at(healed)?.recovery;
            let others = facts.faults.values().filter(|other| other.began != fault.began);
            let mut in_the_way =
                others.filter(|other| other.began < healed + bound && other.healed.is_none_or(|other| other > healed));
            let after = accepted.iter().filter(|(sent, _)| *sent >= healed);
            let deliveries = facts.deliveries.values().map(|d| d.at).filter(|at| *at >= healed);
            let mut sent = facts.publishes.values().map(|call| call.sent);
            let is_tried = sent.any(|sent| (healed..=healed + bound).contains(&sent));
            let goes_on = healed + bound <= facts.quiet.unwrap_or(last);
            Some(Recovery {
                fault,
                publish: after.map(|(_, at)| at - healed).min(),
                delivery: deliveries.map(|at| at - healed).min(),
                bound,
                is_judged: is_tried && goes_on && in_the_way.next().is_none(),
            })
        })
        .collect()
}

fn last_moment(facts: &Facts<'_>) -> Micros {
    let calls = facts
        .publishes
        .values()
        .map(|call| call.answered.map_or(call.sent, |(at, _)| at));
    calls
        .chain(facts.deliveries.values().map(|d| d.at))
        .chain(facts.statuses.iter().map(|(at, _)| *at))
        .max()
        .unwrap_or(0)
}
