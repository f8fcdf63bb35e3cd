//! The history by event, call, delivery and subscription. Nothing is judged here.

use std::collections::{BTreeMap, BTreeSet};

use crate::History;
use crate::history::{
    Answer, Durability, Event, EventId, Micros, Ordering, Policy, Position, Receipt, Status, Subscription, Verdict,
    What,
};

/// The history, arranged.
#[derive(Debug, Default)]
pub struct Facts<'h> {
    /// The policies, each from its moment on; the first is that of the beginning.
    pub policies: Vec<(Micros, &'h Policy)>,
    /// When every instance went by the last policy that was told; of the first they do from the beginning.
    pub in_force: Vec<Micros>,
    /// The subscriptions, by name.
    pub subscriptions: BTreeMap<&'h str, Made<'h>>,
    /// Calls to publish.
    pub publishes: BTreeMap<u64, Publish<'h>>,
    /// Calls to schedule.
    pub schedules: BTreeMap<u64, Schedule<'h>>,
    /// Calls to cancel.
    pub cancels: BTreeMap<u64, Cancel<'h>>,
    /// Deliveries, by number: in the order in which they came.
    pub deliveries: BTreeMap<u64, Delivery<'h>>,
    /// What was meant by each id: the first event that any program sent under it, and when.
    pub meant: BTreeMap<&'h EventId, (Micros, &'h Event)>,
    /// What statuses told, with the moment of the answer.
    pub statuses: Vec<(Micros, &'h Status)>,
    /// Rewinds: the subscription, when it was asked for, and when it was answered.
    pub rewinds: Vec<(&'h str, Micros, Option<Micros>)>,
    /// When instances began or came back.
    pub instances_back: Vec<Micros>,
    /// The faults.
    pub faults: BTreeMap<u64, Fault<'h>>,
    /// What operators purged.
    pub purges: Vec<Purge>,
    /// When publishing and faults ended.
    pub quiet: Option<Micros>,
    /// What the log holds at the end, by event.
    pub stored: BTreeMap<&'h EventId, Vec<Stored<'h>>>,
    /// The dead letters at the end.
    pub letters: Vec<Letter<'h>>,
    /// What subscriptions said that they lost.
    pub gaps: Vec<Gap<'h>>,
    /// How much is not settled at the end, by subscription.
    pub left: BTreeMap<&'h str, u64>,
}

/// A subscription, and when it was made and ended.
#[derive(Debug)]
pub struct Made<'h> {
    /// As it was asked for.
    pub wanted: &'h Subscription,
    /// When it was asked for first.
    pub asked: Micros,
    /// When it was answered that it is made.
    pub since: Option<Micros>,
    /// When its end was asked for.
    pub ending: Option<Micros>,
    /// When it was answered that it is ended.
    pub ended: Option<Micros>,
}

/// A stretch of time in which every instance keeps one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// What is kept in order.
    pub ordering: Ordering,
    /// From when on.
    pub from: Micros,
    /// Until when; absent for the end of the history.
    pub until: Option<Micros>,
}

/// A call to publish.
#[derive(Debug)]
pub struct Publish<'h> {
    /// When it was sent.
    pub sent: Micros,
    /// Its events.
    pub events: &'h [Event],
    /// All or none.
    pub together: bool,
    /// When it was answered, and what: absent for a call without an answer.
    pub answered: Option<(Micros, &'h [Answer<Receipt>])>,
}

/// A call to schedule.
#[derive(Debug)]
pub struct Schedule<'h> {
    /// When it was sent.
    pub sent: Micros,
    /// The event.
    pub event: &'h Event,
    /// When it is due.
    pub due: Micros,
    /// What was answered, and when.
    pub answered: Option<(Micros, &'h Answer<()>)>,
}

/// A call to cancel.
#[derive(Debug)]
pub struct Cancel<'h> {
    /// When it was sent.
    pub sent: Micros,
    /// The event.
    pub event: &'h EventId,
    /// What was answered, and when.
    pub answered: Option<(Micros, &'h Answer<bool>)>,
}

