//! The functions that a server serves, whatever brings their calls, and how serving them ends.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::Caller;
use crate::chunks::Chunks;
use crate::failure::Failure;
use crate::guard::Guard;
use crate::http::router::Http;

/// A call under way.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Bytes, Failure>> + Send>>;

/// Serves one function. The number is the limit of its result, in bytes.
pub(crate) type Handler = Arc<dyn Fn(Caller, Chunks, usize) -> Answer + Send + Sync>;

/// Functions, each with its handler: from generated bindings ([`Service::bindings`]), from closures
/// ([`Service::direct`]), or both. A function added again replaces the one before, so hot ones can be taken from the
/// bindings to the direct path.
///
/// It is bound to no transport: [`crate::Server::serve`] serves it on the lattice, [`crate::Listener::serve`] on anything
/// else, and one service can be served on all of them at a time.
#[derive(Clone, Default)]
pub struct Service {
    functions: BTreeMap<(String, String), Handler>,
    guard: Option<Arc<dyn Guard>>,
    /// What answers requests of HTTP that are no invocations.
    pub(crate) http: Option<Http>,
}

impl Service {
    /// A service without functions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn insert(&mut self, instance: &str, func: &str, handler: Handler) {
        self.functions.insert((instance.to_owned(), func.to_owned()), handler);
    }

    /// Has each call judged before anything is made of its parameters.
    #[must_use]
    pub fn guarded(mut self, guard: impl Guard) -> Self {
        self.guard = Some(Arc::new(guard));
        self
    }

    pub(crate) fn guard(&self) -> Option<&Arc<dyn Guard>> {
        self.guard.as_ref()
    }

    /// Each function: instance, name, handler.
    pub(crate) fn functions(&self) -> impl Iterator<Item = (&str, &str, &Handler)> {
        self.functions
            .iter()
            .map(|((instance, func), handler)| (instance.as_str(), func.as_str(), handler))
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.functions.keys()).finish()
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Invocations that were cut off because the time was up. Their callers were notified of a failure.
    pub abandoned: usize,
}
