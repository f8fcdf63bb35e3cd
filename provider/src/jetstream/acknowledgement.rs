//! Acknowledgements: what the store is told about a message that one of its consumers delivered. All are sent from here.

use std::pin::pin;
use std::time::Duration;

use async_nats::jetstream::{AckKind, Message};
use async_nats::{Request, StatusCode, Subject};
use bytes::Bytes;
use tokio::time::timeout;
use tracing::debug;

use super::{Store, StoreError};

/// How long the store may take to settle.
const SETTLES_IN: Duration = Duration::from_secs(5);
/// How long the store may be silent before its consumer is asked whether it knows of the delivery.
const ANSWERS_IN: Duration = Duration::from_millis(500);

/// What is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledgement {
    /// The message is settled: its consumer never delivers it again.
    Ack,
    /// Its lease begins anew.
    Progress,
    /// It is delivered again after the delay.
    Nak(Duration),
}

impl From<Acknowledgement> for AckKind {
    fn from(acknowledgement: Acknowledgement) -> Self {
        match acknowledgement {
            Acknowledgement::Ack => Self::Ack,
            Acknowledgement::Progress => Self::Progress,
            Acknowledgement::Nak(delay) => Self::Nak(Some(delay).filter(|delay| !delay.is_zero())),
        }
    }
}

/// Sends one, unconfirmed. Where it is lost, the message is delivered again: at least once.
pub(crate) async fn acknowledge(message: &Message, acknowledgement: Acknowledgement) {
    if let Err(error) = message.ack_with(acknowledgement.into()).await {
        debug!(subject = %message.subject, ?acknowledgement, %error, "an acknowledgement was not sent; the message is delivered again");
    }
}

impl Store {
    /// Settles a message, or renews its lease, and waits until the store has done so.
    ///
    /// A server that was killed may forget what its consumers delivered last. It delivers that again, and never answers
    /// who acknowledges it meanwhile (nats-server 2.15.1): [`StoreError::Forgotten`].
    pub(crate) async fn settle(&self, reply: &str, acknowledgement: Acknowledgement) -> Result<(), StoreError> {
        // It came with an event or from another instance: only the store's own subjects are written to.
        if self.under(reply, Subject::from(""), Bytes::new(), None).info().is_err() {
            return Err(StoreError::when("settle an event")(
                "its handle names no subject of the store",
            ));
        }
        let nats = self.nats();
        let settles = async {
            let mut request = pin!(nats.request(Subject::from(reply), payload(acknowledgement)));
            let Ok(answer) = timeout(ANSWERS_IN, &mut request).await else {
                let forgot = self.forgot(reply).await;
                if forgot.map_err(StoreError::when("say what it delivered"))? {
                    return Err(StoreError::Forgotten);
                }
                return request.await.map_err(StoreError::when("settle an event"));
            };
            answer.map_err(StoreError::when("settle an event"))
        };
        let answer = timeout(SETTLES_IN, settles)
            .await
            .map_err(StoreError::when("settle an event in time"))??;
        match answer.status {
            None | Some(StatusCode::OK) => Ok(()),
            Some(status) => Err(StoreError::when("settle an event")(format!("it answered {status}"))),
        }
    }

    /// Acknowledges a message that this instance was delivered, and waits for the store to confirm it, within the limit.
    pub(crate) async fn confirm_ack(&self, reply: Subject, within: Duration) -> Result<(), StoreError> {
        let ack = Request::new()
            .payload(payload(Acknowledgement::Ack))
            .timeout(Some(within));
        let confirmed = self.nats().send_request(reply, ack).await;
        confirmed.map(drop).map_err(StoreError::when("confirm a settlement"))
    }

    /// Whether a consumer has yet to deliver what it once delivered under this reply.
    async fn forgot(&self, reply: &str) -> Result<bool, async_nats::Error> {
        let message = self.under(reply, Subject::from(""), Bytes::new(), None);
        let given = message.info()?;
        let stream = self.js.get_stream_no_info(given.stream).await?;
        let consumer = stream.consumer_info(given.consumer).await?;
        Ok(consumer.delivered.stream_sequence < given.stream_sequence)
    }
}

fn payload(acknowledgement: Acknowledgement) -> Bytes {
    AckKind::from(acknowledgement).into()
}
