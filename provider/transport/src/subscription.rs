//! One subscription of a server: what it takes, who is admitted, and how it ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_nats::{HeaderMap, Message, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Room;
use crate::functions::{Admitted, Function, Functions};
use crate::group::Group;
use crate::parameters::Parameters;
use crate::reply::Exchange;
use crate::session::codec::{self, Frame, Invocation, Kind};
use crate::wire::{self, Failure};
use crate::{Caller, Error, Lattice, Part, Resource, bundle};

/// Callers that are told at a time, for each subscription, that there is no place for them.
const MAX_REFUSALS: usize = 256;
/// A server that leaves its queue group gives up filling its subscription after so many rounds without effect.
const FRUITLESS_ROUNDS: u32 = 16;

/// What the subscriptions of one server share.
pub(crate) struct Shared {
    pub(crate) lattice: Lattice,
    pub(crate) functions: RwLock<Functions>,
    pub(crate) invocations: TaskTracker,
    pub(crate) drain: CancellationToken,
    pub(crate) stop: CancellationToken,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("invocations", &self.invocations.len())
            .finish_non_exhaustive()
    }
}

/// What comes on a subscription.
pub(crate) enum Takes {
    /// Calls of one function.
    Calls(Arc<Function>),
    /// Calls of all functions, many in a message.
    Bundles,
}

/// A subscription of one queue group.
pub(crate) struct Subscription {
    shared: Arc<Shared>,
    subject: String,
    takes: Takes,
    /// Messages so far.
    taken: AtomicU64,
    /// Refusals on their way. If these can't be sent either, callers have to wait for their deadline.
    refusing: Arc<Semaphore>,
}

impl Subscription {
    pub(crate) fn new(shared: Arc<Shared>, subject: String, takes: Takes) -> Self {
        Self {
            shared,
            subject,
            takes,
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
    /// server is told to end the subscription after a count that lies beyond all that can be under way, and the rest
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
                tracing::warn!(function = self.subject, ?filled, "left without knowing that no call was lost");
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
            inner.round_trip().await?;
            let progress = self.taken.load(Ordering::Relaxed) > before;
            fruitless = if progress { 0 } else { fruitless + 1 };
        }
        Ok(())
    }

    fn take(self: &Arc<Self>, message: Message) {
        self.taken.fetch_add(1, Ordering::Relaxed);
        let Some(reply) = message.reply.clone() else {
            return;
        };
        match &self.takes {
            Takes::Calls(function) => self.take_call(function, message),
            Takes::Bundles if message.payload.is_empty() => self.say_yes(reply),
            Takes::Bundles => self.take_bundle(message, &reply),
        }
    }

    fn take_call(self: &Arc<Self>, function: &Arc<Function>, message: Message) {
        let deadline = Instant::now() + self.shared.lattice.options().serve_deadline;
        let bytes = message.payload.len();
        let inner = &self.shared.lattice.0;
        match self.room(bytes).and_then(|room| Ok((room, function.admit()?))) {
            Ok((room, admitted)) => {
                let Some((exchange, headers, parameters)) = Exchange::open(inner, message, room) else {
                    return;
                };
                let caller = Caller::parse(headers.as_ref());
                let mut alone = Group::default();
                self.begin(&mut alone, exchange, admitted, caller, parameters, (bytes, deadline));
                alone.end(spawn);
            }
            Err(refusal) => {
                let this = Arc::clone(self);
                self.refuse(&self.subject, &refusal.clone(), async move {
                    Exchange::refuse(&this.shared.lattice.0, message, refusal).await
                });
            }
        }
    }

    /// A caller asks whether bundles are taken.
    fn say_yes(self: &Arc<Self>, reply: Subject) {
        let Ok(telling) = Arc::clone(&self.refusing).try_acquire_owned() else {
            return;
        };
        let inner = Arc::clone(&self.shared.lattice.0);
        // No call: who drains the server does not wait for it.
        tokio::spawn(async move {
            let _telling = telling;
            if let Err(error) = inner.publish(reply, Bytes::new()).await {
                tracing::debug!(%error, "a caller can't be told that bundles are taken");
            }
        });
    }

