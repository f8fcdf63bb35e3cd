//! Events that are kept until they are due: one message each, on a subject of its tenant and key, in one of these states:
//!
//! ```text
//! waiting ──▶ firing ──▶ fired
//!    └──────▶ cancelled
//! ```
//!
//! Each change replaces the message and names the one that it replaces, so that the server takes one of two changes at
//! once: an event is cancelled or published, never both. A fired or cancelled event leaves a mark for an hour, so that
//! the same request again has the same answer.
//!
//! The server's own schedules are not used: a stream that refuses what it has no room for can't have them (nats-server
//! 2.15, error 10052), and the log is such a stream.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use fanout_plan::envelope::EventKey;
use fanout_plan::{Attributes, TenantId, envelope};
use futures::TryStreamExt as _;

use super::headers::text;
use super::publish::{Outgoing, Unstored, unstored};
use super::read::from_headers;
use super::{Store, StoreError};

/// How long a mark stays.
const MARK_AGE: Duration = Duration::from_secs(3_600);

/// How often a change is tried against others that are made at once.
const RACES: usize = 10;

/// After how long an event whose instance is gone is given to another.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// The consumer that gives out what may be due.
const CONSUMER: &str = "due";

/// How long a tenant's waiting events may take to be counted.
const COUNTING: Duration = Duration::from_secs(5);

const STATE: &str = "fanout-state";
const DUE: &str = "fanout-due";

/// What has become of an event that was to be published later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Waiting,
    Firing,
    Fired,
    Cancelled,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Firing => "firing",
            Self::Fired => "fired",
            Self::Cancelled => "cancelled",
        }
    }

    fn of(headers: &HeaderMap) -> Option<Self> {
        let state = headers.get(STATE)?;
        [Self::Waiting, Self::Firing, Self::Fired, Self::Cancelled]
            .into_iter()
            .find(|s| s.as_str() == state.as_str())
    }
}

/// An event that is kept for later, as the store holds it.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    subject: String,
    /// Its message.
    sequence: u64,
    headers: HeaderMap,
    data: Bytes,
    pub(crate) state: State,
    /// Nanoseconds since the Unix epoch.
    pub(crate) due: i64,
}

impl Kept {
    pub(crate) fn read(subject: &str, sequence: u64, headers: HeaderMap, data: Bytes) -> Option<Self> {
        Some(Self {
            state: State::of(&headers)?,
            due: headers.get(DUE)?.as_str().parse().ok()?,
            subject: subject.to_owned(),
            sequence,
            headers,
            data,
        })
    }

    /// The event's attributes. Its tenant is the subject's.
    pub(crate) fn attributes(&self) -> Option<Attributes> {
        let tenant = TenantId::from_token(self.subject.rsplit('.').nth(1)?)?;
        from_headers(&tenant, &self.headers).ok()
    }

    /// What is to be published.
    pub(crate) fn event(&self, attributes: &Attributes) -> Outgoing {
        let traceparent = self.headers.get("traceparent").map(|v| v.as_str());
        Outgoing::new(attributes, traceparent, self.data.clone())
    }
}

impl Store {
    /// Keeps an event until it is due. When the same event is kept already, or was within the last hour and was not
    /// cancelled, returns that one.
    pub(crate) async fn keep_for_later(
        &self,
        attributes: &Attributes,
        event: Outgoing,
        due: i64,
    ) -> Result<Option<Kept>, Unstored> {
        let subject = self.names.later(attributes.tenant(), &EventKey::of(attributes));
        let (mut headers, data) = event.into_parts();
        headers.insert(DUE, text(&due.to_string()));
        headers.insert(STATE, State::Waiting.as_str());
        let mut replaces = 0;
        let mut raced = None;
        for _ in 0..RACES {
            match self.put(&subject, headers.clone(), data.clone(), replaces, None).await {
                Ok(_) => return Ok(None),
                Err(e) if e.kind() == PublishErrorKind::WrongLastSequence => raced = Some(e),
                Err(e) => return Err(unstored(e)),
            }
            match self
                .last(&subject)
                .await
                .map_err(|e| Unstored::Unreadable(Arc::new(e)))?
            {
                Some(there) if there.state == State::Cancelled => replaces = there.sequence,
                Some(there) => return Ok(Some(there)),
                None => replaces = 0,
            }
        }
        Err(raced.map_or(Unstored::Stopped, unstored))
    }

    /// What is kept for later under an event's key.
    pub(crate) async fn kept_for_later(&self, tenant: &TenantId, key: &EventKey) -> Result<Option<Kept>, StoreError> {
        self.last(&self.names.later(tenant, key)).await
    }

    /// Moves an event on. Returns false when it was changed meanwhile.
    pub(crate) async fn move_on(&self, kept: &Kept, to: State) -> Result<bool, StoreError> {
        let mut headers = HeaderMap::new();
        for (name, values) in kept.headers.iter() {
            // The server's own of the message that is replaced would be taken as instructions.
            if !AsRef::<str>::as_ref(name).to_ascii_lowercase().starts_with("nats-") {
                for value in values {
                    headers.append(name.clone(), value.clone());
                }
            }
        }
        headers.insert(STATE, to.as_str());
        let (data, ttl) = match to {
            State::Waiting | State::Firing => (kept.data.clone(), None),
            State::Fired | State::Cancelled => (Bytes::new(), Some(MARK_AGE)),
        };
        match self.put(&kept.subject, headers, data, kept.sequence, ttl).await {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == PublishErrorKind::WrongLastSequence => Ok(false),
            Err(e) => Err(StoreError::when(format!("mark {} as {}", kept.subject, to.as_str()))(e)),
        }
    }

