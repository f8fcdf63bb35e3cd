//! How a bus and its subscriptions are doing: the one document that a provider, an edge and the command line answer with,
//! and that metrics, the dev host and tests read.
//!
//! What is not known is absent (`null`), never 0. Times are RFC 3339 in UTC, positions `PARTITION/OFFSET`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::by_partition::ByPartition;
use crate::gap::Lost;
use crate::link::Role;
use crate::retiring::RetiringPlace;
use crate::subscription::{MadeBy, Need, Progress, Registered};
use crate::{BusName, PlaceName, Position, Problem, SubscriptionId, SubscriptionName, TenantId, Timestamp};

/// How a bus is doing, or an edge of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusStatus {
    /// The id of the provider that answers; absent where the store was read without one.
    pub provider: Option<String>,
    /// The bus; absent until a policy is in force, and at an edge.
    pub bus: Option<BusName>,
    /// What came of the policy; absent where no provider answers.
    pub policy: Option<Outcome>,
    /// The bus that an edge stands for; absent for a bus.
    pub upstream: Option<Upstream>,
    /// What can't be verified, or is not as the policy promises.
    #[serde(default)]
    pub notices: Vec<ReportedProblem>,
    /// The links of the provider.
    #[serde(default)]
    pub links: Vec<LinkStatus>,
    /// The subscriptions, by name.
    #[serde(default)]
    pub subscriptions: Vec<SubscriptionStatus>,
    /// Dead letters of subscriptions that have ended: nobody is given them. Absent where nobody could count them.
    pub orphaned_dead_letters: Option<Vec<OrphanedLetters>>,
    /// The journal of deliveries, as the instance that answers writes it; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<JournalStatus>,
    /// The place that answers, and what it mirrors of the others; absent for a bus without places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<PlaceStatus>,
    /// The last offset of each partition of the log; absent where nobody read it.
    pub heads: Option<ByPartition>,
}

/// A place of a bus, and what it has of the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceStatus {
    /// Which one.
    pub name: PlaceName,
    /// Each partition of another place that is mirrored here; absent where that could not be read.
    pub mirrors: Option<Vec<MirrorStatus>>,
    /// What is left at each place that is retired.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retiring: Vec<RetiringPlace>,
    /// The subscriptions that were here, and the place at which each is since it was handed over, or went on while this place was
    /// lost.
    #[serde(default)]
    pub moved: BTreeMap<SubscriptionName, PlaceName>,
}

/// How far a mirror is behind the partition that it mirrors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// The place whose events it holds.
    pub place: PlaceName,
    /// The partition, which has this number at both.
    pub partition: u32,
    /// The offset of the last event that it has.
    pub reached: u64,
    /// Events that it knows of and does not have: while a link is cut, those of when it was cut. Absent until it has heard of its
    /// origin.
    pub lag: Option<u64>,
    /// It has every event that its place had stored so many seconds ago, by the clocks of both places' servers; absent where it
    /// has none yet.
    #[serde(default)]
    pub lag_seconds: Option<u64>,
    /// Seconds since it last heard of its origin; absent where it never has.
    pub heard_seconds_ago: Option<u64>,
}

/// What one instance has written into the journal of deliveries since it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Which deliveries it writes down: `errors` or `all`.
    pub deliveries: String,
    /// The instance, as entries name it.
    pub instance: String,
    /// Entries that the store has.
    pub written: u64,
    /// Entries that it has not: they came faster than it took them, or it was away.
    pub dropped: u64,
}

/// What came of something that was given: a policy or a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Whether it is in force.
    pub state: OutcomeState,
    /// Every reason why it is not.
    #[serde(default)]
    pub problems: Vec<ReportedProblem>,
}

/// Whether something is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeState {
    /// It is.
    Applied,
    /// It never will be as it is; what was in force before still is.
    Refused,
    /// Not yet.
    Pending,
}

/// A problem as it is reported, also by a newer bus: its code need not be one that the reader knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedProblem {
    /// Stable; each has a page in `docs/errors/`.
    pub code: String,
    /// What happened, and what to do.
    pub message: String,
    /// The setting that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setting: Option<String>,
}

/// The bus that an edge stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Where it is.
    pub url: String,
    /// Whether calls reach it.
    pub is_reached: bool,
    /// Why not, or what it refuses to show this edge.
    pub problem: Option<ReportedProblem>,
}

/// A link, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The component at its other end.
    pub component: String,
    /// Its name in the manifest.
    pub name: String,
    /// Which end the component is.
    pub role: Role,
    /// The subscription that it declares.
    pub subscription: Option<SubscriptionName>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Dead letters of a subscription that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanedLetters {
    /// Which subscription it was.
    #[serde(flatten)]
    pub of: SubscriptionId,
    /// How many.
    pub dead_letters: u64,
    /// The place at which the subscription is, where it has not ended but was handed over: its letters stayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_to: Option<PlaceName>,
}

