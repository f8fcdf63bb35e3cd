//! A pattern as a tree of its fields. Where it has `$or`, it has alternatives: one object of each `$or`, all of whose fields
//! have to match. A field stands in the tree once for each time that it is written, and knows its alternatives.

use std::collections::BTreeMap;

use super::parse::{Illegal, Object, Wanted};
use super::set::Set;
use super::values::Values;
use super::{MAX_ALTERNATIVES, MAX_FIELDS, MAX_PRODUCT};

/// The fields of a pattern.
#[derive(Debug)]
pub(super) struct Tree {
    /// The root is the first; each stands behind the one that it is a field of.
    pub(super) nodes: Vec<Node>,
    /// How many alternatives there are, at least one.
    pub(super) alternatives: usize,
}

/// A field.
#[derive(Debug)]
pub(super) struct Node {
    /// Its keys from the root, as a JSON pointer.
    pub(super) pointer: String,
    /// Its fields, by their keys.
    pub(super) fields: BTreeMap<Box<str>, usize>,
    /// Its values, of different alternatives.
    pub(super) leaves: Vec<Leaf>,
    /// The alternatives that it stands in, itself or with a field below.
    pub(super) used: Set,
    /// Those in which it, or a field below, has to have a value.
    pub(super) strict: Set,
    /// Those in which no field below has to have one.
    pub(super) nothing_below: Set,
    /// In how many of its fields each alternative needs a value.
    pub(super) needs: Box<[u32]>,
}

/// The values of a field in some alternatives.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) values: Values,
    /// As they are written.
    pub(super) written: Box<str>,
    pub(super) alternatives: Set,
}

impl Tree {
    /// The tree of a pattern.
    ///
    /// # Errors
    /// When it has too many alternatives, or a field twice in one of them.
    pub(super) fn new(root: Object) -> Result<Self, Illegal> {
        let alternatives = count(&root);
        let fields = fields(&root);
        if alternatives > MAX_ALTERNATIVES || alternatives.saturating_mul(fields) > MAX_PRODUCT {
            return Err(Illegal {
                at: None,
                field: String::new(),
                what: format!(
                    "with its `$or` it has {alternatives} alternatives of {fields} fields: at most {MAX_ALTERNATIVES}, and {MAX_PRODUCT} of both multiplied, are taken"
                ),
            });
        }
        let mut growing = Growing {
            nodes: vec![Growth::default()],
            leaves: Vec::new(),
        };
        let chosen = growing.object(root, 0);
        growing.finish(&chosen)
    }

    pub(super) fn root(&self) -> &Node {
        // `new` makes it first.
        &self.nodes[0]
    }
}

impl Tree {
    /// At most how many steps one value of an event takes.
    pub(super) fn of_one_value(&self) -> u64 {
        let of_leaf = |leaf: &Leaf| 1 + leaf.values.cost() as u64;
        let of_node = |node: &Node| node.leaves.iter().map(of_leaf).sum::<u64>();
        self.nodes.iter().map(of_node).max().unwrap_or(0) + self.alternatives as u64
    }
}

/// How many alternatives an object has.
fn count(object: &Object) -> usize {
    let of_field = |wanted: &Wanted| match wanted {
        Wanted::Values(..) => 1,
        Wanted::Fields(object) => count(object),
    };
    let fields = object.fields.iter().map(|field| of_field(&field.wanted));
    let choices = object
        .choices
        .iter()
        .map(|choice| choice.iter().map(count).fold(0, usize::saturating_add));
    fields.chain(choices).fold(1, usize::saturating_mul)
}

/// How many fields are written in an object, at any depth.
fn fields(object: &Object) -> usize {
    let of_field = |wanted: &Wanted| match wanted {
        Wanted::Values(..) => 1,
        Wanted::Fields(object) => 1 + fields(object),
    };
    let own: usize = object.fields.iter().map(|field| of_field(&field.wanted)).sum();
    own + object.choices.iter().flatten().map(fields).sum::<usize>()
}

/// The tree while its alternatives are not counted out.
struct Growing {
    nodes: Vec<Growth>,
    /// With the place at which each is written.
    leaves: Vec<(Values, Box<str>, usize)>,
}

#[derive(Default)]
struct Growth {
    parent: usize,
    pointer: String,
    fields: BTreeMap<Box<str>, usize>,
    leaves: Vec<usize>,
}

