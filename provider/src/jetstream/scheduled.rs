//! Scheduled events: one message each, on a subject of its tenant and key, until they are due. A message is removed once
//! its event is published or cancelled, which its mark decides ([`super::marks`]).
//!
//! The server's own schedules are not used: a stream that refuses what it has no room for can't have them (nats-server
//! 2.15, error 10052), and the log is such a stream.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use fanout_plan::envelope::EventKey;
use fanout_plan::partition::Partition;
use fanout_plan::{Attributes, TenantId, Timestamp, envelope};
use futures::TryStreamExt as _;
use tracing::warn;

use super::headers::{header_bytes, text};
use super::listing::Listing;
use super::marks::Mark;
use super::moved::InLog;
use super::observe::moment;
use super::publish::{Outgoing, Unstored, unstored};
use super::publisher::{Beside, stated};
use super::read::from_headers;
use super::refusal::{found, there};
use super::swap::RACES;
use super::{Store, StoreError};

/// After how long an event whose instance is gone is given to another.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// The consumer that delivers what may be due.
const CONSUMER: &str = "due";

/// How long a tenant's waiting events may take to be counted.
const COUNTING: Duration = Duration::from_secs(5);

/// What a message takes besides its headers and payload: its subject, and the store's own record.
const OVERHEAD: u64 = 128;

pub(super) const DUE: &str = "fanout-due";

/// A scheduled event, as the store holds it.
#[derive(Clone, Debug)]
pub(crate) struct Scheduled {
    pub(super) subject: String,
    /// Its message.
    sequence: u64,
    headers: HeaderMap,
    data: Bytes,
    /// When it is to be published.
    pub(crate) due: Timestamp,
    /// When its message was stored. It tells it from an earlier one under its key.
    pub(crate) scheduled_at: Timestamp,
}

/// What is scheduled for a tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

/// A moment as a header holds it: nanoseconds since the Unix epoch.
pub(super) fn written(headers: &HeaderMap, name: &str) -> Option<Timestamp> {
    let nanoseconds = headers.get(name)?.as_str().parse().ok()?;
    Some(Timestamp::from_nanoseconds(nanoseconds))
}

