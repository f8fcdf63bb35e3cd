//! What a caller sends with a call besides its parameters.

use std::time::Duration;

/// What goes with one call besides its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallContext {
    /// Instead of [`crate::Options::call_deadline`].
    pub deadline: Option<Duration>,
    /// The name of the link that the call belongs to.
    pub link: Option<String>,
    /// The W3C trace context.
    pub traceparent: Option<String>,
    /// What goes with `traceparent`.
    pub tracestate: Option<String>,
    /// The function has no result. On the v1 lattice success and failure of such a function look the same; without
    /// this an empty result is [`Error::Incomplete`].
    pub no_result: bool,
}

impl CallContext {
    /// A context with a deadline of its own.
    #[must_use]
    pub fn within(deadline: Duration) -> Self {
        Self {
            deadline: Some(deadline),
            ..Self::default()
        }
    }
}
