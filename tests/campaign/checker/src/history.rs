//! What is known of a run: JSON lines, each what one process meant, sent, was told or saw at one moment.
//!
//! All times are microseconds of one monotonic clock, that of the machine on which the campaign ran. A line that asks is
//! written before the request leaves, a line that answers after the answer came: what happened in the bus happened
//! between the two.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Microseconds since the campaign began.
pub type Micros = u64;

/// The lines of a run, in the order in which they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(pub Vec<Line>);

/// One moment of one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When.
    pub at: Micros,
    /// Which process of the campaign.
    pub by: String,
    /// What it did or saw.
    #[serde(flatten)]
    pub what: What,
}

/// What a process did or saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum What {
    /// The policy of the bus from now on: an operator told the instances of it, and each goes by it soon.
    Policy(Policy),
    /// Every instance goes by the last policy that was told.
    InForce,
    /// It asks for a subscription.
    Subscribe(Subscription),
    /// The subscription is made: from this moment on, what is published is owed to it.
    Subscribed {
        /// Its name.
        subscription: String,
    },
    /// It ends a subscription: from now on nothing is owed to it.
    Unsubscribe {
        /// Its name.
        subscription: String,
    },
    /// The subscription is ended: it is given nothing any more.
    Unsubscribed {
        /// Its name.
        subscription: String,
    },
    /// It publishes events in one call.
    Publish {
        /// Names the call in its answer.
        call: u64,
        /// In the order of the call.
        events: Vec<Event>,
        /// All of them or none.
        together: bool,
    },
    /// What a call to publish was answered: one answer for each event, in order.
    Published {
        /// The call.
        call: u64,
        /// The answers.
        answers: Vec<Answer<Receipt>>,
    },
    /// It schedules an event.
    Schedule {
        /// Names the call in its answer.
        call: u64,
        /// The event.
        event: Event,
        /// When it is due, on the clock of this history.
        due: Micros,
    },
    /// What a call to schedule was answered.
    Scheduled {
        /// The call.
        call: u64,
        /// The answer.
        answer: Answer<()>,
    },
    /// It cancels a scheduled event.
    Cancel {
        /// Names the call in its answer.
        call: u64,
        /// The event.
        event: EventId,
    },
    /// What a call to cancel was answered.
    Cancelled {
        /// The call.
        call: u64,
        /// Whether it will not be published.
        answer: Answer<bool>,
    },
    /// It is given an event.
    Delivered {
        /// Names the delivery in its settlement.
        delivery: u64,
        /// For which subscription.
        subscription: String,
        /// To which caller.
        caller: String,
        /// The event, as it came.
        event: Event,
        /// Where it stands in the log.
        position: Position,
        /// Which attempt the bus says it is, from 1.
        attempt: u32,
    },
    /// It settles a delivery.
    Settle {
        /// The delivery.
        delivery: u64,
        /// Its verdict.
        verdict: Verdict,
    },
    /// What a settlement was answered. A handler has no such answer.
    Settled {
        /// The delivery.
        delivery: u64,
        /// The answer.
        answer: Answer<()>,
    },
    /// It puts a subscription back to an earlier position: what was settled comes again.
    Rewind {
        /// The subscription.
        subscription: String,
    },
    /// It did something. Nothing but a rewind changes what a law demands.
    Operation {
        /// What.
        name: String,
        /// To what.
        on: String,
        /// Whether it was done.
        done: bool,
    },
    /// An instance of the bus begins, or comes back from where nobody heard of it.
    InstanceBack {
        /// Which.
        instance: String,
    },
    /// A status was asked for at `asked`, and told this.
    Status(Status),
    /// A fault begins.
    Fault {
        /// Names it in its end.
        fault: u64,
        /// Which kind, such as `kill-server`.
        kind: String,
        /// What it is done to.
        on: String,
        /// What was settled before it healed may come again: a server may forget that it was told.
        redelivers: bool,
        /// A majority of the copies lost what it had not synced since this moment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unsynced_since: Option<Micros>,
    },
    /// The campaign saw the fault do what it is meant to: a process gone or stopped, a connection closed, a message gone.
    Seen {
        /// The fault.
        fault: u64,
    },
    /// What the fault broke is mended: from now on the bus has to recover.
    Healed {
        /// The fault.
        fault: u64,
    },
    /// An operator purged these positions of the log.
    Purged {
        /// The partition.
        partition: u32,
        /// The first position that is gone.
        first: u64,
        /// The last.
        last: u64,
    },
    /// Programs stop publishing, and faults end: what follows is the end of the campaign.
    Quiet,
    /// At the end, the log holds this event.
    Stored {
        /// The event.
        event: Event,
        /// Where.
        position: Position,
        /// When the store took it, on the clock of this history.
        stored: Micros,
    },
    /// At the end, this dead letter is there.
    Letter {
        /// Its subscription.
        subscription: String,
        /// The event that it holds.
        event: Event,
        /// Where the event stood.
        position: Position,
        /// How many attempts it had.
        attempts: u32,
        /// The reason of each attempt that is kept.
        reasons: Vec<String>,
    },
    /// A subscription says that it lost events.
    Gap {
        /// The subscription.
        subscription: String,
        /// The partition.
        partition: u32,
        /// The first position.
        first: u64,
        /// The last.
        last: u64,
        /// How many of its events.
        count: u64,
        /// Whether that is all of them, and none of them was handled.
        exact: bool,
    },
    /// At the end, so many events of a subscription are not settled.
    Left {
        /// The subscription.
        subscription: String,
        /// How many.
        backlog: u64,
    },
}

