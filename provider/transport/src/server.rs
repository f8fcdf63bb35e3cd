//! Serving the functions of one target: subscriptions, admission, drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Room;
use crate::parameters::Parameters;
use crate::reply::Exchange;
use crate::wire::{self, Failure};
use crate::{Caller, Error, Lattice, Part, Resource};

/// How long a server that was told to stop may take to say so to its callers.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Callers that are told at a time, for each function, that there is no place for them.
const MAX_REFUSALS: usize = 256;
/// An invocation of no more bytes is begun by the task that takes it, and gets a task of its own once it has to wait:
/// what many callers send at the same time is then sent on at the same time.
pub(crate) const BEGUN_AT_ONCE_BYTES: usize = 16 << 10;
/// A server that leaves its queue group gives up filling its subscription after so many rounds without effect.
const FRUITLESS_ROUNDS: u32 = 16;

/// Serves functions under one prefix, `{lattice}.{component or provider id}`. All servers of a prefix form one queue
/// group: each invocation goes to one of them.
///
/// Every function has an isolated task for each invocation, places for [`crate::Options::in_flight`] handlers, and a
/// queue. A slow, stalled or malformed invocation takes its own place only, until its deadline.
///
/// Dropping the server stops it taking calls; those in flight go on to their deadline. [`Server::drain`] loses none.
#[derive(Debug)]
pub struct Server {
    pub(crate) lattice: Lattice,
    prefix: Arc<str>,
    subscriptions: TaskTracker,
    invocations: TaskTracker,
    drain: CancellationToken,
    stop: CancellationToken,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Invocations that were cut off because the time was up. Their callers were told of a failure.
    pub abandoned: usize,
}

impl Server {
    /// A server without functions: see [`Server::serve_bindings`] and [`Server::serve_direct`].
    #[must_use]
    pub fn new(lattice: &Lattice, prefix: &str) -> Self {
        Self {
            lattice: lattice.clone(),
            prefix: prefix.into(),
            subscriptions: TaskTracker::new(),
            invocations: TaskTracker::new(),
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Invocations that were taken and are not answered yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.invocations.len()
    }

    /// Serves one function. It has a subscription of its own: a wildcard would swallow the server's "no responders"
    /// for a function that does not exist.
    pub(crate) async fn serve_function<H, Fut>(&self, instance: &str, func: &str, handler: H) -> Result<(), Error>
    where
        H: Fn(Caller, Parameters) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Bytes, Failure>> + Send + 'static,
    {
        let inner = &self.lattice.0;
        let subject = wire::subject(&self.prefix, instance, func);
        let messages = inner
            .nats()
            .queue_subscribe(subject.clone(), self.prefix.to_string())
            .await
            .map_err(Error::Subscribe)?;
        let options = &inner.options;
        let function = Arc::new(Function {
            lattice: self.lattice.clone(),
            subject,
            taken: AtomicU64::new(0),
            places: Semaphore::new(options.in_flight),
            admitted: Arc::new(Semaphore::new(options.in_flight + options.queued)),
            refusing: Arc::new(Semaphore::new(MAX_REFUSALS)),
            invocations: self.invocations.clone(),
            drain: self.drain.clone(),
            stop: self.stop.clone(),
            handler,
        });
        self.subscriptions.spawn(function.run(messages));
        Ok(())
    }

    /// Waits until the NATS server knows of all functions.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        self.lattice.0.round_trip().await
    }

    /// Stops taking calls, and returns when those in flight are answered and their callers have the answer. What is
    /// not done `within` the time is cut off, and its caller told of a failure.
    pub async fn drain(self, within: Duration) -> Drained {
        self.drain.cancel();
        self.subscriptions.close();
        self.invocations.close();
        let done = async {
            self.subscriptions.wait().await;
            self.invocations.wait().await;
        };
        let mut abandoned = 0;
        if timeout(within, done).await.is_err() {
            abandoned = self.invocations.len();
            self.stop.cancel();
            let told = async {
                self.subscriptions.wait().await;
                self.invocations.wait().await;
            };
            if timeout(LAST_WORDS, told).await.is_err() {
                tracing::warn!("callers could not be told that their calls were cut off");
            }
        }
        let handed_over = self.lattice.0.outbox.handed_over().await;
        if handed_over.is_err() || self.lattice.nats().flush().await.is_err() {
            tracing::debug!("the connection was closed during a drain");
        }
        Drained { abandoned }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.drain.cancel();
        self.subscriptions.close();
        self.invocations.close();
    }
}

struct Function<H> {
    lattice: Lattice,
    subject: String,
    /// Messages of the subscription, so far.
    taken: AtomicU64,
    places: Semaphore,
    admitted: Arc<Semaphore>,
    /// Refusals on their way. If these can't be sent either, callers have to wait for their deadline.
    refusing: Arc<Semaphore>,
    invocations: TaskTracker,
    drain: CancellationToken,
    stop: CancellationToken,
    handler: H,
}

