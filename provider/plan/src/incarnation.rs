//! Which of the subscriptions that have had a name one is, and how what belongs to it is named.
//!
//! A name that is used again is another subscription: its consumers, dead letters, requests to redrive, attempts, retries
//! and tokens are others than those of the one before, which it can neither read nor settle.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::subscription::Registered;
use crate::{Code, Problem, SubscriptionName, Timestamp};

/// Between a subscription's name and its incarnation, and between those and what follows. No name has a `=`.
const SEPARATOR: char = '=';
/// Before an incarnation's digits. What follows a name otherwise begins with a digit, or is a word of its own.
const MARK: char = 'i';

/// Which subscription of one name. One that is paused, rewound, changed in place or moved aside stays the same.
///
/// It is the time at which the subscription was made, nanoseconds since the Unix epoch, made greater where its
/// predecessor's is not less. The default is that of subscriptions that were made before there were incarnations: nothing
/// that belongs to them says one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Incarnation(u64);

impl Incarnation {
    /// That of a subscription that is made now, nanoseconds since the Unix epoch.
    pub fn new(now: Timestamp) -> Self {
        Self(u64::try_from(now.nanoseconds()).unwrap_or_default().max(1))
    }

    /// The same, or the next one after another's of the same name.
    #[must_use]
    pub fn after(self, other: Self) -> Self {
        self.max(Self(other.0.saturating_add(1)))
    }

    /// Whether nothing says it: the subscription was made before there were incarnations.
    pub fn is_unsaid(&self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl FromStr for Incarnation {
    type Err = Problem;
    fn from_str(s: &str) -> Result<Self, Problem> {
        let read = u64::from_str_radix(s, 16).ok().map(Self);
        // Written in another way (`+1`, `01`, `A`) it would be one incarnation with two names.
        read.filter(|read| read.to_string() == s).ok_or_else(|| {
            Problem::new(
                Code::InvalidSubscription,
                format!(
                    "{} is no incarnation of a subscription: use the hexadecimal number that `fanout dead-letters list --json` shows",
                    crate::name::shown(s)
                ),
            )
        })
    }
}

impl TryFrom<String> for Incarnation {
    type Error = Problem;
    fn try_from(s: String) -> Result<Self, Problem> {
        s.parse()
    }
}

impl From<Incarnation> for String {
    fn from(i: Incarnation) -> Self {
        i.to_string()
    }
}

/// A subscription and no other, whatever had its name before or has it later. Its text is part of subjects, of keys and of
/// consumers' names: `invoicing=i18d3a1b2c3d4e5f6`, or the name alone where no incarnation is said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SubscriptionId {
    /// The name under which it was made.
    #[serde(rename = "subscription")]
    pub name: SubscriptionName,
    /// Which of that name.
    #[serde(default, skip_serializing_if = "Incarnation::is_unsaid")]
    pub incarnation: Incarnation,
}

impl SubscriptionId {
    /// The subscription that a text begins with, and what follows behind its separator.
    pub fn split(text: &str) -> Option<(Self, Option<&str>)> {
        let (name, rest) = cut(text);
        let name = name.parse().ok()?;
        let (incarnation, rest) = match rest.map(cut) {
            Some((said, behind)) if said.starts_with(MARK) => match said[MARK.len_utf8()..].parse() {
                Ok(incarnation) => (incarnation, behind),
                Err(_) => (Incarnation::default(), rest),
            },
            _ => (Incarnation::default(), rest),
        };
        Some((Self { name, incarnation }, rest))
    }
}

fn cut(text: &str) -> (&str, Option<&str>) {
    text.split_once(SEPARATOR)
        .map_or((text, None), |(before, behind)| (before, Some(behind)))
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, incarnation } = self;
        if incarnation.is_unsaid() {
            return write!(f, "{name}");
        }
        write!(f, "{name}{SEPARATOR}{MARK}{incarnation}")
    }
}

