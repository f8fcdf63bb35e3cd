//! A line of the history goes to what it is a fact of.

use super::{Cancel, Delivery, Facts, Fault, Gap, Letter, Made, Publish, Purge, Schedule, Stored};
use crate::history::{Micros, What};

impl<'h> Facts<'h> {
    pub(super) fn add(&mut self, at: Micros, what: &'h What) {
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
}
