//! What a change of the topology means for a publish: its tenant's events now go to another stream, which knows nothing
//! of the ids that the earlier one has.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::response::Response;
use async_nats::{HeaderMap, header};
use bytes::Bytes;
use fanout_plan::envelope::EventKey;
use fanout_plan::partition::Partition;
use fanout_plan::place::Places;
use fanout_plan::{Code, Position, Problem, TenantId};
use futures::StreamExt as _;
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::Store;
use super::publish::{Unstored, unstored};
use super::refusal::{answer_in, there};

/// The value of `Nats-Rollup` in a question. The server knows no such rollup, and refuses the message (10111). The server
/// checks the rollup after the message id and, in a cluster, before it proposes the message (nats-server 2.12 to 2.15). An
/// expected last message id that no event has does not serve: three servers propose that message, and the stream stops for
/// good when they apply it (2.15.1).
const NO_ROLLUP: &str = "none";

/// When a stream that nothing listens for is asked again.
const SOON: Duration = Duration::from_millis(5);

/// How long a second answer to a question is awaited.
const ANSWERS_WITHIN: Duration = Duration::from_millis(300);

/// What the log says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InLog {
    /// It holds the event.
    Held(Position),
    /// It remembers the event's id, and does not hold the event any more.
    Gone,
    /// It does not remember the id.
    Unknown,
}

/// Whether an answer to a question is a stream's.
fn is_of_a_stream(answer: &async_nats::Message) -> bool {
    let answer = serde_json::from_slice::<Response<()>>(&answer.payload);
    matches!(answer, Ok(Response::Err { error }) if error.error_code() == ErrorCode::STREAM_ROLLUP_FAILED)
}

impl Store {
    /// Where an event was stored before its tenant's events went elsewhere, if it was; asked for as long as the earlier
    /// stream remembers ids.
    ///
    /// The question is a publish that the server can only refuse ([`NO_ROLLUP`]). A repeated id is recognised before that,
    /// and answered with the first copy's place.
    pub(super) async fn stored_before(&self, tenant: &TenantId, id: &str) -> Result<Option<Position>, PublishError> {
        let window = self.policy.ids_remembered();
        for partition in self.layout.earlier(tenant) {
            let Some(at) = partition.retired_at() else { continue };
            let now = self.now();
            if now.since(at) > window {
                debug!(partition = partition.number, retired_at = %at, %now, "the ids of an earlier partition are not asked for any more");
                continue;
            }
            if let Some(offset) = Box::pin(self.stored_in(partition, id)).await? {
                return Ok(Some(Position::new(partition.number, offset)));
            }
        }
        Ok(None)
    }

    /// Whether the log has an event. It remembers ids longer than it holds what an operator purged, or a disk lost.
    /// The store must be of this moment: a tenant may have got its place in the log, or another one, since any earlier.
    pub(crate) async fn in_log(&self, tenant: &TenantId, key: &EventKey) -> Result<InLog, Unstored> {
        let mut id = key.to_string();
        let mut known = InLog::Unknown;
        for _ in 0..super::publish::TIMES_ANEW {
            let Some(position) = self.known_in_log(tenant, &id).await.map_err(unstored)? else {
                return Ok(known);
            };
            let holds = self.holds(position).await;
            if holds.map_err(|e| Unstored::Unverified(Arc::new(e)))? {
                return Ok(InLog::Held(position));
            }
            known = InLog::Gone;
            id = super::publish::id_after(key, position);
        }
        Ok(known)
    }

    async fn known_in_log(&self, tenant: &TenantId, id: &str) -> Result<Option<Position>, PublishError> {
        if let Some(partition) = self.layout.publish_to(tenant)
            && let Some(offset) = self.stored_in(partition, id).await?
        {
            return Ok(Some(Position::new(partition.number, offset)));
        }
        self.stored_before(tenant, id).await
    }

    /// Why what is published here is stored by another, too: more than one stream answers for the bus's dead letters. Servers that
    /// are joined and have a JetStream each answer their own clients, and both take what is published.
    pub(crate) async fn is_not_alone(&self) -> Option<Problem> {
        let nats = self.nats();
        let inbox = nats.new_inbox();
        let mut answers = nats.subscribe(inbox.clone()).await.ok()?;
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_ROLLUP, NO_ROLLUP);
        let question = self.names.dead_letter_question();
        let asked = nats.publish_with_reply_and_headers(question, inbox, headers, Bytes::new());
        asked.await.ok()?;
        // Whoever listens there besides may answer, too: a stream says why it did not take this one.
        let mut streams = (&mut answers).filter(|answer| std::future::ready(is_of_a_stream(answer)));
        let second = async {
            streams.next().await?;
            streams.next().await
        };
        timeout(ANSWERS_WITHIN, second).await.ok()??;
        let (bus, joined) = (
            &self.policy.bus,
            "by two servers that are joined and have a JetStream each",
        );
        let message = match &self.policy.places {
            Some(Places { here, .. }) => format!(
                "place {here} of bus {bus} is stored twice, {joined}, both taken for place {here}: an event gets one of two positions; give each its own JetStream domain and place, or take one of both away"
            ),
            None => format!(
                "bus {bus} is stored twice, {joined}: an event gets one of two positions, and is handled for each; make each server a place of the policy, or deny `fanout.>` and the bus's subjects on the link between them"
            ),
        };
        Some(Problem::new(Code::PlaceConflict, message))
    }

    /// Where a partition's stream has an event, if it remembers its id.
    async fn stored_in(&self, partition: &Partition, id: &str) -> Result<Option<u64>, PublishError> {
        let stream = self.names.partition(partition.number);
        let until = Instant::now() + self.policy.publish.deadline;
        loop {
            let question = PublishMessage::build()
                .message_id(id)
                .header(header::NATS_ROLLUP, NO_ROLLUP)
                .expected_stream(stream.clone());
            let asked = self
                .js
                .send_publish(partition.question_subject(&self.names), question)
                .await;
            let answer = match asked {
                Ok(answer) => answer.await,
                Err(e) => Err(e),
            };
            let error = match answer {
                Ok(ack) => return Ok(ack.duplicate.then_some(ack.sequence)),
                Err(e) => e,
            };
            match error.kind() {
                _ if answer_in(&error).is_some_and(|a| a.error_code() == ErrorCode::STREAM_ROLLUP_FAILED) => {
                    debug!(stream, id, "a stream of the log does not know this id");
                    return Ok(None);
                }
                // The moment after a stream was given its new subject, nothing listens there yet (nats-server 2.15).
                PublishErrorKind::StreamNotFound => {}
                _ => return Err(error),
            }
            match there(self.js.get_stream(&stream).await, "find a stream of the log") {
                // The stream has gone, with every event that it held.
                Ok(None) => return Ok(None),
                Ok(Some(_)) if Instant::now() < until => tokio::time::sleep(SOON).await,
                _ => return Err(error),
            }
        }
    }
}
