//! What the bus tells of a subscription, as it is answered in JSON.

use serde::Serialize;

use crate::backfill::Start;

/// A subscription and how it is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subscription {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub need: Need,
    /// Where a backfill began; absent for other needs.
    pub from: Option<Start>,
    /// The tenants it is given.
    pub tenants: Vec<String>,
    /// The patterns of event types it is given.
    pub event_types: Vec<String>,
    /// The event pattern that they match, as JSON text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// Where it was made.
    pub made_by: MadeBy,
    /// How it is doing.
    pub state: State,
    /// What deliveries wait for, if they do.
    pub problem: Option<Problem>,
    /// Events stored and not yet delivered.
    pub pending: u64,
    /// Events delivered and not yet settled.
    pub in_flight: u64,
}

/// What a subscription is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Fast, at most once.
    Queue,
    /// Everything since it was made, at least once.
    Durable,
    /// The retained log from a point on, then live.
    Backfill,
}

/// Where a subscription was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MadeBy {
    /// In the operator's link.
    Link,
    /// By a call of this component.
    Call,
}

/// How a subscription is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Deliveries are made as events come.
    Active,
    /// A backfill that has not reached the present.
    CatchingUp,
    /// A backfill that reached its end.
    Finished,
    /// The operator, or this component, has paused it.
    Paused,
    /// Deliveries wait for something.
    Waiting,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Stable: programs match this.
    pub code: String,
    /// For a person.
    pub message: String,
}
