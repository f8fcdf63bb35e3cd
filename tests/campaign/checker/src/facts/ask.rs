//! What laws ask of the facts.

use std::collections::{BTreeMap, BTreeSet};

use super::{Accepted, Delivery, Facts, Ordered};
use crate::history::{Answer, Durability, Event, EventId, Micros, Ordering, Policy, Position, Receipt};

impl<'h> Facts<'h> {
    /// Every receipt: the event, the call's sending and answer, and what it says.
    pub fn receipts(&self) -> impl Iterator<Item = (&'h Event, Micros, Micros, Receipt)> {
        self.publishes.values().flat_map(|call| {
            let (at, answers) = call.answered.unwrap_or_default();
            let pairs = call.events.iter().zip(answers);
            pairs.filter_map(move |(event, answer)| Some((event, call.sent, at, *answer.done()?)))
        })
    }

    /// Every event that is owed to the subscriptions that match it, once.
    #[must_use]
    pub fn accepted(&self) -> Vec<Accepted<'h>> {
        let mut accepted: BTreeMap<&EventId, Accepted<'h>> = BTreeMap::new();
        for (event, _, at, receipt) in self.receipts() {
            let Some((sent, meant)) = self.meant.get(&event.id) else {
                continue;
            };
            let first = Accepted {
                event: meant,
                position: receipt.position,
                sent: *sent,
                receipt: Some(at),
            };
            let known = accepted.entry(&event.id).or_insert(first);
            known.receipt = known.receipt.min(Some(at));
        }
        for (id, found) in &self.stored {
            // What nobody sent is the law of isolation's.
            if let (Some((sent, event)), [first, ..]) = (self.meant.get(id), found.as_slice()) {
                let stored = Accepted {
                    event,
                    position: first.position,
                    sent: *sent,
                    receipt: None,
                };
                accepted.entry(id).or_insert(stored);
            }
        }
        accepted.into_values().collect()
    }

    /// The events that one call at least may have stored: it was not refused.
    #[must_use]
    pub fn may_be_stored(&self) -> BTreeSet<&'h EventId> {
        let published = self.publishes.values().flat_map(|call| {
            let answers = call.answered.map_or(&[][..], |(_, answers)| answers);
            let all = call.events.iter().enumerate();
            let not_refused = all.filter(|(i, _)| !matches!(answers.get(*i), Some(Answer::Refused(_))));
            not_refused.map(|(_, event)| &event.id)
        });
        let scheduled = self.schedules.values();
        let scheduled = scheduled.filter(|call| !matches!(call.answered, Some((_, Answer::Refused(_)))));
        published.chain(scheduled.map(|call| &call.event.id)).collect()
    }

    /// The events that may have been in the log, with nothing to show it: no receipt, and an operator purged the log after
    /// they were sent.
    #[must_use]
    pub fn purged_unseen(&self) -> Vec<(Micros, &'h Event)> {
        let Some(last) = self.purges.iter().map(|purge| purge.at).max() else {
            return Vec::new();
        };
        let accepted: BTreeSet<_> = self.accepted().into_iter().map(|known| &known.event.id).collect();
        let possible = self.may_be_stored().into_iter().filter(|id| !accepted.contains(id));
        let meant = possible.filter_map(|id| self.meant.get(id).copied());
        meant.filter(|(sent, _)| *sent <= last).collect()
    }

    /// The deliveries of one event for one subscription.
    #[must_use]
    pub fn deliveries_by_event(&self) -> BTreeMap<(&'h str, &'h EventId), Vec<&Delivery<'h>>> {
        let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for delivery in self.deliveries.values() {
            let whose = (delivery.subscription, &delivery.event.id);
            found.entry(whose).or_default().push(delivery);
        }
        found
    }

    /// The events that are dead letters of a subscription.
    #[must_use]
    pub fn dead(&self, subscription: &str) -> BTreeSet<&'h EventId> {
        let letters = self.letters.iter().filter(|l| l.subscription == subscription);
        letters.map(|letter| &letter.event.id).collect()
    }

    /// Whether an operator purged a position.
    #[must_use]
    pub fn is_purged(&self, position: Position) -> bool {
        let Position(partition, offset) = position;
        let mut purges = self.purges.iter();
        purges.any(|p| p.partition == partition && (p.first..=p.last).contains(&offset))
    }

    /// Whether what was settled at a moment may have come back by another: by a rewind, or because a server forgot it.
    #[must_use]
    pub fn may_come_again(&self, subscription: &str, settled: Micros, by: Micros) -> bool {
        let rewinds = self.rewinds.iter().filter(|(of, ..)| *of == subscription);
        let rewinds = rewinds.map(|(_, asked, answered)| (*asked, *answered));
        let faults = self.faults.values().filter(|fault| fault.redelivers);
        let mut all = rewinds.chain(faults.map(|fault| (fault.began, fault.healed)));
        all.any(|(began, ended)| began <= by && ended.is_none_or(|ended| settled <= ended))
    }

    /// Faults of power that took from most copies what they had not synced, where the policy does not promise more: from
    /// when on, and when.
    pub fn power_losses(&self) -> impl Iterator<Item = (Micros, Micros)> {
        let faults = self.faults.values();
        faults.filter_map(|fault| {
            let since = fault.unsynced_since?;
            (self.policy_at(fault.began)?.durability == Durability::Acknowledged).then_some((since, fault.began))
        })
    }

    /// Whether the policy lets a power loss take what was done between two moments.
    #[must_use]
    pub fn may_be_lost_with_power(&self, from: Micros, to: Micros) -> bool {
        self.power_losses().any(|(since, at)| from <= at && to >= since)
    }

    /// The policy of a moment.
    #[must_use]
    pub fn policy_at(&self, at: Micros) -> Option<&'h Policy> {
        let known = self.policies.iter().rev().find(|(since, _)| *since <= at);
        known.or(self.policies.first()).map(|(_, policy)| *policy)
    }

    /// The stretches of time in which there is an order. One begins with the history, or once every instance goes by a
    /// policy with another order than the last; it ends when a policy with another order is told.
    #[must_use]
    pub fn ordered(&self) -> Vec<Ordered> {
        let mut stretches: Vec<Ordered> = Vec::new();
        let mut last = None;
        for (i, (told, policy)) in self.policies.iter().enumerate() {
            let next = self.policies.get(i + 1).map(|(at, _)| *at);
            let is_on = stretches.last().is_some_and(|stretch| stretch.until.is_none());
            let is_other = last
                .replace(policy.ordering)
                .is_some_and(|last| last != policy.ordering);
            if is_other && let Some(stretch) = stretches.last_mut() {
                stretch.until.get_or_insert(*told);
            }
            if policy.ordering == Ordering::None || (is_on && !is_other) {
                continue;
            }
            let is_its = |at: &&Micros| **at >= *told && next.is_none_or(|next| **at < next);
            let from = match i {
                0 => Some(*told),
                _ => self.in_force.iter().find(is_its).copied(),
            };
            stretches.extend(from.map(|from| Ordered {
                ordering: policy.ordering,
                from,
                until: None,
            }));
        }
        stretches
    }
}