impl Growing {
    /// Adds an object at a node. For each of its alternatives, the leaves that it needs.
    fn object(&mut self, object: Object, at: usize) -> Vec<Set> {
        let mut chosen = vec![Set::none(MAX_FIELDS)];
        for field in object.fields {
            let node = self.field(at, field.key);
            let of_field = match field.wanted {
                Wanted::Fields(object) => self.object(object, node),
                Wanted::Values(values, written) => {
                    let mut one = Set::none(MAX_FIELDS);
                    one.insert(self.leaves.len());
                    if let Some(node) = self.nodes.get_mut(node) {
                        node.leaves.push(self.leaves.len());
                    }
                    self.leaves.push((values, written, field.at));
                    vec![one]
                }
            };
            chosen = product(chosen, &of_field);
        }
        for choice in object.choices {
            let any: Vec<Set> = choice.into_iter().flat_map(|object| self.object(object, at)).collect();
            chosen = product(chosen, &any);
        }
        chosen
    }

    /// The node of a field of another.
    fn field(&mut self, parent: usize, key: Box<str>) -> usize {
        let next = self.nodes.len();
        let of_parent = &mut self.nodes[parent];
        let node = *of_parent.fields.entry(key.clone()).or_insert(next);
        if node == next {
            let pointer = format!("{}{}", of_parent.pointer, super::pointer([&*key].into_iter()));
            self.nodes.push(Growth {
                parent,
                pointer,
                ..Growth::default()
            });
        }
        node
    }

    /// The tree of these alternatives.
    fn finish(self, chosen: &[Set]) -> Result<Tree, Illegal> {
        let alternatives = chosen.len();
        let none = || Set::none(alternatives);
        let mut leaves: Vec<_> = self
            .leaves
            .into_iter()
            .enumerate()
            .map(|(i, (values, written, at))| {
                let mut stands_in = none();
                for (alternative, _) in chosen.iter().enumerate().filter(|(_, leaves)| leaves.holds(i)) {
                    stands_in.insert(alternative);
                }
                Some((
                    at,
                    Leaf {
                        values,
                        written,
                        alternatives: stands_in,
                    },
                ))
            })
            .collect();
        let parents: Vec<usize> = self.nodes.iter().map(|node| node.parent).collect();
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for growth in self.nodes {
            let (mut used, mut strict) = (none(), none());
            let mut own = Vec::with_capacity(growth.leaves.len());
            for (at, leaf) in growth.leaves.iter().filter_map(|i| leaves.get_mut(*i)?.take()) {
                let mut twice = leaf.alternatives.clone();
                twice.keep(&used);
                if !twice.is_empty() {
                    return Err(Illegal {
                        at: Some(at),
                        field: growth.pointer,
                        what: "the field is written twice in what has to match at once: write it once, with all of its values"
                            .to_owned(),
                    });
                }
                used.add(&leaf.alternatives);
                if !leaf.values.absent {
                    strict.add(&leaf.alternatives);
                }
                own.push(leaf);
            }
            nodes.push(Node {
                pointer: growth.pointer,
                fields: growth.fields,
                leaves: own,
                used,
                strict,
                nothing_below: Set::all(alternatives),
                needs: vec![0; alternatives].into(),
            });
        }
        // Each node stands behind its parent, so that this goes from the leaves to the root.
        for i in (1..nodes.len()).rev() {
            let (before, of_this) = nodes.split_at_mut(i);
            let (Some(node), Some(parent)) = (of_this.first(), parents.get(i).and_then(|p| before.get_mut(*p))) else {
                continue;
            };
            parent.used.add(&node.used);
            parent.strict.add(&node.strict);
            parent.nothing_below.take_out(&node.strict);
            for alternative in node.strict.iter() {
                parent.needs[alternative] += 1;
            }
        }
        Ok(Tree { nodes, alternatives })
    }
}

/// What both need, for each of the one with each of the other.
fn product(mine: Vec<Set>, theirs: &[Set]) -> Vec<Set> {
    if let [only] = theirs {
        let mut mine = mine;
        mine.iter_mut().for_each(|set| set.add(only));
        return mine;
    }
    let with = |set: &Set, other: &Set| {
        let mut both = set.clone();
        both.add(other);
        both
    };
    mine.iter()
        .flat_map(|set| theirs.iter().map(move |other| with(set, other)))
        .collect()
}
