//! What all connections of one listener share: functions, limits, counts of what peers cause.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::Tally;
use crate::budget::Budget;
use crate::counts::Counters;
use crate::functions::Functions;
use crate::guard::Guard;
use crate::http::router::Http;
use crate::service::Service;
use crate::stream::listen_options::ListenOptions;
use crate::stream::server_credentials::InForce;

/// How long a server that leaves waits for peers to take what it sent them.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(1);

/// What peers of a listener cause, counted.
#[derive(Clone, Debug)]
pub(crate) struct Tallies {
    pub(crate) refused: Tally,
    pub(crate) handshakes: Tally,
    pub(crate) faults: Tally,
    pub(crate) calls: Tally,
}

impl Default for Tallies {
    fn default() -> Self {
        Self {
            refused: Tally::new("connections are refused"),
            handshakes: Tally::new("handshakes failed"),
            faults: Tally::new("connections ended with a fault of their peer"),
            calls: Tally::new("invocations failed"),
        }
    }
}

/// What the byte streams of a listener carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// Stock invocations and sessions.
    Wrpc,
    /// HTTP/1.1.
    Http {
        /// Nobody on the way reads it.
        encrypted: bool,
    },
}

/// The state of one listener.
pub(crate) struct ListenerState {
    pub(crate) options: ListenOptions,
    pub(crate) speaks: Speaks,
    /// Who knows callers by their tokens.
    pub(crate) guard: Option<Arc<dyn Guard>>,
    pub(crate) http: Option<Http>,
    /// `None` where TLS is not spoken.
    pub(crate) credentials: Option<InForce>,
    pub(crate) functions: Functions,
    pub(crate) budget: Budget,
    /// Of results, so that what waits to be sent leaves something for parameters.
    pub(crate) results: Budget,
    pub(crate) tallies: Tallies,
    /// Take no new calls.
    pub(crate) drain: CancellationToken,
    /// Cut off what is under way.
    pub(crate) stop: CancellationToken,
    in_flight: Arc<AtomicUsize>,
}

impl std::fmt::Debug for ListenerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListenerState")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// An invocation that is counted.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicUsize>);

impl ListenerState {
    pub(crate) fn new(
        service: &Service,
        (speaks, counts): (Speaks, &'static Counters),
        options: ListenOptions,
        credentials: Option<InForce>,
    ) -> Self {
        Self {
            speaks,
            guard: service.guard().map(Arc::clone),
            http: service.http.clone(),
            credentials,
            functions: Functions::new(service, &options.limits, counts),
            budget: Budget::new(options.limits.buffered_bytes),
            results: Budget::new(options.limits.buffered_bytes),
            tallies: Tallies::default(),
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
            in_flight: Arc::default(),
            options,
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Ends when a server that leaves no longer waits for peers that have sent nothing yet: what they send may be under
    /// way.
    pub(crate) async fn hurry(&self) {
        self.drain.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    }

    /// Ends when what was cut off has had its time to notify its callers.
    pub(crate) async fn cut_off(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    }

    /// Counts an invocation as long as the guard is held.
    pub(crate) fn count(&self) -> Counted {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(&self.in_flight))
    }

    /// For an invocation whose caller requests `deadline_ms`; 0 if it does not.
    pub(crate) fn deadline(&self, deadline_ms: u32) -> Duration {
        let ours = self.options.limits.serve_deadline;
        match deadline_ms {
            0 => ours,
            theirs => ours.min(Duration::from_millis(theirs.into())),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
