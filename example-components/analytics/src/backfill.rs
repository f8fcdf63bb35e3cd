//! A request for a backfill.
//!
//! ```json
//! {"name": "late", "from": "first", "tenants": ["acme"], "event_types": ["invoice.*"]}
//! {"name": "tuesday", "from": {"time": "2026-11-17T00:00:00Z"}, "until": {"time": "2026-11-18T00:00:00Z"}}
//! {"name": "again", "from": {"position": {"partition": 0, "offset": 4711}}}
//! {"name": "large", "pattern": {"data": {"object": {"amount_paid": [{"numeric": [">=", 50000]}]}}}}
//! ```

use component_support::delivery;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A request for a backfill.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backfill {
    /// The subscription's name.
    pub name: String,
    /// Where it begins.
    #[serde(default)]
    pub from: Start,
    /// Where it ends; without one it goes on live.
    #[serde(default)]
    pub until: Option<End>,
    /// The tenants; none for every tenant that the link allows.
    #[serde(default)]
    pub tenants: Vec<String>,
    /// Patterns of event types; none for every type that the link allows.
    #[serde(default)]
    pub event_types: Vec<String>,
    /// An event pattern, as a JSON object: what else an event has to match.
    #[serde(default)]
    pub pattern: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Backfill {
    /// The pattern as the bus takes it.
    pub fn pattern(&self) -> Option<String> {
        let pattern = self.pattern.clone()?;
        Some(serde_json::Value::Object(pattern).to_string())
    }
}

/// Where a backfill begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the oldest event that is retained.
    #[default]
    First,
    /// With the first event stored at or after this time.
    Time(Instant),
    /// With this position.
    Position(Position),
}

/// Where a backfill ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Before the first event stored at or after this time.
    Time(Instant),
    /// After this position.
    Position(Position),
}

/// A place in the bus's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The partition.
    pub partition: u32,
    /// The place within it.
    pub offset: u64,
}

/// A time that the bus can express, RFC 3339 in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Rfc3339", into = "Rfc3339")]
pub struct Instant(i64);

/// A time as JSON has it.
#[derive(Serialize, Deserialize)]
struct Rfc3339(Timestamp);

impl Instant {
    /// The time that many nanoseconds after 1970.
    pub fn from_nanoseconds(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since 1970.
    pub fn nanoseconds(self) -> i64 {
        self.0
    }
}

impl TryFrom<Rfc3339> for Instant {
    type Error = &'static str;

    fn try_from(Rfc3339(time): Rfc3339) -> Result<Self, Self::Error> {
        let nanoseconds = i64::try_from(time.as_nanosecond());
        nanoseconds
            .map(Self)
            .map_err(|_| "the time is not between the years 1678 and 2262")
    }
}

impl From<Instant> for Rfc3339 {
    fn from(instant: Instant) -> Self {
        Self(delivery::timestamp(instant.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str) -> Result<Backfill, String> {
        serde_json::from_str(body).map_err(|error| error.to_string())
    }

    #[test]
    fn a_backfill_begins_anywhere() {
        let from = |from| check(&format!(r#"{{"name": "late", "from": {from}}}"#)).unwrap().from;
        assert_eq!(from(r#""first""#), Start::First);
        let new_year = Instant::from_nanoseconds(1_767_225_600_000_000_000);
        assert_eq!(from(r#"{"time": "2026-01-01T01:00:00+01:00"}"#), Start::Time(new_year));
        let position = Position {
            partition: 0,
            offset: 4711,
        };
        assert_eq!(
            from(r#"{"position": {"partition": 0, "offset": 4711}}"#),
            Start::Position(position)
        );
        assert_eq!(check(r#"{"name": "late"}"#).unwrap().from, Start::First);
    }

    #[test]
    fn a_backfill_can_end_and_be_filtered() {
        let backfill = check(
            r#"{"name": "n", "until": {"position": {"partition": 0, "offset": 9}}, "tenants": ["a"], "event_types": ["b.*"],
                "pattern": {"data": {"amount": [7]}}}"#,
        );
        let expected = Backfill {
            name: "n".to_owned(),
            from: Start::First,
            until: Some(End::Position(Position {
                partition: 0,
                offset: 9,
            })),
            tenants: vec!["a".to_owned()],
            event_types: vec!["b.*".to_owned()],
            pattern: serde_json::json!({ "data": { "amount": [7] } }).as_object().cloned(),
        };
        assert_eq!(backfill, Ok(expected));
    }

    #[test]
    fn what_is_no_backfill_says_why() {
        for (body, why) in [
            ("{}", "missing field `name`"),
            (r#"{"name": "n", "form": "first"}"#, "unknown field `form`"),
            (r#"{"name": "n", "from": "last"}"#, "unknown variant `last`"),
            (
                r#"{"name": "n", "from": {"time": "yesterday"}}"#,
                "failed to parse four digit integer as year",
            ),
            (
                r#"{"name": "n", "from": {"time": "9999-01-01T00:00:00Z"}}"#,
                "between the years 1678 and 2262",
            ),
            (
                r#"{"name": "n", "from": {"position": {"offset": 1}}}"#,
                "missing field `partition`",
            ),
            (r#"{"name": "n", "until": "first"}"#, "unknown variant `first`"),
        ] {
            let error = check(body).unwrap_err();
            assert!(error.contains(why), "{body}: {error}");
        }
    }
}
