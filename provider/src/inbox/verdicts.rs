//! The verdicts on one delivery: they are acted on one after another, and the first that settles it stands.
//!
//! The guarantee is one instance's. What is remembered here no other instance knows: there, a second verdict of another kind is judged
//! by what the store remembers of the event's attempts.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::delivery::DeliveryHandle;

/// The most deliveries of one subscription of which an instance remembers how they ended, by some 32 bytes each.
const MOST: usize = 8_192;

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was handled.
    Handled,
    /// It was refused.
    Refused,
    /// Its fetcher released it: the event comes again, and may be in other hands.
    Released,
}

/// The last deliveries that were settled, and those that are being settled.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    /// Nobody chooses a handle that looks like another's.
    hasher: RandomState,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    order: VecDeque<u64>,
    ended: HashMap<u64, Ended>,
    under_way: HashMap<u64, Arc<tokio::sync::Mutex<()>>>,
}

impl Verdicts {
    /// Waits until the verdicts on a delivery that came before are acted on.
    pub(super) async fn turn(&self, handle: &DeliveryHandle) -> Turn<'_> {
        let delivery = self.hasher.hash_one(handle.delivery());
        let lock = Arc::clone(self.known().under_way.entry(delivery).or_default());
        // It is there while it waits, so that it leaves nothing behind when it is given up.
        let mut turn = Turn {
            verdicts: self,
            delivery,
            lock: Arc::clone(&lock),
            held: None,
        };
        turn.held = Some(lock.lock_owned().await);
        turn
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turn of one verdict.
pub(super) struct Turn<'a> {
    verdicts: &'a Verdicts,
    delivery: u64,
    lock: Arc<tokio::sync::Mutex<()>>,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turn<'_> {
    /// How the delivery ended before, as far as is remembered.
    pub(super) fn ended(&self) -> Option<Ended> {
        self.verdicts.known().ended.get(&self.delivery).copied()
    }

    /// Remembers how it ended.
    pub(super) fn ends(&self, how: Ended) {
        let mut known = self.verdicts.known();
        if known.ended.insert(self.delivery, how).is_some() {
            return;
        }
        known.order.push_back(self.delivery);
        if known.order.len() > MOST
            && let Some(oldest) = known.order.pop_front()
        {
            known.ended.remove(&oldest);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut known = self.verdicts.known();
        self.held = None;
        // The map's and this one: nobody else waits.
        if Arc::strong_count(&self.lock) == 2 {
            known.under_way.remove(&self.delivery);
        }
    }
}

#[cfg(test)]
mod tests {
    use fanout_plan::{Position, SubscriptionId, Timestamp};
    use futures::FutureExt as _;

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

    #[tokio::test]
    async fn a_verdict_waits_for_those_before_it_and_knows_how_they_ended_it() {
        let verdicts = Verdicts::default();
        let first = verdicts.turn(&handle(1)).await;
        assert_eq!(first.ended(), None);
        // Its lease was renewed meanwhile, and it is the same delivery.
        let renewed = DeliveryHandle {
            lease_until: Timestamp::EPOCH + std::time::Duration::from_secs(1),
            ..handle(1)
        };
        let mut second = Box::pin(verdicts.turn(&renewed));
        let mut given_up = Box::pin(verdicts.turn(&renewed));
        assert!((&mut second).now_or_never().is_none(), "it waits");
        assert!((&mut given_up).now_or_never().is_none(), "so does this one");
        let other = verdicts.turn(&handle(2)).now_or_never();
        assert_eq!(other.expect("another delivery waits for nobody").ended(), None);
        first.ends(Ended::Released);
        drop(first);
        let second = second.await;
        assert_eq!(second.ended(), Some(Ended::Released));
        second.ends(Ended::Handled);
        drop(second);
        drop(given_up);
        assert!(verdicts.known().under_way.is_empty(), "nothing is left behind");
        assert_eq!(verdicts.turn(&handle(1)).await.ended(), Some(Ended::Handled));
    }

    #[tokio::test]
    async fn what_is_remembered_has_a_bound() {
        let verdicts = Verdicts::default();
        for offset in 1..=20_000 {
            verdicts.turn(&handle(offset)).await.ends(Ended::Handled);
        }
        assert_eq!(verdicts.turn(&handle(20_000)).await.ended(), Some(Ended::Handled));
        let known = verdicts.known();
        assert_eq!((known.order.len(), known.ended.len()), (MOST, MOST));
    }
}
