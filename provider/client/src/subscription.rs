//! What a program asks to be given.

use std::time::Duration;

use fanout_wit::types as wit;

use crate::{Error, ErrorKind, Position};

/// Where a backfill begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the oldest event that is retained.
    #[default]
    First,
    /// With the first event stored at or after this time, nanoseconds since 1970-01-01T00:00:00Z.
    Time(i64),
    /// With this position.
    Position(Position),
}

/// Where a backfill ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Before the first event stored at or after this time, nanoseconds since 1970-01-01T00:00:00Z.
    Time(i64),
    /// After this position.
    Position(Position),
}

/// A named need of one caller. The bus remembers it until it is ended with [`crate::Bus::unsubscribe`]: a program that
/// comes back with the same one goes on where it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub(crate) name: String,
    /// The operator made it: it is not asked for, only fetched.
    pub(crate) is_declared: bool,
    need: Need,
    end: Option<End>,
    tenants: Vec<String>,
    event_types: Vec<String>,
    pattern: Option<String>,
    scope: wit::Scope,
    pub(crate) prefetch: u32,
    pub(crate) wait: Duration,
    pub(crate) at_most: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Queue,
    Durable,
    Backfill(Start),
}

/// Deliveries held at a time, unless a subscription says otherwise.
const PREFETCH: u32 = 64;
/// The most that the bus gives in one fetch.
const MOST: u32 = 1_000;
/// For how long a fetch asks the bus to wait.
const WAIT: Duration = Duration::from_secs(5);

impl Subscription {
    fn new(name: impl Into<String>, need: Need) -> Self {
        Self {
            name: name.into(),
            is_declared: false,
            need,
            end: None,
            tenants: Vec::new(),
            event_types: Vec::new(),
            pattern: None,
            scope: wit::Scope::Everywhere,
            prefetch: PREFETCH,
            wait: WAIT,
            at_most: None,
        }
    }

    /// Fast, at most once: what is published while nobody fetches is not kept for it.
    pub fn queue(name: impl Into<String>) -> Self {
        Self::new(name, Need::Queue)
    }

    /// Everything published from now on, at least once.
    pub fn durable(name: impl Into<String>) -> Self {
        Self::new(name, Need::Durable)
    }

    /// The retained log from a point on, then live, at least once.
    pub fn backfill(name: impl Into<String>, start: Start) -> Self {
        Self::new(name, Need::Backfill(start))
    }

    /// One that the operator declared for this caller: it is not asked for, only fetched. What it is given the policy says.
    pub fn declared(name: impl Into<String>) -> Self {
        Self {
            is_declared: true,
            ..Self::new(name, Need::Durable)
        }
    }

    /// Ends a backfill there. Any other that is to end is refused.
    #[must_use]
    pub fn until(mut self, end: End) -> Self {
        self.end = Some(end);
        self
    }

    /// Of these tenants; without this, of all that the caller may have.
    #[must_use]
    pub fn tenants<T: Into<String>>(mut self, tenants: impl IntoIterator<Item = T>) -> Self {
        self.tenants = tenants.into_iter().map(Into::into).collect();
        self
    }

    /// Events whose type matches any of these patterns, such as `invoice.*`; without this, all that the caller may have.
    #[must_use]
    pub fn event_types<T: Into<String>>(mut self, patterns: impl IntoIterator<Item = T>) -> Self {
        self.event_types = patterns.into_iter().map(Into::into).collect();
        self
    }

    /// Those events alone that match this event pattern, too: a JSON text in the language of EventBridge's rules, which looks at
    /// attributes and at a payload that is JSON. The bus refuses one that is not legal.
    #[must_use]
    pub fn pattern(mut self, pattern: impl Into<String>) -> Self {
        self.pattern = Some(pattern.into());
        self
    }

    /// Of a durable or backfill subscription: those events alone that are published at the place where it is made, on a bus
    /// that has places; without this, those of all of them.
    #[must_use]
    pub fn of_this_place(mut self) -> Self {
        self.scope = wit::Scope::Here;
        self
    }

    /// Holds at most so many deliveries at a time, those in the program's hands included: 1 to 1,000.
    #[must_use]
    pub fn prefetch(mut self, deliveries: u32) -> Self {
        self.prefetch = deliveries.clamp(1, MOST);
        self
    }

