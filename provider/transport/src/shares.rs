//! Permits of something that all callers share, handed out so that no caller can have all of them.
//!
//! One caller holds at most [`Shares::most_of_one`], so there is always something left for another. Who waits is served
//! round robin by callers, not in the order of requests: one that requests a thousand times waits behind itself.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A caller, as shares are counted. The empty one is this process: it has no limit of its own.
pub(crate) type CallerKey = Arc<str>;

/// One part in eight is kept for others than the caller that has all the rest.
const KEPT_FOR_OTHERS: usize = 8;

/// `total` permits of something.
#[derive(Debug)]
pub(crate) struct Shares {
    total: usize,
    most_of_one: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    of: HashMap<CallerKey, CallerState>,
    /// Callers that wait, the next one first.
    round_robin: VecDeque<CallerKey>,
}

/// What one caller has, and who waits in its name.
#[derive(Debug, Default)]
struct CallerState {
    held: usize,
    waiting: VecDeque<(usize, oneshot::Sender<()>)>,
}

/// A part that is held; given back on drop.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    key: CallerKey,
    amount: usize,
}

impl Shares {
    /// One caller may have at most 7/8 of it.
    pub(crate) fn new(total: usize) -> Self {
        Self::with_most(total, total - total / KEPT_FOR_OTHERS)
    }

    /// One caller may have at most `most_of_one`.
    pub(crate) fn with_most(total: usize, most_of_one: usize) -> Self {
        Self {
            total,
            most_of_one: most_of_one.min(total),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        self.state().taken
    }

    fn most_of(&self, key: &CallerKey) -> usize {
        if key.is_empty() { self.total } else { self.most_of_one }
    }

    fn share(self: &Arc<Self>, key: &CallerKey, amount: usize) -> Share {
        Share {
            shares: Arc::clone(self),
            key: Arc::clone(key),
            amount,
        }
    }

    /// `amount` now, or nothing.
    pub(crate) fn try_take(self: &Arc<Self>, key: &CallerKey, amount: usize) -> Option<Share> {
        let most = self.most_of(key);
        let mut state = self.state();
        if amount > self.total - state.taken || state.held(key) + amount > most {
            return None;
        }
        state.grant(key, amount);
        Some(self.share(key, amount))
    }

    /// `amount` as soon as it is free and this caller is next. More than one caller may have never comes: bound the wait.
    pub(crate) async fn take(self: &Arc<Self>, key: &CallerKey, amount: usize) -> Share {
        let given = {
            let mut state = self.state();
            // Whoever waits does so because of its own limit, or for more than is free.
            if state.round_robin.is_empty() || !state.waits(key) {
                let fits = amount <= self.total - state.taken && state.held(key) + amount <= self.most_of(key);
                if fits
                    && state
                        .round_robin
                        .iter()
                        .all(|other| self.is_at_its_limit(&state, other))
                {
                    state.grant(key, amount);
                    return self.share(key, amount);
                }
            }
            let (give, given) = oneshot::channel();
            state.wait(key, amount, give);
            given
        };
        let mut waiting = Waiting {
            shares: self,
            key,
            amount,
            given: Some(given),
        };
        waiting.given().await;
        self.share(key, amount)
    }

    fn is_at_its_limit(&self, state: &State, key: &CallerKey) -> bool {
        let of = state.of.get(key);
        let next = of.and_then(|of| of.waiting.front().map(|(amount, _)| of.held + amount));
        next.is_none_or(|next| next > self.most_of(key))
    }

    fn release(&self, key: &CallerKey, amount: usize) {
        let mut state = self.state();
        state.release(key, amount);
        self.serve(&mut state);
    }

    /// Serves those who wait, round robin, with what is free.
    fn serve(&self, state: &mut State) {
        let mut passed_over = 0;
        while passed_over < state.round_robin.len() {
            let Some(key) = state.round_robin.pop_front() else {
                return;
            };
            let most = self.most_of(&key);
            let free = self.total - state.taken;
            let Some(of) = state.of.get_mut(&key) else { continue };
            // Who no longer waits is not served.
            while of.waiting.front().is_some_and(|(_, give)| give.is_closed()) {
                of.waiting.pop_front();
            }
            let Some(&(amount, _)) = of.waiting.front() else {
                state.forget(&key);
                continue;
            };
            if of.held + amount > most {
                state.round_robin.push_back(key);
                passed_over += 1;
                continue;
            }
            if amount > free {
                // Others that want less must not keep it waiting for ever.
                state.round_robin.push_front(key);
                return;
            }
            let next = of.waiting.pop_front();
            state.grant(&key, amount);
            if next.is_some_and(|(_, give)| give.send(()).is_err()) {
                state.release(&key, amount);
            }
            match state.waits(&key) {
                true => state.round_robin.push_back(key),
                // It may have waited for nothing, behind others.
                false => state.forget(&key),
            }
            passed_over = 0;
        }
    }
}

impl State {
    fn held(&self, key: &CallerKey) -> usize {
        self.of.get(key).map_or(0, |of| of.held)
    }