    /// Takes all calls of a bundle, each by itself.
    fn take_bundle(self: &Arc<Self>, message: Message, reply: &Subject) {
        let headers = message.headers.as_ref();
        let unreadable = |why: &dyn std::fmt::Display| {
            let source = headers
                .and_then(|headers| headers.get(wire::SOURCE_ID))
                .map(AsRef::<str>::as_ref);
            tracing::warn!(subject = self.subject, source, %why, "a bundle of calls is passed over");
        };
        if bundle::inbox(reply).is_none() {
            return unreadable(&"its reply subject is that of no bundle");
        }
        let frames = match bundle::decode(message.payload) {
            Ok(frames) => frames,
            Err(error) => return unreadable(&error),
        };
        let now = Instant::now();
        let mut group = Group::default();
        for frame in frames {
            if matches!(frame.kind, Kind::Call { .. }) {
                self.take_bundled(&mut group, frame, headers, reply, now);
            }
        }
        group.end(spawn);
    }

    fn take_bundled(
        self: &Arc<Self>,
        group: &mut Group,
        frame: Frame,
        headers: Option<&HeaderMap>,
        reply: &Subject,
        now: Instant,
    ) {
        let Frame { call, mut payload, .. } = frame;
        let exchange = Exchange::of_bundle(&self.shared.lattice.0, reply.clone(), call);
        let refuse = |function: &str, refusal: Failure, exchange: Exchange| {
            self.refuse(function, &refusal.clone(), async move {
                exchange.answer(Err(refusal)).await
            });
        };
        let invocation = match codec::decode_invocation(&mut payload) {
            Ok(invocation) => invocation,
            Err(error) => return refuse(&self.subject, error.into(), exchange),
        };
        let bytes = payload.len();
        match self.admit_bundled(&invocation, bytes) {
            Ok((room, admitted)) => {
                let longest = self.shared.lattice.options().serve_deadline;
                let asked = Some(invocation.deadline_ms).filter(|ms| *ms > 0);
                let deadline = asked.map_or(longest, |ms| Duration::from_millis(ms.into()).min(longest));
                let caller = Caller::parse(headers).map(|caller| Caller {
                    link: invocation.link.unwrap_or(caller.link),
                    traceparent: invocation.traceparent,
                    tracestate: invocation.tracestate,
                    ..caller
                });
                let parameters = Parameters::whole(payload, room);
                self.begin(group, exchange, admitted, caller, parameters, (bytes, now + deadline));
            }
            Err(refusal) => {
                let Invocation { instance, func, .. } = invocation;
                refuse(&format!("{instance}.{func}"), refusal, exchange);
            }
        }
    }

    fn admit_bundled(&self, invocation: &Invocation, bytes: usize) -> Result<(Room, Admitted), Failure> {
        let room = self.room(bytes)?;
        let functions = self.shared.functions.read().unwrap_or_else(PoisonError::into_inner);
        Ok((room, functions.admit(&invocation.instance, &invocation.func)?))
    }

    /// Begins an invocation that is admitted.
    fn begin(
        self: &Arc<Self>,
        group: &mut Group,
        exchange: Exchange,
        admitted: Admitted,
        caller: Result<Caller, Error>,
        parameters: Parameters,
        (bytes, deadline): (usize, Instant),
    ) {
        let this = Arc::clone(self);
        let invocation = self.shared.invocations.track_future(async move {
            let work = async { admitted.run(caller?, parameters, deadline, &this.shared.stop).await };
            let done = exchange.run(deadline, work).await;
            if let Err(failure) = done {
                tracing::warn!(function = admitted.function(), ?failure, "an invocation failed");
            }
        });
        group.begin(Box::pin(invocation), bytes, spawn);
    }

    fn refuse(
        &self,
        function: &str,
        refusal: &Failure,
        telling: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        tracing::warn!(function, ?refusal, "an invocation is refused");
        let Ok(refusing) = Arc::clone(&self.refusing).try_acquire_owned() else {
            return;
        };
        self.shared.invocations.spawn(async move {
            let _refusing = refusing;
            if let Err(error) = telling.await {
                tracing::debug!(%error, "a caller can't be told");
            }
        });
    }

    fn room(&self, bytes: usize) -> Result<Room, Failure> {
        let inner = &self.shared.lattice.0;
        let limit = inner.options.max_body_bytes;
        if bytes > limit {
            return Err(wire::too_large(Part::Parameters, bytes, limit).into());
        }
        let room = inner.budget.try_take(bytes);
        room.ok_or_else(|| Error::Busy(Resource::Bytes).into())
    }
}

/// Each invocation is tracked by itself.
fn spawn(task: BoxFuture<'static, ()>) {
    tokio::spawn(task);
}
