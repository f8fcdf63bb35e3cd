//! What a change of the topology means for a publish: its tenant's events now go to another stream, which knows nothing
//! of the ids that the earlier one has.

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use fanout_plan::partition::Binding;
use fanout_plan::{Position, TenantId};

use super::Store;
use crate::clock;

/// No event has this id: an event's is qualified by its tenant.
const NO_ID: &str = "!";

impl Store {
    /// Where an event was stored before its tenant's events went elsewhere, if it was; asked for as long as the earlier
    /// stream remembers ids.
    ///
    /// The question is a publish that the server can only refuse: it expects a last message id that there is none of.
    /// A repeated id is recognised before that (nats-server 2.15), and answered with the first copy's place.
    pub(super) async fn stored_before(&self, tenant: &TenantId, id: &str) -> Result<Option<Position>, PublishError> {
        let window = i64::try_from(self.policy.ids_remembered().as_nanos()).unwrap_or(i64::MAX);
        for partition in self.layout.earlier(tenant) {
            let Binding::Retired(at) = partition.binding else {
                continue;
            };
            if clock::now().saturating_sub(at) > window {
                continue;
            }
            let question = PublishMessage::build()
                .message_id(id)
                .expected_last_message_id(NO_ID)
                .expected_stream(self.names.partition(partition.number));
            let asked = self
                .js
                .send_publish(self.names.retired(partition.number), question)
                .await;
            let answer = match asked {
                Ok(answer) => answer.await,
                Err(e) => Err(e),
            };
            match answer {
                Ok(ack) if ack.duplicate => {
                    return Ok(Some(Position {
                        partition: partition.number,
                        offset: ack.sequence,
                    }));
                }
                Ok(_) => {}
                // It is not there; or its stream has gone, with every event that it held.
                Err(e)
                    if matches!(
                        e.kind(),
                        PublishErrorKind::WrongLastMessageId | PublishErrorKind::StreamNotFound
                    ) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }
}
