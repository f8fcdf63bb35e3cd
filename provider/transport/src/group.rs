//! Invocations that came at the same moment, as one task.
//!
//! What came together waits together: a handler's answers from elsewhere arrive in one read, too. With a task for each, the
//! first that is woken wakes another thread of the runtime, which finds little to do and stops again; that costs more than
//! what a small invocation does itself. At most [`MOST`] are one task, so that the others have the other threads.

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};

/// Invocations in one task.
const MOST: usize = 16;
/// An invocation of no more bytes is begun by the task that takes it: what many callers send at the same time is then sent
/// on at the same time. A larger one is a task of its own.
const SMALL_BYTES: usize = 16 << 10;

/// What becomes a task.
#[derive(Debug, Default)]
pub(crate) struct Group(FuturesUnordered<BoxFuture<'static, ()>>);

impl Group {
    /// Begins an invocation of `bytes` bytes. What has to wait goes into the group, and `spawn` is given a task that is
    /// complete.
    pub(crate) fn begin(
        &mut self,
        mut invocation: BoxFuture<'static, ()>,
        bytes: usize,
        spawn: impl FnOnce(BoxFuture<'static, ()>),
    ) {
        if bytes > SMALL_BYTES {
            return spawn(invocation);
        }
        if invocation.as_mut().now_or_never().is_some() {
            return;
        }
        self.0.push(invocation);
        if self.0.len() == MOST {
            self.end(spawn);
        }
    }

    /// Gives `spawn` the task of those that are left.
    pub(crate) fn end(&mut self, spawn: impl FnOnce(BoxFuture<'static, ()>)) {
        let mut waiting = std::mem::take(&mut self.0);
        if !waiting.is_empty() {
            spawn(Box::pin(async move { while waiting.next().await.is_some() {} }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::{pending, ready};

    use super::*;

    /// The tasks that a group became.
    #[derive(Default)]
    struct Tasks(RefCell<Vec<BoxFuture<'static, ()>>>);

    impl Tasks {
        fn spawn(&self) -> impl FnOnce(BoxFuture<'static, ()>) + '_ {
            |task| self.0.borrow_mut().push(task)
        }

        fn len(&self) -> usize {
            self.0.borrow().len()
        }
    }

    #[test]
    fn what_is_done_at_once_is_no_task() {
        let (tasks, mut group) = (Tasks::default(), Group::default());
        group.begin(Box::pin(ready(())), 0, tasks.spawn());
        group.end(tasks.spawn());
        assert_eq!(tasks.len(), 0);
    }

    #[test]
    fn what_waits_is_one_task_until_it_is_full() {
        let (tasks, mut group) = (Tasks::default(), Group::default());
        for n in 1..=MOST + 1 {
            group.begin(Box::pin(pending()), SMALL_BYTES, tasks.spawn());
            assert_eq!(tasks.len(), n / MOST);
        }
        group.end(tasks.spawn());
        assert_eq!(tasks.len(), 2);
        group.end(tasks.spawn());
        assert_eq!(tasks.len(), 2, "an empty group is no task");
    }

    #[test]
    fn a_large_one_is_a_task_of_its_own_and_not_begun_here() {
        let (tasks, mut group) = (Tasks::default(), Group::default());
        let begun = async { unreachable!("it is begun by its own task") };
        group.begin(Box::pin(begun), SMALL_BYTES + 1, tasks.spawn());
        assert_eq!(tasks.len(), 1);
    }

    #[tokio::test]
    async fn one_that_waits_holds_up_none_of_its_group() {
        let (tasks, mut group) = (Tasks::default(), Group::default());
        let (done, mut is_done) = tokio::sync::oneshot::channel();
        group.begin(Box::pin(pending()), 0, tasks.spawn());
        group.begin(
            Box::pin(async {
                tokio::task::yield_now().await;
                done.send(()).expect("somebody waits");
            }),
            0,
            tasks.spawn(),
        );
        group.end(tasks.spawn());
        let task = tasks.0.into_inner().pop().expect("a task");
        tokio::select! {
            () = task => panic!("one of them never ends"),
            done = &mut is_done => done.expect("it ended"),
        }
    }
}
