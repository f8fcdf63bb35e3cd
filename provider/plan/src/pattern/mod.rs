//! Event patterns: the language in which EventBridge's rules say which events they are for, on a tenant's CloudEvent.
//!
//! A pattern is compiled once ([`parse`], then [`tree`]) and matched by one pass over an event ([`matching`]), which takes
//! no more than a step for each token of the payload, and for each value that the pattern names one for each comparison
//! at it. Alternatives (`$or`) are not written out: a field knows in which of them it stands. Deliberately absent: IO, and
//! what a subscription does with an event that does not match.

mod explain;
mod instant;
mod json;
mod matching;
mod narrow;
mod network;
mod number;
mod operators;
mod parse;
mod set;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod values;
mod wildcard;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use explain::{Found, Mismatch, Several};
pub use narrow::MAX_NARROWED;
pub(crate) use narrow::{Narrowed, Reach};

use crate::{Code, Filter, Problem, RawEvent, TypePattern};
use matching::Run;
use tree::Tree;

/// The most bytes of a pattern.
pub const MAX_BYTES: usize = 64 * 1024;

/// The deepest nesting of objects in a pattern.
pub const MAX_DEPTH: usize = 32;

/// The most fields of a pattern.
pub const MAX_FIELDS: usize = 1_000;

/// The most alternatives of a pattern: the products of its `$or`.
pub const MAX_ALTERNATIVES: usize = 1_000;

/// The most fields times alternatives, which is what a pattern may hold in memory, in bits, and cost an object of an event.
pub const MAX_PRODUCT: usize = 128 * 1024;

/// The most comparisons at one field; each value there may take all of them.
pub const MAX_COMPARISONS: usize = 256;

/// The attributes that a pattern may name, besides extensions and `data`.
const ATTRIBUTES: [&str; 9] = [
    "datacontenttype",
    "dataschema",
    "id",
    "partitionkey",
    "source",
    "subject",
    "tenant",
    "time",
    "type",
];

/// A pattern of events. Two are equal if they are written alike, but for spaces.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(Arc<Compiled>);

struct Compiled {
    /// Without spaces.
    text: Box<str>,
    tree: Tree,
    reach: Reach,
}

/// What a pattern reads: an event's attributes, and its payload.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The attributes.
    pub event: &'a RawEvent,
    /// The payload as it came. An empty one is none.
    pub data: &'a [u8],
}

impl<'a> View<'a> {
    /// An attribute as a text; a time is RFC 3339 in UTC.
    fn attribute(&self, name: &str) -> Option<Cow<'a, str>> {
        let event = self.event;
        let text = match name {
            "tenant" => &event.tenant,
            "type" => &event.event_type,
            "id" => &event.id,
            "source" => &event.source,
            "subject" => event.subject.as_ref()?,
            "datacontenttype" => event.data_content_type.as_ref()?,
            "dataschema" => event.data_schema.as_ref()?,
            "partitionkey" => event.ordering_key.as_ref()?,
            "time" => return event.time.map(|time| time.to_string().into()),
            extension => &event.extensions.iter().find(|(name, _)| name == extension)?.1,
        };
        Some(text.into())
    }
}

impl Pattern {
    /// Whether an event matches. Takes time linear in the event: for each of its values that the pattern names, at most
    /// [`MAX_COMPARISONS`] comparisons in each alternative, and [`MAX_ALTERNATIVES`] steps. See [`Self::steps`].
    pub fn matches(&self, event: View<'_>) -> bool {
        Run::new(&self.0.tree).matches(event)
    }

    /// At most how many steps it takes to match an event with a payload of `bytes`: what one value may take, for each byte.
    pub fn steps(&self, bytes: usize) -> u64 {
        let tree = &self.0.tree;
        let read = if self.reads_data() { bytes } else { 0 };
        tree.of_one_value().saturating_mul(read as u64)
    }

    /// Why an event does not match; `None` if it does.
    pub fn explain(&self, event: View<'_>) -> Option<Vec<Mismatch>> {
        explain::explain(&self.0.tree, event)
    }

    /// Whether it reads the payload.
    pub fn reads_data(&self) -> bool {
        self.0.tree.root().fields.contains_key(parse::DATA)
    }

    /// The tenants and event types that it can match.
    pub(crate) fn reach(&self) -> &Reach {
        &self.0.reach
    }

    /// Every event that it can match, as far as tenants and types tell.
    pub fn narrowed(&self) -> Filter {
        let any = TypePattern::any();
        let narrowed = self.reach().narrow(&[], std::slice::from_ref(&any));
        Filter::new(narrowed.tenants, narrowed.event_types)
    }

    /// The pattern as it is written, without spaces.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

impl FromStr for Pattern {
    type Err = Problem;

    /// # Errors
    /// The first place at which it is not legal: its line, its column and its field.
    fn from_str(text: &str) -> Result<Self, Problem> {
        let text = json::without_mark(text);
        let tree = parse::parse(text)
            .and_then(Tree::new)
            .map_err(|illegal| refusal(text, &illegal))?;
        let text = compact(text).into();
        let reach = Reach::of(&tree);
        Ok(Self(Arc::new(Compiled { text, tree, reach })))
    }
}

/// A refusal that says where.
fn refusal(text: &str, illegal: &parse::Illegal) -> Problem {
    let mut place = String::new();
    if let Some(at) = illegal.at {
        let before = text.get(..at).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        place = format!(" at line {line}, column {column}");
    }
    if !illegal.field.is_empty() {
        place = format!("{place}, in `{}`", illegal.field);
    }
    Problem::new(
        Code::InvalidPattern,
        format!("the event pattern is not legal{place}: {}", illegal.what),
    )
}

/// A JSON text without the spaces between its tokens.
fn compact(text: &str) -> String {
    let mut compact = String::with_capacity(text.len());
    let (mut within, mut escaped) = (false, false);
    for c in text.chars() {
        if within {
            within = c != '"' || escaped;
            escaped = c == '\\' && !escaped;
        } else if c.is_ascii_whitespace() {
            continue;
        } else {
            within = c == '"';
        }
        compact.push(c);
    }
    compact
}

/// Keys as a JSON pointer (RFC 6901).
fn pointer<'a>(keys: impl Iterator<Item = &'a str>) -> String {
    keys.map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1")))
        .collect()
}

impl TryFrom<String> for Pattern {
    type Error = Problem;
    fn try_from(text: String) -> Result<Self, Problem> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.as_str().to_owned()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.as_str()).finish()
    }
}
