//! Which events a subscription is given, and which a link allows.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::pattern::{Narrowed, Pattern, View};
use crate::pattern_set::PatternSet;
use crate::{Attributes, Code, EventType, Problem, SubjectTemplate, TenantId, TypePattern};

/// Tenants and patterns of event types, and a pattern of events beside them. An empty list of tenants stands for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Filter {
    /// The tenants, sorted; empty for all.
    pub tenants: Vec<TenantId>,
    /// Patterns, any of which may match; at least one.
    pub event_types: Vec<TypePattern>,
    pattern: Option<Arc<Patterned>>,
}

/// A pattern, and what the store is asked for because of it.
#[derive(Debug, PartialEq, Eq)]
struct Patterned {
    pattern: Pattern,
    narrowed: Narrowed,
}

/// A filter as it is kept.
#[derive(Serialize, Deserialize)]
struct Written {
    tenants: Vec<TenantId>,
    event_types: Vec<TypePattern>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pattern: Option<Pattern>,
}

impl From<Written> for Filter {
    fn from(written: Written) -> Self {
        let filter = Self {
            tenants: written.tenants,
            event_types: written.event_types,
            pattern: None,
        };
        match written.pattern {
            Some(pattern) => filter.patterned(pattern),
            None => filter,
        }
    }
}

impl From<Filter> for Written {
    fn from(filter: Filter) -> Self {
        Self {
            pattern: filter.pattern().cloned(),
            tenants: filter.tenants,
            event_types: filter.event_types,
        }
    }
}

impl Filter {
    /// Every event of the bus.
    pub fn all() -> Self {
        Self::new(Vec::new(), Vec::new())
    }

    /// A filter in its normal form: sorted, without what another item covers.
    pub fn new(mut tenants: Vec<TenantId>, event_types: Vec<TypePattern>) -> Self {
        tenants.sort();
        tenants.dedup();
        Self {
            tenants,
            event_types: uncovered(event_types),
            pattern: None,
        }
    }

    /// The same for those events alone that match a pattern, too.
    ///
    /// # Errors
    /// When the pattern's tenants or event types are none of these, so that no event can match.
    pub fn with_pattern(self, pattern: Option<Pattern>) -> Result<Self, Problem> {
        let Some(pattern) = pattern else {
            return Ok(Self { pattern: None, ..self });
        };
        let (what, asked) = if !pattern.reach().meets_tenants(&self.tenants) {
            ("tenant", self.tenants.iter().map(ToString::to_string).collect())
        } else if !pattern.reach().meets_types(&self.event_types) {
            ("event type", self.event_types.iter().map(ToString::to_string).collect())
        } else {
            return Ok(self.patterned(pattern));
        };
        Err(Problem::new(
            Code::PatternMatchesNothing,
            format!(
                "the event pattern can match no event: it names no {what} of those that are asked for and allowed, {}",
                some(asked)
            ),
        ))
    }

    fn patterned(self, pattern: Pattern) -> Self {
        let narrowed = pattern.reach().narrow(&self.tenants, &self.event_types);
        let patterned = Patterned { pattern, narrowed };
        Self {
            pattern: Some(Arc::new(patterned)),
            ..self
        }
    }

    /// What an event has to match besides, if anything.
    pub fn pattern(&self) -> Option<&Pattern> {
        self.pattern.as_deref().map(|p| &p.pattern)
    }

    /// What the store is asked for: of these tenants and types, those that the pattern can match, as far as subjects tell.
    pub fn narrowed(&self) -> Self {
        let (tenants, event_types) = self.passing_lists();
        Self {
            tenants: tenants.to_vec(),
            event_types: event_types.to_vec(),
            pattern: None,
        }
    }

    /// The lists of [`Self::narrowed`].
    pub(crate) fn passing_lists(&self) -> (&[TenantId], &[TypePattern]) {
        match &self.pattern {
            Some(patterned) => (&patterned.narrowed.tenants, &patterned.narrowed.event_types),
            None => (&self.tenants, &self.event_types),
        }
    }

    /// Whether every event that passes the subject filters matches.
    pub(crate) fn subjects_say_all(&self) -> bool {
        let says_all = self
            .pattern
            .as_ref()
            .is_none_or(|patterned| patterned.narrowed.says_all);
        says_all && self.passing() == self.passing_lists().1
    }

