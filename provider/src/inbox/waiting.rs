//! How many fetches may wait at once: of one caller, and of all.
//!
//! A fetch that waits holds nothing of the transport (`fanout_transport::wait_without_permits`), so this is what bounds it. Each
//! caller has a share, and one subscription has another, in [`super::Inbox`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Who waits at one instance.
#[derive(Clone, Debug)]
pub(crate) struct Waiting(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    of_one: usize,
    of_all: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    all: usize,
    of: HashMap<String, usize>,
}

/// A permit to wait; released on drop.
#[derive(Debug)]
pub(crate) struct Waits {
    inner: Arc<Inner>,
    caller: String,
}

impl Waiting {
    pub(crate) fn new(of_one: usize, of_all: usize) -> Self {
        Self(Arc::new(Inner {
            of_one,
            of_all,
            state: Mutex::default(),
        }))
    }

    /// How many fetches of one caller may wait.
    pub(crate) fn of_one(&self) -> usize {
        self.0.of_one
    }

    /// A place, unless this caller has all of its own, or all callers have all that there are.
    pub(crate) fn enter(&self, caller: &str) -> Option<Waits> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = state.of.get(caller).copied().unwrap_or_default();
        if mine >= self.0.of_one || state.all >= self.0.of_all {
            return None;
        }
        state.all += 1;
        state.of.insert(caller.to_owned(), mine + 1);
        Some(Waits {
            inner: Arc::clone(&self.0),
            caller: caller.to_owned(),
        })
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.all -= 1;
        if let Some(mine) = state.of.get_mut(&self.caller) {
            *mine -= 1;
            if *mine == 0 {
                state.of.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_a_share_and_nobody_is_remembered_who_does_not_wait() {
        let waiting = Waiting::new(2, 3);
        let one = [waiting.enter("one").unwrap(), waiting.enter("one").unwrap()];
        assert!(waiting.enter("one").is_none(), "its share");
        let two = waiting.enter("two").unwrap();
        assert!(waiting.enter("two").is_none(), "all that there are");
        drop(one);
        assert!(waiting.enter("one").is_some());
        drop(two);
        let state = waiting.0.state.lock().unwrap();
        assert!(state.of.is_empty() && state.all == 0, "{state:?}");
    }
}