impl Scheduled {
    /// `scheduled_at`: when the message was stored.
    pub(crate) fn read(
        subject: &str,
        (sequence, scheduled_at): (u64, Timestamp),
        headers: HeaderMap,
        data: Bytes,
    ) -> Option<Self> {
        Some(Self {
            due: written(&headers, DUE)?,
            scheduled_at,
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

    /// The trace context of the call that scheduled it.
    pub(crate) fn traceparent(&self) -> Option<&str> {
        self.headers.get("traceparent").map(|v| v.as_str())
    }

    /// What is to be published, in this trace context, as the event of whoever scheduled it.
    pub(crate) fn event(&self, attributes: &Attributes, traceparent: Option<&str>) -> Outgoing {
        let beside = Beside {
            traceparent,
            publisher: stated(Some(&self.headers)),
        };
        Outgoing::new(attributes, beside, self.data.clone())
    }
}

impl Store {
    /// Schedules an event. Returns `None`; or, of the same event that waits already or was published lately,
    /// when it was due or published: then nothing is changed.
    pub(crate) async fn schedule(
        &self,
        attributes: &Attributes,
        event: Outgoing,
        due: Timestamp,
    ) -> Result<Option<Timestamp>, Unstored> {
        let unreadable = |e| Unstored::Unreadable(Arc::new(e));
        let key = EventKey::of(attributes);
        let (marked, in_log) = tokio::join!(
            self.marked(attributes.tenant(), &key),
            self.in_log(attributes.tenant(), &key)
        );
        match in_log? {
            InLog::Held(position) => {
                let published_at = self.published_at(position).await.map_err(unreadable)?;
                return Ok(Some(published_at.unwrap_or_else(|| self.now())));
            }
            // Whatever its mark says: it is published anew.
            InLog::Gone => {}
            InLog::Unknown => {
                let marked = marked.map_err(unreadable)?;
                if let Some(marked) = marked.filter(|m| m.was_published_lately(self.now())) {
                    return Ok(Some(marked.due));
                }
            }
        }
        let subject = self.names.scheduled(attributes.tenant(), &key);
        let (mut headers, data) = event.into_parts();
        headers.insert(DUE, text(&due.nanoseconds().to_string()));
        for _ in 0..RACES {
            let message = PublishMessage::build()
                .headers(headers.clone())
                .payload(data.clone())
                .expected_stream(self.names.scheduled_stream());
            let put = self.swap(subject.clone(), message, 0).await;
            if put.map_err(|e| unstored(e).of_scheduled())?.is_some() {
                return Ok(None);
            }
            let Some(there) = self.last(&subject).await.map_err(unreadable)? else {
                continue;
            };
            let cancelled = self.mark_of(&there).await.map_err(unreadable)? == Some(Mark::Cancelled);
            if !cancelled {
                return Ok(Some(there.due));
            }
            self.remove_scheduled(&there).await.map_err(unreadable)?;
        }
        Err(unreadable(StoreError::Raced { what: subject }))
    }

    /// The event that is scheduled under a key.
    pub(crate) async fn scheduled(&self, tenant: &TenantId, key: &EventKey) -> Result<Option<Scheduled>, StoreError> {
        self.last(&self.names.scheduled(tenant, key)).await
    }

    /// Removes an event whose mark has come true, and none that is scheduled under its key since. Takes no place.
    pub(crate) async fn remove_scheduled(&self, scheduled: &Scheduled) -> Result<(), StoreError> {
        let stream = self.stream(self.names.scheduled_stream()).await?;
        let purge = stream
            .purge()
            .filter(&scheduled.subject)
            .sequence(scheduled.sequence + 1);
        purge
            .await
            .map(drop)
            .map_err(StoreError::when(format!("remove {}", scheduled.subject)))
    }

    /// Lets go of an event that waits where the log holds the same one, published at once meanwhile; says whether it did.
    /// As [`Store::in_log`], asks a store of this moment.
    pub(crate) async fn let_go_if_published(
        &self,
        scheduled: &Scheduled,
        attributes: &Attributes,
    ) -> Result<bool, Unstored> {
        let in_log = self.in_log(attributes.tenant(), &EventKey::of(attributes)).await?;
        if !matches!(in_log, InLog::Held(_)) {
            return Ok(false);
        }
        let unreadable = |e| Unstored::Unreadable(Arc::new(e));
        self.mark(scheduled, Mark::Fires).await.map_err(unreadable)?;
        self.remove_scheduled(scheduled).await.map_err(unreadable)?;
        Ok(true)
    }

    async fn last(&self, subject: &str) -> Result<Option<Scheduled>, StoreError> {
        let last = self.last_message(self.names.scheduled_stream(), subject).await?;
        Ok(last.and_then(|m| {
            let stored = (m.sequence, moment(m.time));
            Scheduled::read(subject, stored, m.headers, m.payload)
        }))
    }

    /// What waits for a tenant. Its bytes are those of all tenants together, as long as these and `more` are no more than
    /// the tenant may have: only then one by one is worth it. No more is counted than what is `enough`.
    pub(crate) async fn waiting_for(&self, tenant: &TenantId, more: u64, enough: Waits) -> Result<Waits, StoreError> {
        let counted = tokio::time::timeout(COUNTING, self.count_waiting(tenant, more, enough)).await;
        counted.unwrap_or_else(|e| Err(StoreError::when(counting(tenant))(e)))
    }

    async fn count_waiting(&self, tenant: &TenantId, more: u64, enough: Waits) -> Result<Waits, StoreError> {
        let action = || counting(tenant);
        let stream = self.stream(self.names.scheduled_stream()).await?;
        let all = stream.get_info().await.map_err(StoreError::when(action()))?.state.bytes;
        let config = pull::OrderedConfig {
            filter_subject: self.names.scheduled_of(tenant),
            headers_only: true,
            ..pull::OrderedConfig::default()
        };
        let consumer = stream
            .create_consumer(config)
            .await
            .map_err(StoreError::when(action()))?;
        let events = consumer.cached_info().num_pending;
        if events == 0 || all.saturating_add(more) <= enough.bytes {
            return Ok(Waits {
                events,
                bytes: if events == 0 { 0 } else { all },
            });
        }
        let mut waits = Waits { events, bytes: 0 };
        let mut messages = consumer.messages().await.map_err(StoreError::when(action()))?;
        while waits.bytes < enough.bytes
            && let Some(m) = messages.try_next().await.map_err(StoreError::when(action()))?
        {
            let headers = m.headers.as_ref();
            let payload = headers.and_then(|h| h.get("Nats-Msg-Size")?.as_str().parse::<u64>().ok());
            waits.bytes += OVERHEAD + payload.unwrap_or(0) + headers.map_or(0, header_bytes) as u64;
            if m.info().map_err(StoreError::when(action()))?.pending == 0 {
                break;
            }
        }
        Ok(waits)
    }

    /// The consumer that delivers scheduled events, each to one instance at a time. What is not due yet is refused with the
    /// time that is left, so that any instance, after any restart, is given it then.
    pub(crate) async fn due(&self) -> Result<PullConsumer, StoreError> {
        let config = pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            // Everything that waits is handed back, and counts.
            max_ack_pending: -1,
            ..pull::Config::default()
        };
        let stream = self.stream(self.names.scheduled_stream()).await?;
        let open = || StoreError::when("open the consumer of what is due");
        let consumer = stream
            .get_or_create_consumer(CONSUMER, config.clone())
            .await
            .map_err(open())?;
        if !self.end_forgetful(&mut 1).await? {
            return Ok(consumer);
        }
        stream.get_or_create_consumer(CONSUMER, config).await.map_err(open())
    }

    /// Ends the consumer of what is due if it would not deliver something any more, and says whether it did: made again, it begins
    /// with everything. `from` as in [`Self::passed_over`].
    pub(crate) async fn end_forgetful(&self, from: &mut u64) -> Result<bool, StoreError> {
        let Some(passed) = self.passed_over(from).await? else {
            return Ok(false);
        };
        warn!(
            subject = passed.subject,
            "the store would not deliver a scheduled event any more; its consumer is made again"
        );
        let stream = self.stream(self.names.scheduled_stream()).await?;
        there(
            stream.delete_consumer(CONSUMER).await,
            "end the consumer of what is due",
        )?;
        Ok(true)
    }

    /// A scheduled event that the consumer counts as settled. What is settled was removed before, so the consumer has lost it:
    /// after a full disk and a kill, the consumer's state on nats-server's disk can be ahead of what was acknowledged (2.15.1).
    /// `from` is the first message to read, and afterwards to go on from: those that Fanout did not write are settled and stay, and
    /// one check skips so many of them.
    async fn passed_over(&self, from: &mut u64) -> Result<Option<Scheduled>, StoreError> {
        const ACTION: &str = "check for scheduled events that are not delivered any more";
        const PASSES: usize = 64;
        let stream = self.stream(self.names.scheduled_stream()).await?;
        let info = stream.consumer_info(CONSUMER).await;
        let Some(info) = there(info, ACTION)? else {
            return Ok(None);
        };
        let all = self.names.scheduled_subjects();
        for _ in 0..PASSES {
            let next = stream.get_first_raw_message_by_subject(all.clone(), *from).await;
            let Some(m) = found(next, ACTION)?.filter(|m| m.sequence <= info.ack_floor.stream_sequence) else {
                return Ok(None);
            };
            let stored = (m.sequence, moment(m.time));
            if let Some(passed) = Scheduled::read(&m.subject, stored, m.headers, m.payload) {
                return Ok(Some(passed));
            }
            *from = m.sequence + 1;
        }
        Ok(None)
    }

    /// Whether an event is in the log since a time: for one whose publishing was cut short so long ago that the log
    /// would not recognise it. Where the topology was changed since, it may be in an earlier stream.
    pub(crate) async fn is_stored_since(&self, attributes: &Attributes, since: Timestamp) -> Result<bool, StoreError> {
        let tenant = attributes.tenant();
        let now = self.layout.publish_to(tenant).into_iter();
        for partition in now.chain(self.layout.earlier(tenant)) {
            if partition.retired_at().is_none_or(|at| at >= since)
                && self.is_in_since(partition, attributes, since).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn is_in_since(
        &self,
        partition: &Partition,
        attributes: &Attributes,
        since: Timestamp,
    ) -> Result<bool, StoreError> {
        let action = || format!("find event {:?} of tenant {}", attributes.id(), attributes.tenant());
        let Ok(start_time) = async_nats::datetime::from_nanos(since.nanoseconds().into()) else {
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
        let Some(mut events) = Listing::begin(&log, consumer, action()).await? else {
            return Ok(false);
        };
        let id = envelope::message_id(attributes);
        while let Some(m) = events.next().await? {
            let found = m.headers.as_ref().and_then(|h| h.get("Nats-Msg-Id"));
            if found.is_some_and(|f| f.as_str() == id) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn counting(tenant: &TenantId) -> String {
    format!("count what waits for tenant {tenant}")
}