    fn waits(&self, key: &CallerKey) -> bool {
        self.of.get(key).is_some_and(|of| !of.waiting.is_empty())
    }

    fn of(&mut self, key: &CallerKey) -> &mut CallerState {
        self.of.entry(Arc::clone(key)).or_default()
    }

    fn grant(&mut self, key: &CallerKey, amount: usize) {
        // Who holds nothing is not remembered.
        if amount == 0 {
            return;
        }
        self.of(key).held += amount;
        self.taken += amount;
    }

    fn release(&mut self, key: &CallerKey, amount: usize) {
        self.of(key).held -= amount;
        self.taken -= amount;
        self.forget(key);
    }

    fn wait(&mut self, key: &CallerKey, amount: usize, give: oneshot::Sender<()>) {
        if !self.waits(key) {
            self.round_robin.push_back(Arc::clone(key));
        }
        self.of(key).waiting.push_back((amount, give));
    }

    /// Forgets a caller that has nothing and wants nothing.
    fn forget(&mut self, key: &CallerKey) {
        if self.of.get(key).is_some_and(|of| of.held == 0 && of.waiting.is_empty()) {
            self.of.remove(key);
            self.round_robin.retain(|other| other != key);
        }
    }
}

/// One that waits. What it is given while it is dropped goes to the next.
struct Waiting<'a> {
    shares: &'a Shares,
    key: &'a CallerKey,
    amount: usize,
    given: Option<oneshot::Receiver<()>>,
}

impl Waiting<'_> {
    async fn given(&mut self) {
        if let Some(given) = &mut self.given
            && given.await.is_ok()
        {
            self.given = None;
            return;
        }
        // Never: whoever gives is there for as long as this is.
        std::future::pending().await
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(mut given) = self.given.take() else { return };
        given.close();
        if given.try_recv().is_ok() {
            self.shares.release(self.key, self.amount);
            return;
        }
        // It may have been what others waited behind.
        drop(given);
        let mut state = self.shares.state();
        self.shares.serve(&mut state);
    }
}