    /// Whether an event matches, all of it.
    pub fn matches(&self, event: &Attributes, data: &[u8]) -> bool {
        self.allows(event.tenant(), event.event_type())
            && self.pattern().is_none_or(|pattern| {
                pattern.matches(View {
                    event: event.raw(),
                    data,
                })
            })
    }

    /// At most how many steps it takes to judge an event with a payload of `bytes`: comparisons, and sets of alternatives.
    pub fn steps(&self, bytes: usize) -> u64 {
        self.pattern().map_or(0, |pattern| pattern.steps(bytes))
    }

    /// Whether a tenant and a type are among these, whatever the pattern says of them.
    pub fn allows(&self, tenant: &TenantId, event_type: &EventType) -> bool {
        self.allows_tenant(tenant) && self.event_types.iter().any(|p| p.matches(event_type))
    }

    /// Whether an event of a tenant and a type may match: what there is to say without the rest of it.
    pub fn may_match(&self, tenant: &TenantId, event_type: &EventType) -> bool {
        let (tenants, event_types) = self.passing_lists();
        (tenants.is_empty() || tenants.binary_search(tenant).is_ok())
            && event_types.iter().any(|p| p.matches(event_type))
    }

    /// Whether a tenant is among these.
    pub fn allows_tenant(&self, tenant: &TenantId) -> bool {
        self.tenants.is_empty() || self.tenants.binary_search(tenant).is_ok()
    }

    /// Whether everything that `other` asks for is allowed here. Patterns are not compared.
    pub fn covers(&self, other: &Self) -> bool {
        let tenants = self.tenants.is_empty()
            || (!other.tenants.is_empty() && other.tenants.iter().all(|t| self.allows_tenant(t)));
        tenants && self.first_not_covered(&other.event_types).is_none()
    }

    /// The first of these patterns that asks for event types that do not match here.
    pub fn first_not_covered<'a>(&self, asked: &'a [TypePattern]) -> Option<&'a TypePattern> {
        let mine: PatternSet<'_> = self.event_types.iter().collect();
        asked.iter().find(|p| !mine.covers(p))
    }

    /// Whether some event can pass the subject filters of both, whatever becomes of it then.
    pub fn may_meet(&self, other: &Self) -> bool {
        let ((a, _), (b, _)) = (self.passing_lists(), other.passing_lists());
        let tenants = a.is_empty() || b.is_empty() || a.iter().any(|t| b.binary_search(t).is_ok());
        let (mine, theirs) = (self.passing(), other.passing());
        tenants && mine.iter().collect::<PatternSet<'_>>().meets(&theirs.iter().collect())
    }

    /// The subject filters that let at least every matching event through, and no two of which overlap: the server
    /// refuses overlapping filters on one consumer (nats-server 2.15, error 10138). Patterns that cross (`a.*` and
    /// `*.b`) are widened to all types of their tenants; what is then too much is settled unseen on delivery.
    pub fn subject_filters(&self, template: &SubjectTemplate) -> Vec<String> {
        let patterns = self.passing();
        let (tenants, _) = self.passing_lists();
        let tenants: Vec<Option<&TenantId>> = if tenants.is_empty() {
            vec![None]
        } else {
            tenants.iter().map(Some).collect()
        };
        tenants
            .iter()
            .flat_map(|tenant| patterns.iter().map(|p| template.filter(*tenant, p)))
            .collect()
    }

    /// The patterns that the store is asked with: those of the filter, or all when they cross.
    fn passing(&self) -> Vec<TypePattern> {
        let (_, event_types) = self.passing_lists();
        let all: PatternSet<'_> = event_types.iter().collect();
        if all.crosses_itself() {
            vec![TypePattern::any()]
        } else {
            event_types.to_vec()
        }
    }
}

/// Patterns of event types in their normal form: sorted, without those that others cover; all types, where there is none.
pub(crate) fn uncovered(mut event_types: Vec<TypePattern>) -> Vec<TypePattern> {
    event_types.sort();
    event_types.dedup();
    if event_types.is_empty() {
        event_types.push(TypePattern::any());
    }
    let all: PatternSet<'_> = event_types.iter().collect();
    event_types
        .iter()
        .filter(|p| !all.covers_by_another(p))
        .cloned()
        .collect()
}

