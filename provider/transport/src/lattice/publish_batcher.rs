//! Batches what many tasks publish over one NATS connection at the same time, and hands it to the client in one go.
//!
//! The client writes as soon as it has something: of a hundred tasks that are ready at the same time and each send one
//! message, it would make a hundred system calls, and wake and stop its own thread in between. So the messages go to one
//! task, which lets all that is ready go first. A message that is alone waits until the runtime has polled the other ready tasks once. At most
//! [`WAITING`] and [`BURST`] messages are in here, before the client's own queue.

use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::lattice::wire::publish_error;

/// Messages that wait; who sends one more waits too.
const WAITING: usize = 256;
/// Messages that are handed over at a time.
const BURST: usize = 256;

/// Publishes over one connection. Messages of one sender keep their order.
#[derive(Debug)]
pub(crate) struct PublishBatcher(mpsc::Sender<Outgoing>);

#[derive(Debug)]
enum Outgoing {
    Message {
        to: Subject,
        reply: Option<Subject>,
        headers: Option<HeaderMap>,
        body: Bytes,
    },
    /// Resolves when everything before it is in the client's hands.
    Mark(oneshot::Sender<()>),
}

impl PublishBatcher {
    /// Starts its task, which ends, with nothing left, once the batcher is dropped.
    pub(crate) fn new(nats: Client) -> Self {
        let (sender, waiting) = mpsc::channel(WAITING);
        tokio::spawn(hand_over(nats, waiting));
        Self(sender)
    }

    /// Sends a message. It is lost only if the connection is closed for good, as with the client itself.
    pub(crate) async fn send(
        &self,
        to: Subject,
        reply: Option<Subject>,
        headers: Option<HeaderMap>,
        body: Bytes,
    ) -> Result<(), Error> {
        self.put(Outgoing::Message {
            to,
            reply,
            headers,
            body,
        })
        .await
    }

    /// Waits until the client has what was sent so far.
    pub(crate) async fn handed_over(&self) -> Result<(), Error> {
        let (mark, done) = oneshot::channel();
        self.put(Outgoing::Mark(mark)).await?;
        done.await.map_err(|_| Error::Closed)
    }

    async fn put(&self, outgoing: Outgoing) -> Result<(), Error> {
        self.0.send(outgoing).await.map_err(|_| Error::Closed)
    }
}

async fn hand_over(nats: Client, mut waiting: mpsc::Receiver<Outgoing>) {
    let mut burst = Vec::with_capacity(BURST);
    while waiting.recv_many(&mut burst, BURST).await > 0 {
        // Tasks that are ready to send do so now.
        tokio::task::yield_now().await;
        while burst.len() < BURST
            && let Ok(more) = waiting.try_recv()
        {
            burst.push(more);
        }
        for outgoing in burst.drain(..) {
            match outgoing {
                Outgoing::Message {
                    to,
                    reply,
                    headers,
                    body,
                } => {
                    if let Err(error) = publish(&nats, to, reply, headers, body).await {
                        tracing::debug!(%error, "a message was not sent");
                    }
                }
                // Who no longer waits needs no answer.
                Outgoing::Mark(done) => drop(done.send(())),
            }
        }
    }
}

/// One message, straight to the client; with a reply subject it is an invocation or a handshake.
pub(crate) async fn publish(
    nats: &Client,
    to: Subject,
    reply: Option<Subject>,
    headers: Option<HeaderMap>,
    body: Bytes,
) -> Result<(), Error> {
    match (reply, headers) {
        (Some(reply), Some(headers)) => nats.publish_with_reply_and_headers(to, reply, headers, body).await,
        (Some(reply), None) => nats.publish_with_reply(to, reply, body).await,
        (None, Some(headers)) => nats.publish_with_headers(to, headers, body).await,
        (None, None) => nats.publish(to, body).await,
    }
    .map_err(publish_error)
}
