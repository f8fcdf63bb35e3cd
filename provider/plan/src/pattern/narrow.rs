//! Which tenants and event types a pattern can match at all. The store is asked for no others, so that a pattern on them
//! costs no more than a filter.

use super::values::Head;
use super::{Pattern, tree::Leaf};
use crate::{Filter, TenantId, TypePattern};

impl Pattern {
    /// A filter that lets everything through that matches; what it lets through need not match.
    pub fn narrowed(&self) -> Filter {
        let tenants = self.heads_of("tenant").and_then(|heads| {
            let tenant = |head: &Head<'_>| match head {
                Head::Whole(name) => Some(name.parse::<TenantId>().ok()),
                Head::Start(_) => None,
            };
            // A text that is no tenant's name matches nobody.
            let known: Option<Vec<_>> = heads.iter().map(tenant).collect();
            known.map(|tenants| tenants.into_iter().flatten().collect::<Vec<_>>())
        });
        let types = self
            .heads_of("type")
            .and_then(|heads| heads.into_iter().map(type_pattern).collect::<Option<Vec<_>>>());
        Filter::new(tenants.unwrap_or_default(), types.unwrap_or_default())
    }

    /// All beginnings of an attribute that matches; `None` where an alternative takes others too.
    fn heads_of(&self, attribute: &str) -> Option<Vec<Head<'_>>> {
        let tree = &self.0.tree;
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
}

/// The types with this beginning, cut back to whole segments; `None` where nothing is left of it.
fn type_pattern(head: Head<'_>) -> Option<TypePattern> {
    let (Head::Whole(text) | Head::Start(text)) = head;
    if matches!(head, Head::Whole(_))
        && let Ok(exact) = text.parse()
    {
        return Some(exact);
    }
    let (segments, _) = text.rsplit_once('.')?;
    format!("{segments}.**").parse().ok()
}
