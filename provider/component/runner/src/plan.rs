//! What the operator wants a runner to deliver.

use fanout_component::types::{Filter, Position, Scope, Start};

/// The most deliveries of one fetch, and in one invocation of `batch-handler`.
const MOST: u32 = 1_000;

/// What a runner delivers.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The subscription of this workload, if it has one.
    pub declared: Option<Declared>,
    /// Which subscriptions are delivered that the component made by a call: all, or those of these names.
    pub called: Called,
    /// The most deliveries at a time, if the operator says so.
    pub batch: Option<u32>,
}

/// A subscription that the runner makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// What it is for; `None` where the policy of the bus declares it.
    pub need: Option<Need>,
    /// The events it is given.
    pub filter: Filter,
    /// Whose events, on a bus that has places.
    pub scope: Scope,
    /// The most deliveries at a time, if the operator says so.
    pub batch: Option<u32>,
}

/// What a subscription is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Need {
    /// Fast, at most once.
    Queue,
    /// Everything published since it was made.
    Durable,
    /// The retained log from there on.
    Backfill(Start),
}

/// Which subscriptions of the component's own are delivered.
#[derive(Clone, Debug, PartialEq)]
pub enum Called {
    /// None: it makes none, or fetches them itself.
    None,
    /// All.
    All,
    /// Those.
    Named(Vec<String>),
}

impl Called {
    /// Whether a subscription of this name is.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Named(names) => names.iter().any(|named| named == name),
        }
    }
}

impl Plan {
    /// Reads it from variables.
    ///
    /// # Errors
    /// Which variable is wrong, and what it has to be.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let list = |name: &str| {
            let text = variable(name).unwrap_or_default();
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect::<Vec<_>>()
        };
        let batch = match variable("FANOUT_BATCH_SIZE").map(|text| text.trim().parse()) {
            None => None,
            Some(Ok(size)) if (1..=MOST).contains(&size) => Some(size),
            Some(_) => return Err(format!("FANOUT_BATCH_SIZE is not a number from 1 to {MOST}")),
        };
        let called = match list("FANOUT_CALLED_SUBSCRIPTIONS") {
            names if names.is_empty() => Called::None,
            names if names == ["*"] => Called::All,
            names => Called::Named(names),
        };
        let declared = match variable("FANOUT_SUBSCRIPTION") {
            None => None,
            Some(name) => Some(Declared {
                name,
                need: need(&variable)?,
                filter: Filter {
                    tenants: list("FANOUT_TENANTS"),
                    event_types: list("FANOUT_EVENT_TYPES"),
                    pattern: variable("FANOUT_PATTERN"),
                },
                scope: scope(&variable)?,
                batch,
            }),
        };
        let is_declared = declared.as_ref().is_some_and(|declared| declared.need.is_none());
        if is_declared && variable("FANOUT_PATTERN").is_some() {
            return Err(
                "FANOUT_PATTERN is not for FANOUT_NEED=declared: the policy gives that subscription its pattern"
                    .to_owned(),
            );
        }
        if declared.is_none() && called == Called::None {
            return Err(
                "there is nothing to deliver: set FANOUT_SUBSCRIPTION, or FANOUT_CALLED_SUBSCRIPTIONS".to_owned(),
            );
        }
        Ok(Self {
            declared,
            called,
            batch,
        })
    }
}

