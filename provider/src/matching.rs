//! Judges events by filters without holding up what else runs.
//!
//! A pattern takes time that grows with the event and with its comparisons: of a large event and a long pattern, tens of
//! milliseconds. At most half of the processors judge such an event at one moment, aside from the tasks of the bus, however
//! many subscriptions and tails there are, and whoever made them.

use std::sync::LazyLock;

use fanout_plan::{Attributes, Filter};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

/// What is judged at once, in steps ([`Filter::steps`]): a few milliseconds.
const AT_ONCE: u64 = 1 << 20;

/// Half of the processors, at least one.
static LARGE: LazyLock<Semaphore> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Semaphore::new((processors / 2).max(1))
});

/// Whether an event matches. Waits its turn where that takes long; given up meanwhile, nothing was judged.
pub(crate) async fn matches(filter: &Filter, event: &Attributes, data: &[u8]) -> bool {
    if filter.steps(data.len()) <= AT_ONCE {
        return filter.matches(event, data);
    }
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
