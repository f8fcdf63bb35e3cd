//! What became of scheduled events: of two marks of one event the server takes the first, so an event is published or
//! cancelled, never both.
//!
//! Marks lie in a stream of their own, whose oldest make way: whatever the events' stream is full of, what is due can be
//! published, and what waits can be cancelled. The event itself is removed once its mark has come true.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::PublishMessage;
use fanout_plan::envelope::EventKey;
use fanout_plan::{TenantId, Timestamp};

use super::headers::text;
use super::observe::moment;
use super::scheduled::{DUE, Scheduled, written};
use super::swap::RACES;
use super::{Store, StoreError};

/// For how long an event that was published when it was due is known to be the same as one that is to be.
const KNOWN_FOR: Duration = Duration::from_secs(3_600);

const MARK: &str = "fanout-mark";
/// When the event that it is of was scheduled: a later one under the same key has marks of its own.
const OF: &str = "fanout-of";

/// What becomes of a scheduled event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It is published, or was.
    Fires,
    /// It will not be published.
    Cancelled,
}

impl Mark {
    fn as_str(self) -> &'static str {
        match self {
            Self::Fires => "fires",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A mark as the store holds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marked {
    pub(crate) mark: Mark,
    /// When.
    pub(crate) at: Timestamp,
    /// When its event was due.
    pub(crate) due: Timestamp,
    /// Whether nobody marked the event before.
    pub(crate) is_new: bool,
    of: Timestamp,
    sequence: u64,
}

impl Marked {
    fn read(sequence: u64, at: Timestamp, headers: &HeaderMap) -> Option<Self> {
        let mark = headers.get(MARK)?.as_str();
        Some(Self {
            mark: [Mark::Fires, Mark::Cancelled]
                .into_iter()
                .find(|m| m.as_str() == mark)?,
            at,
            due: written(headers, DUE)?,
            is_new: false,
            of: written(headers, OF)?,
            sequence,
        })
    }

    /// Whether it says that its event was published lately.
    pub(super) fn was_published_lately(&self, now: Timestamp) -> bool {
        self.mark == Mark::Fires && now.since(self.at) < KNOWN_FOR
    }
}

impl Store {
    /// Marks an event that is scheduled. Returns the mark that it has now: this one, or the one that it had.
    pub(crate) async fn mark(&self, scheduled: &Scheduled, mark: Mark) -> Result<Marked, StoreError> {
        let action = || format!("mark {} as {}", scheduled.subject, mark.as_str());
        let subject = self.names.mark_beside(&scheduled.subject);
        let mut headers = HeaderMap::new();
        headers.insert(MARK, mark.as_str());
        headers.insert(DUE, text(&scheduled.due.nanoseconds().to_string()));
        headers.insert(OF, text(&scheduled.scheduled_at.nanoseconds().to_string()));
        let mut replaces = 0;
        for _ in 0..RACES {
            let message = PublishMessage::build()
                .headers(headers.clone())
                .expected_stream(self.names.marks());
            let put = self.swap(subject.clone(), message, replaces).await;
            if let Some(sequence) = put.map_err(StoreError::when(action()))? {
                return Ok(Marked {
                    mark,
                    at: self.now(),
                    due: scheduled.due,
                    is_new: true,
                    of: scheduled.scheduled_at,
                    sequence,
                });
            }
            match self.last_mark(&subject).await? {
                Some(there) if there.of == scheduled.scheduled_at => return Ok(there),
                Some(earlier) => replaces = earlier.sequence,
                None => replaces = 0,
            }
        }
        Err(StoreError::Raced { what: subject })
    }

    /// The last mark under an event's key.
    pub(crate) async fn marked(&self, tenant: &TenantId, key: &EventKey) -> Result<Option<Marked>, StoreError> {
        self.last_mark(&self.names.mark(tenant, key)).await
    }

    /// The mark of an event that is scheduled.
    pub(super) async fn mark_of(&self, scheduled: &Scheduled) -> Result<Option<Mark>, StoreError> {
        let marked = self.last_mark(&self.names.mark_beside(&scheduled.subject)).await?;
        Ok(marked.filter(|m| m.of == scheduled.scheduled_at).map(|m| m.mark))
    }

    async fn last_mark(&self, subject: &str) -> Result<Option<Marked>, StoreError> {
        let last = self.last_message(self.names.marks(), subject).await?;
        Ok(last.and_then(|m| Marked::read(m.sequence, moment(m.time), &m.headers)))
    }
}