impl<H, Fut> Function<H>
where
    H: Fn(Caller, Parameters) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Bytes, Failure>> + Send + 'static,
{
    async fn run(self: Arc<Self>, mut messages: Subscriber) {
        loop {
            tokio::select! {
                biased;
                () = self.drain.cancelled() => break,
                message = messages.next() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
            }
        }
        tokio::select! {
            () = self.leave(&mut messages) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Leaves the queue group without losing a call.
    ///
    /// Seen with async-nats 0.51: its own `drain` forgets a subscription before the server does, and what the server
    /// sends in between is dropped; under load each drain loses calls. Here both sides stop after the same message: the
    /// server is told to end the subscription after a count that lies beyond all that can be under way, and the rest
    /// of that count is filled by messages without a reply subject, which every server of the group skips.
    async fn leave(self: &Arc<Self>, messages: &mut Subscriber) {
        let options = self.lattice.options();
        let under_way = u64::try_from(options.in_flight + options.queued).unwrap_or(u64::MAX);
        let last = self.taken.load(Ordering::Relaxed).saturating_add(under_way);
        if messages.unsubscribe_after(last).await.is_err() {
            return;
        }
        tokio::select! {
            () = async { while let Some(message) = messages.next().await { self.take(message) } } => {}
            filled = self.fill_up_to(last) => {
                tracing::warn!(function = self.subject, ?filled, "left without knowing that no call was lost");
            }
        }
    }

    /// Ends only if that does not lead anywhere: if this user may not publish here, or the connection is closed.
    async fn fill_up_to(&self, last: u64) -> Result<(), Error> {
        let inner = &self.lattice.0;
        let mut fruitless = 0;
        while fruitless < FRUITLESS_ROUNDS {
            let before = self.taken.load(Ordering::Relaxed);
            for _ in before..last {
                inner.publish(self.subject.as_str().into(), Bytes::new()).await?;
            }
            // Others of the group got their share of these: there may be another round.
            inner.round_trip().await?;
            let progress = self.taken.load(Ordering::Relaxed) > before;
            fruitless = if progress { 0 } else { fruitless + 1 };
        }
        Ok(())
    }

    fn take(self: &Arc<Self>, message: Message) {
        self.taken.fetch_add(1, Ordering::Relaxed);
        if message.reply.is_none() {
            return;
        }
        let deadline = Instant::now() + self.lattice.options().serve_deadline;
        let this = Arc::clone(self);
        let small = message.payload.len() <= BEGUN_AT_ONCE_BYTES;
        match self.admit(&message) {
            Ok((room, admitted)) => {
                let Some((exchange, headers, parameters)) = Exchange::open(&self.lattice.0, message, room) else {
                    return;
                };
                let caller = Caller::parse(headers.as_ref());
                let mut invocation = Box::pin(async move {
                    let work = this.work(caller, parameters);
                    let done = exchange.run(deadline, &this.stop, work).await;
                    drop(admitted);
                    if let Err(failure) = done {
                        tracing::warn!(function = this.subject, ?failure, "an invocation failed");
                    }
                });
                if small && (&mut invocation).now_or_never().is_some() {
                    return;
                }
                self.invocations.spawn(invocation);
            }
            Err(refusal) => {
                tracing::warn!(function = self.subject, %refusal, "an invocation is refused");
                let Ok(refusing) = Arc::clone(&self.refusing).try_acquire_owned() else {
                    return;
                };
                self.invocations.spawn(async move {
                    let _refusing = refusing;
                    let inner = &this.lattice.0;
                    if let Err(error) = Exchange::refuse(inner, message, refusal.into()).await {
                        tracing::debug!(function = this.subject, %error, "a caller can't be told");
                    }
                });
            }
        }
    }

    fn admit(&self, message: &Message) -> Result<(Room, OwnedSemaphorePermit), Error> {
        let bytes = message.payload.len();
        let limit = self.lattice.options().max_body_bytes;
        if bytes > limit {
            return Err(wire::too_large(Part::Parameters, bytes, limit));
        }
        let admitted = Arc::clone(&self.admitted)
            .try_acquire_owned()
            .map_err(|_| Error::Busy(Resource::Target))?;
        let room = self.lattice.0.budget.try_take(bytes);
        let room = room.ok_or(Error::Busy(Resource::Bytes))?;
        Ok((room, admitted))
    }

    async fn work(&self, caller: Result<Caller, Error>, parameters: Parameters) -> Result<Bytes, Failure> {
        let caller = caller?;
        let _place = self.places.acquire().await.map_err(|_| Error::Closed)?;
        (self.handler)(caller, parameters).await
    }
}
