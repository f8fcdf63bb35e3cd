//! What the inbox holds for one exchange: a call of ours, or an invocation that we serve.
//!
//! The demultiplexer puts messages in and never waits; the task of the exchange takes them out. So one slow exchange
//! can't hold up another, and what is held is bounded by a size cap for each and by the [`Budget`] for all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_nats::{Message, StatusCode};
use bytes::{Bytes, BytesMut};

use crate::budget::{Budget, Room};
use crate::lattice::Inner;
use crate::shares::Key;
use crate::wire::{self, Failure};
use crate::{Error, Part, ReplyTo, Resource};

/// What a chunk takes of the [`Budget`] at least: a body of tiny chunks costs more memory than it has bytes.
const MIN_CHUNK_BYTES: usize = 256;

/// The state of one exchange.
#[derive(Debug)]
pub(crate) struct Mailbox {
    part: Part,
    limit: usize,
    received: usize,
    room: Room,
    /// Whose share of the [`Budget`] it is charged to.
    caller: Key,
    /// Nobody reads what comes.
    unread: bool,
    chunks: VecDeque<Bytes>,
    handshake: Option<ReplyTo>,
    heard: bool,
    direct: bool,
    end: Option<Result<(), Error>>,
    /// Waits for anything: the task of the exchange.
    owner: Option<Waker>,
    /// Waits for chunks: whoever decodes.
    reader: Option<Waker>,
}

/// What a call of ours waits for.
#[derive(Debug)]
pub(crate) enum Event {
    /// The target has the call, and takes more parameters on `{0}.params`.
    Handshake(ReplyTo),
    /// The result.
    Result {
        body: Bytes,
        /// It came in one message: an empty one is a success too.
        direct: bool,
    },
}

impl Mailbox {
    /// `received` bytes count against the limit already.
    pub(crate) fn new(part: Part, limit: usize, received: usize) -> Self {
        Self {
            part,
            limit,
            received,
            room: Room::default(),
            caller: Key::from(""),
            unread: false,
            chunks: VecDeque::new(),
            handshake: None,
            heard: false,
            direct: false,
            end: None,
            owner: None,
            reader: None,
        }
    }

    /// The same, charged to a caller's share.
    pub(crate) fn of_caller(self, caller: &Key) -> Self {
        Self {
            caller: Key::clone(caller),
            ..self
        }
    }

