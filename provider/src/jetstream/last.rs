//! The last message of each subject below a filter, in one request (ADR-31, "batched requests"; nats-server 2.11).
//!
//! It takes no consumer: an account or a stream that may have no more of them can still be read. Any copy of the stream
//! may answer, also one that lags: an answer says up to where it knows the stream.

use async_nats::Message;
use futures::StreamExt as _;

use super::Store;

/// What the server answers at the end of a list, for one without an entry, and where more than 1,024 subjects match (2.15).
const END: u16 = 204;
const NONE: u16 = 404;
const TOO_MANY: u16 = 413;

/// What a copy of a stream answered.
pub(super) struct Last {
    /// The last message of each subject.
    pub(super) messages: Vec<Message>,
    /// The last sequence that it knows of; 0 where nothing matches.
    pub(super) up_to: u64,
}

impl Store {
    /// The last message of each subject of `stream` that matches `filter`; `None` where they are too many for one answer.
    pub(super) async fn last_of(&self, stream: &str, filter: &str) -> Result<Option<Vec<Message>>, async_nats::Error> {
        Ok(self.last_known(stream, filter).await?.map(|last| last.messages))
    }

    /// The same, with how much of the stream the answer knows of.
    pub(super) async fn last_known(&self, stream: &str, filter: &str) -> Result<Option<Last>, async_nats::Error> {
        let nats = self.nats();
        let inbox = nats.new_inbox();
        let mut answers = nats.subscribe(inbox.clone()).await?;
        let request = serde_json::json!({ "multi_last": [filter] });
        let subject = format!("{}.DIRECT.GET.{stream}", self.policy.jetstream.subject());
        nats.publish_with_reply(subject, inbox, request.to_string().into())
            .await?;
        let mut found = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.status.map(|status| status.as_u16()) {
                None => found.push(answer),
                // The list is cut short where it is long.
                Some(END) => {
                    let up_to = number(&answer, "Nats-UpTo-Sequence");
                    let whole = number(&answer, "Nats-Num-Pending") == 0;
                    return Ok(whole.then_some(Last { messages: found, up_to }));
                }
                Some(NONE) => {
                    return Ok(Some(Last {
                        messages: found,
                        up_to: 0,
                    }));
                }
                Some(TOO_MANY) => return Ok(None),
                Some(status) => return Err(format!("the store answered {status}").into()),
            }
        }
        Err("the connection was closed".into())
    }
}

/// The subject that a message of such an answer was stored on.
pub(super) fn subject_of(message: &Message) -> Result<&str, async_nats::Error> {
    let subject = message.headers.as_ref().and_then(|h| h.get("Nats-Subject"));
    Ok(subject.ok_or("an answer without its subject")?.as_str())
}

/// A number in a header of an answer; 0 where there is none.
fn number(answer: &Message, header: &str) -> u64 {
    let number = answer.headers.as_ref().and_then(|h| h.get(header));
    number.and_then(|n| n.as_str().parse().ok()).unwrap_or(0)
}
