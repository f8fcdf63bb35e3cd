//! Serving functions under one prefix of the lattice, and leaving it without losing a call.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::counts;
use crate::functions::Function;
use crate::lattice::connection::Lattice;
use crate::lattice::reply_slot::round_trip;
use crate::lattice::subscription::{Shared, Subscription, Tallies};
use crate::lattice::wire;
use crate::{Drained, Error, Service};

/// How long a server that stops may take to notify its callers, and how long NATS to take what was published last: a
/// connection that is away takes nothing until it is back.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves functions under one prefix, `{lattice}.{component or provider id}`. All servers of a prefix form one queue
/// group: each invocation goes to one of them.
///
/// Every function has an isolated task for each invocation, permits for [`crate::Options::in_flight`] handlers, and a
/// queue. A slow, stalled or malformed invocation takes its own permit only, until its deadline.
///
/// Dropping the server stops it taking calls; those in flight go on to their deadline. [`Server::drain`] loses none.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    prefix: Arc<str>,
    subscriptions: TaskTracker,
}

impl Server {
    /// A server without functions: see [`Server::serve`].
    #[must_use]
    pub fn new(lattice: &Lattice, prefix: &str) -> Self {
        Self {
            shared: Arc::new(Shared {
                lattice: lattice.clone(),
                invocations: TaskTracker::new(),
                drain: CancellationToken::new(),
                stop: CancellationToken::new(),
                tallies: Tallies::default(),
            }),
            prefix: prefix.into(),
            subscriptions: TaskTracker::new(),
        }
    }

    /// Invocations that were taken and are not answered yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.invocations.len()
    }

    /// Serves all functions of a service on the lattice, and returns when the NATS server knows of them.
    ///
    /// # Errors
    /// If NATS refuses a subscription.
    pub async fn serve(&self, service: &Service) -> Result<(), Error> {
        let (options, counts) = (self.shared.lattice.options(), counts::of("nats"));
        for (instance, func, handler) in service.functions() {
            let function = Arc::new(Function::new(service, (instance, func), handler, (options, counts)));
            self.subscribe(instance, func, function).await?;
        }
        round_trip(&self.shared.lattice.0).await
    }

    /// Each function has a subscription of its own: a wildcard would swallow the server's "no responders" for a function
    /// that does not exist.
    async fn subscribe(&self, instance: &str, func: &str, function: Arc<Function>) -> Result<(), Error> {
        let subject = wire::subject(&self.prefix, instance, func);
        let messages = self
            .shared
            .lattice
            .0
            .nats()
            .queue_subscribe(subject.clone(), self.prefix.to_string())
            .await
            .map_err(|error| Error::Subscribe(error.into()))?;
        let subscription = Arc::new(Subscription::new(Arc::clone(&self.shared), subject, function));
        self.subscriptions.spawn(subscription.run(messages));
        Ok(())
    }

    /// Stops taking calls, and returns when those in flight are answered and their callers have the answer. What is
    /// not done `within` the time is cut off, and its caller is notified of a failure. Returns at most two seconds later than
    /// that, whether NATS is there or not.
    pub async fn drain(self, within: Duration) -> Drained {
        self.shared.drain.cancel();
        self.subscriptions.close();
        self.shared.invocations.close();
        let done = async {
            self.subscriptions.wait().await;
            self.shared.invocations.wait().await;
        };
        let mut abandoned = 0;
        if timeout(within, done).await.is_err() {
            abandoned = self.shared.invocations.len();
            self.shared.stop.cancel();
            let notified = async {
                self.subscriptions.wait().await;
                self.shared.invocations.wait().await;
            };
            if timeout(LAST_WORDS, notified).await.is_err() {
                tracing::warn!("callers could not be notified that their calls were cut off");
            }
        }
        let flushed = async {
            let handed_over = self.shared.lattice.0.batcher.handed_over().await;
            handed_over.is_ok() && self.shared.lattice.nats().flush().await.is_ok()
        };
        if timeout(LAST_WORDS, flushed).await != Ok(true) {
            tracing::warn!("NATS can't be reached: the last answers may not have reached their callers");
        }
        Drained { abandoned }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.drain.cancel();
        self.subscriptions.close();
        self.shared.invocations.close();
    }
}
