//! What many tasks send over one NATS connection at the same time, handed to the client in one go.
//!
//! The client writes as soon as it has something: of a hundred tasks that are ready at the same time and each send one
//! message, it would make a hundred system calls, and wake and stop its own thread in between. So the messages go to one
//! task, which lets all that is ready go first. A message that is alone waits for one turn of the runtime. Calls of one
//! target, and answers to one caller, become one message where both know of it: see [`crate::bundle`]. At most
//! [`WAITING`] and [`BURST`] messages are in here, before the client's own queue.

use std::sync::{Arc, Weak};

use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::bundle::{self, Bundle};
use crate::lattice::Inner;
use crate::session::codec::Kind;
use crate::target::Target;
use crate::{Error, ReplyTo, wire};

/// Messages that wait; who sends one more waits too.
const WAITING: usize = 256;
/// Messages that are handed over at a time.
const BURST: usize = 256;

/// The way out of one connection. Messages of one sender keep their order.
#[derive(Debug)]
pub(crate) struct Outbox(mpsc::Sender<Outgoing>);

/// A call that goes in a bundle.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) target: Arc<Target>,
    /// The number of its mailbox.
    pub(crate) id: u32,
    pub(crate) context: Bytes,
    pub(crate) params: Bytes,
}

/// An answer that goes in a bundle.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Where that of the call's is answered.
    pub(crate) reply: ReplyTo,
    pub(crate) call: u32,
    pub(crate) kind: Kind,
    pub(crate) body: Bytes,
}

#[derive(Debug)]
enum Outgoing {
    Message {
        to: Subject,
        reply: Option<Subject>,
        headers: Option<HeaderMap>,
        body: Bytes,
    },
    Call(Call),
    Answer(Answer),
    /// Says when everything before it is in the client's hands.
    Mark(oneshot::Sender<()>),
}

impl Outbox {
    /// Starts its task, which ends, with nothing left, once the outbox is dropped.
    pub(crate) fn new(nats: Client, inner: Weak<Inner>) -> Self {
        let (sender, waiting) = mpsc::channel(WAITING);
        tokio::spawn(hand_over(nats, inner, waiting));
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

    /// Sends a call with others of its target.
    pub(crate) async fn call(&self, call: Call) -> Result<(), Error> {
        self.put(Outgoing::Call(call)).await
    }

    /// Sends an answer with others to its caller.
    pub(crate) async fn answer(&self, answer: Answer) -> Result<(), Error> {
        self.put(Outgoing::Answer(answer)).await
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

async fn hand_over(nats: Client, inner: Weak<Inner>, mut waiting: mpsc::Receiver<Outgoing>) {
    let mut burst = Vec::with_capacity(BURST);
    let mut bundles = Bundles {
        nats,
        inner,
        open: Vec::new(),
    };
    while waiting.recv_many(&mut burst, BURST).await > 0 {
        // Tasks that are ready to send do so now.
        tokio::task::yield_now().await;
        while burst.len() < BURST
            && let Ok(more) = waiting.try_recv()
        {
            burst.push(more);
        }
        for outgoing in burst.drain(..) {
            let sent = match outgoing {
                Outgoing::Message {
                    to,
                    reply,
                    headers,
                    body,
                } => publish(&bundles.nats, to, reply, headers, body).await,
                Outgoing::Call(Call {
                    target,
                    id,
                    context,
                    params,
                }) => {
                    let to = To::Target(target);
                    bundles.add(to, (Kind::Call { end: true }, id), &context, &params).await
                }
                Outgoing::Answer(answer) => {
                    let to = To::Caller(answer.reply);
                    bundles.add(to, (answer.kind, answer.call), &answer.body, &[]).await
                }
                Outgoing::Mark(done) => {
                    let sent = bundles.send_all().await;
                    // Who no longer waits needs no answer.
                    done.send(()).ok();
                    sent
                }
            };
            log(sent);
        }
        log(bundles.send_all().await);
    }
}

fn log(sent: Result<(), Error>) {
    if let Err(error) = sent {
        tracing::debug!(%error, "a message was not sent");
    }
}

/// Bundles of one burst.
struct Bundles {
    nats: Client,
    inner: Weak<Inner>,
    /// Few: one for each target and each caller that has a part in the burst.
    open: Vec<(To, Bundle)>,
}

/// Whom a bundle is for.
enum To {
    Target(Arc<Target>),
    /// By the reply subject of one of its bundles.
    Caller(ReplyTo),
}

impl To {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Target(a), Self::Target(b)) => Arc::ptr_eq(a, b),
            (Self::Caller(a), Self::Caller(b)) => bundle::inbox(a.subject()) == bundle::inbox(b.subject()),
            _ => false,
        }
    }
}

impl Bundles {
    async fn add(&mut self, to: To, (kind, call): (Kind, u32), first: &[u8], second: &[u8]) -> Result<(), Error> {
        let at = match self.open.iter().position(|(other, _)| other.is(&to)) {
            Some(at) => at,
            None => {
                self.open.push((to, Bundle::default()));
                self.open.len() - 1
            }
        };
        let mut sent = Ok(());
        let bundle = &mut self.open[at].1;
        if bundle.is_full_for(first.len() + second.len(), self.nats.max_payload()) {
            let full = std::mem::take(bundle);
            sent = self.send(&self.open[at].0, full).await;
        }
        self.open[at].1.push(kind, call, first, second);
        sent
    }

    async fn send_all(&mut self) -> Result<(), Error> {
        let mut sent = Ok(());
        for (to, bundle) in std::mem::take(&mut self.open) {
            sent = self.send(&to, bundle).await.and(sent);
        }
        sent
    }

    async fn send(&self, to: &To, bundle: Bundle) -> Result<(), Error> {
        let (body, calls) = bundle.into_parts();
        match to {
            To::Target(target) => {
                // Without it nobody waits for their answers.
                let Some(reply) = self.inner.upgrade().map(|inner| inner.bundled(&calls)) else {
                    return Ok(());
                };
                let mut headers = HeaderMap::new();
                headers.insert(wire::SOURCE_ID, &*target.source);
                publish(&self.nats, target.bundles.clone(), Some(reply), Some(headers), body).await
            }
            To::Caller(reply) => publish(&self.nats, reply.subject().clone(), None, None, body).await,
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
    .map_err(Error::publish)
}