/// What a subscription is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Deliveries are made as events come.
    Active,
    /// A backfill that has not handled all that the log held when it began.
    CatchingUp,
    /// A backfill that reached its end.
    Finished,
    /// Nothing is delivered until it is resumed.
    Paused,
    /// Deliveries wait; the problem says for what.
    Waiting,
}

/// A subscription, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionStatus {
    /// Its name.
    pub name: SubscriptionName,
    /// `queue`, `durable` or `backfill`; like all that the registry says, absent where its entry can't be read.
    pub need: Option<String>,
    /// Who is given its deliveries.
    pub component: Option<String>,
    /// The event pattern that its events match, as JSON text; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// How it was made.
    pub made_by: Option<MadeBy>,
    /// What it is doing.
    pub state: State,
    /// Why deliveries wait; in another state, what is wrong all the same.
    pub problem: Option<ReportedProblem>,
    /// Whether anybody is there to take its deliveries: an instance that delivers them, or who fetches them. Absent where
    /// nobody can tell, and while it is paused or finished.
    pub attended: Option<bool>,
    /// Events stored and not yet delivered.
    pub pending: Option<u64>,
    /// Events delivered and not yet settled.
    pub in_flight: Option<u64>,
    /// Of those, how many were delivered before.
    pub redelivered: Option<u64>,
    /// Refused events that wait for their next attempt, or are at it.
    pub waiting_for_retry: Option<u64>,
    /// Its dead letters.
    pub dead_letters: Option<u64>,
    /// Those that stayed at places where it was before, as far as these can be read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dead_letters_elsewhere: BTreeMap<PlaceName, u64>,
    /// Where its oldest unhandled event stands.
    #[serde(default, with = "text::optional")]
    pub oldest: Option<Position>,
    /// When that expires.
    #[serde(default, with = "text::optional")]
    pub expires_at: Option<Timestamp>,
    /// What it lost, by partition, until somebody acknowledges it.
    #[serde(default)]
    pub lost: Vec<LostEvents>,
    /// How many events it has ever lost, acknowledged losses included.
    pub lost_events: Option<u64>,
    /// How often it was put back to a place.
    pub rewound: Option<u32>,
    /// What the instance that answers has done; absent where it delivers nothing to it.
    pub this_instance: Option<InstanceCounts>,
}

/// What a subscription lost in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostEvents {
    /// The first place that was lost.
    #[serde(with = "text")]
    pub first: Position,
    /// The last.
    #[serde(with = "text")]
    pub last: Position,
    /// How many of its events were seen to go.
    pub count: u64,
    /// The same by tenant.
    pub tenants: BTreeMap<TenantId, u64>,
    /// Whether that is all of them.
    pub exact: bool,
    /// When that was found last.
    #[serde(with = "text")]
    pub at: Timestamp,
}

/// What one instance has done for a subscription since it began to deliver to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceCounts {
    /// Events that were handled.
    pub handled: u64,
    /// Deliveries that were refused.
    pub refused: u64,
    /// Events that it read and the event pattern left out; an edge leaves that to its bus.
    #[serde(default)]
    pub left_out: Option<u64>,
    /// Events that it dead-lettered; an edge leaves that to its bus.
    pub dead_lettered: Option<u64>,
    /// Events of a queue subscription that were not handled; an edge leaves that to its bus.
    pub missed: Option<u64>,
}

impl BusStatus {
    /// A subscription by its name.
    pub fn subscription(&self, name: &str) -> Option<&SubscriptionStatus> {
        self.subscriptions.iter().find(|s| s.name.as_str() == name)
    }
}

impl SubscriptionStatus {
    /// One of which nothing is known but its name, and for what it waits.
    pub fn unknown(name: SubscriptionName, problem: impl Into<ReportedProblem>) -> Self {
        Self {
            state: State::Waiting,
            problem: Some(problem.into()),
            ..Self::named(name)
        }
    }

    /// What the registry says of one. Nothing is counted yet.
    pub fn of(registered: &Registered) -> Self {
        let subscription = &registered.subscription;
        let state = match (registered.progress, subscription.need) {
            (Progress::Finished, _) => State::Finished,
            _ if registered.paused => State::Paused,
            _ if registered.withheld.is_some() => State::Waiting,
            // One that is being told has caught up.
            (Progress::Replaying, Need::Backfill { .. }) => State::CatchingUp,
            _ => State::Active,
        };
        Self {
            need: Some(subscription.need.as_str().to_owned()),
            component: Some(registered.component.clone()),
            pattern: subscription.filter.pattern().map(|p| p.as_str().to_owned()),
            made_by: Some(registered.made_by),
            state,
            problem: registered.withheld_problem().map(Into::into),
            rewound: registered.rewound.map(|r| r.generation),
            ..Self::named(subscription.name.clone())
        }
    }

