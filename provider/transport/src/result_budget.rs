//! Bytes of results: what they take of their callers' shares, and what a handler reserves before it makes one.
//!
//! Deliberately absent: the allowances. A session, a stock stream and a lattice connection each take from their own.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::budget::Permits;
use crate::shares::CallerKey;

/// Where the results of some invocations take their permits.
pub(crate) trait ResultBudget: Send + Sync + 'static {
    /// Permits for a result of `bytes`, as soon as this caller's share and everybody's have them. The caller of `take` bounds
    /// the wait.
    fn take(&self, caller: &CallerKey, bytes: usize) -> impl Future<Output = ResultPermits> + Send;
}

/// The permits of one result, of every allowance that it counts against; given back on drop.
#[derive(Debug, Default)]
pub(crate) struct ResultPermits {
    pub(crate) _of_all: Permits,
    pub(crate) _of_session: Permits,
}

/// A [`ResultBudget`] of any type.
pub(crate) trait Reserve: Send + Sync {
    fn reserve(self: Arc<Self>, caller: CallerKey, bytes: usize) -> BoxFuture<'static, Reserved>;
}

impl<B: ResultBudget> Reserve for B {
    fn reserve(self: Arc<Self>, caller: CallerKey, bytes: usize) -> BoxFuture<'static, Reserved> {
        async move {
            let permits = self.take(&caller, bytes).await;
            Reserved { bytes, permits }
        }
        .boxed()
    }
}

/// Permits for a result that is not made yet.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) bytes: usize,
    pub(crate) permits: ResultPermits,
}