/// What is remembered of events between one rewind of a subscription and the next: attempts, and what waits for a retry,
/// belong to one round and never come to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round {
    /// When the subscription was made, nanoseconds since the Unix epoch.
    pub made_at: Timestamp,
    /// How often it was rewound since.
    pub rewound: u32,
}

impl Round {
    /// That of a subscription as it is remembered.
    pub fn of(registered: &Registered) -> Self {
        Self {
            made_at: registered.made_at,
            rewound: registered.generation(),
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.made_at.nanoseconds(), self.rewound)
    }
}

impl FromStr for Round {
    type Err = ParseIntError;
    fn from_str(s: &str) -> Result<Self, ParseIntError> {
        let (made_at, rewound) = s.rsplit_once('-').unwrap_or((s, ""));
        Ok(Self {
            made_at: Timestamp::from_nanoseconds(made_at.parse()?),
            rewound: rewound.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str, incarnation: u64) -> SubscriptionId {
        SubscriptionId {
            name: name.parse().unwrap(),
            incarnation: Incarnation(incarnation),
        }
    }

    #[test]
    fn a_subscription_is_read_from_what_begins_with_it() {
        for (text, of, rest) in [
            ("billing", id("billing", 0), None),
            ("billing=2", id("billing", 0), Some("2")),
            ("billing=0=1=acme", id("billing", 0), Some("0=1=acme")),
            ("billing=redrive", id("billing", 0), Some("redrive")),
            ("billing=i1f", id("billing", 0x1f), None),
            ("billing=i1f=0=1=i2", id("billing", 0x1f), Some("0=1=i2")),
            ("billing=i1f=lease", id("billing", 0x1f), Some("lease")),
            ("billing=i01", id("billing", 0), Some("i01")),
            ("billing=i=1", id("billing", 0), Some("i=1")),
        ] {
            assert_eq!(SubscriptionId::split(text), Some((of.clone(), rest)), "{text}");
            let again = rest.map_or_else(|| of.to_string(), |rest| format!("{of}={rest}"));
            assert_eq!(again, text);
        }
        for none in ["", "=i1", "a.b=i1", "$x"] {
            assert_eq!(SubscriptionId::split(none), None, "{none}");
        }
    }

    #[test]
    fn what_says_no_incarnation_is_of_one_from_before() {
        let old: SubscriptionId = serde_json::from_str(r#"{"subscription":"billing"}"#).unwrap();
        assert_eq!((old.clone(), old.to_string()), (id("billing", 0), "billing".to_owned()));
        assert_eq!(serde_json::to_string(&old).unwrap(), r#"{"subscription":"billing"}"#);
        let now = id("billing", 0x1f);
        let written = serde_json::to_string(&now).unwrap();
        assert_eq!(written, r#"{"subscription":"billing","incarnation":"1f"}"#);
        assert_eq!(serde_json::from_str::<SubscriptionId>(&written).unwrap(), now);
    }

    #[test]
    fn a_successor_is_another_though_the_clock_stands_or_goes_back() {
        let first = Incarnation::new(Timestamp::from_nanoseconds(7));
        assert!(Incarnation::new(Timestamp::from_nanoseconds(9)).after(first) == Incarnation(9));
        for now in [i64::MIN, 0, 1, 7].map(Timestamp::from_nanoseconds) {
            assert!(Incarnation::new(now).after(first) > first, "{now}");
            assert!(!Incarnation::new(now).is_unsaid());
        }
    }

    #[test]
    fn a_round_is_read_back_and_later_ones_are_greater() {
        let round = |made_at, rewound| Round {
            made_at: Timestamp::from_nanoseconds(made_at),
            rewound,
        };
        for i in [round(0, 0), round(-5, 1), round(i64::MAX, u32::MAX)] {
            assert_eq!(i.to_string().parse(), Ok(i));
        }
        assert!(round(1, 7) < round(2, 0) && round(2, 0) < round(2, 1));
        for foreign in ["", "1", "1-", "-", "a-1", "1-b"] {
            assert!(foreign.parse::<Round>().is_err(), "{foreign}");
        }
    }
}
