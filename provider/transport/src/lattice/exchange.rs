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

use crate::budget::Permits;
use crate::chunks::Chunks;
use crate::failure::Failure;
use crate::functions::Answer;
use crate::lattice::connection::Connection;
use crate::lattice::inboxes::ReplyTo;
use crate::lattice::reply_buffer::ReplyBuffer;
use crate::lattice::reply_slot::ReplySlot;
use crate::lattice::wire;
use crate::result_budget::ResultPermits;
use crate::shares::CallerKey;
use crate::{Body, Error};

/// Where results go, below the reply subject.
const RESULTS: &str = "results";

/// One invocation that was taken. It is answered once, by [`Exchange::run`].
#[derive(Debug)]
pub(crate) struct Exchange {
    connection: Arc<Connection>,
    reply: ReplyTo,
    fanout: bool,
    /// Absent when everything is here and nothing has to be acknowledged.
    slot: Option<ReplySlot>,
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
        connection: &Arc<Connection>,
        message: Message,
        reply: ReplyTo,
        (caller, permits): (&CallerKey, Permits),
    ) -> (Self, Chunks) {
        let mark = mark(message.headers.as_ref());
        let fanout = mark.is_some();
        let slot = (mark != Some(wire::WHOLE)).then(|| {
            let limit = connection.options.max_body_bytes;
            let buffer = ReplyBuffer::new(Body::Parameters, limit, message.payload.len());
            ReplySlot::open(connection, buffer.of_caller(caller))
        });
        let first = Chunks::whole(message.payload, permits);
        let parameters = match &slot {
            Some(slot) => first.and(slot.chunks()),
            None => first,
        };
        let exchange = Self {
            connection: Arc::clone(connection),
            reply,
            fanout,
            slot,
        };
        (exchange, parameters)
    }

    /// Answers an invocation that is not taken. Not repeated: it is sent when there is too much to do already.
    pub(crate) async fn refuse(
        connection: &Connection,
        headers: Option<HeaderMap>,
        reply: ReplyTo,
        failure: Failure,
    ) -> Result<(), Error> {
        if mark(headers.as_ref()).is_some() {
            return fail(connection, reply, &failure).await;
        }
        // No reply buffer has that number: what the peer still sends is dropped.
        let nowhere = connection.subject(0);
        let results = reply.below(RESULTS);
        connection
            .send(reply.into_subject(), Some(nowhere), None, Bytes::new())
            .await?;
        connection.publish(results, Bytes::new()).await
    }

    /// Waits for `work`, then sends the answer. Returns why the invocation failed, if it did.
    pub(crate) async fn run(
        self,
        deadline: Instant,
        work: impl Future<Output = Result<Answer, Failure>>,
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
        let (result, failure, _permits) = match result {
            Ok(Answer { body, permits }) => (Ok(body), None, permits),
            Err(failure) => (Err(failure.clone()), Some(failure), ResultPermits::default()),
        };
        match timeout(self.connection.options.answer_deadline(), self.answer(result)).await {
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
        self.connection
            .send(self.reply.subject().clone(), Some(slot.subject()), None, Bytes::new())
            .await
    }

    /// For as long as the handler runs: a peer that never saw the handshake would not send the rest of its parameters.
    async fn repeat_handshake(&self) -> Infallible {
        if let Some(slot) = self.slot.as_ref().filter(|_| !self.fanout) {
            for wait in self.connection.options.repeats() {
                if timeout(wait, slot.acknowledged()).await.is_ok() {
                    break;
                }
                self.connection.repeats.fetch_add(1, Ordering::Relaxed);
                if self.handshake().await.is_err() {
                    break;
                }
            }
        }
        pending().await
    }

    /// Sends the answer to a call.
    async fn answer(&self, result: Result<Bytes, Failure>) -> Result<(), Error> {
        let connection = &*self.connection;
        if self.fanout {
            return match result {
                Ok(body) => answer_whole(connection, self.reply.clone(), body).await,
                Err(failure) => fail(connection, self.reply.clone(), &failure).await,
            };
        }
        // The v1 lattice has no word for a failure but a result of zero bytes.
        self.answer_stock(result.unwrap_or_default()).await
    }

    async fn answer_stock(&self, body: Bytes) -> Result<(), Error> {
        let connection = &*self.connection;
        let to = self.reply.below(RESULTS);
        let Some(slot) = &self.slot else {
            return connection.publish_all(&to, body).await;
        };
        // A body of several messages waits: the peer might lose the first of them and see the second. An empty body is
        // its own end marker, and right even if it arrives alone.
        let one_message = body.len() <= connection.max_payload();
        for wait in connection.options.repeats() {
            if one_message {
                connection.publish(to.clone(), body.clone()).await?;
            }
            if timeout(wait, slot.acknowledged()).await.is_ok() {
                return match (one_message, body.is_empty()) {
                    (false, _) => connection.publish_all(&to, body).await,
                    (true, false) => connection.publish(to, Bytes::new()).await,
                    (true, true) => Ok(()),
                };
            }
            connection.repeats.fetch_add(1, Ordering::Relaxed);
            self.handshake().await?;
        }
        Err(Error::Protocol("the caller never acknowledged the handshake"))
    }
}

/// To a caller that takes a result in one message, or in chunks.
async fn answer_whole(connection: &Connection, reply: ReplyTo, body: Bytes) -> Result<(), Error> {
    if body.len() <= connection.max_payload() {
        connection.batcher.send(reply.into_subject(), None, None, body).await
    } else {
        connection.publish_all(&reply.below(RESULTS), body).await
    }
}

async fn fail(connection: &Connection, reply: ReplyTo, failure: &Failure) -> Result<(), Error> {
    let mut headers = HeaderMap::new();
    headers.insert(wire::FANOUT_ERROR, wire::encode_failure(failure));
    connection
        .send(reply.into_subject(), None, Some(headers), Bytes::new())
        .await
}
