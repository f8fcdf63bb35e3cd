//! The history by event, call, delivery and subscription. Nothing is judged here.

mod arrange;
mod ask;

use std::collections::BTreeMap;

use crate::History;
use crate::history::{
    Answer, Event, EventId, Micros, Ordering, Policy, Position, Receipt, Status, Subscription, Verdict,
};

/// The history, arranged.
#[derive(Debug, Default)]
pub struct Facts<'h> {
    /// The policies, each from its moment on; the first is that of the beginning.
    pub policies: Vec<(Micros, &'h Policy)>,
    /// When every instance went by the last policy that was told; of the first they do from the beginning.
    pub in_force: Vec<Micros>,
    /// The subscriptions, by name.
    pub subscriptions: BTreeMap<&'h str, Made<'h>>,
    /// Calls to publish.
    pub publishes: BTreeMap<u64, Publish<'h>>,
    /// Calls to schedule.
    pub schedules: BTreeMap<u64, Schedule<'h>>,
    /// Calls to cancel.
    pub cancels: BTreeMap<u64, Cancel<'h>>,
    /// Deliveries, by number: in the order in which they came.
    pub deliveries: BTreeMap<u64, Delivery<'h>>,
    /// What was meant by each id: the first event that any program sent under it, and when.
    pub meant: BTreeMap<&'h EventId, (Micros, &'h Event)>,
    /// What statuses told, with the moment of the answer.
    pub statuses: Vec<(Micros, &'h Status)>,
    /// Rewinds: the subscription, when it was asked for, and when it was answered.
    pub rewinds: Vec<(&'h str, Micros, Option<Micros>)>,
    /// When instances began or came back.
    pub instances_back: Vec<Micros>,
    /// The faults.
    pub faults: BTreeMap<u64, Fault<'h>>,
    /// What operators purged.
    pub purges: Vec<Purge>,
    /// When publishing and faults ended.
    pub quiet: Option<Micros>,
    /// What the log holds at the end, by event.
    pub stored: BTreeMap<&'h EventId, Vec<Stored<'h>>>,
    /// The dead letters at the end.
    pub letters: Vec<Letter<'h>>,
    /// What subscriptions said that they lost.
    pub gaps: Vec<Gap<'h>>,
    /// How much is not settled at the end, by subscription.
    pub left: BTreeMap<&'h str, u64>,
}

/// A subscription, and when it was made and ended.
#[derive(Debug)]
pub struct Made<'h> {
    /// As it was asked for.
    pub wanted: &'h Subscription,
    /// When it was asked for first.
    pub asked: Micros,
    /// When it was answered that it is made.
    pub since: Option<Micros>,
    /// When its end was asked for.
    pub ending: Option<Micros>,
    /// When it was answered that it is ended.
    pub ended: Option<Micros>,
}

/// A stretch of time in which every instance keeps one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// What is kept in order.
    pub ordering: Ordering,
    /// From when on.
    pub from: Micros,
    /// Until when; absent for the end of the history.
    pub until: Option<Micros>,
}

/// A call to publish.
#[derive(Debug)]
pub struct Publish<'h> {
    /// When it was sent.
    pub sent: Micros,
    /// Its events.
    pub events: &'h [Event],
    /// All or none.
    pub together: bool,
    /// When it was answered, and what: absent for a call without an answer.
    pub answered: Option<(Micros, &'h [Answer<Receipt>])>,
}

/// A call to schedule.
#[derive(Debug)]
pub struct Schedule<'h> {
    /// When it was sent.
    pub sent: Micros,
    /// The event.
    pub event: &'h Event,
    /// When it is due.
    pub due: Micros,
    /// What was answered, and when.
    pub answered: Option<(Micros, &'h Answer<()>)>,
}

/// A call to cancel.
#[derive(Debug)]
pub struct Cancel<'h> {
    /// When it was sent.
    pub sent: Micros,
    /// The event.
    pub event: &'h EventId,
    /// What was answered, and when.
    pub answered: Option<(Micros, &'h Answer<bool>)>,
}

/// A delivery and its settlement.
#[derive(Debug)]
pub struct Delivery<'h> {
    /// When it came.
    pub at: Micros,
    /// For which subscription.
    pub subscription: &'h str,
    /// To which caller.
    pub caller: &'h str,
    /// The event.
    pub event: &'h Event,
    /// Where it stands.
    pub position: Position,
    /// The attempt.
    pub attempt: u32,
    /// When it was settled, and how; absent for one whose program settled nothing.
    pub settled: Option<(Micros, &'h Verdict)>,
    /// What that was answered, and when.
    pub answered: Option<(Micros, &'h Answer<()>)>,
}

/// A fault.
#[derive(Debug)]
pub struct Fault<'h> {
    /// Its kind.
    pub kind: &'h str,
    /// What it was done to.
    pub on: &'h str,
    /// When it began.
    pub began: Micros,
    /// What was settled before it healed may come again.
    pub redelivers: bool,
    /// Since when a majority of the copies had not synced what they lost.
    pub unsynced_since: Option<Micros>,
    /// It was seen to do what it is meant to.
    pub seen: bool,
    /// When what it broke was mended.
    pub healed: Option<Micros>,
}

/// What an operator purged.
#[derive(Clone, Copy, Debug)]
pub struct Purge {
    /// When.
    pub at: Micros,
    /// The partition.
    pub partition: u32,
    /// The first position.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// An event in the log.
#[derive(Debug)]
pub struct Stored<'h> {
    /// The event.
    pub event: &'h Event,
    /// Where.
    pub position: Position,
    /// When.
    pub stored: Micros,
}

/// A dead letter.
#[derive(Debug)]
pub struct Letter<'h> {
    /// Its subscription.
    pub subscription: &'h str,
    /// Its event.
    pub event: &'h Event,
    /// Where the event stood.
    pub position: Position,
    /// Attempts.
    pub attempts: u32,
    /// Reasons.
    pub reasons: &'h [String],
}

/// Events that a subscription says it lost.
#[derive(Debug)]
pub struct Gap<'h> {
    /// The subscription.
    pub subscription: &'h str,
    /// The partition.
    pub partition: u32,
    /// The first position.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// How many of its events.
    pub count: u64,
    /// Whether that is all.
    pub exact: bool,
}

/// An event that is owed to subscriptions: one with a receipt, or one that the log holds at the end.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'h> {
    /// The event, as it was meant.
    pub event: &'h Event,
    /// Where it stands.
    pub position: Position,
    /// When it was first sent.
    pub sent: Micros,
    /// When its first receipt came; absent for one that nobody has a receipt for.
    pub receipt: Option<Micros>,
}

impl<'h> Facts<'h> {
    /// Arranges a history.
    #[must_use]
    pub fn of(history: &'h History) -> Self {
        let mut facts = Self::default();
        for line in &history.0 {
            facts.add(line.at, &line.what);
        }
        facts
    }
}

impl Made<'_> {
    /// Whether its filter matches an event.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        let (tenants, types) = (&self.wanted.tenants, &self.wanted.event_types);
        (tenants.is_empty() || tenants.contains(&event.id.tenant))
            && (types.is_empty() || types.contains(&event.event_type))
    }
}
