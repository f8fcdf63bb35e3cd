//! Which sources' events may be published: part of an event's identity, so that who may write one source only can't
//! publish under another's. An event that comes without a source is of its publisher's own, which nobody else may write.

use std::fmt;

use crate::authority::is_named_caller;
use crate::name::{is_text, shown};
use crate::setting::{self, Item};
use crate::{Code, Problem};

/// Where the sources begin that the bus itself gives to publishers.
const GIVEN: &str = "urn:fanout:";

/// The source of an event that comes without one: its publisher's own. `id` is that by which the bus knows it.
pub fn own(id: &str) -> String {
    // A caller's id begins with `caller:`, which no component's does.
    let kind = if is_named_caller(id) { "" } else { "component:" };
    format!("{GIVEN}{kind}{id}")
}

/// The same where the publisher is a component at an edge, which its bus does not know.
pub fn own_at_an_edge(component: &str) -> String {
    format!("{GIVEN}edge:{component}")
}

/// Whether a source is some other publisher's own.
pub fn is_anothers(source: &str, id: &str) -> bool {
    let kind = source.strip_prefix(GIVEN).unwrap_or_default();
    (kind.starts_with("caller:") || kind.starts_with("component:")) && source != own(id)
}

/// Sources that a link or a caller may publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Any of these; empty for every source.
    allowed: Vec<SourcePattern>,
}

/// One source, or all that begin alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SourcePattern {
    Exact(String),
    Prefix(String),
}

impl Sources {
    /// Every source.
    pub fn all() -> Self {
        Self::default()
    }

    /// Whether an event of this source may be published.
    pub fn allows(&self, source: &str) -> bool {
        self.allowed.is_empty()
            || self.allowed.iter().any(|p| match p {
                SourcePattern::Exact(exact) => exact == source,
                SourcePattern::Prefix(prefix) => source.starts_with(prefix),
            })
    }

    /// Reads a setting: `*` for all, or a list of sources, each of which may end with `*` for all that begin so.
    ///
    /// # Errors
    /// Names the item that is none.
    pub(crate) fn parse(s: &str) -> Result<Self, Problem> {
        if s == "*" {
            return Ok(Self::all());
        }
        let mut allowed = setting::items(s)?.iter().map(pattern).collect::<Result<Vec<_>, _>>()?;
        allowed.sort();
        allowed.dedup();
        Ok(Self { allowed })
    }
}

fn pattern(item: &Item) -> Result<SourcePattern, Problem> {
    let text = item.text.as_str();
    let refuse = |why: &str| {
        Err(Problem::new(
            Code::InvalidSetting,
            format!(
                "{} {why}: write sources such as `/webhooks/stripe`, `*` at the end of one for all that begin so, or `*` alone for all",
                shown(text)
            ),
        ))
    };
    if item.quoted {
        return match is_text(text, 1, 1024) {
            true => Ok(SourcePattern::Exact(text.to_owned())),
            false => refuse("is no source"),
        };
    }
    match text.strip_suffix('*') {
        Some("") => refuse("stands for all, beside others"),
        Some(prefix) if prefix.contains('*') => refuse("has a `*` that is not at its end"),
        Some(prefix) if is_text(prefix, 1, 1024) => Ok(SourcePattern::Prefix(prefix.to_owned())),
        None if text.contains('*') => refuse("has a `*` that is not at its end"),
        None if is_text(text, 1, 1024) => Ok(SourcePattern::Exact(text.to_owned())),
        _ => refuse("is no source"),
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.allowed.is_empty() {
            return f.write_str("*");
        }
        for (i, pattern) in self.allowed.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match pattern {
                SourcePattern::Exact(exact) if exact.contains('*') => {
                    write!(f, "{}", serde_json::Value::from(&**exact))?
                }
                SourcePattern::Exact(exact) => f.write_str(&setting::as_item(exact))?,
                SourcePattern::Prefix(prefix) => write!(f, "{prefix}*")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_allowed_by_name_or_by_how_it_begins() {
        let sources = Sources::parse("/webhooks/stripe, urn:notes:*, \"a,b\"").unwrap();
        for yes in ["/webhooks/stripe", "urn:notes:", "urn:notes:7", "a,b"] {
            assert!(sources.allows(yes), "{yes}");
        }
        for no in [
            "/webhooks/stripe/",
            "/webhooks/stripes",
            "urn:note",
            "URN:notes:7",
            "a",
            "*",
            "",
        ] {
            assert!(!sources.allows(no), "{no}");
        }
        assert_eq!(Sources::parse(&sources.to_string()), Ok(sources));
        assert!(Sources::parse("*").unwrap().allows("anything"));
        assert!(!Sources::parse("\"*\"").unwrap().allows("anything"));
    }

    #[test]
    fn a_publishers_own_source_is_nobody_elses() {
        let publishers = [
            "caller:billing",
            "caller:billing2",
            "billing",
            "component:billing",
            "edge",
        ];
        for (i, mine) in publishers.iter().enumerate() {
            for (j, other) in publishers.iter().enumerate() {
                assert_eq!(own(mine) == own(other), i == j, "{mine} {other}");
                assert_eq!(is_anothers(&own(mine), other), i != j, "{mine} {other}");
            }
            assert!(!is_anothers(&own_at_an_edge("billing"), mine));
            assert!(!is_anothers("/billing", mine));
        }
        assert!(is_anothers("urn:fanout:caller:", "billing"));
    }

    #[test]
    fn what_stands_for_more_than_it_seems_is_refused() {
        for bad in ["", ",", "/a,", "/a,*", "**", "/*/a", "/a**", "\"", "\"a\"b", "/a\nb"] {
            let problem = Sources::parse(bad).unwrap_err();
            assert_eq!(problem.code, Code::InvalidSetting, "{bad}");
        }
    }
}