/// A delivery and its settlement.
#[derive(Debug)]
pub struct Delivery<'h> {
    /// When it came.
    pub at: Micros,
    /// For which subscription.
    pub subscription: &'h str,
    /// To which caller.
    pub caller: &'h str,
    /// The event.
    pub event: &'h Event,
    /// Where it stands.
    pub position: Position,
    /// The attempt.
    pub attempt: u32,
    /// When it was settled, and how; absent for one whose program settled nothing.
    pub settled: Option<(Micros, &'h Verdict)>,
    /// What that was answered, and when.
    pub answered: Option<(Micros, &'h Answer<()>)>,
}

/// A fault.
#[derive(Debug)]
pub struct Fault<'h> {
    /// Its kind.
    pub kind: &'h str,
    /// What it was done to.
    pub on: &'h str,
    /// When it began.
    pub began: Micros,
    /// What was settled before it healed may come again.
    pub redelivers: bool,
    /// Since when a majority of the copies had not synced what they lost.
    pub unsynced_since: Option<Micros>,
    /// It was seen to do what it is meant to.
    pub seen: bool,
    /// When what it broke was mended.
    pub healed: Option<Micros>,
}

/// What an operator purged.
#[derive(Clone, Copy, Debug)]
pub struct Purge {
    /// When.
    pub at: Micros,
    /// The partition.
    pub partition: u32,
    /// The first position.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// An event in the log.
#[derive(Debug)]
pub struct Stored<'h> {
    /// The event.
    pub event: &'h Event,
    /// Where.
    pub position: Position,
    /// When.
    pub stored: Micros,
}

/// A dead letter.
#[derive(Debug)]
pub struct Letter<'h> {
    /// Its subscription.
    pub subscription: &'h str,
    /// Its event.
    pub event: &'h Event,
    /// Where the event stood.
    pub position: Position,
    /// Attempts.
    pub attempts: u32,
    /// Reasons.
    pub reasons: &'h [String],
}

/// Events that a subscription says it lost.
#[derive(Debug)]
pub struct Gap<'h> {
    /// The subscription.
    pub subscription: &'h str,
    /// The partition.
    pub partition: u32,
    /// The first position.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// How many of its events.
    pub count: u64,
    /// Whether that is all.
    pub exact: bool,
}

/// An event that is owed to subscriptions: one with a receipt, or one that the log holds at the end.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'h> {
    /// The event, as it was meant.
    pub event: &'h Event,
    /// Where it stands.
    pub position: Position,
    /// When it was first sent.
    pub sent: Micros,
    /// When its first receipt came; absent for one that nobody has a receipt for.
    pub receipt: Option<Micros>,
}

impl<'h> Facts<'h> {
    /// Arranges a history.
    #[must_use]
    pub fn of(history: &'h History) -> Self {
        let mut facts = Self::default();
        for line in &history.0 {
            facts.add(line.at, &line.what);
        }
        facts
    }

