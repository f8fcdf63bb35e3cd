//! Names, each parsed once: whoever holds one of these types holds a legal name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Code, Problem};

/// How much of a refused value a message repeats.
const SHOWN_CHARS: usize = 40;

/// A value for a message: cut short, with controls and quotes escaped.
pub(crate) fn shown(value: &str) -> String {
    let mut cut: String = value.chars().take(SHOWN_CHARS).collect();
    if cut.len() < value.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// One token of a NATS subject that also serves as a stream, consumer and key name (nats-server 2.15: no dots, spaces,
/// wildcards, path separators).
fn is_token(s: &str, max: usize) -> bool {
    !s.is_empty() && s.len() <= max && s.chars().all(is_token_char)
}

macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $what:literal, $code:ident, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Problem;
            fn from_str(s: &str) -> Result<Self, Problem> {
                if is_token(s, $max) {
                    return Ok(Self(s.into()));
                }
                Err(Problem::new(
                    Code::$code,
                    format!(
                        concat!($what, " {} is not a legal name: use 1 to ", $max, " characters out of A-Z a-z 0-9 _ -"),
                        shown(s)
                    ),
                ))
            }
        }

        impl TryFrom<String> for $name {
            type Error = Problem;
            fn try_from(s: String) -> Result<Self, Problem> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(n: $name) -> Self {
                n.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

token! {
    /// A tenant: one token, so that its subjects can't meet another tenant's.
    TenantId, "tenant", InvalidTenant, 64
}
token! {
    /// A subscription, unique on its bus.
    SubscriptionName, "subscription", InvalidSubscription, 64
}
token! {
    /// A bus.
    BusName, "bus", InvalidSetting, 32
}

/// A CloudEvents `type`: segments joined by dots, each of which becomes a token of the subject.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventType(Box<str>);

impl EventType {
    /// The most segments.
    pub const MAX_SEGMENTS: usize = 8;
    /// The most characters.
    pub const MAX_CHARS: usize = 128;

    /// The type, as in `invoice.paid`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its segments.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

impl FromStr for EventType {
    type Err = Problem;
    fn from_str(s: &str) -> Result<Self, Problem> {
        let legal = s.len() <= Self::MAX_CHARS
            && s.split('.').count() <= Self::MAX_SEGMENTS
            && s.split('.').all(|segment| is_token(segment, Self::MAX_CHARS));
        if legal {
            return Ok(Self(s.into()));
        }
        Err(Problem::new(
            Code::InvalidEventType,
            format!(
                "event type {} is not legal: use 1 to 8 segments of A-Z a-z 0-9 _ - joined by dots, at most 128 characters",
                shown(s)
            ),
        ))
    }
}

impl TryFrom<String> for EventType {
    type Error = Problem;
    fn try_from(s: String) -> Result<Self, Problem> {
        s.parse()
    }
}

impl From<EventType> for String {
    fn from(t: EventType) -> Self {
        t.0.into()
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_names_parse_to_themselves() {
        for name in ["acme", "acct_1Mx", "A-b_9", &"x".repeat(64)] {
            assert_eq!(name.parse::<TenantId>().unwrap().as_str(), name);
        }
        for name in ["paid", "invoice.payment_succeeded", "a.b.c.d.e.f.g.h"] {
            assert_eq!(name.parse::<EventType>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_could_reach_another_subject_are_refused() {
        for name in [
            "",
            "a.b",
            "*",
            ">",
            "a b",
            "a\r\nb",
            "a\0",
            "é",
            "a/b",
            "$SYS",
            "{tenant}",
            &"x".repeat(300),
        ] {
            let problem = name.parse::<TenantId>().unwrap_err();
            assert_eq!(problem.code, Code::InvalidTenant, "{name:?}");
            assert!(problem.message.len() < 220, "{}", problem.message);
            assert!(!problem.message.contains('\n'));
        }
        for name in ["", ".", "a.", ".a", "a..b", "a.*", "a.>", "a b", "a.b.c.d.e.f.g.h.i"] {
            assert_eq!(
                name.parse::<EventType>().unwrap_err().code,
                Code::InvalidEventType,
                "{name:?}"
            );
        }
    }
}
