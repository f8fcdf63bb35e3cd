//! Which tenants and event types a pattern can match at all. The store is asked for no others, so that a pattern on them
//! costs no more than a filter.

use super::parse::DATA;
use super::tree::{Leaf, Tree};
use super::values::Head;
use crate::filter::uncovered;
use crate::pattern_set::PatternSet;
use crate::{EventType, TenantId, TypePattern};

/// The most subject filters that a pattern makes of a filter with fewer. Each is a comparison for every message of the
/// server; what is let through beyond them is passed over.
pub const MAX_NARROWED: usize = 200;

/// The tenants and event types of a pattern.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    /// Sorted; `None` where it can match any.
    tenants: Option<Vec<TenantId>>,
    /// None of which covers another; `None` where it can match any.
    event_types: Option<Vec<TypePattern>>,
}

impl Reach {
    pub(super) fn of(tree: &Tree) -> Self {
        let tenants = heads_of(tree, "tenant").and_then(|heads| {
            let tenant = |head: &Head<'_>| match head {
                Head::Whole(name) => Some(name.parse::<TenantId>().ok()),
                Head::Start(_) => None,
            };
            // A text that is no tenant's name matches nobody.
            let known: Option<Vec<_>> = heads.iter().map(tenant).collect();
            known.map(|tenants| tenants.into_iter().flatten().collect::<Vec<_>>())
        });
        let types = heads_of(tree, "type").and_then(|heads| {
            let known: Option<Vec<_>> = heads.into_iter().map(types_of).collect();
            known.map(|types| types.into_iter().flatten().collect::<Vec<_>>())
        });
        Self {
            tenants: tenants.map(|mut tenants| {
                tenants.sort();
                tenants.dedup();
                tenants
            }),
            // Without any, it matches none; elsewhere that stands for all.
            event_types: types.map(|types| if types.is_empty() { types } else { uncovered(types) }),
        }
    }

    /// Whether one of these tenants can match; an empty list stands for all.
    pub(crate) fn meets_tenants(&self, asked: &[TenantId]) -> bool {
        match &self.tenants {
            None => true,
            Some(tenants) if asked.is_empty() => !tenants.is_empty(),
            Some(tenants) => tenants.iter().any(|t| asked.binary_search(t).is_ok()),
        }
    }

    /// Whether an event type of these can match.
    pub(crate) fn meets_types(&self, asked: &[TypePattern]) -> bool {
        let Some(types) = &self.event_types else { return true };
        let types: PatternSet<'_> = types.iter().collect();
        types.meets(&asked.iter().collect())
    }

    /// What the store is asked for where these tenants and types are asked for. Where that would be more subject filters than
    /// without the pattern, and more than [`MAX_NARROWED`], it is what is asked for.
    pub(crate) fn narrow(&self, tenants: &[TenantId], types: &[TypePattern]) -> (Vec<TenantId>, Vec<TypePattern>) {
        let of_tenants = self
            .tenants
            .as_ref()
            .filter(|_| self.meets_tenants(tenants))
            .map(|mine| {
                let both = mine
                    .iter()
                    .filter(|t| tenants.is_empty() || tenants.binary_search(t).is_ok());
                both.cloned().collect()
            });
        let of_types = self.event_types.as_ref().and_then(|mine| types_of_both(mine, types));
        let most = MAX_NARROWED.max(tenants.len().max(1) * types.len());
        let asked = (tenants.to_vec(), types.to_vec());
        let fits = |(tenants, types): &(Vec<_>, Vec<_>)| tenants.len().max(1) * types.len() <= most;
        let choices = [
            of_tenants.clone().zip(of_types.clone()),
            of_types.map(|types| (asked.0.clone(), types)),
            of_tenants.map(|tenants| (tenants, asked.1.clone())),
        ];
        choices.into_iter().flatten().find(fits).unwrap_or(asked)
    }
}

/// What both lists of patterns match; `None` where that is nothing, too much to reckon, or can't be asked for without asking
/// for all types.
fn types_of_both(mine: &[TypePattern], asked: &[TypePattern]) -> Option<Vec<TypePattern>> {
    if mine.len() > MAX_NARROWED || asked.len() > MAX_NARROWED {
        return None;
    }
    let both: Vec<_> = mine
        .iter()
        .flat_map(|p| asked.iter().filter_map(|q| p.intersection(q)))
        .collect();
    if both.is_empty() {
        return None;
    }
    let both = uncovered(both);
    let crosses = both.iter().collect::<PatternSet<'_>>().crosses_itself();
    (!crosses).then_some(both)
}

/// All beginnings of an attribute that every event has; `None` where an alternative takes others too.
fn heads_of<'t>(tree: &'t Tree, attribute: &str) -> Option<Vec<Head<'t>>> {
    debug_assert_ne!(attribute, DATA, "the payload is no attribute");
    let node = &tree.nodes[*tree.root().fields.get(attribute)?];
    let of = |alternative| {
        node.leaves
            .iter()
            .find(|leaf: &&Leaf| leaf.alternatives.holds(alternative))
    };
    let mut heads = Vec::new();
    for alternative in 0..tree.alternatives {
        // The leaves of a node share no alternative; those of one leaf say the same.
        let leaf = of(alternative)?;
        if leaf.alternatives.iter().next() == Some(alternative) {
            heads.extend(leaf.values.heads()?);
        }
    }
    Some(heads)
}

/// The types with this beginning, cut back to whole segments: `None` where nothing is left of it, so that any may have it. A
/// text that is no type is none of them.
fn types_of(head: Head<'_>) -> Option<Option<TypePattern>> {
    let (Head::Whole(text) | Head::Start(text)) = head;
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
