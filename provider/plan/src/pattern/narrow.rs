//! Which tenants and event types a pattern can match at all. The store is asked for no others, so that a pattern on them
//! costs no more than a filter.
//!
//! Of a text of which the pattern says only how it begins (`prefix`, `wildcard`), whole segments narrow, since a subject filter
//! has no other. Tenants and types that a filter lists one by one are tried on the pattern, whatever it says of them.

use super::json::Scalar;
use super::parse::DATA;
use super::tree::{Leaf, Tree};
use super::values::{Head, Values};
use crate::filter::uncovered;
use crate::pattern_set::PatternSet;
use crate::{EventType, TenantId, TypePattern};

/// The most subject filters that a pattern makes of a filter with fewer. Each is a comparison for every message of the
/// server; what is let through beyond them is passed over.
pub const MAX_NARROWED: usize = 200;

/// The tenants and event types of a pattern.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// Sorted; `None` where it can match any that is not written out.
    tenants: Option<Vec<TenantId>>,
    /// None of which covers another; `None` where it can match any.
    event_types: Option<Vec<TypePattern>>,
    /// What the tenant may be, one of these; empty where it may be any.
    of_tenant: Vec<Values>,
    /// The same of the type.
    of_type: Vec<Values>,
    /// Whether the pattern looks at nothing but one of each.
    looks_at_no_more: bool,
}

/// What the store is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Narrowed {
    pub(crate) tenants: Vec<TenantId>,
    pub(crate) event_types: Vec<TypePattern>,
    /// Whether every event of these tenants and types matches.
    pub(crate) says_all: bool,
}

impl Reach {
    pub(super) fn of(tree: &Tree) -> Self {
        let of_tenant = values_of(tree, "tenant");
        let of_type = values_of(tree, "type");
        let tenants = heads_of(&of_tenant).and_then(|heads| {
            let tenant = |head: &Head<'_>| match head {
                Head::Whole(name) => Some(name.parse::<TenantId>().ok()),
                Head::Start(_) | Head::Within(_) => None,
            };
            // A text that is no tenant's name matches nobody.
            let known: Option<Vec<_>> = heads.iter().map(tenant).collect();
            known.map(|tenants| tenants.into_iter().flatten().collect::<Vec<_>>())
        });
        let types = heads_of(&of_type).and_then(|heads| {
            let known: Option<Vec<_>> = heads.into_iter().map(types_of).collect();
            known.map(|types| types.into_iter().flatten().collect::<Vec<_>>())
        });
        let fields = tree.root().fields.keys();
        Self {
            tenants: tenants.map(|mut tenants| {
                tenants.sort();
                tenants.dedup();
                tenants
            }),
            // Without any, it matches none; elsewhere that stands for all.
            event_types: types.map(|types| if types.is_empty() { types } else { uncovered(types) }),
            looks_at_no_more: tree.alternatives == 1
                && fields.into_iter().all(|key| ["tenant", "type"].contains(&&**key)),
            of_tenant,
            of_type,
        }
    }

    /// Whether one of these tenants can match; an empty list stands for all.
    pub(crate) fn meets_tenants(&self, asked: &[TenantId]) -> bool {
        if asked.is_empty() {
            return self.tenants.as_ref().is_none_or(|tenants| !tenants.is_empty());
        }
        asked.iter().any(|tenant| self.takes_tenant(tenant))
    }

    /// Whether an event type of these can match.
    pub(crate) fn meets_types(&self, asked: &[TypePattern]) -> bool {
        if asked.iter().any(|p| p.is_exact() && self.takes_type(p)) {
            return true;
        }
        let wild = asked.iter().filter(|p| !p.is_exact()).collect::<Vec<_>>();
        match &self.event_types {
            None => !wild.is_empty(),
            Some(mine) => mine
                .iter()
                .collect::<PatternSet<'_>>()
                .meets(&wild.into_iter().collect()),
        }
    }

    fn takes_tenant(&self, tenant: &TenantId) -> bool {
        takes(&self.of_tenant, tenant.as_str())
    }

    /// The same of a type that is written out.
    fn takes_type(&self, exact: &TypePattern) -> bool {
        takes(&self.of_type, exact.as_str())
    }

    /// What the store is asked for where these tenants and types are asked for. Where that would be more subject filters than
    /// without the pattern, and more than [`MAX_NARROWED`], it is what is asked for.
    pub(crate) fn narrow(&self, tenants: &[TenantId], types: &[TypePattern]) -> Narrowed {
        let of_tenants = self.tenants_of_both(tenants);
        let of_types = self.types_of_both(types);
        let most = MAX_NARROWED.max(tenants.len().max(1) * types.len());
        let asked = || (tenants.to_vec(), types.to_vec());
        let fits = |(tenants, types): &(Vec<_>, Vec<_>)| tenants.len().max(1) * types.len() <= most;
        let both = of_tenants.clone().zip(of_types.clone()).filter(fits);
        let says_all = both.is_some() && self.looks_at_no_more && self.is_told(tenants, types);
        let (tenants, event_types) = both
            .or_else(|| of_types.map(|types| (asked().0, types)).filter(fits))
            .or_else(|| of_tenants.map(|tenants| (tenants, asked().1)).filter(fits))
            .unwrap_or_else(asked);
        Narrowed {
            tenants,
            event_types,
            says_all,
        }
    }

    /// The tenants that are asked for and can match; an empty list stands for all. `None` where that is none.
    fn tenants_of_both(&self, asked: &[TenantId]) -> Option<Vec<TenantId>> {
        if asked.is_empty() {
            return match &self.tenants {
                None => Some(Vec::new()),
                Some(tenants) => (!tenants.is_empty()).then(|| tenants.clone()),
            };
        }
        let both: Vec<_> = asked.iter().filter(|t| self.takes_tenant(t)).cloned().collect();
        (!both.is_empty()).then_some(both)
    }

    /// The event types that are asked for and can match; `None` where that is nothing, too much to reckon, or can't be asked for
    /// without asking for all types.
    fn types_of_both(&self, asked: &[TypePattern]) -> Option<Vec<TypePattern>> {
        let asked: Vec<_> = asked
            .iter()
            .filter(|p| !p.is_exact() || self.takes_type(p))
            .cloned()
            .collect();
        let both: Vec<_> = match &self.event_types {
            None => asked,
            Some(mine) if mine.len() > MAX_NARROWED || asked.len() > MAX_NARROWED => return None,
            Some(mine) => mine
                .iter()
                .flat_map(|p| asked.iter().filter_map(|q| p.intersection(q)))
                .collect(),
        };
        if both.is_empty() {
            return None;
        }
        let both = uncovered(both);
        let crosses = both.iter().collect::<PatternSet<'_>>().crosses_itself();
        (!crosses).then_some(both)
    }

    /// Whether subjects tell all that the pattern says of tenants and types.
    fn is_told(&self, tenants: &[TenantId], types: &[TypePattern]) -> bool {
        let by_heads = |values: &[Values], is_told: &dyn Fn(&Head<'_>) -> bool| {
            values.is_empty() || heads_of(values).is_some_and(|heads| heads.iter().all(is_told))
        };
        let of_tenant = |head: &Head<'_>| matches!(head, Head::Whole(_));
        let of_type = |head: &Head<'_>| match head {
            Head::Whole(text) => text.parse::<TypePattern>().is_ok_and(|p| p.is_exact()),
            Head::Start(text) => text
                .strip_suffix('.')
                .and_then(|segments| segments.parse::<TypePattern>().ok())
                .is_some_and(|p| p.is_exact()),
            Head::Within(_) => false,
        };
        (!tenants.is_empty() || by_heads(&self.of_tenant, &of_tenant))
            && (types.iter().all(TypePattern::is_exact) || by_heads(&self.of_type, &of_type))
    }
}

