//! Judges events by filters without holding up what else runs.
//!
//! A pattern takes time that grows with the event and with its comparisons: of a large event and a long pattern, tens of
//! milliseconds. At most half of the processors judge such an event at one moment, aside from the tasks of the bus, however
//! many subscriptions and tails there are. Each caller waits in that line once: whoever has a hundred subscriptions is served as
//! often as whoever has one.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use fanout_plan::{Attributes, Filter};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is judged at once, in steps ([`Filter::steps`]): a few milliseconds.
const AT_ONCE: u64 = 1 << 20;

/// Half of the processors, at least one. Who waits longest is next.
static LARGE: LazyLock<Semaphore> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Semaphore::new((processors / 2).max(1))
});

/// The place in the line of each caller that is in it.
static PLACES: LazyLock<Places> = LazyLock::new(Places::default);

#[derive(Default)]
struct Places(Mutex<HashMap<String, Weak<Semaphore>>>);

/// A caller's one place in the line, until it is dropped.
struct Place<'a> {
    all: &'a Places,
    of: &'a str,
    permit: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// Waits for the caller's place.
    async fn of<'a>(&'a self, caller: &'a str) -> Place<'a> {
        let place = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match all.get(caller).and_then(Weak::upgrade) {
                Some(place) => place,
                None => {
                    let place = Arc::new(Semaphore::new(1));
                    all.insert(caller.to_owned(), Arc::downgrade(&place));
                    place
                }
            }
        };
        // Before the wait: a wait that is given up is cleared away, too.
        let mut entered = Place {
            all: self,
            of: caller,
            permit: None,
        };
        // It is never closed.
        entered.permit = place.acquire_owned().await.ok();
        entered
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.permit = None;
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(self.of).is_some_and(|place| place.strong_count() == 0) {
            all.remove(self.of);
        }
    }
}

/// Whether an event matches a filter of `caller`. Waits its turn where that takes long; given up meanwhile, nothing was judged.
pub(crate) async fn matches(filter: &Filter, event: &Attributes, data: &[u8], caller: &str) -> bool {
    if filter.steps(data.len()) <= AT_ONCE {
        return filter.matches(event, data);
    }
    let _place = PLACES.of(caller).await;
    // It is never closed.
    let _one_of_few = LARGE.acquire().await;
    aside(|| filter.matches(event, data))
}

/// The same for a reader of the log, of which there are few, and which can't wait: what it has read would be lost. `steps` as
/// in [`Filter::steps`].
pub(crate) fn matches_now(steps: u64, judge: impl FnOnce() -> bool) -> bool {
    if steps <= AT_ONCE { judge() } else { aside(judge) }
}

/// Does something that takes long while the other tasks of this thread go on elsewhere.
fn aside(judge: impl FnOnce() -> bool) -> bool {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(judge),
        _ => judge(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_caller_has_one_place_in_the_line() {
        let places = Places::default();
        let first = places.of("a").await;
        let mut second = Box::pin(places.of("a"));
        assert!(second.as_mut().now_or_never().is_none(), "it is taken");
        let other = tokio::time::timeout(Duration::from_secs(1), places.of("b")).await;
        assert!(other.is_ok(), "another caller has its own");
        drop(first);
        drop(second.await);
        drop(other);
        assert!(
            places.0.lock().unwrap().is_empty(),
            "nobody is remembered who waits for nothing"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_given_up_leaves_nothing_behind() {
        let places = Places::default();
        let first = places.of("a").await;
        let given_up = tokio::time::timeout(Duration::from_millis(1), places.of("a")).await;
        assert!(given_up.is_err());
        drop(first);
        assert!(places.0.lock().unwrap().is_empty());
    }
}