    fn add(&mut self, at: Micros, what: &'h What) {
        match what {
            What::Policy(policy) => self.policies.push((at, policy)),
            What::InForce => self.in_force.push(at),
            What::Subscribe(wanted) => {
                let made = Made {
                    wanted,
                    asked: at,
                    since: None,
                    ending: None,
                    ended: None,
                };
                self.subscriptions.entry(&wanted.subscription).or_insert(made);
            }
            What::Subscribed { subscription } => {
                if let Some(made) = self.subscriptions.get_mut(subscription.as_str()) {
                    made.since.get_or_insert(at);
                }
            }
            What::Unsubscribe { subscription } => {
                if let Some(made) = self.subscriptions.get_mut(subscription.as_str()) {
                    made.ending.get_or_insert(at);
                }
            }
            What::Unsubscribed { subscription } => {
                if let Some(made) = self.subscriptions.get_mut(subscription.as_str()) {
                    made.ended.get_or_insert(at);
                }
            }
            What::Publish { call, events, together } => {
                for event in events {
                    self.meant.entry(&event.id).or_insert((at, event));
                }
                let (sent, together) = (at, *together);
                self.publishes.insert(
                    *call,
                    Publish {
                        sent,
                        events,
                        together,
                        answered: None,
                    },
                );
            }
            What::Published { call, answers } => {
                if let Some(publish) = self.publishes.get_mut(call) {
                    publish.answered = Some((at, answers));
                }
            }
            What::Schedule { call, event, due } => {
                self.meant.entry(&event.id).or_insert((at, event));
                self.schedules.insert(
                    *call,
                    Schedule {
                        sent: at,
                        event,
                        due: *due,
                        answered: None,
                    },
                );
            }
            What::Scheduled { call, answer } => {
                if let Some(schedule) = self.schedules.get_mut(call) {
                    schedule.answered = Some((at, answer));
                }
            }
            What::Cancel { call, event } => {
                self.cancels.insert(
                    *call,
                    Cancel {
                        sent: at,
                        event,
                        answered: None,
                    },
                );
            }
            What::Cancelled { call, answer } => {
                if let Some(cancel) = self.cancels.get_mut(call) {
                    cancel.answered = Some((at, answer));
                }
            }
            What::Delivered {
                delivery,
                subscription,
                caller,
                event,
                position,
                attempt,
            } => {
                let (position, attempt) = (*position, *attempt);
                let came = Delivery {
                    at,
                    subscription,
                    caller,
                    event,
                    position,
                    attempt,
                    settled: None,
                    answered: None,
                };
                self.deliveries.insert(*delivery, came);
            }
            What::Settle { delivery, verdict } => {
                if let Some(delivery) = self.deliveries.get_mut(delivery) {
                    delivery.settled = Some((at, verdict));
                }
            }
            What::Settled { delivery, answer } => {
                if let Some(delivery) = self.deliveries.get_mut(delivery) {
                    delivery.answered = Some((at, answer));
                }
            }
            What::Rewind { subscription } => self.rewinds.push((subscription, at, None)),
            What::Operation { name, on, .. } if name == "rewind" => {
                let asked = self.rewinds.iter_mut().rev().find(|(of, ..)| of == on);
                if let Some((.., answered)) = asked {
                    answered.get_or_insert(at);
                }
            }
            What::Operation { .. } => {}
            What::InstanceBack { .. } => self.instances_back.push(at),
            What::Status(status) => self.statuses.push((at, status)),
            What::Fault {
                fault,
                kind,
                on,
                redelivers,
                unsynced_since,
            } => {
                let (redelivers, unsynced_since) = (*redelivers, *unsynced_since);
                let began = Fault {
                    kind,
                    on,
                    began: at,
                    redelivers,
                    unsynced_since,
                    seen: false,
                    healed: None,
                };
                self.faults.insert(*fault, began);
            }
            What::Seen { fault } => {
                if let Some(fault) = self.faults.get_mut(fault) {
                    fault.seen = true;
                }
            }
            What::Healed { fault } => {
                if let Some(fault) = self.faults.get_mut(fault) {
                    fault.healed = Some(at);
                }
            }
            &What::Purged { partition, first, last } => self.purges.push(Purge {
                at,
                partition,
                first,
                last,
            }),
            What::Quiet => drop(self.quiet.get_or_insert(at)),
            What::Stored {
                event,
                position,
                stored,
            } => {
                let found = Stored {
                    event,
                    position: *position,
                    stored: *stored,
                };
                self.stored.entry(&event.id).or_default().push(found);
            }
            What::Letter {
                subscription,
                event,
                position,
                attempts,
                reasons,
            } => {
                let (position, attempts) = (*position, *attempts);
                self.letters.push(Letter {
                    subscription,
                    event,
                    position,
                    attempts,
                    reasons,
                });
            }
            What::Gap {
                subscription,
                partition,
                first,
                last,
                count,
                exact,
            } => {
                let (partition, first, last, count, exact) = (*partition, *first, *last, *count, *exact);
                self.gaps.push(Gap {
                    subscription,
                    partition,
                    first,
                    last,
                    count,
                    exact,
                });
            }
            What::Left { subscription, backlog } => drop(self.left.insert(subscription, *backlog)),
        }
    }

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

impl Made<'_> {
    /// Whether its filter matches an event.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        let (tenants, types) = (&self.wanted.tenants, &self.wanted.event_types);
        (tenants.is_empty() || tenants.contains(&event.id.tenant))
            && (types.is_empty() || types.contains(&event.event_type))
    }
}
