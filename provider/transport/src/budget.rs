//! The allowance of bytes that all bodies of one lattice connection, or of one listener, share.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::shares::{CallerKey, Share, Shares};

/// Hands out permits for bytes of bodies, see the memory bound of [`crate::Options`].
#[derive(Debug)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    total: usize,
    /// What each caller may have of it.
    of_callers: Arc<Shares>,
}

/// Permits to hold bytes, of one allowance or of two, and of a caller's share; given back on drop.
#[derive(Debug, Default)]
pub(crate) struct Permits {
    first: Option<OwnedSemaphorePermit>,
    /// Of another allowance, for the same bytes.
    second: Option<OwnedSemaphorePermit>,
    shares: Vec<Share>,
}

impl Budget {
    pub(crate) fn new(total: usize) -> Self {
        Self::with_most(total, total)
    }

    /// An allowance of which one caller has at most 7/8, and at least so much as one body may have.
    pub(crate) fn of_callers(total: usize, max_body_bytes: usize) -> Self {
        Self::with_most(total, (total - total / 8).max(max_body_bytes))
    }

    fn with_most(total: usize, most_of_one: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(total)),
            total,
            of_callers: Arc::new(Shares::with_most(total, most_of_one)),
        }
    }

    /// Permits out of a caller's share, now or not at all.
    pub(crate) fn try_take_for(&self, caller: &CallerKey, bytes: usize) -> Option<Permits> {
        let share = self.of_callers.try_take(caller, bytes)?;
        Some(self.try_take(bytes)?.of(share))
    }

    /// Permits out of a caller's share, as soon as the caller is served.
    pub(crate) async fn take_for(&self, caller: &CallerKey, bytes: usize) -> Permits {
        let share = self.of_callers.take(caller, bytes).await;
        self.take(bytes).await.of(share)
    }

    /// Permits now, or none at all.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Permits> {
        if bytes == 0 {
            return Some(Permits::default());
        }
        let bytes = u32::try_from(bytes).ok()?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(bytes).ok()?;
        Some(Permits::of_one(Some(permit)))
    }

    /// Permits as soon as they are free. More than the total never comes: the caller has to bound the wait.
    pub(crate) async fn take(&self, bytes: usize) -> Permits {
        if bytes == 0 {
            return Permits::default();
        }
        match u32::try_from(bytes) {
            Ok(bytes) => {
                let permit = Arc::clone(&self.free).acquire_many_owned(bytes).await.ok();
                Permits::of_one(permit)
            }
            Err(_) => std::future::pending().await,
        }
    }

    pub(crate) fn taken(&self) -> usize {
        self.total - self.free()
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }

    pub(crate) fn free(&self) -> usize {
        self.free.available_permits()
    }
}

impl Permits {
    fn of_one(first: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            first,
            ..Self::default()
        }
    }

    /// Adds the permits of another body, of the same allowances.
    pub(crate) fn merge(&mut self, other: Self) {
        merge(&mut self.first, other.first);
        merge(&mut self.second, other.second);
        'shares: for mut share in other.shares {
            for mine in &mut self.shares {
                match mine.merge(share) {
                    Ok(()) => continue 'shares,
                    Err(not_mine) => share = not_mine,
                }
            }
            self.shares.push(share);
        }
    }

    fn of(mut self, share: Share) -> Self {
        self.shares.push(share);
        self
    }

    /// Adds permits of a second allowance for the same body.
    pub(crate) fn merge_other(&mut self, other: Self) {
        merge(&mut self.second, other.first);
    }

    /// Bytes of the first allowance.
    pub(crate) fn bytes(&self) -> usize {
        self.first.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Gives the permits of the first allowance back, and takes that of another instead.
    pub(crate) fn replace_first(&mut self, other: Self) {
        self.first = other.first;
    }
}

fn merge(mine: &mut Option<OwnedSemaphorePermit>, theirs: Option<OwnedSemaphorePermit>) {
    match (mine, theirs) {
        (Some(mine), Some(theirs)) => mine.merge(theirs),
        (mine @ None, theirs) => *mine = theirs,
        (Some(_), None) => {}
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::interleaved::{Dice, given_up_after, interleave, let_go_first};

    #[tokio::test]
    async fn what_is_taken_comes_back() {
        let budget = Budget::new(10);
        let mut permits = budget.try_take(6).expect("6 of 10");
        permits.merge(budget.try_take(4).expect("4 of 4"));
        assert!(budget.try_take(1).is_none());
        assert_eq!(budget.taken(), 10);
        drop(permits);
        assert_eq!(budget.taken(), 0);
        drop(budget.take(10).await);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn one_caller_leaves_something_to_the_next() {
        let budget = Budget::of_callers(80, 10);
        let one = CallerKey::from("one");
        let mut permits = budget.try_take_for(&one, 60).expect("its share");
        permits.merge(budget.try_take_for(&one, 10).expect("its share"));
        assert!(budget.try_take_for(&one, 1).is_none());
        drop(budget.try_take_for(&CallerKey::from("two"), 10).expect("what is left"));
        drop(permits);
        assert!(budget.try_take_for(&one, 70).is_some(), "all of it came back");
        assert!(
            Budget::of_callers(10, 10).try_take_for(&one, 10).is_some(),
            "one body fits"
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 500, ..Default::default() })]

        #[test]
        fn in_every_order_no_byte_is_lost_and_nobody_waits_for_ever(seed in proptest::num::u64::ANY, total in 8..40_usize) {
            let budget = Budget::of_callers(total, total / 2);
            let task = |who: u64| {
                let budget = &budget;
                async move {
                    let mut dice = Dice::new(seed, who);
                    let caller = CallerKey::from(["one", "two", ""][dice.roll(3)]);
                    for _ in 0..6 {
                        let bytes = dice.roll(total / 2 + 1);
                        let permits = match dice.roll(4) {
                            0 => budget.try_take_for(&caller, bytes),
                            1 => given_up_after(dice.roll(5), budget.take_for(&caller, bytes)).await,
                            2 => Some(budget.take(bytes).await),
                            _ => Some(budget.take_for(&caller, bytes).await),
                        };
                        let Some(mut permits) = permits else { continue };
                        assert!(budget.taken() <= total && permits.bytes() == bytes);
                        // As a body grows: by what is free, never by what has to be waited for.
                        if let Some(more) = budget.try_take_for(&caller, dice.roll(4)) {
                            let more_bytes = more.bytes();
                            permits.merge(more);
                            assert_eq!(permits.bytes(), bytes + more_bytes);
                        }
                        let_go_first(dice.roll(5)).await;
                    }
                }
            };
            interleave(seed, (0..8).map(|who| task(who).boxed_local()).collect());
            assert_eq!(budget.taken(), 0);
            assert!(budget.of_callers.taken() == 0, "no share is left behind");
        }
    }
}