    /// A message on the subject of the exchange itself. Only calls of ours are answered there. What an invocation gets
    /// there is "no responders" for its handshake; between clusters that can be wrong, so it is left to the deadline.
    /// `reply` is where the message itself wants an answer.
    pub(crate) fn on_reply(&mut self, message: Message, reply: Option<ReplyTo>, budget: &Budget) {
        if self.part == Part::Parameters {
            return;
        }
        if let Some(code) = message.status.filter(|code| !code.is_success()) {
            self.end(Err(if code == StatusCode::NO_RESPONDERS {
                Error::NoResponders
            } else {
                Error::Protocol("a NATS status that is no answer to a call")
            }));
        } else if let Some(reply) = reply {
            // A repeated handshake is answered once: the first answer is under way already.
            if !self.heard {
                self.heard = true;
                self.handshake = Some(reply);
            }
        } else if let Some(error) = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(wire::FANOUT_ERROR))
        {
            self.end(Err(Failure::parse(error.as_str())));
        } else {
            self.direct = true;
            self.push(message.payload, budget);
            self.end(Ok(()));
        }
        self.wake();
    }

    /// A message on `.params` or `.results`.
    pub(crate) fn on_data(&mut self, payload: Bytes, budget: &Budget) {
        self.heard = true;
        if payload.is_empty() {
            self.end(Ok(()));
        } else {
            self.push(payload, budget);
        }
        self.wake();
    }

    /// The connection is gone.
    pub(crate) fn on_close(&mut self) {
        self.end(Err(Error::Closed));
        self.wake();
    }

    fn push(&mut self, payload: Bytes, budget: &Budget) {
        if self.end.is_some() || payload.is_empty() {
            return;
        }
        let bytes = self.received.saturating_add(payload.len());
        if self.unread {
            self.received = bytes;
            return;
        }
        if bytes > self.limit {
            let error = wire::too_large(self.part, bytes, self.limit);
            return self.end(Err(error));
        }
        let Some(room) = budget.try_take_for(&self.caller, payload.len().max(MIN_CHUNK_BYTES)) else {
            return self.end(Err(match self.part {
                Part::Parameters => Error::Busy(Resource::Bytes),
                Part::Result => Error::NoRoom,
            }));
        };
        self.room.merge(room);
        self.received = bytes;
        self.chunks.push_back(payload);
    }

    /// The first end counts. A failed body is of no use, so its bytes go at once.
    fn end(&mut self, end: Result<(), Error>) {
        if self.end.is_some() {
            return;
        }
        if end.is_err() {
            self.chunks.clear();
            self.room = Room::default();
        }
        self.end = Some(end);
    }

    fn wake(&mut self) {
        for waker in [self.owner.take(), self.reader.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    fn poll_event(&mut self, cx: &Context<'_>) -> Poll<Result<Event, Error>> {
        if let Some(reply) = self.handshake.take() {
            return Poll::Ready(Ok(Event::Handshake(reply)));
        }
        match self.end.take() {
            Some(Ok(())) => Poll::Ready(Ok(Event::Result {
                body: join(&mut self.chunks),
                direct: self.direct,
            })),
            Some(Err(error)) => Poll::Ready(Err(error)),
            None => {
                self.owner = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_chunk(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if let Some(chunk) = self.chunks.pop_front() {
            return Poll::Ready(Some(Ok(chunk)));
        }
        match self.end.take() {
            Some(Ok(())) => {
                self.end = Some(Ok(()));
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.end = Some(Ok(()));
                Poll::Ready(Some(Err(error)))
            }
            None => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_heard(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.heard || self.end.is_some() {
            return Poll::Ready(());
        }
        self.owner = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn join(chunks: &mut VecDeque<Bytes>) -> Bytes {
    match chunks.len() {
        0 | 1 => chunks.pop_front().unwrap_or_default(),
        _ => {
            let mut body = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
            chunks.drain(..).for_each(|chunk| body.extend_from_slice(&chunk));
            body.freeze()
        }
    }
}

/// The task's hold on its mailbox: dropping it, by completion, deadline or cancellation, frees the mailbox.
#[derive(Debug)]
pub(crate) struct Slot {
    inner: Arc<Inner>,
    id: u32,
}

impl Slot {
    /// Opens the mailbox. This has to come before the peer can learn of the subject.
    pub(crate) fn open(inner: &Arc<Inner>, mailbox: Mailbox) -> Self {
        let id = inner.open(mailbox);
        Self {
            inner: Arc::clone(inner),
            id,
        }
    }

    /// The subject that peers write to.
    pub(crate) fn subject(&self) -> async_nats::Subject {
        self.inner.subject(self.id)
    }

    /// The next event of a call of ours.
    pub(crate) async fn event(&self) -> Result<Event, Error> {
        std::future::poll_fn(|cx| {
            self.inner
                .with_mailbox(self.id, |mailbox| mailbox.poll_event(cx))
                .unwrap_or(Poll::Ready(Err(Error::Closed)))
        })
        .await
    }

    /// Waits until the peer shows that it has the handshake, so that its subscription for results is live.
    pub(crate) async fn heard(&self) {
        std::future::poll_fn(|cx| {
            self.inner
                .with_mailbox(self.id, |mailbox| mailbox.poll_heard(cx))
                .unwrap_or(Poll::Ready(()))
        })
        .await;
    }

    /// A second view of the mailbox, for whoever decodes. It ends with the slot.
    pub(crate) fn chunks(&self) -> Chunks {
        Chunks {
            inner: Arc::clone(&self.inner),
            id: self.id,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.inner.close(self.id);
    }
}

/// Takes the chunks of one mailbox in order. Dropping it says that they are decoded, or not wanted: their room is given
/// back, and what still comes is dropped.
#[derive(Debug)]
pub(crate) struct Chunks {
    inner: Arc<Inner>,
    id: u32,
}

impl Chunks {
    /// `None` after the last one.
    pub(crate) fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        self.inner
            .with_mailbox(self.id, |mailbox| mailbox.poll_chunk(cx))
            .unwrap_or(Poll::Ready(None))
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.inner.with_mailbox(self.id, |mailbox| {
            mailbox.unread = true;
            mailbox.chunks.clear();
            mailbox.room = Room::default();
        });
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    const ONE: Bytes = Bytes::from_static(b"1");

    fn end(mailbox: &mut Mailbox) -> Poll<Result<Event, Error>> {
        mailbox.poll_event(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn tiny_chunks_are_charged_for_what_they_cost() {
        let budget = Budget::new(10 * MIN_CHUNK_BYTES);
        let mut mailbox = Mailbox::new(Part::Result, 1 << 20, 0);
        for _ in 0..10 {
            mailbox.on_data(ONE, &budget);
            assert!(end(&mut mailbox).is_pending());
        }
        mailbox.on_data(ONE, &budget);
        assert!(matches!(end(&mut mailbox), Poll::Ready(Err(Error::NoRoom))));
        assert_eq!(budget.taken(), 0, "a failed body gives its room back at once");
    }

    #[test]
    fn what_comes_after_the_end_is_dropped() {
        let budget = Budget::new(1 << 20);
        let mut mailbox = Mailbox::new(Part::Result, 100, 0);
        for payload in [ONE, Bytes::new(), ONE, Bytes::new()] {
            mailbox.on_data(payload, &budget);
        }
        let Poll::Ready(Ok(Event::Result { body, direct: false })) = end(&mut mailbox) else {
            panic!("the result is complete");
        };
        assert_eq!(body, ONE);
        assert_eq!(budget.taken(), MIN_CHUNK_BYTES);
    }
}