impl Share {
    /// Adds another part of the same caller's, or gives it back.
    pub(crate) fn merge(&mut self, mut other: Self) -> Result<(), Self> {
        if !Arc::ptr_eq(&self.shares, &other.shares) || self.key != other.key {
            return Err(other);
        }
        self.amount += std::mem::take(&mut other.amount);
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.shares.release(&self.key, self.amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;
    use futures::poll;

    use super::*;

    fn key(name: &str) -> CallerKey {
        name.into()
    }

    #[test]
    fn no_caller_has_all_of_it() {
        let shares = Arc::new(Shares::new(16));
        let one: Vec<_> = std::iter::from_fn(|| shares.try_take(&key("one"), 1)).collect();
        assert_eq!(one.len(), 14);
        let two: Vec<_> = std::iter::from_fn(|| shares.try_take(&key("two"), 1)).collect();
        assert_eq!(two.len(), 2);
        drop((one, two));
        assert_eq!(shares.taken(), 0);
        assert!(shares.state().of.is_empty(), "nobody is remembered who holds nothing");
        assert!(shares.try_take(&key(""), 16).is_some(), "this process has no share");
    }

    #[tokio::test]
    async fn who_waited_for_nothing_is_forgotten() {
        let shares = Arc::new(Shares::new(1));
        let held = shares.take(&key("one"), 1).await;
        let (two, three) = (key("two"), key("three"));
        let (mut of_two, mut of_three) = (pin!(shares.take(&two, 1)), pin!(shares.take(&three, 0)));
        assert!(poll!(&mut of_two).is_pending());
        assert!(poll!(&mut of_three).is_pending(), "nor does that go before who waits");
        drop(held);
        drop(of_two.now_or_never().expect("it is next"));
        drop(of_three.now_or_never().expect("it is next"));
        assert!(shares.state().of.is_empty());
    }

    #[tokio::test]
    async fn who_waits_is_served_round_robin_by_callers() {
        let shares = Arc::new(Shares::new(1));
        let held = shares.take(&key("one"), 1).await;
        let (one, two) = (key("one"), key("two"));
        let mut of_one: Vec<_> = (0..100).map(|_| Box::pin(shares.take(&one, 1))).collect();
        for waiting in &mut of_one {
            assert!(poll!(waiting).is_pending());
        }
        let mut of_two = pin!(shares.take(&two, 1));
        assert!(poll!(&mut of_two).is_pending());
        drop(held);
        // The first of the first one, then the other caller, before its other ninety-nine.
        let first = of_one.remove(0).now_or_never().expect("it is next");
        drop(first);
        let second = of_two.now_or_never().expect("it is next");
        drop(of_one);
        drop(second);
        assert_eq!(shares.taken(), 0);
        assert!(shares.state().of.is_empty() && shares.state().round_robin.is_empty());
    }

    #[tokio::test]
    async fn one_at_its_limit_holds_up_nobody_else() {
        let shares = Arc::new(Shares::new(8));
        let (one, two) = (key("one"), key("two"));
        let held = shares.take(&one, 7).await;
        let mut more = pin!(shares.take(&one, 1));
        assert!(poll!(&mut more).is_pending(), "the eighth is kept for others");
        let theirs = shares.take(&two, 1).now_or_never().expect("it is free");
        drop(theirs);
        drop(held);
        assert!(more.now_or_never().is_some());
    }

    #[tokio::test]
    async fn what_is_given_to_one_that_left_goes_to_the_next() {
        let shares = Arc::new(Shares::new(1));
        let (one, two) = (key("one"), key("two"));
        let held = shares.take(&one, 1).await;
        let mut leaves = Box::pin(shares.take(&one, 1));
        let mut stays = Box::pin(shares.take(&two, 1));
        assert!(poll!(&mut leaves).is_pending() && poll!(&mut stays).is_pending());
        drop(held);
        drop(leaves);
        assert!(stays.now_or_never().is_some());
        assert_eq!(shares.taken(), 0);
    }

    #[tokio::test]
    async fn a_large_one_that_leaves_lets_those_behind_it_pass() {
        let shares = Arc::new(Shares::with_most(4, 4));
        let (one, two, three) = (key("one"), key("two"), key("three"));
        let _held = shares.take(&one, 2).await;
        let mut large = Box::pin(shares.take(&two, 3));
        let mut small = Box::pin(shares.take(&three, 1));
        assert!(poll!(&mut large).is_pending());
        assert!(poll!(&mut small).is_pending(), "it would keep the large one waiting");
        drop(large);
        assert!(small.now_or_never().is_some());
    }

    #[test]
    fn parts_of_one_caller_are_merged() {
        let shares = Arc::new(Shares::new(16));
        let mut one = shares.try_take(&key("one"), 3).expect("free");
        assert!(one.merge(shares.try_take(&key("one"), 4).expect("free")).is_ok());
        assert!(one.merge(shares.try_take(&key("two"), 1).expect("free")).is_err());
        assert_eq!(shares.taken(), 7);
        drop(one);
        drop(shares.try_take(&key("none"), 0).expect("nothing is always there"));
        assert_eq!(shares.taken(), 0);
        assert!(shares.state().of.is_empty());
    }
}
