//! Takes messages from the log for someone who asks for them: what is there now, or the first that comes.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use async_nats::jetstream::{self, AckKind, kv};
use async_nats::{StatusCode, Subject};
use bytes::Bytes;
use fanout_plan::partition::Partition;
use fanout_plan::subscription::{Need, Registered, Subscription};
use fanout_plan::{Position, SubscriptionName};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::timeout;

use super::{Store, StoreError};
use crate::clock;

/// How long the store may take for what needs no waiting.
const AT_ONCE: Duration = Duration::from_secs(5);
/// Less than this is not worth a request.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);
/// For how long after its last fetch a queue subscription that is fetched goes on hearing events, and how old an event
/// may be that it is given.
pub(crate) const LISTENS_FOR: Duration = Duration::from_secs(60);
/// The registry's entry that holds the secret of the tokens. With a dot, it is no subscription's name.
pub(super) const SECRET: &str = "inbox.secret";

/// Messages that were given out.
pub(crate) struct Taken {
    pub(crate) messages: Vec<jetstream::Message>,
    /// None was given out before this, nanoseconds since the Unix epoch.
    pub(crate) since: i64,
}

impl Store {
    /// What a subscription that is fetched takes its events from: one for each partition that has any.
    pub(crate) async fn inbox_consumers(&self, registered: &Registered) -> Result<Vec<PullConsumer>, StoreError> {
        let subscription = &registered.subscription;
        let mut consumers = Vec::new();
        if subscription.need == Need::Queue {
            for partition in self.partitions_of(subscription) {
                consumers.extend(self.listener(subscription, partition).await?);
            }
            return Ok(consumers);
        }
        for (partition, reader) in self.readers_of(registered) {
            consumers.extend(self.consumer(registered, partition, &reader).await?);
        }
        Ok(consumers)
    }

    /// A consumer that hears what is stored from now on and is gone when nobody fetches: the store's own memory of who
    /// listens, shared by all instances. It carries no mark of Fanout's, so that no plan removes it.
    async fn listener(
        &self,
        subscription: &Subscription,
        partition: &Partition,
    ) -> Result<Option<PullConsumer>, StoreError> {
        let Some(filter) = partition.slot.narrow(&subscription.filter) else {
            return Ok(None);
        };
        if partition.is_retired() {
            return Ok(None);
        }
        let name = listener_name(&subscription.name);
        let config = Config {
            name: Some(name.clone()),
            deliver_policy: DeliverPolicy::New,
            ack_policy: AckPolicy::None,
            filter_subjects: filter.subject_filters(&partition.template),
            inactive_threshold: LISTENS_FOR,
            memory_storage: true,
            num_replicas: 1,
            ..Config::default()
        };
        let log = self.log(partition.number).await?;
        let made = log.create_consumer(config).await;
        made.map(Some)
            .map_err(StoreError::when(format!("make consumer {name}")))
    }