/// The first few of a list, for a message.
fn some(mut names: Vec<String>) -> String {
    const SHOWN: usize = 5;
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let names = names.join(", ");
    match more {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(tenants: &[&str], patterns: &[&str]) -> Filter {
        Filter::new(
            tenants.iter().map(|t| t.parse().unwrap()).collect(),
            patterns.iter().map(|p| p.parse().unwrap()).collect(),
        )
    }

    #[test]
    fn subject_filters_never_overlap() {
        let template: SubjectTemplate = "p.{tenant}.w.{event-type}".parse().unwrap();
        let f = |tenants: &[&str], patterns: &[&str]| filter(tenants, patterns).subject_filters(&template);
        assert_eq!(f(&[], &[]), ["p.*.w.>"]);
        assert_eq!(
            f(&["b", "a", "b"], &["invoice.*"]),
            ["p.a.w.invoice.*", "p.b.w.invoice.*"]
        );
        assert_eq!(
            f(&[], &["invoice.**", "invoice.paid", "charge.*"]),
            ["p.*.w.charge.*", "p.*.w.invoice.>"]
        );
        assert_eq!(f(&["a"], &["a.*", "*.b"]), ["p.a.w.>"], "crossing patterns are widened");
    }

    #[test]
    fn a_pattern_that_can_match_nothing_is_refused() {
        for nothing in [
            r#"{ "tenant": [{ "exists": false }] }"#,
            r#"{ "type": [{ "exists": false }] }"#,
            r#"{ "type": ["", "a\nb"] }"#,
            r#"{ "tenant": [""] }"#,
        ] {
            let refused = Filter::all().with_pattern(Some(nothing.parse().unwrap())).unwrap_err();
            assert_eq!(refused.code, Code::PatternMatchesNothing, "{nothing}");
        }
        for some in [
            r#"{ "type": ["", "invoice.paid"] }"#,
            r#"{ "type": [{ "exists": false }, { "prefix": "in" }] }"#,
            r#"{ "subject": [{ "exists": false }] }"#,
        ] {
            assert!(
                Filter::all().with_pattern(Some(some.parse().unwrap())).is_ok(),
                "{some}"
            );
        }
    }

    #[test]
    fn a_wider_filter_covers_a_narrower() {
        let all = Filter::all();
        let narrow = filter(&["acme"], &["invoice.*"]);
        assert!(all.covers(&narrow));
        assert!(!narrow.covers(&all));
        assert!(!narrow.covers(&filter(&["acme", "other"], &["invoice.*"])));
        assert!(!narrow.covers(&filter(&["acme"], &["**"])));
        assert!(narrow.covers(&filter(&["acme"], &["invoice.paid"])));
    }

    fn patterns() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("(a|b|\\*)(\\.(a|b|\\*)){0,2}(\\.\\*\\*)?", 0..5)
    }

    proptest! {
        #[test]
        fn what_matches_passes_the_subject_filters(patterns in patterns(), event_type in "(a|b)(\\.(a|b)){0,3}") {
            let template: SubjectTemplate = "p.{tenant}.{event-type}".parse().unwrap();
            let patterns: Vec<TypePattern> = patterns.iter().map(|p| p.parse().unwrap()).collect();
            let event_type: EventType = event_type.parse().unwrap();
            let tenant = "t".parse().unwrap();
            let filter = Filter::new(vec![], patterns.clone());
            let plainly = patterns.is_empty() || patterns.iter().any(|p| p.matches(&event_type));
            prop_assert_eq!(filter.allows(&tenant, &event_type), plainly);
            let subject = template.subject(&tenant, &event_type);
            let passing = filter.subject_filters(&template).iter().filter(|f| {
                let pattern = f.strip_prefix("p.*.").unwrap().replace('>', "**");
                pattern.parse::<TypePattern>().unwrap().matches(&event_type)
            }).count();
            prop_assert!(passing <= 1, "{subject} passes {passing} filters");
            prop_assert!(!plainly || passing == 1, "{subject} matches but does not pass");
        }
    }
}