    /// Takes at most so many deliveries, those that come again included; then the stream ends.
    #[must_use]
    pub fn at_most(mut self, deliveries: u64) -> Self {
        self.at_most = Some(deliveries);
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Refuses what would have no effect.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Self { name, need, .. } = self;
        let is_here = self.scope == wit::Scope::Here;
        let narrows = is_here || self.pattern.is_some() || !(self.tenants.is_empty() && self.event_types.is_empty());
        let why = if self.is_declared && narrows {
            "is declared by the policy, which says what it is given: ask for no tenants, event types, pattern or place"
        } else if self.end.is_some() && !matches!(need, Need::Backfill(_)) {
            "has no end: only a backfill has, so use one, or leave `until` out"
        } else if is_here && *need == Need::Queue {
            "is of its own place in any case: leave `of_this_place` out"
        } else {
            return Ok(());
        };
        let message = format!("subscription {name} {why}");
        Err(Error::new(ErrorKind::Invalid, "conflicting-settings", message))
    }

    pub(crate) fn is_queue(&self) -> bool {
        self.need == Need::Queue
    }

    pub(crate) fn request(&self) -> Request {
        let filter = wit::Filter {
            tenants: self.tenants.clone(),
            event_types: self.event_types.clone(),
            pattern: self.pattern.clone(),
        };
        let options = |filter| wit::DeliveryOptions {
            filter,
            reach: wit::Reach::Inbox,
            batch_size: None,
            concurrency: None,
            scope: self.scope,
        };
        match self.need {
            Need::Queue => Request::Queue(filter),
            Need::Durable => Request::Durable(options(filter)),
            Need::Backfill(start) => Request::Backfill(start.into(), self.end.map(Into::into), options(filter)),
        }
    }
}

/// What is asked of `subscriber`.
pub(crate) enum Request {
    Queue(wit::Filter),
    Durable(wit::DeliveryOptions),
    Backfill(wit::Start, Option<wit::End>, wit::DeliveryOptions),
}

impl From<Position> for fanout_wit::types::Position {
    fn from(p: Position) -> Self {
        Self {
            partition: p.partition,
            offset: p.offset,
        }
    }
}

impl From<Start> for wit::Start {
    fn from(s: Start) -> Self {
        match s {
            Start::First => Self::First,
            Start::Time(t) => Self::Time(t),
            Start::Position(p) => Self::Position(p.into()),
        }
    }
}

impl From<End> for wit::End {
    fn from(e: End) -> Self {
        match e {
            End::Time(t) => Self::Time(t),
            End::Position(p) => Self::Position(p.into()),
        }
    }
}

/// As `PARTITION/OFFSET`, which positions are written as.
impl std::str::FromStr for Position {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        s.split_once('/')
            .and_then(|(partition, offset)| {
                Some(Self {
                    partition: partition.parse().ok()?,
                    offset: offset.parse().ok().filter(|o| *o > 0)?,
                })
            })
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Invalid,
                    "unknown-position",
                    format!("{s:?} is not a position: write PARTITION/OFFSET, such as 0/42"),
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(subscription: &Subscription) -> Option<String> {
        let refused = subscription.check().err()?;
        assert_eq!(
            (refused.kind, refused.code.as_str()),
            (ErrorKind::Invalid, "conflicting-settings")
        );
        Some(refused.message)
    }

    #[test]
    fn what_would_have_no_effect_is_refused() {
        let end = End::Time(1);
        let declared = || Subscription::declared("audit");
        for narrowed in [
            declared().tenants(["acme"]),
            declared().event_types(["invoice.*"]),
            declared().pattern("{}"),
            declared().of_this_place(),
        ] {
            assert!(refused(&narrowed).unwrap().contains("audit is declared"));
        }
        assert!(
            refused(&Subscription::durable("d").until(end))
                .unwrap()
                .contains("no end")
        );
        assert!(
            refused(&Subscription::queue("q").of_this_place())
                .unwrap()
                .contains("own place")
        );
        let backfill = Subscription::backfill("b", Start::First).until(end);
        for taken in [
            declared().prefetch(5).at_most(9),
            backfill.of_this_place().tenants(["acme"]),
        ] {
            assert_eq!(refused(&taken), None);
        }
    }
}
