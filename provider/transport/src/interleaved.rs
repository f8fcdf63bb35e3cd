//! For tests: tasks that are polled in an order which a seed decides, each only once it was woken, so that a wake-up which
//! is lost shows as a test that stands still.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::LocalBoxFuture;

/// Polls of all tasks together, at most.
const MOST_POLLS: usize = 100_000;

/// Xorshift: repeatable, and good enough to choose an order.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Of a seed, and of one of those who roll by it.
    pub(crate) fn new(seed: u64, who: u64) -> Self {
        let mut dice = Self((seed ^ who.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
        // Seeds that are close together differ from here on.
        for _ in 0..8 {
            dice.roll(2);
        }
        dice
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(usize::MAX) % sides
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs tasks to their ends, in the order of a seed.
///
/// # Panics
/// If nobody is woken any more, and not all have ended.
pub(crate) fn interleave(seed: u64, tasks: Vec<LocalBoxFuture<'_, ()>>) {
    let mut dice = Dice::new(seed, u64::MAX);
    let mut tasks: Vec<_> = tasks
        .into_iter()
        .map(|task| (task, Arc::new(Woken(AtomicBool::new(true)))))
        .collect();
    for _ in 0..MOST_POLLS {
        if tasks.is_empty() {
            return;
        }
        let woken: Vec<_> = (0..tasks.len())
            .filter(|i| tasks[*i].1.0.load(Ordering::Relaxed))
            .collect();
        assert!(!woken.is_empty(), "{} tasks wait, and nobody is woken", tasks.len());
        let next = woken[dice.roll(woken.len())];
        let (task, woken) = &mut tasks[next];
        woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(woken));
        if task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            drop(tasks.swap_remove(next));
        }
    }
    panic!("{} tasks do not end", tasks.len());
}

/// Lets others go first, this many times.
pub(crate) async fn let_go_first(times: usize) {
    for _ in 0..times {
        let mut has_yielded = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut has_yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

/// A future that is given up, and dropped, after this many polls.
pub(crate) async fn given_up_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future: Pin<Box<F>> = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        // It is looked at again whether or not it is woken.
        cx.waker().wake_by_ref();
        future.as_mut().poll(cx).map(Some)
    })
    .await
}