/// Whether one of these takes a text; none at all take any.
fn takes(values: &[Values], text: &str) -> bool {
    let text = Scalar::Text(text.into());
    values.is_empty() || values.iter().any(|values| values.accept(&text, &mut 0))
}

/// What an attribute that every event has may be, in any of the alternatives; empty where one takes any.
fn values_of(tree: &Tree, attribute: &str) -> Vec<Values> {
    debug_assert_ne!(attribute, DATA, "the payload is no attribute");
    let Some(node) = tree.root().fields.get(attribute).map(|at| &tree.nodes[*at]) else {
        return Vec::new();
    };
    let has_one = |alternative| {
        node.leaves
            .iter()
            .any(|leaf: &Leaf| leaf.alternatives.holds(alternative))
    };
    if !(0..tree.alternatives).all(has_one) {
        return Vec::new();
    }
    node.leaves.iter().map(|leaf| leaf.values.clone()).collect()
}

/// All beginnings of an attribute; `None` where others are taken too.
fn heads_of(values: &[Values]) -> Option<Vec<Head<'_>>> {
    if values.is_empty() {
        return None;
    }
    let heads: Option<Vec<_>> = values.iter().map(Values::heads).collect();
    heads.map(|heads| heads.into_iter().flatten().collect())
}

/// The types with this beginning, cut back to whole segments: `None` where nothing is left of it, so that any may have it. A
/// text that is no type is none of them.
fn types_of(head: Head<'_>) -> Option<Option<TypePattern>> {
    let (Head::Whole(text) | Head::Start(text) | Head::Within(text)) = head;
    if matches!(head, Head::Whole(_)) {
        if text.parse::<EventType>().is_err() {
            return Some(None);
        }
        if let Ok(exact) = text.parse() {
            return Some(Some(exact));
        }
    }
    let (segments, _) = text.rsplit_once('.')?;
    format!("{segments}.**").parse().ok().map(Some)
}
