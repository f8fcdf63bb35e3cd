//! Which verdicts are in the journal: a handle can be settled again and again, and each verdict on it is written down once.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};

use fanout_plan::journal::Outcome;

use crate::delivery::DeliveryHandle;

/// The most verdicts that are remembered, by 16 bytes each: of one subscription at one instance. Whoever has more handles than that in
/// hand, and settles them round and round, is written down once a round.
const MOST: usize = 8_192;

/// The last verdicts that were written down.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// Nobody chooses a handle that looks like another's.
    hasher: RandomState,
    order: VecDeque<u64>,
    seen: HashSet<u64>,
}

impl Noted {
    /// Whether a verdict on a delivery is the first such, as far as is remembered. Then it is remembered.
    pub(super) fn is_first(&mut self, handle: &DeliveryHandle, outcome: Outcome) -> bool {
        let dispatched = handle.dispatched.as_ref().map(|dispatched| dispatched.number);
        let verdict = (
            &handle.reply,
            handle.position,
            handle.attempt,
            dispatched,
            outcome.as_str(),
        );
        let verdict = self.hasher.hash_one(verdict);
        if !self.seen.insert(verdict) {
            return false;
        }
        self.order.push_back(verdict);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use fanout_plan::{Position, SubscriptionId, Timestamp};

    use super::*;

    fn handle(offset: u64) -> DeliveryHandle {
        DeliveryHandle {
            of: SubscriptionId {
                name: "invoicing".parse().unwrap(),
                incarnation: fanout_plan::Incarnation::default(),
            },
            position: Position::undivided(offset),
            attempt: 1,
            reply: format!("$JS.ACK.{offset}"),
            lease_until: Timestamp::EPOCH,
            redrive: None,
            redrive_lease: None,
            dispatched: None,
        }
    }

    #[test]
    fn a_verdict_on_a_delivery_is_noted_once_and_memory_has_a_bound() {
        let mut noted = Noted::default();
        assert!(noted.is_first(&handle(1), Outcome::Handled));
        assert!(!noted.is_first(&handle(1), Outcome::Handled));
        assert!(noted.is_first(&handle(1), Outcome::Missed), "another verdict");
        let again = DeliveryHandle {
            reply: "$JS.ACK.again".into(),
            ..handle(1)
        };
        assert!(
            noted.is_first(&again, Outcome::Handled),
            "another delivery of the event"
        );
        for offset in 2..=20_000 {
            assert!(noted.is_first(&handle(offset), Outcome::Handled));
        }
        assert!(!noted.is_first(&handle(20_000), Outcome::Handled));
        assert_eq!((noted.order.len(), noted.seen.len()), (MOST, MOST));
    }
}
