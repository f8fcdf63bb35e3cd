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

/// A message that is to be published.
#[derive(Debug)]
struct Message {
    to: Subject,
    reply: Option<Subject>,
    headers: Option<HeaderMap>,
    body: Bytes,
}

/// What takes the messages: a connection.
trait Sink: Send + 'static {
    fn take(&self, message: Message) -> impl Future<Output = Result<(), Error>> + Send;
}

impl Sink for Client {
    async fn take(&self, message: Message) -> Result<(), Error> {
        let Message {
            to,
            reply,
            headers,
            body,
        } = message;
        publish(self, to, reply, headers, body).await
    }
}

#[derive(Debug)]
enum Outgoing {
    Message(Message),
    /// Resolves when everything before it is in the client's hands.
    Mark(oneshot::Sender<()>),
}

impl PublishBatcher {
    /// Starts its task, which ends, with nothing left, once the batcher is dropped.
    pub(crate) fn new(nats: Client) -> Self {
        Self::onto(nats)
    }

    fn onto(sink: impl Sink) -> Self {
        let (sender, waiting) = mpsc::channel(WAITING);
        tokio::spawn(hand_over(sink, waiting));
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
        let message = Message {
            to,
            reply,
            headers,
            body,
        };
        self.put(Outgoing::Message(message)).await
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

async fn hand_over(sink: impl Sink, mut waiting: mpsc::Receiver<Outgoing>) {
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
                Outgoing::Message(message) => {
                    if let Err(error) = sink.take(message).await {
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;
    use crate::interleaved::{Dice, let_go_first};

    /// A connection that takes messages when it wants to.
    struct Taken {
        bodies: Arc<Mutex<Vec<Bytes>>>,
        dice: Mutex<Dice>,
    }

    impl Sink for Taken {
        async fn take(&self, message: Message) -> Result<(), Error> {
            let times = self.dice.lock().unwrap().roll(3);
            let_go_first(times).await;
            self.bodies.lock().unwrap().push(message.body);
            Ok(())
        }
    }

    /// Sends messages of its own, and sees that they are handed over when it is said so.
    async fn sends(seed: u64, who: u8, batcher: Arc<PublishBatcher>, bodies: Arc<Mutex<Vec<Bytes>>>) -> u8 {
        let mut dice = Dice::new(seed, who.into());
        let count = dice.roll(40) as u8;
        for number in 0..count {
            let body = Bytes::copy_from_slice(&[who, number]);
            batcher.send("to".into(), None, None, body.clone()).await.unwrap();
            if dice.roll(6) == 0 {
                batcher.handed_over().await.unwrap();
                assert!(
                    bodies.lock().unwrap().contains(&body),
                    "{body:?} was said to be handed over"
                );
            }
            let_go_first(dice.roll(3)).await;
        }
        count
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

        #[test]
        fn in_every_order_messages_of_one_sender_keep_theirs_and_none_is_lost(seed in any::<u64>()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let bodies: Arc<Mutex<Vec<Bytes>>> = Arc::default();
                let sink = Taken {
                    bodies: Arc::clone(&bodies),
                    dice: Mutex::new(Dice::new(seed, 100)),
                };
                let batcher = Arc::new(PublishBatcher::onto(sink));
                let senders = (0..12).map(|who| tokio::spawn(sends(seed, who, Arc::clone(&batcher), Arc::clone(&bodies))));
                let mut expected = 0;
                for sender in senders.collect::<Vec<_>>() {
                    expected += usize::from(sender.await.unwrap());
                }
                // Without it, its task hands over what it has, and ends.
                drop(batcher);
                while Arc::strong_count(&bodies) > 1 {
                    tokio::task::yield_now().await;
                }
                let bodies = bodies.lock().unwrap();
                assert_eq!(bodies.len(), expected, "every message is handed over once");
                for who in 0..12 {
                    let numbers = bodies.iter().filter(|body| body[0] == who).map(|body| body[1]);
                    assert!(numbers.is_sorted_by(|a, b| a < b), "sender {who} keeps its order");
                }
            });
        }
    }
}
