//! The journal of deliveries: what is written down of each, where it lies, and how it is read again.
//!
//! Entries lie in messages of many, each of a *slot*: a stretch of one partition of the log. Whoever looks for an event reads
//! the messages of its slot and no others, and the server keeps one subject for a slot, not one for an event.

use serde::{Deserialize, Serialize};

use crate::retry::cut;
use crate::{Code, Incarnation, LogPosition, Position, SubscriptionName, TenantId, Timestamp};

/// Offsets in a slot. A subject takes the server 460 bytes of memory; a slot's entries are read to find those of one event.
const SLOT: u64 = 1_024;

/// The most bytes of a text from outside, such as a reason, that an entry keeps.
pub const MAX_TEXT_BYTES: usize = 256;

/// The most bytes that an entry takes in a message, however long its texts: names are bounded, and each character of a text may
/// have to be escaped (six bytes for one).
pub const MAX_ENTRY_BYTES: usize = 6 << 10;

/// What came of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The subscriber handled the event.
    Handled,
    /// It was refused, or gave no answer, and is delivered again.
    Retry,
    /// It became a dead letter.
    DeadLettered,
    /// The store did not take what belongs to it: it is delivered again.
    WaitsForStore,
    /// A queue subscription's: it was not handled, and comes no more.
    Missed,
    /// The log let the event go before it was handled.
    Expired,
}

impl Outcome {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Retry => "retry",
            Self::DeadLettered => "dead-lettered",
            Self::WaitsForStore => "waits-for-store",
            Self::Missed => "missed",
            Self::Expired => "expired",
        }
    }
}

/// One delivery of one event. What is not known of it is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// To which subscription.
    pub subscription: SubscriptionName,
    /// Where the event stands, `PARTITION/OFFSET`.
    #[serde(with = "crate::status::text")]
    pub position: Position,
    /// In which of the logs that have stood there.
    #[serde(default, skip_serializing_if = "Incarnation::is_unsaid")]
    pub log: Incarnation,
    /// Whose event it is; of a fetched delivery that was acknowledged, only the event itself tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Its id, as far as it fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// 1 for the first attempt; 0 for what was given to nobody.
    pub attempt: u32,
    /// It was a dead letter, given to its subscription again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redriven: bool,
    /// When the subscriber was called; absent where it fetched the event.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::status::text::optional"
    )]
    pub began_at: Option<Timestamp>,
    /// Microseconds until it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
    /// When the instance had its answer.
    #[serde(with = "crate::status::text")]
    pub ended_at: Timestamp,
    /// What came of it.
    pub outcome: Outcome,
    /// Why it was not handled: a stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same in words, as far as it fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Milliseconds until the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

impl Entry {
    /// An entry of a delivery that ended so, of which nothing else is known.
    #[must_use]
    pub fn new(subscription: SubscriptionName, at: LogPosition, ended_at: Timestamp, outcome: Outcome) -> Self {
        Self {
            subscription,
            position: at.position,
            log: at.log,
            tenant: None,
            id: None,
            attempt: 0,
            redriven: false,
            began_at: None,
            took_us: None,
            ended_at,
            outcome,
            code: None,
            reason: None,
            wait_ms: None,
        }
    }

    /// The same with whose event it is and its id.
    #[must_use]
    pub fn of(mut self, tenant: &TenantId, id: &str) -> Self {
        self.tenant = Some(tenant.clone());
        self.id = Some(shortened(id));
        self
    }

    /// The same with why the event was not handled.
    #[must_use]
    pub fn because(mut self, code: Code, reason: &str) -> Self {
        self.code = Some(code.as_str().to_owned());
        self.reason = Some(shortened(reason));
        self
    }
}

/// A text as far as an entry keeps it.
#[must_use]
pub fn shortened(text: &str) -> String {
    text[..cut(text, MAX_TEXT_BYTES)].to_owned()
}

/// One message of the journal: entries that one instance wrote together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Which instance it was, as people find it: host and process.
    pub instance: String,
    /// The entries, all of one slot.
    pub entries: Vec<Entry>,
}

/// What an instance did not write, because it came faster than the store took it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Which instance it was.
    pub instance: String,
    /// The first of them ended about then.
    #[serde(with = "crate::status::text")]
    pub since: Timestamp,
    /// The last.
    #[serde(with = "crate::status::text")]
    pub until: Timestamp,
    /// How many.
    pub entries: u64,
}

/// A stretch of a partition whose entries lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    pub(crate) partition: u32,
    pub(crate) number: u64,
}

impl Slot {
    /// The slot of a position.
    #[must_use]
    pub const fn of(position: Position) -> Self {
        Self {
            partition: position.partition,
            number: position.offset / SLOT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(outcome: Outcome, attempt: u32) -> Entry {
        let at = LogPosition::from(Position::new(2, 42));
        let ended_at = Timestamp::from_nanoseconds(1_000_000_000);
        Entry {
            attempt,
            ..Entry::new("billing".parse().unwrap(), at, ended_at, outcome)
        }
    }

    #[test]
    fn an_entry_is_read_as_it_is_written_and_what_is_not_known_is_absent() {
        let bare = entry(Outcome::Handled, 1);
        assert_eq!(
            serde_json::to_value(&bare).unwrap(),
            serde_json::json!({
                "subscription": "billing", "position": "2/42", "attempt": 1,
                "ended_at": "1970-01-01T00:00:01Z", "outcome": "handled",
            })
        );
        let full = Entry {
            log: Incarnation::new(Timestamp::from_nanoseconds(7)),
            began_at: Some(bare.ended_at),
            took_us: Some(3),
            wait_ms: Some(1_000),
            redriven: true,
            ..entry(Outcome::Retry, 3)
                .of(&"acme".parse().unwrap(), "evt_1")
                .because(Code::Rejected, "busy")
        };
        for entry in [bare, full] {
            let written = serde_json::to_vec(&entry).unwrap();
            assert_eq!(serde_json::from_slice::<Entry>(&written).unwrap(), entry);
        }
    }

    #[test]
    fn an_entry_has_a_bound_whatever_is_in_it() {
        let worst = "\u{1}".repeat(10_000);
        let name: SubscriptionName = "s".repeat(64).parse().unwrap();
        let tenant: TenantId = "\"".repeat(128).parse().unwrap();
        let at = LogPosition {
            log: Incarnation::new(Timestamp::MAX),
            position: Position::new(u32::MAX, u64::MAX),
        };
        let entry = Entry {
            attempt: u32::MAX,
            redriven: true,
            began_at: Some(Timestamp::MAX),
            took_us: Some(u64::MAX),
            wait_ms: Some(u64::MAX),
            ..Entry::new(name, at, Timestamp::MAX, Outcome::WaitsForStore)
                .of(&tenant, &worst)
                .because(Code::SubscriberUnreachable, &worst)
        };
        let bytes = serde_json::to_vec(&entry).unwrap().len();
        assert!(bytes > 2 * 6 * MAX_TEXT_BYTES && bytes < MAX_ENTRY_BYTES, "{bytes}");
    }

    #[test]
    fn neighbours_share_a_slot() {
        let slot = |partition, offset| Slot::of(Position::new(partition, offset));
        assert_eq!(slot(0, 1), slot(0, SLOT - 1));
        assert_ne!(slot(0, 1), slot(0, SLOT));
        assert_ne!(slot(0, 1), slot(1, 1));
    }
}
