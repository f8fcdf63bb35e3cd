//! From the text of a pattern to what it says, or to the place at which it is not legal.

use std::collections::BTreeSet;

use super::json::{Reader, Scalar, Token};
use super::operators::{OPERATORS, SIGNS};
use super::values::Values;
use super::{ATTRIBUTES, MAX_BYTES, MAX_DEPTH, MAX_FIELDS};
use crate::event::MAX_EXTENSION_NAME;
use crate::name::shown;

/// The fields of an object, all of which have to match.
#[derive(Debug, Default)]
pub(super) struct Object {
    pub(super) fields: Vec<Field>,
    /// Of each `$or`, its objects, any of which has to match.
    pub(super) choices: Vec<Vec<Object>>,
}

/// A field by its key.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) key: Box<str>,
    /// The byte at which its key stands.
    pub(super) at: usize,
    pub(super) wanted: Wanted,
}

#[derive(Debug)]
pub(super) enum Wanted {
    /// One of these values, as they are written.
    Values(Values, Box<str>),
    /// An object with these fields.
    Fields(Object),
}

/// Why a text is no pattern.
#[derive(Debug)]
pub(super) struct Illegal {
    /// The byte at which it stands; `None` where it is the pattern as a whole.
    pub(super) at: Option<usize>,
    /// The field in which it stands, as a JSON pointer.
    pub(super) field: String,
    pub(super) what: String,
}

/// Words that are no fields of the objects of `$or`, besides operators and signs: the language keeps them for operators to come.
const RESERVED: [&str; 10] = [
    "date-after",
    "date-before",
    "date-on-or-after",
    "date-on-or-before",
    "in-date-range",
    "ip-address-in-range",
    "ip-address-not-in-range",
    "not-equals-ignore-case",
    "not-wildcard",
    "regex",
];

/// The key of alternatives.
const OR: &str = "$or";

/// What a key below may be at the top.
pub(super) const DATA: &str = "data";

pub(super) type Parsed<T> = Result<T, Illegal>;

/// Reads a pattern.
///
/// # Errors
/// The first place at which it is not legal.
pub(super) fn parse(text: &str) -> Parsed<Object> {
    let whole = |what: String| Illegal {
        at: None,
        field: String::new(),
        what,
    };
    if text.len() > MAX_BYTES {
        return Err(whole(format!(
            "it has {} bytes: at most {MAX_BYTES} are taken",
            text.len()
        )));
    }
    // More than `Reader` asks for: no number beyond a double, no half of a surrogate pair.
    let reader = serde_json::from_str::<serde_json::Value>(text)
        .and_then(|_| Reader::new(text))
        .map_err(|e| {
            let what = e.to_string();
            let what = what.split(" at line ").next().unwrap_or_default();
            Illegal {
                at: Some(byte_at(text, e.line(), e.column())),
                field: String::new(),
                what: format!("it is no JSON: {what}"),
            }
        })?;
    let mut parser = Parser {
        reader,
        path: Vec::new(),
        fields: 0,
    };
    match parser.reader.token() {
        Some(Token::ObjectStart) => parser.object(1, false),
        Some(Token::Scalar(Scalar::Text(text))) if text.trim_start().starts_with('{') => Err(parser.illegal(
            "a pattern is an object, and this is a text that holds one: write it without the quotes around it",
        )),
        _ => Err(parser.illegal("a pattern is an object: write `{\"type\": [\"invoice.paid\"]}`")),
    }
}

/// The byte of a line and a column, both from 1, as `serde_json` counts them: in bytes.
fn byte_at(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    (before + column.saturating_sub(1)).min(text.len())
}

/// A pattern that is being read.
pub(super) struct Parser<'a> {
    pub(super) reader: Reader<'a>,
    /// The keys to where the reader is.
    pub(super) path: Vec<String>,
    fields: usize,
}

impl<'a> Parser<'a> {
    /// A refusal of the last token.
    pub(super) fn illegal(&self, what: impl Into<String>) -> Illegal {
        self.illegal_at(self.reader.begins(), what)
    }

    pub(super) fn illegal_at(&self, at: usize, what: impl Into<String>) -> Illegal {
        Illegal {
            at: Some(at),
            field: super::pointer(self.path.iter().map(String::as_str)),
            what: what.into(),
        }
    }

