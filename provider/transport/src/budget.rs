//! The allowance of bytes that all bodies of one lattice share.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::shares::{Key, Share, Shares};

/// Hands out room for bodies, see the memory bound of [`crate::Options`].
#[derive(Debug)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    total: usize,
    /// What each caller may have of it.
    of_callers: Arc<Shares>,
}

/// Room that is taken, of one allowance or of two, and of a caller's share; given back on drop.
#[derive(Debug, Default)]
pub(crate) struct Room(Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>, Vec<Share>);

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

    /// Room out of a caller's share, now or not at all.
    pub(crate) fn try_take_for(&self, caller: &Key, bytes: usize) -> Option<Room> {
        let share = self.of_callers.try_take(caller, bytes)?;
        Some(self.try_take(bytes)?.of(share))
    }

    /// Room out of a caller's share, as soon as it is that caller's turn.
    pub(crate) async fn take_for(&self, caller: &Key, bytes: usize) -> Room {
        let share = self.of_callers.take(caller, bytes).await;
        self.take(bytes).await.of(share)
    }

    /// Room now, or not at all.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Room> {
        if bytes == 0 {
            return Some(Room::default());
        }
        let bytes = u32::try_from(bytes).ok()?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(bytes).ok()?;
        Some(Room(Some(permit), None, Vec::new()))
    }

    /// Room as soon as there is some. More than the total never comes: the caller has to bound the wait.
    pub(crate) async fn take(&self, bytes: usize) -> Room {
        if bytes == 0 {
            return Room::default();
        }
        match u32::try_from(bytes) {
            Ok(bytes) => {
                let permit = Arc::clone(&self.free).acquire_many_owned(bytes).await.ok();
                Room(permit, None, Vec::new())
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

impl Room {
    /// Adds the room of another body, of the same allowances.
    pub(crate) fn merge(&mut self, other: Self) {
        merge(&mut self.0, other.0);
        merge(&mut self.1, other.1);
        'shares: for mut share in other.2 {
            for mine in &mut self.2 {
                match mine.merge(share) {
                    Ok(()) => continue 'shares,
                    Err(not_mine) => share = not_mine,
                }
            }
            self.2.push(share);
        }
    }

    fn of(mut self, share: Share) -> Self {
        self.2.push(share);
        self
    }

    /// Adds room of a second allowance for the same body.
    pub(crate) fn merge_other(&mut self, other: Self) {
        merge(&mut self.1, other.0);
    }

    /// What it takes of the first allowance.
    pub(crate) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Gives the room of the first allowance back, and takes that of another instead.
    pub(crate) fn replace_first(&mut self, other: Self) {
        self.0 = other.0;
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
    use super::*;

    #[tokio::test]
    async fn what_is_taken_comes_back() {
        let budget = Budget::new(10);
        let mut room = budget.try_take(6).expect("6 of 10");
        room.merge(budget.try_take(4).expect("4 of 4"));
        assert!(budget.try_take(1).is_none());
        assert_eq!(budget.taken(), 10);
        drop(room);
        assert_eq!(budget.taken(), 0);
        drop(budget.take(10).await);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn one_caller_leaves_something_to_the_next() {
        let budget = Budget::of_callers(80, 10);
        let one = Key::from("one");
        let mut room = budget.try_take_for(&one, 60).expect("its share");
        room.merge(budget.try_take_for(&one, 10).expect("its share"));
        assert!(budget.try_take_for(&one, 1).is_none());
        drop(budget.try_take_for(&Key::from("two"), 10).expect("what is left"));
        drop(room);
        assert!(budget.try_take_for(&one, 70).is_some(), "all of it came back");
        assert!(
            Budget::of_callers(10, 10).try_take_for(&one, 10).is_some(),
            "one body fits"
        );
    }
}
