//! The allowance of bytes that all bodies of one lattice share.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Hands out room for bodies, see the memory bound of [`crate::Options`].
#[derive(Debug)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    total: usize,
}

/// Room that is taken, of one allowance or of two; given back on drop.
#[derive(Debug, Default)]
pub(crate) struct Room(Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>);

impl Budget {
    pub(crate) fn new(total: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(total)),
            total,
        }
    }

    /// Room now, or not at all.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Room> {
        if bytes == 0 {
            return Some(Room::default());
        }
        let bytes = u32::try_from(bytes).ok()?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(bytes).ok()?;
        Some(Room(Some(permit), None))
    }

    /// Room as soon as there is some. More than the total never comes: the caller has to bound the wait.
    pub(crate) async fn take(&self, bytes: usize) -> Room {
        if bytes == 0 {
            return Room::default();
        }
        match u32::try_from(bytes) {
            Ok(bytes) => Room(Arc::clone(&self.free).acquire_many_owned(bytes).await.ok(), None),
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
}
