//! The messages of one exchange, a call that is made here or an invocation that is served here, until its task takes
//! them.
//!
//! The demultiplexer puts messages in and never waits; the task of the exchange takes them out. So one slow exchange
//! can't hold up another, and what is held is bounded by a limit for each buffer and by the [`Budget`] of all.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use async_nats::{Message, StatusCode};
use bytes::{Bytes, BytesMut};

use crate::budget::{Budget, Permits};
use crate::failure::too_large;
use crate::lattice::inboxes::ReplyTo;
use crate::lattice::wire;
use crate::shares::CallerKey;
use crate::{Body, Error, Resource};

/// What a chunk takes of the [`Budget`] at least: a body of tiny chunks costs more memory than it has bytes.
const MIN_CHUNK_BYTES: usize = 256;

/// The state of one exchange.
#[derive(Debug)]
pub(crate) struct ReplyBuffer {
    body: Body,
    limit: usize,
    received: usize,
    permits: Permits,
    /// Whose share of the [`Budget`] its bytes are charged to.
    caller: CallerKey,
    /// The reader is gone: what comes is dropped.
    unread: bool,
    chunks: VecDeque<Bytes>,
    handshake: Option<ReplyTo>,
    acknowledged: bool,
    direct: bool,
    end: Option<Result<(), Error>>,
    /// Waits for anything: the task of the exchange.
    owner: Option<Waker>,
    /// Waits for chunks: whoever decodes.
    reader: Option<Waker>,
}

/// What a caller waits for.
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

impl ReplyBuffer {
    /// `received` bytes count against the limit already.
    pub(crate) fn new(body: Body, limit: usize, received: usize) -> Self {
        Self {
            body,
            limit,
            received,
            permits: Permits::default(),
            caller: CallerKey::from(""),
            unread: false,
            chunks: VecDeque::new(),
            handshake: None,
            acknowledged: false,
            direct: false,
            end: None,
            owner: None,
            reader: None,
        }
    }

    /// The same, charged to a caller's share.
    pub(crate) fn of_caller(self, caller: &CallerKey) -> Self {
        Self {
            caller: CallerKey::clone(caller),
            ..self
        }
    }

    /// A message on the subject of the exchange itself. Only calls that are made here are answered there. What an invocation gets
    /// there is "no responders" for its handshake; between clusters that can be wrong, so it is left to the deadline.
    /// `reply` is where the message itself wants an answer.
    pub(crate) fn on_reply(&mut self, message: Message, reply: Option<ReplyTo>, budget: &Budget) {
        if self.body == Body::Parameters {
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
            if !self.acknowledged {
                self.acknowledged = true;
                self.handshake = Some(reply);
            }
        } else if let Some(error) = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(wire::FANOUT_ERROR))
        {
            self.end(Err(wire::decode_failure(error.as_str())));
        } else {
            self.direct = true;
            self.push(message.payload, budget);
            self.end(Ok(()));
        }
        self.wake();
    }

    /// A message on `.params` or `.results`.
    pub(crate) fn on_data(&mut self, payload: Bytes, budget: &Budget) {
        self.acknowledged = true;
        if payload.is_empty() {
            self.end(Ok(()));
        } else {
            self.push(payload, budget);
        }
        self.wake();
    }

    /// Nobody reads any more: what is held is given back, and what still comes is dropped.
    pub(super) fn abandon(&mut self) {
        self.unread = true;
        self.chunks.clear();
        self.permits = Permits::default();
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
            let error = too_large(self.body, bytes, self.limit);
            return self.end(Err(error));
        }
        let Some(permits) = budget.try_take_for(&self.caller, payload.len().max(MIN_CHUNK_BYTES)) else {
            return self.end(Err(match self.body {
                Body::Parameters => Error::Busy(Resource::Bytes),
                Body::Result => Error::NoMemory,
            }));
        };
        self.permits.merge(permits);
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
            self.permits = Permits::default();
        }
        self.end = Some(end);
    }

    fn wake(&mut self) {
        for waker in [self.owner.take(), self.reader.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    pub(super) fn poll_event(&mut self, cx: &Context<'_>) -> Poll<Result<Event, Error>> {
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

    pub(super) fn poll_chunk(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
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

    pub(super) fn poll_acknowledged(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.acknowledged || self.end.is_some() {
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    const ONE: Bytes = Bytes::from_static(b"1");

    fn end(buffer: &mut ReplyBuffer) -> Poll<Result<Event, Error>> {
        buffer.poll_event(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn tiny_chunks_are_charged_for_what_they_cost() {
        let budget = Budget::new(10 * MIN_CHUNK_BYTES);
        let mut buffer = ReplyBuffer::new(Body::Result, 1 << 20, 0);
        for _ in 0..10 {
            buffer.on_data(ONE, &budget);
            assert!(end(&mut buffer).is_pending());
        }
        buffer.on_data(ONE, &budget);
        assert!(matches!(end(&mut buffer), Poll::Ready(Err(Error::NoMemory))));
        assert_eq!(budget.taken(), 0, "a failed body gives its permits back at once");
    }

    #[test]
    fn what_comes_after_the_end_is_dropped() {
        let budget = Budget::new(1 << 20);
        let mut buffer = ReplyBuffer::new(Body::Result, 100, 0);
        for payload in [ONE, Bytes::new(), ONE, Bytes::new()] {
            buffer.on_data(payload, &budget);
        }
        let Poll::Ready(Ok(Event::Result { body, direct: false })) = end(&mut buffer) else {
            panic!("the result is complete");
        };
        assert_eq!(body, ONE);
        assert_eq!(budget.taken(), MIN_CHUNK_BYTES);
    }
}