fn need(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Need>, String> {
    let from = variable("FANOUT_FROM");
    let need = match variable("FANOUT_NEED").as_deref() {
        Some("queue") => Need::Queue,
        Some("durable") => Need::Durable,
        Some("backfill") => {
            let from = from.ok_or("FANOUT_FROM is not set: a backfill begins with first, a time or a position")?;
            return Ok(Some(Need::Backfill(start(&from)?)));
        }
        Some("declared") => return Ok(None),
        _ => return Err("FANOUT_NEED is none of queue, durable, backfill and declared".to_owned()),
    };
    match from {
        None => Ok(Some(need)),
        Some(_) => Err("FANOUT_FROM is for a backfill alone".to_owned()),
    }
}

fn scope(variable: impl Fn(&str) -> Option<String>) -> Result<Scope, String> {
    let is_settled = matches!(variable("FANOUT_NEED").as_deref(), Some("queue" | "declared"));
    match variable("FANOUT_SCOPE").as_deref() {
        None => Ok(Scope::Everywhere),
        Some(_) if is_settled => Err("FANOUT_SCOPE is for FANOUT_NEED=durable and backfill: leave it out".to_owned()),
        Some("everywhere") => Ok(Scope::Everywhere),
        Some("here") => Ok(Scope::Here),
        Some(_) => Err("FANOUT_SCOPE is none of everywhere and here".to_owned()),
    }
}

fn start(text: &str) -> Result<Start, String> {
    let position = |(partition, offset): (&str, &str)| {
        let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
        Some(Start::Position(Position { partition, offset }))
    };
    let time = || {
        i64::try_from(text.parse::<jiff::Timestamp>().ok()?.as_nanosecond())
            .ok()
            .map(Start::Time)
    };
    match text {
        "first" => Ok(Start::First),
        text => text.split_once('/').and_then(position).or_else(time).ok_or_else(|| {
            format!("FANOUT_FROM is {text:?}, which is not first, a time (RFC 3339) or a position such as 0/42")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Plan, String> {
        Plan::read(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn what_a_link_says_is_said_by_variables() {
        let plan = read(&[
            ("FANOUT_SUBSCRIPTION", "invoicing"),
            ("FANOUT_NEED", "durable"),
            ("FANOUT_EVENT_TYPES", "invoice.*, refund.**"),
            ("FANOUT_PATTERN", r#"{"data":{"amount":[5,6]}}"#),
            ("FANOUT_BATCH_SIZE", "50"),
            ("FANOUT_SCOPE", "here"),
        ]);
        let plan = plan.expect("legal");
        assert_eq!((plan.batch, &plan.called), (Some(50), &Called::None));
        let declared = plan.declared.expect("declared");
        assert_eq!(
            (declared.name.as_str(), declared.need),
            ("invoicing", Some(Need::Durable))
        );
        assert_eq!(declared.scope, Scope::Here);
        assert_eq!(declared.filter.event_types, ["invoice.*", "refund.**"]);
        assert_eq!(declared.filter.pattern.as_deref(), Some(r#"{"data":{"amount":[5,6]}}"#));
        let all = read(&[("FANOUT_CALLED_SUBSCRIPTIONS", "*")]).expect("legal");
        assert!(all.called.has("late") && all.declared.is_none() && all.batch.is_none());
        let named = read(&[("FANOUT_CALLED_SUBSCRIPTIONS", "late,later")]).expect("legal");
        assert!(named.called.has("later") && !named.called.has("other"));
    }

    #[test]
    fn a_backfill_begins_with_the_first_event_a_time_or_a_position() {
        let from = |from: &str| {
            let plan = read(&[
                ("FANOUT_SUBSCRIPTION", "a"),
                ("FANOUT_NEED", "backfill"),
                ("FANOUT_FROM", from),
            ]);
            plan.map(|plan| plan.declared.expect("declared").need)
        };
        assert_eq!(from("first"), Ok(Some(Need::Backfill(Start::First))));
        let position = Position {
            partition: 2,
            offset: 42,
        };
        assert_eq!(from("2/42"), Ok(Some(Need::Backfill(Start::Position(position)))));
        let time = Start::Time(1_800_000_000_000_000_000);
        assert_eq!(from("2027-01-15T08:00:00Z"), Ok(Some(Need::Backfill(time))));
        assert!(from("yesterday").expect_err("no start").contains("\"yesterday\""));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (variables, named) in [
            (&[][..], "nothing to deliver"),
            (&[("FANOUT_SUBSCRIPTION", "a")][..], "FANOUT_NEED"),
            (
                &[("FANOUT_SUBSCRIPTION", "a"), ("FANOUT_NEED", "backfill")][..],
                "FANOUT_FROM",
            ),
            (
                &[
                    ("FANOUT_SUBSCRIPTION", "a"),
                    ("FANOUT_NEED", "queue"),
                    ("FANOUT_SCOPE", "here"),
                ][..],
                "FANOUT_SCOPE is for",
            ),
            (
                &[
                    ("FANOUT_SUBSCRIPTION", "a"),
                    ("FANOUT_NEED", "durable"),
                    ("FANOUT_SCOPE", "there"),
                ][..],
                "none of everywhere and here",
            ),
            (
                &[
                    ("FANOUT_SUBSCRIPTION", "a"),
                    ("FANOUT_NEED", "queue"),
                    ("FANOUT_FROM", "first"),
                ][..],
                "for a backfill alone",
            ),
            (
                &[
                    ("FANOUT_SUBSCRIPTION", "a"),
                    ("FANOUT_NEED", "declared"),
                    ("FANOUT_PATTERN", "{}"),
                ][..],
                "FANOUT_PATTERN",
            ),
            (
                &[("FANOUT_CALLED_SUBSCRIPTIONS", "*"), ("FANOUT_BATCH_SIZE", "0")][..],
                "FANOUT_BATCH_SIZE",
            ),
        ] {
            let error = read(variables).expect_err(named);
            assert!(error.contains(named), "{error}");
        }
    }
}
