//! Patterns of event types, as components and operators write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{is_text, shown, token};
use crate::{Code, EventType, Problem};

/// Segments joined by dots: `*` stands for any one, and `**`, as the last, for one or more. A segment that only holds a
/// `*` among others is refused, and so is `>`: who writes one expects it to stand for something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TypePattern(Box<str>);

impl TypePattern {
    /// Matches every event type.
    pub fn any() -> Self {
        Self("**".into())
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one event type, written out.
    pub(crate) fn is_exact(&self) -> bool {
        self.0.split('.').all(|segment| segment != "*" && segment != "**")
    }

    /// Whether an event type matches.
    pub fn matches(&self, event_type: &EventType) -> bool {
        let mut wanted = self.0.split('.');
        let mut given = event_type.segments();
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return true,
                (Some("**"), Some(_)) => return true,
                (Some("*"), Some(_)) => {}
                (Some(w), Some(g)) if w == g => {}
                _ => return false,
            }
        }
    }

    /// Whether this pattern matches everything that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        let mut mine = self.0.split('.');
        let mut theirs = other.0.split('.');
        loop {
            match (mine.next(), theirs.next()) {
                (None, None) => return true,
                (Some("**"), Some(_)) => return true,
                (Some("*"), Some(t)) if t != "**" => {}
                (Some(m), Some(t)) if m == t => {}
                _ => return false,
            }
        }
    }

    /// What both match; `None` if that is nothing.
    pub(crate) fn intersection(&self, other: &Self) -> Option<Self> {
        let (mut mine, mut theirs) = (self.0.split('.'), other.0.split('.'));
        let mut both = Vec::new();
        loop {
            match (mine.next(), theirs.next()) {
                (None, None) => return Some(Self(both.join(".").into())),
                (Some("**"), Some(one)) => {
                    both.push(one);
                    both.extend(theirs.by_ref());
                    return Some(Self(both.join(".").into()));
                }
                (Some(one), Some("**")) => {
                    both.push(one);
                    both.extend(mine.by_ref());
                    return Some(Self(both.join(".").into()));
                }
                (Some("*"), Some(one)) | (Some(one), Some("*")) => both.push(one),
                (Some(m), Some(t)) if m == t => both.push(m),
                _ => return None,
            }
        }
    }

    /// The same in NATS subject tokens, where `>` is the rest.
    pub fn to_subject_tokens(&self) -> String {
        let mut tokens = String::with_capacity(self.0.len());
        for (i, segment) in self.0.split('.').enumerate() {
            if i > 0 {
                tokens.push('.');
            }
            match segment {
                "*" => tokens.push('*'),
                "**" => tokens.push('>'),
                literal => tokens.push_str(&token(literal)),
            }
        }
        tokens
    }
}

impl FromStr for TypePattern {
    type Err = Problem;
    fn from_str(s: &str) -> Result<Self, Problem> {
        let segments: Vec<&str> = s.split('.').collect();
        let last = segments.len() - 1;
        let legal = segments.iter().enumerate().all(|(i, segment)| match *segment {
            "*" => true,
            "**" => i == last,
            literal => literal != ">" && !literal.contains('*'),
        });
        if legal && is_text(s, 1, EventType::MAX_BYTES) {
            return Ok(Self(s.into()));
        }
        Err(Problem::new(
            Code::InvalidPattern,
            format!(
                "pattern {} is not legal: use 1 to {} bytes of segments joined by dots, `*` for any one segment, and `**` as the last for one or more",
                shown(s),
                EventType::MAX_BYTES
            ),
        ))
    }
}

impl TryFrom<String> for TypePattern {
    type Error = Problem;
    fn try_from(s: String) -> Result<Self, Problem> {
        s.parse()
    }
}

impl From<TypePattern> for String {
    fn from(p: TypePattern) -> Self {
        p.0.into()
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether a NATS filter lets a subject through.
    fn lets_through(filter: &str, subject: &str) -> bool {
        let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
        loop {
            match (filter.next(), subject.next()) {
                (None, None) => return true,
                (Some(">"), Some(_)) => return true,
                (Some("*"), Some(_)) => {}
                (Some(f), Some(s)) if f == s => {}
                _ => return false,
            }
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_its_filter_lets_through(
            pattern in "([aé%> -]{0,2}|\\*)(\\.([aé%> -]{0,2}|\\*)){0,3}(\\.\\*\\*)?",
            event_type in "[aé%>* -]{0,2}(\\.[aé%>* -]{0,2}){0,4}",
        ) {
            if let (Ok(pattern), Ok(event_type)) = (pattern.parse::<TypePattern>(), event_type.parse::<EventType>()) {
                let passes = lets_through(&pattern.to_subject_tokens(), &event_type.tokens());
                prop_assert_eq!(pattern.matches(&event_type), passes, "{} {}", pattern, event_type);
                prop_assert!(pattern.covers(&pattern) && TypePattern::any().covers(&pattern));
            }
        }
    }

    proptest! {
        #[test]
        fn what_both_match_is_the_intersection(
            a in "([ab]|\\*)(\\.([ab]|\\*)){0,3}(\\.\\*\\*)?",
            b in "([ab]|\\*)(\\.([ab]|\\*)){0,3}(\\.\\*\\*)?",
            event_type in "[ab](\\.[ab]){0,4}",
        ) {
            let (a, b, event_type) = (pattern(&a), pattern(&b), event_type.parse().unwrap());
            let both = a.intersection(&b).is_some_and(|both| both.matches(&event_type));
            prop_assert_eq!(both, a.matches(&event_type) && b.matches(&event_type), "{} and {}", a, b);
        }
    }

    fn pattern(s: &str) -> TypePattern {
        s.parse().unwrap()
    }

    #[test]
    fn matches_by_segment() {
        let paid = "invoice.paid".parse().unwrap();
        for yes in ["**", "invoice.**", "invoice.*", "*.paid", "*.*", "invoice.paid"] {
            assert!(pattern(yes).matches(&paid), "{yes}");
        }
        for no in ["*", "invoice", "invoice.paid.*", "invoice.paid.**", "charge.*", "*.*.*"] {
            assert!(!pattern(no).matches(&paid), "{no}");
        }
    }

    #[test]
    fn covers_is_a_superset() {
        assert!(pattern("**").covers(&pattern("invoice.*")));
        assert!(pattern("invoice.**").covers(&pattern("invoice.*")));
        assert!(!pattern("invoice.*").covers(&pattern("invoice.**")));
        assert!(!pattern("invoice.*").covers(&pattern("*.paid")));
    }

    #[test]
    fn nats_wildcards_are_refused() {
        for bad in ["", ">", "a.>", "**.a", "a**", "a.*b", "a\nb"] {
            assert_eq!(
                bad.parse::<TypePattern>().unwrap_err().code,
                Code::InvalidPattern,
                "{bad}"
            );
        }
        assert_eq!(pattern("invoice.**").to_subject_tokens(), "invoice.>");
    }

    #[test]
    fn segments_that_are_no_tokens_are_escaped() {
        for (written, tokens) in [
            ("com.github/push.*", "com.github%2Fpush.*"),
            ("a b.**", "a%20b.>"),
            ("a..b", "a.%.b"),
            ("*.é", "*.%C3%A9"),
            ("100%", "100%25"),
        ] {
            assert_eq!(pattern(written).to_subject_tokens(), tokens);
        }
        assert!(pattern("com.*").matches(&"com.github/push".parse().unwrap()));
        assert!(pattern("a.*.b").matches(&"a..b".parse().unwrap()));
    }
}
