//! Why an event does not match: the field that stopped it, what the pattern wants there, and what is there.

use std::fmt;

use serde::Serialize;

use super::View;
use super::json::Scalar;
use super::matching::{Observed, Run};
use super::parse::DATA;
use super::tree::{Leaf, Node, Tree};

/// The most reasons: one for each alternative, the same one once.
const MAX_REASONS: usize = 8;

/// The most values of one field that a reason repeats.
pub(super) const MAX_VALUES: usize = 5;

/// How much of a value, or of what is wanted, a reason repeats.
const SHOWN_CHARS: usize = 120;

/// What stops an event in one alternative of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// The field, as a JSON pointer from the event; several, each in quotes, where none of them alone stops it.
    pub field: String,
    /// What the pattern wants there, as it is written.
    pub wanted: String,
    /// What is there.
    pub found: Found,
}

/// What an event has where a pattern wants something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is", content = "value")]
pub enum Found {
    /// No value.
    Missing,
    /// This one.
    Value(String),
    /// Several, in elements of arrays, none of which is wanted.
    Values(Several),
    /// What has no value of its own: an object, or an empty array.
    NoValue(&'static str),
    /// A payload that is no JSON.
    NoJson,
    /// What is wanted, of each field in some element of an array, and of all in none.
    InDifferentElements,
}

/// Values of one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Several {
    /// The first of them.
    pub first: Vec<String>,
    /// How many there are.
    pub count: u64,
}

impl fmt::Display for Several {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, count } = self;
        let more = count.saturating_sub(first.len() as u64);
        match first.as_slice() {
            some if more > 0 => write!(f, "{} and {more} more", some.join(", ")),
            [some @ .., last] if !some.is_empty() => write!(f, "{} and {last}", some.join(", ")),
            some => f.write_str(&some.join(", ")),
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, wanted, found } = self;
        match found {
            Found::Missing => write!(f, "`{field}` is not there, and the pattern wants {wanted}"),
            Found::Value(value) => write!(f, "`{field}` is {value}, and the pattern wants {wanted}"),
            Found::Values(values) => write!(f, "`{field}` is {values}, and the pattern wants {wanted}"),
            Found::NoValue(what) => write!(
                f,
                "`{field}` is {what}, which has no value of its own, and the pattern wants {wanted}"
            ),
            Found::NoJson => write!(f, "`{field}` has to be {wanted}, and the payload is no JSON"),
            Found::InDifferentElements => {
                write!(f, "{field} match, but not all in the same element of an array")
            }
        }
    }
}

/// Why an event does not match; `None` if it does.
pub(super) fn explain(tree: &Tree, event: View<'_>) -> Option<Vec<Mismatch>> {
    let mut run = Run::observing(tree);
    if run.matches(event) {
        return None;
    }
    let observed = run.observed.unwrap_or_default();
    let mut reasons = Vec::new();
    for alternative in 0..tree.alternatives {
        let reason = reason(tree, &observed, alternative);
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
        if reasons.len() == MAX_REASONS {
            break;
        }
    }
    Some(reasons)
}

fn reason(tree: &Tree, observed: &[Observed], alternative: usize) -> Mismatch {
    let mut matched = Vec::new();
    for (node, observed) in tree.nodes.iter().zip(observed) {
        let leaves = node.leaves.iter().zip(&observed.accepted);
        for (leaf, accepted) in leaves.filter(|(leaf, _)| leaf.alternatives.holds(alternative)) {
            if let Some(found) = found(node, leaf, *accepted, observed) {
                return Mismatch {
                    field: node.pointer.clone(),
                    wanted: cut(&leaf.written),
                    found,
                };
            }
            matched.push(format!("`{}`", node.pointer));
        }
    }
    Mismatch {
        field: matched.join(" and "),
        wanted: "all in one element".to_owned(),
        found: Found::InDifferentElements,
    }
}

/// What is wrong with the values of one field; `None` if some element of the event has what is wanted.
fn found(node: &Node, leaf: &Leaf, accepted: bool, observed: &Observed) -> Option<Found> {
    if observed.no_json && node.pointer.split('/').nth(1) == Some(DATA) {
        return Some(Found::NoJson);
    }
    match observed.shown.as_slice() {
        _ if accepted => None,
        [] if leaf.values.absent => None,
        [] => Some(observed.hollow.map_or(Found::Missing, Found::NoValue)),
        [one] if observed.values == 1 => Some(Found::Value(one.clone())),
        some => Some(Found::Values(Several {
            first: some.to_vec(),
            count: observed.values,
        })),
    }
}

/// A value, as JSON writes it.
pub(super) fn shown(scalar: &Scalar<'_>) -> String {
    match scalar {
        Scalar::Null => "null".to_owned(),
        Scalar::Bool(is) => is.to_string(),
        Scalar::Number(written) => cut(written),
        Scalar::Text(text) => cut(&serde_json::Value::from(&**text).to_string()),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
