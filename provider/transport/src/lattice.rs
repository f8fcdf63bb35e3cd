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
use crate::mailbox::{Mailbox, Slot};
use crate::outbox::{self, Outbox};
use crate::{Error, Inboxes, Options, Part};

/// A connection to the lattice, shared by all clients and servers on it. Cheap to clone.
///
/// Calls and invocations share one wildcard subscription. It reaches the server before [`Lattice::new`] returns, and
/// each exchange opens its mailbox before it publishes, so no reply to us can come too early.
#[derive(Clone, Debug)]
pub struct Lattice(pub(crate) Arc<Inner>);

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

pub(crate) struct Inner {
    nats: async_nats::Client,
    inbox: Box<str>,
    /// Where peers are answered.
    pub(crate) inboxes: Inboxes,
    next: AtomicU32,
    pub(crate) options: Options,
    pub(crate) budget: Budget,
    pub(crate) calls: Semaphore,
    pub(crate) repeats: AtomicU64,
    /// For what is one message and belongs to one exchange.
    pub(crate) outbox: Outbox,
    mailboxes: Mutex<HashMap<u32, Mailbox>>,
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
        let mut messages = nats.subscribe(format!("{inbox}>")).await.map_err(Error::Subscribe)?;
        nats.flush().await.map_err(|_| Error::Closed)?;
        let inner = Arc::new(Inner {
            inbox: inbox.into(),
            inboxes: Inboxes::with_those_of(&nats, options.inbox_prefixes.iter().cloned()),
            next: AtomicU32::new(1),
            budget: Budget::of_callers(options.buffered_bytes, options.max_body_bytes),
            calls: Semaphore::new(options.calls),
            repeats: AtomicU64::new(0),
            mailboxes: Mutex::default(),
            demultiplexer: OnceLock::new(),
            outbox: Outbox::new(nats.clone()),
            options,
            nats,
        });
        let weak = Arc::downgrade(&inner);
        let task = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let Some(inner) = weak.upgrade() else { return };
                inner.deliver(message);
            }
            Inner::close_all(&weak);
        });
        // Set once, right here.
        inner.demultiplexer.get_or_init(|| AbortOnDropHandle::new(task));
        Ok(Self(inner))
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
            exchanges: self.0.mailboxes().len(),
            buffered_bytes: self.0.budget.taken(),
            repeats: self.0.repeats.load(Ordering::Relaxed),
            no_inbox: self.0.inboxes.refused(),
        }
    }

    /// Where whoever asks over this connection may be answered.
    #[must_use]
    pub fn inboxes(&self) -> &Inboxes {
        &self.0.inboxes
    }
}

impl Inner {
    fn mailboxes(&self) -> MutexGuard<'_, HashMap<u32, Mailbox>> {
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(&self, mailbox: Mailbox) -> u32 {
        let mut mailboxes = self.mailboxes();
        // After 2^32 of them one may still be taken; 0 is nobody's.
        let id = loop {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            if id != 0 && !mailboxes.contains_key(&id) {
                break id;
            }
        };
        mailboxes.insert(id, mailbox);
        id
    }

    pub(crate) fn close(&self, id: u32) {
        let mailbox = self.mailboxes().remove(&id);
        // Outside of the lock: its room may wake others.
        drop(mailbox);
    }

    pub(crate) fn with_mailbox<T>(&self, id: u32, f: impl FnOnce(&mut Mailbox) -> T) -> Option<T> {
        self.mailboxes().get_mut(&id).map(f)
    }

    /// The subject whose messages go to mailbox `id`.
    pub(crate) fn subject(&self, id: u32) -> Subject {
        Subject::from(format!("{}{id:x}", self.inbox))
    }

    /// Puts a message into its mailbox. Messages for an exchange that is over are dropped.
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
        // The rest of a call's parameters goes where the handshake says.
        let reply = self.inboxes.reply_to(&message);
        if message.reply.is_some() && reply.is_none() {
            return;
        }
        self.with_mailbox(id, |mailbox| {
            if data {
                mailbox.on_data(message.payload, &self.budget);
            } else {
                mailbox.on_reply(message, reply, &self.budget);
            }
        });
    }

    fn close_all(weak: &Weak<Self>) {
        if let Some(inner) = weak.upgrade() {
            inner.mailboxes().values_mut().for_each(Mailbox::on_close);
        }
    }

    pub(crate) fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    /// Sends a message to ourselves and waits for it: the server has then done all that we asked of it before, and all
    /// that it sent us before is here.
    pub(crate) async fn round_trip(self: &Arc<Self>) -> Result<(), Error> {
        let slot = Slot::open(self, Mailbox::new(Part::Result, 0, 0));
        self.publish(slot.subject(), Bytes::new()).await?;
        let deadline = self.options.call_deadline;
        match tokio::time::timeout(deadline, slot.event()).await {
            Ok(echo) => echo.map(drop),
            Err(_) => Err(Error::deadline(deadline)),
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.nats.connection_state() == State::Connected
    }

    pub(crate) fn max_payload(&self) -> usize {
        self.nats.max_payload().max(1)
    }

    pub(crate) async fn publish(&self, to: Subject, body: Bytes) -> Result<(), Error> {
        self.nats.publish(to, body).await.map_err(Error::publish)
    }

    /// One message; with a reply subject it is an invocation or a handshake.
    pub(crate) async fn send(
        &self,
        to: Subject,
        reply: Option<Subject>,
        headers: Option<HeaderMap>,
        body: Bytes,
    ) -> Result<(), Error> {
        outbox::publish(&self.nats, to, reply, headers, body).await
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

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lattice")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