    /// One of which only the name is known.
    pub fn named(name: SubscriptionName) -> Self {
        Self {
            name,
            need: None,
            component: None,
            pattern: None,
            made_by: None,
            state: State::Active,
            problem: None,
            attended: None,
            pending: None,
            in_flight: None,
            redelivered: None,
            waiting_for_retry: None,
            dead_letters: None,
            dead_letters_elsewhere: BTreeMap::new(),
            oldest: None,
            expires_at: None,
            lost: Vec::new(),
            lost_events: None,
            rewound: None,
            this_instance: None,
        }
    }

    /// Deliveries wait for this. One that is paused stays so, and would wait once it is resumed.
    pub fn wait_for(&mut self, problem: impl Into<ReportedProblem>) {
        match self.state {
            State::Finished => return,
            State::Paused => {}
            _ => self.state = State::Waiting,
        }
        self.problem = Some(problem.into());
    }

    /// Stored for it and not settled, retries included; `None` unless all of it is known.
    pub fn backlog(&self) -> Option<u64> {
        Some(self.pending? + self.in_flight? + self.waiting_for_retry?)
    }

    /// The code of its problem; empty where it has none.
    pub fn code(&self) -> &str {
        self.problem.as_ref().map_or("", |p| &p.code)
    }
}

impl State {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::CatchingUp => "catching-up",
            Self::Finished => "finished",
            Self::Paused => "paused",
            Self::Waiting => "waiting",
        }
    }
}

impl LostEvents {
    /// What was lost in a partition.
    pub fn of(partition: u32, lost: &Lost) -> Self {
        let place = |offset| Position { partition, offset };
        Self {
            first: place(lost.from),
            last: place(lost.to),
            count: lost.events,
            tenants: lost.tenants.clone(),
            exact: lost.exact,
            at: lost.at,
        }
    }
}

impl Outcome {
    /// In force, or refused for these reasons.
    pub fn of(problems: &[Problem]) -> Self {
        let state = match problems {
            [] => OutcomeState::Applied,
            _ => OutcomeState::Refused,
        };
        let problems = problems.iter().cloned().map(Into::into).collect();
        Self { state, problems }
    }
}

impl From<Problem> for ReportedProblem {
    fn from(problem: Problem) -> Self {
        Self {
            code: problem.code.to_string(),
            message: problem.message,
            setting: problem.setting,
        }
    }
}

impl fmt::Display for ReportedProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)
    }
}

/// A value as the text that it prints.
pub(crate) mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }

    /// The same where there may be none.
    pub(crate) mod optional {
        use super::*;

        pub(crate) fn serialize<T: Display, S: Serializer>(
            value: &Option<T>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => serializer.collect_str(value),
                None => serializer.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
        where
            T: FromStr<Err: Display>,
            D: Deserializer<'de>,
        {
            let text = Option::<String>::deserialize(deserializer)?;
            text.map(|t| t.parse().map_err(D::Error::custom)).transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_is_written_and_what_nobody_knows_is_null() {
        let mut status = SubscriptionStatus::unknown(
            "invoicing".parse().unwrap(),
            crate::Problem::new(crate::Code::StoreUnavailable, "no answer"),
        );
        status.oldest = Some(Position::undivided(42));
        status.lost = vec![LostEvents::of(
            3,
            &Lost {
                from: 1,
                to: 2,
                events: 2,
                at: Timestamp::from_nanoseconds(1_000_000_000),
                ..Lost::default()
            },
        )];
        let written = serde_json::to_value(&status).unwrap();
        assert_eq!(
            (
                &written["state"],
                &written["pending"],
                &written["oldest"],
                &written["expires_at"]
            ),
            (
                &"waiting".into(),
                &serde_json::Value::Null,
                &"0/42".into(),
                &serde_json::Value::Null
            )
        );
        assert_eq!(
            written["lost"][0],
            serde_json::json!({ "first": "3/1", "last": "3/2", "count": 2, "tenants": {}, "exact": false, "at": "1970-01-01T00:00:01Z" })
        );
        assert_eq!(serde_json::from_value::<SubscriptionStatus>(written).unwrap(), status);
        assert_eq!(
            status.backlog(),
            None,
            "a count that is not known is no backlog of nothing"
        );
    }

    #[test]
    fn the_states_print_as_they_are_written() {
        use State::*;
        for state in [Active, CatchingUp, Finished, Paused, Waiting] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
