//! Which events a subscription is given, and which a link allows.

use serde::{Deserialize, Serialize};

use crate::pattern_set::PatternSet;
use crate::{EventType, SubjectTemplate, TenantId, TypePattern};

/// Tenants and patterns of event types. An empty list of tenants stands for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// The tenants, sorted; empty for all.
    pub tenants: Vec<TenantId>,
    /// Patterns, any of which may match; at least one.
    pub event_types: Vec<TypePattern>,
}

impl Filter {
    /// Every event of the bus.
    pub fn all() -> Self {
        Self::new(Vec::new(), Vec::new())
    }

    /// A filter in its normal form: sorted, without what another item covers.
    pub fn new(mut tenants: Vec<TenantId>, mut event_types: Vec<TypePattern>) -> Self {
        tenants.sort();
        tenants.dedup();
        event_types.sort();
        event_types.dedup();
        if event_types.is_empty() {
            event_types.push(TypePattern::any());
        }
        let all: PatternSet<'_> = event_types.iter().collect();
        let event_types = event_types
            .iter()
            .filter(|p| !all.covers_by_another(p))
            .cloned()
            .collect();
        Self { tenants, event_types }
    }

    /// Whether an event matches.
    pub fn matches(&self, tenant: &TenantId, event_type: &EventType) -> bool {
        self.allows_tenant(tenant) && self.event_types.iter().any(|p| p.matches(event_type))
    }

    /// Whether a tenant is among these.
    pub fn allows_tenant(&self, tenant: &TenantId) -> bool {
        self.tenants.is_empty() || self.tenants.binary_search(tenant).is_ok()
    }

    /// Whether everything that `other` matches matches here too.
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

    /// Whether some event can pass the subject filters of both.
    pub fn may_meet(&self, other: &Self) -> bool {
        let tenants =
            self.tenants.is_empty() || other.tenants.is_empty() || self.tenants.iter().any(|t| other.allows_tenant(t));
        let (mine, theirs) = (self.passing(), other.passing());
        tenants && mine.iter().collect::<PatternSet<'_>>().meets(&theirs.iter().collect())
    }

    /// The subject filters that let at least every matching event through, and no two of which overlap: the server
    /// refuses overlapping filters on one consumer (nats-server 2.15, error 10138). Patterns that cross (`a.*` and
    /// `*.b`) are widened to all types of their tenants; what is then too much is settled unseen on delivery.
    pub fn subject_filters(&self, template: &SubjectTemplate) -> Vec<String> {
        let patterns = self.passing();
        let tenants: Vec<Option<&TenantId>> = if self.tenants.is_empty() {
            vec![None]
        } else {
            self.tenants.iter().map(Some).collect()
        };
        tenants
            .iter()
            .flat_map(|tenant| patterns.iter().map(|p| template.filter(*tenant, p)))
            .collect()
    }

    /// The patterns that the store is asked with: those of the filter, or all when they cross.
    fn passing(&self) -> Vec<TypePattern> {
        let all: PatternSet<'_> = self.event_types.iter().collect();
        if all.crosses_itself() {
            vec![TypePattern::any()]
        } else {
            self.event_types.clone()
        }
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
            prop_assert_eq!(filter.matches(&tenant, &event_type), plainly);
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
