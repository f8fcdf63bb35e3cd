//! One NATS connection: one inbox for all calls made and served, and the demultiplexer that reads it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use async_nats::connection::State;
use async_nats::{HeaderMap, Message, Subject};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::budget::Budget;
use crate::lattice::inboxes::Inboxes;
use crate::lattice::publish_batcher::{self, PublishBatcher};
use crate::lattice::reply_buffer::ReplyBuffer;
use crate::lattice::wire::publish_error;
use crate::result_budget::{ResultBudget, ResultPermits};
use crate::shares::CallerKey;
use crate::{Error, Options};

/// A connection to the lattice, shared by all clients and servers on it. Cheap to clone.
///
/// Calls and invocations share one wildcard subscription. It reaches the server before [`Lattice::new`] returns, and
/// each exchange opens its buffer before it publishes, so no reply to us can come too early.
#[derive(Clone, Debug)]
pub struct Lattice(pub(crate) Arc<Connection>);

/// What a lattice is busy with, for tests and telemetry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Load {
    /// Calls and invocations that wait for a message of their peer.
    pub exchanges: usize,
    /// Bytes of bodies held.
    pub buffered_bytes: usize,
    /// How often a peer was sent everything again, since the start.
    pub repeats: u64,
    /// Messages that were dropped because their reply subject is no inbox, since the start.
    pub no_inbox: u64,
}

pub(crate) struct Connection {
    nats: async_nats::Client,
    inbox: Box<str>,
    /// Where peers are answered.
    pub(crate) inboxes: Inboxes,
    next: AtomicU32,
    pub(crate) options: Options,
    pub(crate) budget: Budget,
    /// Of results of invocations, so that what waits to be sent leaves something for parameters.
    results: Budget,
    pub(crate) calls: Semaphore,
    pub(crate) repeats: AtomicU64,
    /// For what is one message and belongs to one exchange.
    pub(crate) batcher: PublishBatcher,
    reply_buffers: Mutex<HashMap<u32, ReplyBuffer>>,
    demultiplexer: OnceLock<AbortOnDropHandle<()>>,
}

impl Lattice {
    /// Subscribes the inbox.
    ///
    /// # Errors
    /// [`Error::Options`], or that the connection is closed.
    pub async fn new(nats: async_nats::Client, options: Options) -> Result<Self, Error> {
        options.check()?;
        let inbox = format!("{}.", nats.new_inbox());
        let mut messages = nats
            .subscribe(format!("{inbox}>"))
            .await
            .map_err(|error| Error::Subscribe(error.into()))?;
        nats.flush().await.map_err(|_| Error::Closed)?;
        let connection = Arc::new(Connection {
            inbox: inbox.into(),
            inboxes: Inboxes::with_those_of(&nats, options.inbox_prefixes.iter().cloned()),
            next: AtomicU32::new(1),
            budget: Budget::of_callers(options.buffered_bytes, options.max_body_bytes),
            results: Budget::of_callers(options.buffered_bytes, options.max_body_bytes),
            calls: Semaphore::new(options.calls),
            repeats: AtomicU64::new(0),
            reply_buffers: Mutex::default(),
            demultiplexer: OnceLock::new(),
            batcher: PublishBatcher::new(nats.clone()),
            options,
            nats,
        });
        let weak = Arc::downgrade(&connection);
        let task = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let Some(connection) = weak.upgrade() else { return };
                connection.deliver(message);
            }
            Connection::close_all(&weak);
        });
        // Set once, right here.
        connection.demultiplexer.get_or_init(|| AbortOnDropHandle::new(task));
        Ok(Self(connection))
    }

    /// The connection.
    #[must_use]
    pub fn nats(&self) -> &async_nats::Client {
        &self.0.nats
    }

    /// The limits it was made with.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// What it is busy with.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            exchanges: self.0.reply_buffers().len(),
            buffered_bytes: self.0.budget.taken() + self.0.results.taken(),
            repeats: self.0.repeats.load(Ordering::Relaxed),
            no_inbox: self.0.inboxes.refused(),
        }
    }

    /// Where requests over this connection may be answered.
    #[must_use]
    pub fn inboxes(&self) -> &Inboxes {
        &self.0.inboxes
    }
}

impl ResultBudget for Connection {
    async fn take(&self, caller: &CallerKey, bytes: usize) -> ResultPermits {
        ResultPermits {
            _of_all: self.results.take_for(caller, bytes).await,
            ..ResultPermits::default()
        }
    }
}

impl Connection {
    fn reply_buffers(&self) -> MutexGuard<'_, HashMap<u32, ReplyBuffer>> {
        self.reply_buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(&self, buffer: ReplyBuffer) -> u32 {
        let mut reply_buffers = self.reply_buffers();
        // After 2^32 of them one may still be taken; 0 is nobody's.
        let id = loop {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            if id != 0 && !reply_buffers.contains_key(&id) {
                break id;
            }
        };
        reply_buffers.insert(id, buffer);
        id
    }

    pub(crate) fn close(&self, id: u32) {
        let buffer = self.reply_buffers().remove(&id);
        // Outside of the lock: its permits may wake others.
        drop(buffer);
    }

    pub(crate) fn with_buffer<T>(&self, id: u32, f: impl FnOnce(&mut ReplyBuffer) -> T) -> Option<T> {
        self.reply_buffers().get_mut(&id).map(f)
    }

    /// The subject whose messages go to buffer `id`.
    pub(crate) fn subject(&self, id: u32) -> Subject {
        Subject::from(format!("{}{id:x}", self.inbox))
    }

    /// Puts a message into its buffer. Messages for an exchange that is over are dropped.
    fn deliver(&self, message: Message) {
        let Some(address) = message.subject.strip_prefix(&*self.inbox) else {
            return;
        };
        let (id, data) = match address.split_once('.') {
            Some((id, "params" | "results")) => (id, true),
            Some(_) => return,
            None => (address, false),
        };
        let Ok(id) = u32::from_str_radix(id, 16) else {
            return;
        };
        // The rest of a call's parameters goes where the handshake points.
        let reply = self.inboxes.reply_to(&message);
        if message.reply.is_some() && reply.is_none() {
            return;
        }
        self.with_buffer(id, |buffer| {
            if data {
                buffer.on_data(message.payload, &self.budget);
            } else {
                buffer.on_reply(message, reply, &self.budget);
            }
        });
    }

    fn close_all(weak: &Weak<Self>) {
        if let Some(connection) = weak.upgrade() {
            connection.reply_buffers().values_mut().for_each(ReplyBuffer::on_close);
        }
    }

    pub(crate) fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.nats.connection_state() == State::Connected
    }

    pub(crate) fn max_payload(&self) -> usize {
        self.nats.max_payload().max(1)
    }

    pub(crate) async fn publish(&self, to: Subject, body: Bytes) -> Result<(), Error> {
        self.nats.publish(to, body).await.map_err(publish_error)
    }

    /// One message; with a reply subject it is an invocation or a handshake.
    pub(crate) async fn send(
        &self,
        to: Subject,
        reply: Option<Subject>,
        headers: Option<HeaderMap>,
        body: Bytes,
    ) -> Result<(), Error> {
        publish_batcher::publish(&self.nats, to, reply, headers, body).await
    }

    /// A body in chunks, and its end.
    pub(crate) async fn publish_all(&self, to: &Subject, mut body: Bytes) -> Result<(), Error> {
        let max = self.max_payload();
        while !body.is_empty() {
            let chunk = body.split_to(body.len().min(max));
            self.publish(to.clone(), chunk).await?;
        }
        self.publish(to.clone(), Bytes::new()).await
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lattice")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
