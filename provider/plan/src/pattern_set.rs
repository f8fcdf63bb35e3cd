//! Many patterns as a tree of their segments, so that questions about all of them take about as long as reading them:
//! does one cover another, do two meet. Whoever may ask for many patterns would otherwise have each compared with each.

use std::collections::BTreeMap;

use crate::TypePattern;

/// Patterns by their segments.
#[derive(Clone, Debug, Default)]
pub(crate) struct PatternSet<'a> {
    root: Node<'a>,
}

#[derive(Clone, Debug, Default)]
struct Node<'a> {
    /// By a segment that is written out.
    named: BTreeMap<&'a str, Node<'a>>,
    /// By `*`.
    any: Option<Box<Node<'a>>>,
    /// A pattern ends here.
    ends: bool,
    /// A pattern ends here with `**`.
    rest: bool,
}

impl<'a> FromIterator<&'a TypePattern> for PatternSet<'a> {
    fn from_iter<I: IntoIterator<Item = &'a TypePattern>>(patterns: I) -> Self {
        let mut set = Self::default();
        for pattern in patterns {
            set.add(pattern);
        }
        set
    }
}

impl<'a> PatternSet<'a> {
    fn add(&mut self, pattern: &'a TypePattern) {
        let mut node = &mut self.root;
        for segment in pattern.as_str().split('.') {
            node = match segment {
                "**" => {
                    node.rest = true;
                    return;
                }
                "*" => node.any.get_or_insert_default(),
                named => node.named.entry(named).or_default(),
            };
        }
        node.ends = true;
    }

    /// Whether one of them matches everything that `pattern` matches.
    pub(crate) fn covers(&self, pattern: &TypePattern) -> bool {
        let segments: Vec<_> = pattern.as_str().split('.').collect();
        self.root.covers(&segments, None)
    }

    /// The same of one that is not `pattern` itself.
    pub(crate) fn covers_by_another(&self, pattern: &TypePattern) -> bool {
        let segments: Vec<_> = pattern.as_str().split('.').collect();
        self.root.covers(&segments, Some(true))
    }

    /// Whether some event type matches one of these and one of those.
    pub(crate) fn meets(&self, other: &PatternSet<'_>) -> bool {
        self.root.meets(&other.root)
    }

    /// Whether some event type matches two of these.
    pub(crate) fn crosses_itself(&self) -> bool {
        self.root.crosses_itself()
    }
}

impl Node<'_> {
    /// `same` is whether the way so far is `pattern`'s own, where that one does not count.
    fn covers(&self, pattern: &[&str], same: Option<bool>) -> bool {
        let Some((segment, left)) = pattern.split_first() else {
            return self.ends && same != Some(true);
        };
        let own = |is_own: bool| same.map(|same| same && is_own);
        if self.rest && own(*segment == "**") != Some(true) {
            return true;
        }
        if *segment == "**" {
            return false;
        }
        let by_any = |any: &Node<'_>| any.covers(left, own(*segment == "*"));
        let by_name = |named: &Node<'_>| named.covers(left, own(*segment != "*"));
        self.any.as_deref().is_some_and(by_any) || self.named.get(segment).is_some_and(by_name)
    }

    /// Whether a pattern goes on from here with at least one segment.
    fn goes_on(&self) -> bool {
        self.rest || self.any.is_some() || !self.named.is_empty()
    }

    fn meets(&self, other: &Node<'_>) -> bool {
        if (self.ends && other.ends) || (self.rest && other.goes_on()) || (other.rest && self.goes_on()) {
            return true;
        }
        let both = |a: Option<&Node<'_>>, b: Option<&Node<'_>>| matches!((a, b), (Some(a), Some(b)) if a.meets(b));
        if both(self.any.as_deref(), other.any.as_deref()) {
            return true;
        }
        let with_all =
            |any: Option<&Node<'_>>, of: &Node<'_>| any.is_some_and(|a| of.named.values().any(|n| a.meets(n)));
        if with_all(self.any.as_deref(), other) || with_all(other.any.as_deref(), self) {
            return true;
        }
        // The smaller one is gone through.
        let (few, many) = if self.named.len() <= other.named.len() {
            (self, other)
        } else {
            (other, self)
        };
        few.named
            .iter()
            .any(|(segment, node)| both(Some(node), many.named.get(segment)))
    }

    fn crosses_itself(&self) -> bool {
        let goes_on_otherwise = self.any.is_some() || !self.named.is_empty();
        if self.rest && goes_on_otherwise {
            return true;
        }
        if let Some(any) = self.any.as_deref()
            && (any.crosses_itself() || self.named.values().any(|named| any.meets(named)))
        {
            return true;
        }
        self.named.values().any(Node::crosses_itself)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern() -> impl Strategy<Value = TypePattern> {
        "(a|b|\\*)(\\.(a|b|\\*)){0,2}(\\.\\*\\*)?|\\*\\*".prop_map(|p| p.parse().unwrap())
    }

    /// The plain way, pattern by pattern.
    fn meet(a: &TypePattern, b: &TypePattern) -> bool {
        let (mut a, mut b) = (a.as_str().split('.'), b.as_str().split('.'));
        loop {
            match (a.next(), b.next()) {
                (None, None) => return true,
                (Some("**"), Some(_)) | (Some(_), Some("**")) => return true,
                (Some(x), Some(y)) if x == "*" || y == "*" || x == y => {}
                _ => return false,
            }
        }
    }

    proptest! {
        #[test]
        fn it_answers_as_a_comparison_of_each_with_each(
            mine in proptest::collection::btree_set(pattern().prop_map(|p| p.to_string()), 0..6),
            theirs in proptest::collection::vec(pattern(), 0..6),
        ) {
            let mine: Vec<TypePattern> = mine.iter().map(|p| p.parse().unwrap()).collect();
            let set: PatternSet<'_> = mine.iter().collect();
            for p in &theirs {
                prop_assert_eq!(set.covers(p), mine.iter().any(|q| q.covers(p)), "{} covered by {:?}", p, mine);
            }
            for p in &mine {
                let plainly = mine.iter().any(|q| q != p && q.covers(p));
                prop_assert_eq!(set.covers_by_another(p), plainly, "{} covered by another of {:?}", p, mine);
            }
            let plainly = mine.iter().any(|p| theirs.iter().any(|q| meet(p, q)));
            prop_assert_eq!(set.meets(&theirs.iter().collect()), plainly, "{:?} meet {:?}", mine, theirs);
            let plainly = mine.iter().enumerate().any(|(i, p)| mine[..i].iter().any(|q| meet(p, q)));
            prop_assert_eq!(set.crosses_itself(), plainly, "{:?} cross", mine);
        }
    }

    /// What would take minutes if each were compared with each takes no time: the harness itself would end it.
    #[test]
    fn a_hundred_thousand_patterns_are_soon_judged() {
        let all: Vec<TypePattern> = (0..50_000)
            .flat_map(|i| [format!("*.x{i}"), format!("a{i}.y{i}")])
            .map(|p| p.parse().unwrap())
            .collect();
        let set: PatternSet<'_> = all.iter().collect();
        assert!(!set.crosses_itself(), "no two of them meet");
        assert!(all.iter().all(|p| set.covers(p) && !set.covers_by_another(p)));
        let filter = crate::Filter::new(Vec::new(), all.clone());
        assert_eq!(filter.event_types.len(), all.len());
        assert!(filter.covers(&filter) && filter.may_meet(&filter));
    }
}