    async fn put(
        &self,
        subject: &str,
        headers: HeaderMap,
        data: Bytes,
        replaces: u64,
        ttl: Option<Duration>,
    ) -> Result<u64, PublishError> {
        let mut message = PublishMessage::build()
            .headers(headers)
            .payload(data)
            .expected_stream(self.names.later_stream())
            .expected_last_subject_sequence(replaces);
        if let Some(ttl) = ttl {
            message = message.ttl(ttl);
        }
        Ok(self.js.send_publish(subject.to_owned(), message).await?.await?.sequence)
    }

    /// The last message of a subject, from the stream's leader: a copy may not know of the last change yet.
    async fn last(&self, subject: &str) -> Result<Option<Kept>, StoreError> {
        let action = || format!("read {subject}");
        let stream = self
            .js
            .get_stream_no_info(self.names.later_stream())
            .await
            .map_err(StoreError::when(action()))?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(m) => Ok(Kept::read(subject, m.sequence, m.headers, m.payload)),
            Err(e) if e.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(e) => Err(StoreError::when(action())(e)),
        }
    }

    /// How many events of a tenant wait. Below `enough` it may say too many: marks of what was fired or cancelled are
    /// counted with them, and looked at only when they matter. It never says more than `enough` then.
    pub(crate) async fn waiting_for(&self, tenant: &TenantId, enough: u64) -> Result<u64, StoreError> {
        let counted = tokio::time::timeout(COUNTING, self.count_waiting(tenant, enough)).await;
        counted.unwrap_or_else(|e| Err(StoreError::when(counting(tenant))(e)))
    }

    async fn count_waiting(&self, tenant: &TenantId, enough: u64) -> Result<u64, StoreError> {
        let action = || counting(tenant);
        let stream = self
            .js
            .get_stream_no_info(self.names.later_stream())
            .await
            .map_err(StoreError::when(action()))?;
        let config = pull::OrderedConfig {
            filter_subject: self.names.later_of(tenant),
            headers_only: true,
            ..pull::OrderedConfig::default()
        };
        let consumer = stream
            .create_consumer(config)
            .await
            .map_err(StoreError::when(action()))?;
        let all = consumer.cached_info().num_pending;
        let mut waiting = 0;
        if all < enough {
            waiting = all;
        } else {
            let mut messages = consumer.messages().await.map_err(StoreError::when(action()))?;
            while waiting < enough
                && let Some(m) = messages.try_next().await.map_err(StoreError::when(action()))?
            {
                let state = m.headers.as_ref().and_then(State::of);
                waiting += u64::from(matches!(state, Some(State::Waiting | State::Firing)));
                if m.info().map_err(StoreError::when(action()))?.pending == 0 {
                    break;
                }
            }
        }
        Ok(waiting)
    }

    /// The consumer that gives out what is kept, to one instance at a time. What is not due yet is handed back with the
    /// time that is left, so that any instance, after any restart, is given it then.
    pub(crate) async fn due(&self) -> Result<PullConsumer, StoreError> {
        let action = "open the consumer of what is due";
        let stream = self
            .js
            .get_stream_no_info(self.names.later_stream())
            .await
            .map_err(StoreError::when(action))?;
        let config = pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            // Everything that waits is handed back, and counts.
            max_ack_pending: -1,
            ..pull::Config::default()
        };
        stream
            .get_or_create_consumer(CONSUMER, config)
            .await
            .map_err(StoreError::when(action))
    }

    /// Whether an event is in the log since a time: for one whose publishing was cut short so long ago that the log
    /// would not recognise it.
    pub(crate) async fn is_stored_since(&self, attributes: &Attributes, since: i64) -> Result<bool, StoreError> {
        let action = || format!("look for event {:?} of tenant {}", attributes.id(), attributes.tenant());
        let Some(partition) = self.layout.publish_to(attributes.tenant()) else {
            return Ok(false);
        };
        let Ok(start_time) = async_nats::datetime::from_nanos(since.into()) else {
            return Ok(false);
        };
        let config = pull::OrderedConfig {
            filter_subject: partition.template.subject(attributes.tenant(), attributes.event_type()),
            deliver_policy: async_nats::jetstream::consumer::DeliverPolicy::ByStartTime { start_time },
            headers_only: true,
            ..pull::OrderedConfig::default()
        };
        let log = self.log(partition.number).await?;
        let consumer = log.create_consumer(config).await.map_err(StoreError::when(action()))?;
        if consumer.cached_info().num_pending == 0 {
            return Ok(false);
        }
        let id = envelope::message_id(attributes);
        let mut messages = consumer.messages().await.map_err(StoreError::when(action()))?;
        while let Some(m) = messages.try_next().await.map_err(StoreError::when(action()))? {
            let found = m.headers.as_ref().and_then(|h| h.get("Nats-Msg-Id"));
            if found.is_some_and(|f| f.as_str() == id) {
                return Ok(true);
            }
            if m.info().map_err(StoreError::when(action()))?.pending == 0 {
                return Ok(false);
            }
        }
        Ok(false)
    }
}

fn counting(tenant: &TenantId) -> String {
    format!("count what waits for tenant {tenant}")
}