    /// The next token; the text is JSON, so that there is one.
    pub(super) fn token(&mut self) -> Parsed<Token<'a>> {
        self.reader.token().ok_or_else(|| self.illegal("it ends too soon"))
    }

    /// The fields of an object whose beginning was read.
    fn object(&mut self, depth: usize, chosen: bool) -> Parsed<Object> {
        if depth > MAX_DEPTH {
            return Err(self.illegal(format!("it is nested deeper than {MAX_DEPTH} objects")));
        }
        let begins = self.reader.begins();
        let mut object = Object::default();
        let mut keys = BTreeSet::new();
        while let Token::Scalar(Scalar::Text(key)) = self.token()? {
            let at = self.reader.begins();
            if !keys.insert(key.clone()) {
                return Err(self.illegal(format!(
                    "{} comes twice: write it once, with all of its values",
                    shown(&key)
                )));
            }
            if key == OR {
                object.choices.push(self.choice(depth)?);
                continue;
            }
            if chosen {
                self.check_not_reserved(&key)?;
            }
            self.fields += 1;
            if self.fields > MAX_FIELDS {
                return Err(self.illegal(format!("it has more than {MAX_FIELDS} fields")));
            }
            let top = self.path.is_empty();
            if top {
                self.check_attribute(&key)?;
            }
            self.path.push(key.clone().into_owned());
            let wanted = match self.token()? {
                Token::ArrayStart => {
                    let begins = self.reader.begins();
                    let values = self.values()?;
                    Wanted::Values(values, super::compact(self.reader.since(begins)).into())
                }
                Token::ObjectStart if top && key != DATA => {
                    return Err(self.illegal(format!(
                        "`{key}` is an attribute, a text: only `data` has fields of its own"
                    )));
                }
                Token::ObjectStart => Wanted::Fields(self.object(depth + 1, chosen)?),
                _ => {
                    return Err(self.illegal(
                        "a field takes an array of values, or an object of fields: write [ ] around a value",
                    ));
                }
            };
            self.path.pop();
            object.fields.push(Field {
                key: key.into(),
                at,
                wanted,
            });
        }
        if keys.is_empty() {
            return Err(self.illegal_at(begins, "an object without fields would match everything: leave it out"));
        }
        Ok(object)
    }

    /// Whether a field of an object of `$or` may have this name.
    fn check_not_reserved(&self, key: &str) -> Parsed<()> {
        if OPERATORS.contains(&key) || SIGNS.contains(&key) {
            return Err(self.illegal(format!(
                "`{key}` is an operator, and `$or` takes objects of fields: write the field around it"
            )));
        }
        if RESERVED.contains(&key) {
            return Err(self.illegal(format!(
                "`{key}` is no name of a field within `$or`: the language keeps it for an operator to come; name the field outside of `$or`"
            )));
        }
        Ok(())
    }

    /// Whether an event can have this attribute.
    fn check_attribute(&self, key: &str) -> Parsed<()> {
        let extension = (1..=MAX_EXTENSION_NAME).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            && key != "specversion";
        if extension || key == DATA || ATTRIBUTES.contains(&key) {
            return Ok(());
        }
        Err(self.illegal(format!(
            "no event has an attribute {}: there are {}, extensions (a-z 0-9), and `{DATA}`, which holds the fields of the payload",
            shown(key),
            ATTRIBUTES.map(|a| format!("`{a}`")).join(", ")
        )))
    }

    /// The objects of a `$or` whose key was read.
    fn choice(&mut self, depth: usize) -> Parsed<Vec<Object>> {
        let at = self.reader.begins();
        if self.token()? != Token::ArrayStart {
            return Err(self.illegal("`$or` takes an array of at least two objects"));
        }
        let mut objects = Vec::new();
        loop {
            match self.token()? {
                Token::ArrayEnd => break,
                Token::ObjectStart => objects.push(self.object(depth + 1, true)?),
                _ => return Err(self.illegal("`$or` takes objects of fields, and nothing else")),
            }
        }
        if objects.len() < 2 {
            return Err(self.illegal_at(at, "`$or` takes an array of at least two objects"));
        }
        Ok(objects)
    }
}
