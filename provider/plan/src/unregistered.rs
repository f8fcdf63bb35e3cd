//! Consumers whose subscription the registry does not show. What is not there was not ended: only a tombstone ends a
//! subscription, and only one that it had before the tombstone was written. What the registry has lost is read again from
//! the consumer; what can't be read there is left alone, and said.

use std::collections::BTreeMap;

use crate::planner::Observed;
use crate::subscription::Registered;
use crate::{Code, ConsumerName, Incarnation, Problem, SubscriptionId, SubscriptionName, Timestamp};

/// The mark of a subscription that was ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tombstone {
    /// Which of its name it ended; `None` where an older version or a person removed the entry.
    pub incarnation: Option<Incarnation>,
    /// When, nanoseconds since the Unix epoch.
    pub at: Timestamp,
    /// The caller or component whose it was, if that made it by a call: the name counts among those that it has used. `None`
    /// too where an older version ended it.
    pub caller: Option<String>,
}

impl Tombstone {
    /// Whether it ended a subscription that was made at that time, as far as that is known.
    pub fn ends(&self, incarnation: Incarnation, made_at: Option<Timestamp>) -> bool {
        match self.incarnation {
            Some(ended) => incarnation <= ended,
            None => made_at.is_none_or(|made_at| made_at <= self.at),
        }
    }
}

/// What a consumer says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// When the server made it, nanoseconds since the Unix epoch.
    pub at: Timestamp,
    /// Its subscription, if it says so.
    pub entry: Option<Box<Registered>>,
}

impl Observed {
    /// Finds out what became of known subscriptions that the registry does not list: only one that a tombstone speaks of was
    /// ended.
    pub fn find_missing(&mut self, known: &BTreeMap<SubscriptionName, Registered>) {
        for (name, registered) in known {
            let is_ended = self
                .ended
                .get(name)
                .is_some_and(|tombstone| tombstone.ends(registered.incarnation, Some(registered.made_at)));
            if !is_ended && !self.registry.contains_key(name) && !self.unreadable.contains_key(name) {
                self.lost.insert(name.clone(), registered.clone());
            }
        }
    }

    /// Finds consumers that no entry of the registry speaks of, and that no tombstone ended. Their subscriptions are lost
    /// ([`Observed::lost`]) where they can be read again, and else unreadable ([`Observed::unreadable`]).
    pub fn find_unregistered(&mut self) {
        let mut lost: BTreeMap<SubscriptionName, Registered> = BTreeMap::new();
        let mut unknown: BTreeMap<SubscriptionName, (u32, ConsumerName)> = BTreeMap::new();
        for (partition, consumer) in self.topology.consumers.keys() {
            let key = (*partition, consumer.clone());
            let Some((id, _)) = SubscriptionId::split(consumer) else {
                continue;
            };
            let known = self.unreadable.contains_key(&id.name) || self.lost.contains_key(&id.name);
            // One of an entry that is as new or newer was made, or ended, by what that entry says.
            let entered = self
                .registry
                .get(&id.name)
                .is_some_and(|r| id.incarnation <= r.incarnation);
            if known || entered || self.is_ended(&key, &id) {
                continue;
            }
            // An entry that is older came back from a backup: what it says is not of this consumer.
            let outdated = self.registry.contains_key(&id.name);
            let entry = self.made.get(&key).and_then(|made| made.entry.as_deref());
            match entry.filter(|r| !outdated && r.has_consumer(consumer)) {
                Some(entry) if lost.get(&id.name).is_none_or(|have| age(have) <= age(entry)) => {
                    lost.insert(id.name, entry.clone());
                }
                Some(_) => {}
                None => drop(unknown.insert(id.name, key)),
            }
        }
        for (name, (partition, consumer)) in unknown {
            if lost.contains_key(&name) {
                continue;
            }
            self.registry.remove(&name);
            let problem = Problem::new(
                Code::RegistrationLost,
                format!(
                    "subscription {name}: the registry has no entry of it that is as new as consumer {consumer} of partition {partition}, and nobody ended it: the consumer and its events are left as they are; put the registry back from a backup, or delete the consumer if nobody needs its events"
                ),
            );
            self.unreadable.insert(name, problem);
        }
        self.lost.extend(lost);
    }

    fn is_ended(&self, key: &(u32, ConsumerName), id: &SubscriptionId) -> bool {
        let made_at = self.made.get(key).map(|made| made.at);
        self.ended
            .get(&id.name)
            .is_some_and(|tombstone| tombstone.ends(id.incarnation, made_at))
    }
}

/// Of two entries of one name the greater is the newer one; of equals, that of the newer partition.
fn age(registered: &Registered) -> (Incarnation, u32, u32) {
    let joined = registered.rejoined.as_ref().map_or(0, |j| j.generation);
    (registered.incarnation, registered.generation(), joined)
}

#[cfg(test)]
mod tests;