    /// Up to `most` messages of together at most `max_bytes`; when there are none, what comes first within the wait.
    pub(crate) async fn take(
        &self,
        consumers: &[PullConsumer],
        most: usize,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Taken, StoreError> {
        let since = clock::now();
        let messages = at_once(consumers, most, max_bytes).await?;
        if !messages.is_empty() || wait < SHORTEST_WAIT {
            return Ok(Taken { messages, since });
        }
        let mut messages = first(consumers, wait).await?;
        let since = clock::now();
        let bytes: usize = messages.iter().map(|m| m.length).sum();
        if !messages.is_empty() && messages.len() < most && bytes < max_bytes {
            // What fails here is not lost: what was taken is given, the rest waits for the next fetch.
            let more = at_once(consumers, most - messages.len(), max_bytes - bytes).await;
            messages.extend(more.unwrap_or_default());
        }
        Ok(Taken { messages, since })
    }

    /// A message of the log as a consumer gave it out, read again; `None` once the log has let it go.
    pub(crate) async fn taken_before(
        &self,
        position: Position,
        reply: &str,
    ) -> Result<Option<jetstream::Message>, StoreError> {
        let found = match self
            .log(position.partition)
            .await?
            .get_raw_message(position.offset)
            .await
        {
            Ok(found) => found,
            Err(e) => {
                return match e.kind() {
                    jetstream::stream::RawMessageErrorKind::NoMessageFound => Ok(None),
                    jetstream::stream::RawMessageErrorKind::JetStream(e)
                        if e.error_code() == jetstream::ErrorCode::NO_MESSAGE_FOUND =>
                    {
                        Ok(None)
                    }
                    _ => Err(StoreError::when("read an event again")(e)),
                };
            }
        };
        let length = found.payload.len();
        Ok(Some(jetstream::Message {
            message: async_nats::Message {
                subject: found.subject,
                reply: Some(Subject::from(reply)),
                payload: found.payload,
                headers: Some(found.headers),
                status: None,
                description: None,
                length,
            },
            context: self.js.clone(),
        }))
    }

    /// Settles a message, or extends its hold, and waits until the store has done so.
    pub(crate) async fn settle(&self, reply: &str, kind: AckKind) -> Result<(), StoreError> {
        let nats = self.nats();
        let request = nats.request(Subject::from(reply), Bytes::from(kind));
        let answer = timeout(AT_ONCE, request)
            .await
            .map_err(StoreError::when("settle an event in time"))?
            .map_err(StoreError::when("settle an event"))?;
        match answer.status {
            None | Some(StatusCode::OK) => Ok(()),
            Some(status) => Err(StoreError::when("settle an event")(format!("it answered {status}"))),
        }
    }

    /// The secret by which instances know each other's tokens. The first that needs it makes it.
    pub(crate) async fn token_secret(&self, fresh: &[u8]) -> Result<Bytes, StoreError> {
        let bucket = self.bucket(&self.names.registry()).await?;
        match bucket.create(SECRET, Bytes::copy_from_slice(fresh)).await {
            Ok(_) => return Ok(Bytes::copy_from_slice(fresh)),
            Err(e) if e.kind() == kv::CreateErrorKind::AlreadyExists => {}
            Err(e) => return Err(StoreError::when("make the secret of the inbox's tokens")(e)),
        }
        let found = bucket
            .get(SECRET)
            .await
            .map_err(StoreError::when("read the secret of the inbox's tokens"))?;
        found.ok_or_else(|| StoreError::when("keep the secret of the inbox's tokens")("it was deleted just now"))
    }
}

fn listener_name(subscription: &SubscriptionName) -> String {
    // No subscription's name has an `@`.
    format!("{subscription}@inbox")
}

async fn at_once(
    consumers: &[PullConsumer],
    most: usize,
    max_bytes: usize,
) -> Result<Vec<jetstream::Message>, StoreError> {
    let mut taken = Vec::new();
    let mut room = max_bytes;
    for consumer in consumers {
        if taken.len() >= most || room == 0 {
            break;
        }
        let pull = async {
            let mut batch = consumer
                .fetch()
                .max_messages(most - taken.len())
                .max_bytes(room)
                .messages()
                .await
                .map_err(StoreError::when("be pulled from"))?;
            while let Some(message) = batch.next().await {
                match message {
                    Ok(message) => {
                        room = room.saturating_sub(message.length);
                        taken.push(message);
                    }
                    // The server ends a pull like this when the next message does not fit `max_bytes`.
                    Err(_) if !taken.is_empty() => break,
                    Err(e) => return Err(StoreError::when("be pulled from")(e)),
                }
            }
            Ok(())
        };
        match timeout(AT_ONCE, pull).await {
            Ok(pulled) => pulled?,
            Err(_) if !taken.is_empty() => break,
            Err(e) => return Err(StoreError::when("be pulled from in time")(e)),
        }
    }
    Ok(taken)
}

/// What comes first of any consumer. A message that comes of another at the same moment and is not taken is given out
/// again after its hold.
async fn first(consumers: &[PullConsumer], wait: Duration) -> Result<Vec<jetstream::Message>, StoreError> {
    let waits: FuturesUnordered<_> = consumers
        .iter()
        .map(|consumer| async move {
            let mut batch = consumer
                .batch()
                .max_messages(1)
                .expires(wait)
                .messages()
                .await
                .map_err(StoreError::when("be pulled from"))?;
            match batch.next().await {
                Some(Ok(message)) => Ok(Some(message)),
                Some(Err(e)) => Err(StoreError::when("be pulled from")(e)),
                None => Ok(None),
            }
        })
        .collect();
    let mut ready = waits.ready_chunks(consumers.len().max(1));
    let came = async {
        while let Some(results) = ready.next().await {
            let mut taken = Vec::new();
            let mut failed = None;
            for result in results {
                match result {
                    Ok(message) => taken.extend(message),
                    Err(e) => failed = Some(e),
                }
            }
            match failed {
                Some(e) if taken.is_empty() => return Err(e),
                _ if !taken.is_empty() => return Ok(taken),
                _ => {}
            }
        }
        Ok(Vec::new())
    };
    // The server ends the pull; a server that is gone does not.
    timeout(wait + AT_ONCE, came)
        .await
        .map_err(StoreError::when("be pulled from in time"))?
}