/// What the policy promises, as far as a law depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What a receipt proves.
    pub durability: Durability,
    /// What is kept in order.
    pub ordering: Ordering,
    /// Refusals that make a dead letter.
    pub max_attempts: u32,
    /// For how long the same id is the same event.
    pub dedupe: Micros,
    /// Events a second, of tenants that have a quota.
    pub quotas: BTreeMap<String, u64>,
    /// Within which time after the last fault healed the bus must work again.
    pub recovery: Micros,
}

/// What a receipt proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// The server has it, or most of the copies.
    Acknowledged,
    /// It is on the disk.
    OnDisk,
}

/// What is delivered one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ordering {
    /// Nothing.
    None,
    /// The events of one tenant.
    Tenant,
    /// Those of one tenant and ordering key.
    Key,
}

/// A subscription, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its name in this history. One that is ended and made again under its name is another subscription, with another
    /// name here.
    pub subscription: String,
    /// Whose it is.
    pub caller: String,
    /// What it is for.
    pub need: Need,
    /// Its tenants; none for all.
    pub tenants: Vec<String>,
    /// Its event types; none for all.
    pub event_types: Vec<String>,
    /// Its subscriber fetches. A handler that is called has refused, too, what it did not answer in time.
    pub fetched: bool,
}

/// What a subscription is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// At most once.
    Queue,
    /// Everything from now on.
    Durable,
    /// Everything that the log holds, and from now on.
    Backfill,
}

/// What makes an event one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventId {
    /// Whose it is.
    pub tenant: String,
    /// Where it comes from.
    pub source: String,
    /// Its id there.
    pub id: String,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What makes it one.
    #[serde(flatten)]
    pub id: EventId,
    /// Its type.
    pub event_type: String,
    /// What it is ordered by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A checksum of its payload.
    pub digest: u32,
}

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position(pub u32, pub u64);

/// What a call was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer<T> {
    /// It was done.
    Done(T),
    /// It was not done, and the answer says so.
    Refused(String),
    /// It may have been done.
    Unknown(String),
}

/// The proof that an event is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Where.
    pub position: Position,
    /// It was stored before.
    pub duplicate: bool,
}

/// What a subscriber says of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It handled the event.
    Ack,
    /// It refuses it for now, for this reason.
    Retry(String),
    /// It refuses it for good, for this reason.
    DeadLetter(String),
    /// It gives it back untried.
    Release,
}

/// What a status told of a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// When it was asked for.
    pub asked: Micros,
    /// The subscription.
    pub subscription: String,
    /// Stored for it and not delivered.
    pub pending: u64,
    /// Delivered and not settled.
    pub in_flight: u64,
    /// Refused, and waiting for the next attempt.
    pub waiting: u64,
    /// Its dead letters.
    pub dead_letters: u64,
    /// Events that it has lost.
    pub lost: u64,
}

impl History {
    /// Reads JSON lines.
    ///
    /// # Errors
    /// For a line that is none, or that goes back in time; with its number.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut lines: Vec<Line> = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line: Line = serde_json::from_str(line).map_err(|e| format!("line {}: {e}", i + 1))?;
            if lines.last().is_some_and(|last| last.at > line.at) {
                return Err(format!("line {}: it goes back in time", i + 1));
            }
            lines.push(line);
        }
        Ok(Self(lines))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}{}", self.id, self.tenant, self.source)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}

impl<T> Answer<T> {
    /// What was done.
    pub fn done(&self) -> Option<&T> {
        match self {
            Self::Done(done) => Some(done),
            Self::Refused(_) | Self::Unknown(_) => None,
        }
    }
}

impl Verdict {
    /// The reason of a refusal.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Retry(reason) | Self::DeadLetter(reason) => Some(reason),
            Self::Ack | Self::Release => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_is_written() {
        let line = Line {
            at: 7,
            by: "p".into(),
            what: What::Published {
                call: 1,
                answers: vec![
                    Answer::Done(Receipt {
                        position: Position(0, 3),
                        duplicate: true,
                    }),
                    Answer::Unknown("outcome-unknown".into()),
                ],
            },
        };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(
            text,
            r#"{"at":7,"by":"p","what":"published","call":1,"answers":[{"done":{"position":[0,3],"duplicate":true}},{"unknown":"outcome-unknown"}]}"#
        );
        assert_eq!(History::read(&text).unwrap().0, [line]);
    }

    #[test]
    fn time_does_not_go_back() {
        let text = "{\"at\":2,\"by\":\"a\",\"what\":\"quiet\"}\n{\"at\":1,\"by\":\"a\",\"what\":\"quiet\"}";
        assert_eq!(History::read(text).unwrap_err(), "line 2: it goes back in time");
    }
}
