//! The answering side of one invocation: handshake, result, and what a client of wrpc-transport-nats 0.29 needs besides.
//!
//! Such a client publishes its invocation before its own demultiplexer knows of the subscriptions for the answer. A
//! fast answer is then dropped, and the call hangs for good. It can lose any first part of what is sent, never a later
//! one. But once it has the handshake it always publishes an end marker to `.params`: a free acknowledgement. So:
//!
//! 1. The end marker of a result MUST NOT be sent behind data that is not acknowledged: alone it reads as a failure.
//! 2. It MUST NOT overtake the data: one task sends both, the data first, whenever the acknowledgement comes.
//! 3. Nothing is repeated to a peer that marks its calls with the private header: it subscribed first, and would take
//!    a repeated chunk for more of the result.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};

use crate::budget::Room;
use crate::lattice::Inner;
use crate::mailbox::{Mailbox, Slot};
use crate::parameters::Parameters;
use crate::shares::Key;
use crate::wire::{self, Failure};
use crate::{Error, Part, ReplyTo};

/// Where results go, below the reply subject.
const RESULTS: &str = "results";

/// One invocation that was taken. It is answered once, by [`Exchange::run`].
#[derive(Debug)]
pub(crate) struct Exchange {
    inner: Arc<Inner>,
    reply: ReplyTo,
    /// Whose share of bytes its result is charged to.
    caller: Key,
    fanout: bool,
    /// Absent when everything is here and nothing has to be acknowledged.
    slot: Option<Slot>,
}

/// How the peer marks its calls.
fn mark(headers: Option<&HeaderMap>) -> Option<&str> {
    headers
        .and_then(|headers| headers.get(wire::FANOUT_CALL))
        .map(|value| value.as_str())
}

impl Exchange {
    /// Takes an invocation that is answered there.
    pub(crate) fn open(
        inner: &Arc<Inner>,
        message: Message,
        reply: ReplyTo,
        (caller, room): (&Key, Room),
    ) -> (Self, Parameters) {
        let mark = mark(message.headers.as_ref());
        let fanout = mark.is_some();
        let slot = (mark != Some(wire::WHOLE)).then(|| {
            let limit = inner.options.max_body_bytes;
            let mailbox = Mailbox::new(Part::Parameters, limit, message.payload.len());
            Slot::open(inner, mailbox.of_caller(caller))
        });
        let rest = slot.as_ref().map(Slot::chunks);
        let parameters = Parameters::on_lattice(message.payload, rest, room);
        let exchange = Self {
            inner: Arc::clone(inner),
            reply,
            caller: Key::clone(caller),
            fanout,
            slot,
        };
        (exchange, parameters)
    }

    /// Answers an invocation that is not taken. Not repeated: it is sent when there is too much to do already.
    pub(crate) async fn refuse(
        inner: &Inner,
        headers: Option<HeaderMap>,
        reply: ReplyTo,
        failure: Failure,
    ) -> Result<(), Error> {
        if mark(headers.as_ref()).is_some() {
            return fail(inner, reply, &failure).await;
        }
        // No mailbox has that number: what the peer still sends is dropped.
        let nowhere = inner.subject(0);
        let results = reply.below(RESULTS);
        inner
            .send(reply.into_subject(), Some(nowhere), None, Bytes::new())
            .await?;
        inner.publish(results, Bytes::new()).await
    }

    /// Waits for `work`, then sends the answer. Returns why the invocation failed, if it did.
    pub(crate) async fn run(
        self,
        deadline: Instant,
        work: impl Future<Output = Result<Bytes, Failure>>,
    ) -> Result<(), Failure> {
        match timeout_at(deadline, self.handshake()).await {
            Ok(sent) => sent?,
            Err(_) => return Err(Failure::Failed("the handshake could not be sent".into())),
        }
        let result = tokio::select! {
            biased;
            done = work => done,
            never = self.repeat_handshake() => match never {},
        };
        let failure = result.as_ref().err().cloned();
        let room = match &result {
            Ok(body) => timeout_at(deadline, self.inner.budget.take_for(&self.caller, body.len())).await,
            Err(_) => Ok(Room::default()),
        };
        let (result, _room) = match room {
            Ok(room) => (result, room),
            Err(_) => (Err(Failure::Failed("no room for the result".into())), Room::default()),
        };
        let failure = failure.or_else(|| result.as_ref().err().cloned());
        match timeout(self.inner.options.answer_deadline(), self.answer(result)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(Failure::Failed("the answer could not be sent".into())),
        }
        failure.map_or(Ok(()), Err)
    }

    async fn handshake(&self) -> Result<(), Error> {
        let Some(slot) = &self.slot else {
            return Ok(());
        };
        self.inner
            .send(self.reply.subject().clone(), Some(slot.subject()), None, Bytes::new())
            .await
    }

    /// For as long as the handler runs: a peer that never saw the handshake would not send the rest of its parameters.
    async fn repeat_handshake(&self) -> Infallible {
        if let Some(slot) = self.slot.as_ref().filter(|_| !self.fanout) {
            for wait in self.inner.options.repeats() {
                if timeout(wait, slot.heard()).await.is_ok() {
                    break;
                }
                self.inner.repeats.fetch_add(1, Ordering::Relaxed);
                if self.handshake().await.is_err() {
                    break;
                }
            }
        }
        pending().await
    }

    /// Sends the answer to a call.
    async fn answer(&self, result: Result<Bytes, Failure>) -> Result<(), Error> {
        let inner = &*self.inner;
        if self.fanout {
            return match result {
                Ok(body) => answer_whole(inner, self.reply.clone(), body).await,
                Err(failure) => fail(inner, self.reply.clone(), &failure).await,
            };
        }
        // The v1 lattice has no word for a failure but a result of zero bytes.
        self.answer_stock(result.unwrap_or_default()).await
    }

    async fn answer_stock(&self, body: Bytes) -> Result<(), Error> {
        let inner = &*self.inner;
        let to = self.reply.below(RESULTS);
        let Some(slot) = &self.slot else {
            return inner.publish_all(&to, body).await;
        };
        // A body of several messages waits: the peer might lose the first of them and see the second. An empty body is
        // its own end marker, and right even if it arrives alone.
        let one_message = body.len() <= inner.max_payload();
        for wait in inner.options.repeats() {
            if one_message {
                inner.publish(to.clone(), body.clone()).await?;
            }
            if timeout(wait, slot.heard()).await.is_ok() {
                return match (one_message, body.is_empty()) {
                    (false, _) => inner.publish_all(&to, body).await,
                    (true, false) => inner.publish(to, Bytes::new()).await,
                    (true, true) => Ok(()),
                };
            }
            inner.repeats.fetch_add(1, Ordering::Relaxed);
            self.handshake().await?;
        }
        Err(Error::Protocol("the caller never acknowledged the handshake"))
    }
}

/// To a caller that takes a result in one message, or in chunks.
async fn answer_whole(inner: &Inner, reply: ReplyTo, body: Bytes) -> Result<(), Error> {
    if body.len() <= inner.max_payload() {
        inner.outbox.send(reply.into_subject(), None, None, body).await
    } else {
        inner.publish_all(&reply.below(RESULTS), body).await
    }
}

async fn fail(inner: &Inner, reply: ReplyTo, failure: &Failure) -> Result<(), Error> {
    let mut headers = HeaderMap::new();
    headers.insert(wire::FANOUT_ERROR, failure.header());
    inner
        .send(reply.into_subject(), None, Some(headers), Bytes::new())
        .await
}
