//! One subscription of a server: what it takes, who is admitted, and how it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Permits;
use crate::chunks::Chunks;
use crate::failure::{Failure, too_large};
use crate::functions::{Admitted, Function};
use crate::group::Group;
use crate::lattice::connection::Lattice;
use crate::lattice::exchange::Exchange;
use crate::lattice::reply_slot::round_trip;
use crate::lattice::wire;
use crate::shares::CallerKey;
use crate::{Body, Error, Resource, Tally};

/// Callers that are notified at a time, for each subscription, that their call is refused.
const MAX_REFUSALS: usize = 256;
/// A server that leaves its queue group gives up filling its subscription after this many rounds without effect.
const FRUITLESS_ROUNDS: u32 = 16;

/// What the subscriptions of one server share.
pub(crate) struct Shared {
    pub(crate) lattice: Lattice,
    pub(crate) invocations: TaskTracker,
    pub(crate) drain: CancellationToken,
    pub(crate) stop: CancellationToken,
    pub(crate) tallies: Tallies,
}

/// What anyone who may send can cause: counted, and logged once a second.
#[derive(Debug)]
pub(crate) struct Tallies {
    /// Calls that were not taken.
    refused: Tally,
    /// Calls that were taken and failed: malformed, over a limit or a deadline, or by a fault of their handler.
    failed: Tally,
}

impl Default for Tallies {
    fn default() -> Self {
        Self {
            refused: Tally::new("calls were refused"),
            failed: Tally::new("calls failed"),
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("invocations", &self.invocations.len())
            .finish_non_exhaustive()
    }
}

/// A subscription of one queue group.
pub(crate) struct Subscription {
    shared: Arc<Shared>,
    subject: String,
    function: Arc<Function>,
    /// Messages so far.
    taken: AtomicU64,
    /// Refusals on their way. If these can't be sent either, callers have to wait for their deadline.
    refusing: Arc<Semaphore>,
}

impl Subscription {
    pub(crate) fn new(shared: Arc<Shared>, subject: String, function: Arc<Function>) -> Self {
        Self {
            shared,
            subject,
            function,
            taken: AtomicU64::new(0),
            refusing: Arc::new(Semaphore::new(MAX_REFUSALS)),
        }
    }

    pub(crate) async fn run(self: Arc<Self>, mut messages: Subscriber) {
        loop {
            tokio::select! {
                biased;
                () = self.shared.drain.cancelled() => break,
                message = messages.next() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
            }
        }
        tokio::select! {
            () = self.leave(&mut messages) => {}
            () = self.shared.stop.cancelled() => {}
        }
    }

    /// Leaves the queue group without losing a call.
    ///
    /// Seen with async-nats 0.51: its own `drain` forgets a subscription before the server does, and what the server
    /// sends in between is dropped; under load each drain loses calls. Here both sides stop after the same message: the
    /// server is instructed to end the subscription after a count that lies beyond all that can be under way, and the rest
    /// of that count is filled by messages without a reply subject, which every server of the group skips.
    async fn leave(self: &Arc<Self>, messages: &mut Subscriber) {
        let options = self.shared.lattice.options();
        let under_way = u64::try_from(options.in_flight + options.queued).unwrap_or(u64::MAX);
        let last = self.taken.load(Ordering::Relaxed).saturating_add(under_way);
        if messages.unsubscribe_after(last).await.is_err() {
            return;
        }
        tokio::select! {
            () = async { while let Some(message) = messages.next().await { self.take(message) } } => {}
            filled = self.fill_up_to(last) => {
                tracing::warn!(function = self.subject, ?filled, "the subscription ended before the server confirmed that no call was lost");
            }
        }
    }

    /// Ends only if that does not lead anywhere: if this user may not publish here, or the connection is closed.
    async fn fill_up_to(&self, last: u64) -> Result<(), Error> {
        let inner = &self.shared.lattice.0;
        let mut fruitless = 0;
        while fruitless < FRUITLESS_ROUNDS {
            let before = self.taken.load(Ordering::Relaxed);
            for _ in before..last {
                inner.publish(self.subject.as_str().into(), Bytes::new()).await?;
            }
            // Others of the group got their share of these: there may be another round.
            round_trip(inner).await?;
            let progress = self.taken.load(Ordering::Relaxed) > before;
            fruitless = if progress { 0 } else { fruitless + 1 };
        }
        Ok(())
    }

    fn take(self: &Arc<Self>, message: Message) {
        self.taken.fetch_add(1, Ordering::Relaxed);
        let Some(reply) = self.shared.lattice.0.inboxes.reply_to(&message) else {
            return;
        };
        let deadline = Instant::now() + self.shared.lattice.options().serve_deadline;
        let bytes = message.payload.len();
        let inner = &self.shared.lattice.0;
        let admitted = wire::caller(message.headers.as_ref())
            .map_err(Failure::from)
            .and_then(|caller| self.function.admit(caller, &message.payload));
        match admitted.and_then(|admitted| Ok((self.permits(&admitted, bytes)?, admitted))) {
            Ok((permits, admitted)) => {
                let (exchange, parameters) = Exchange::open(inner, message, reply, (admitted.key(), permits));
                let mut alone = Group::default();
                self.begin(&mut alone, exchange, admitted, parameters, (bytes, deadline));
                alone.end(spawn);
            }
            Err(refusal) => {
                let this = Arc::clone(self);
                self.refuse(&self.subject, &refusal.clone(), async move {
                    Exchange::refuse(&this.shared.lattice.0, message.headers, reply, refusal).await
                });
            }
        }
    }

    /// Begins an invocation that is admitted.
    fn begin(
        self: &Arc<Self>,
        group: &mut Group,
        exchange: Exchange,
        admitted: Admitted,
        parameters: Chunks,
        (bytes, deadline): (usize, Instant),
    ) {
        let this = Arc::clone(self);
        let invocation = self.shared.invocations.track_future(async move {
            let (instance, func) = admitted.function();
            let (name, key) = (format!("{instance}.{func}"), CallerKey::clone(admitted.key()));
            let work = admitted.run(parameters, deadline, &this.shared.stop, &this.shared.lattice.0);
            let done = exchange.run(deadline, work).await;
            if let Err(failure) = done {
                let failed = &this.shared.tallies.failed;
                failed.count(|| format!("{name}, called by {key}: {failure}"));
            }
        });
        group.begin(Box::pin(invocation), bytes, spawn);
    }

    fn refuse(
        &self,
        function: &str,
        refusal: &Failure,
        refused: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        self.shared.tallies.refused.count(|| format!("{function}: {refusal}"));
        let Ok(refusing) = Arc::clone(&self.refusing).try_acquire_owned() else {
            return;
        };
        self.shared.invocations.spawn(async move {
            let _refusing = refusing;
            if let Err(error) = refused.await {
                tracing::debug!(%error, "a caller was not notified");
            }
        });
    }

    /// Permits for parameters, out of their caller's share. What is refused needs none: it is dropped.
    fn permits(&self, admitted: &Admitted, bytes: usize) -> Result<Permits, Failure> {
        let inner = &self.shared.lattice.0;
        if admitted.is_refused() {
            return Ok(Permits::default());
        }
        let limit = inner.options.max_body_bytes;
        if bytes > limit {
            return Err(too_large(Body::Parameters, bytes, limit).into());
        }
        let permits = inner.budget.try_take_for(admitted.key(), bytes);
        permits.ok_or_else(|| Error::Busy(Resource::Bytes).into())
    }
}

/// Each invocation is tracked by itself.
fn spawn(task: BoxFuture<'static, ()>) {
    tokio::spawn(task);
}
