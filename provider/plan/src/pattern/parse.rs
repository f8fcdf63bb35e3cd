//! From the text of a pattern to what it says, or to the place at which it is not legal.

use std::collections::BTreeSet;

use super::json::{Reader, Scalar, Token};
use super::network::Network;
use super::number::{Decimal, Range};
use super::values::{Comparison, Values};
use super::wildcard::Wildcard;
use super::{ATTRIBUTES, MAX_BYTES, MAX_COMPARISONS, MAX_DEPTH, MAX_FIELDS};
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

/// The operators of a list of values.
const OPERATORS: [&str; 8] = [
    "anything-but",
    "cidr",
    "equals-ignore-case",
    "exists",
    "numeric",
    "prefix",
    "suffix",
    "wildcard",
];

/// How many letters may be wrong in a name that is taken for another.
const MEANT: usize = 3;

/// The comparisons of `numeric`.
const COMPARISONS: [&str; 5] = ["=", "<", "<=", ">", ">="];

/// The key of alternatives.
const OR: &str = "$or";

/// What a key below may be at the top.
pub(super) const DATA: &str = "data";

type Parsed<T> = Result<T, Illegal>;

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

struct Parser<'a> {
    reader: Reader<'a>,
    /// The keys to where the reader is.
    path: Vec<String>,
    fields: usize,
}

impl<'a> Parser<'a> {
    /// A refusal of the last token.
    fn illegal(&self, what: impl Into<String>) -> Illegal {
        self.illegal_at(self.reader.begins(), what)
    }

    fn illegal_at(&self, at: usize, what: impl Into<String>) -> Illegal {
        Illegal {
            at: Some(at),
            field: super::pointer(self.path.iter().map(String::as_str)),
            what: what.into(),
        }
    }

    /// The next token; the text is JSON, so that there is one.
    fn token(&mut self) -> Parsed<Token<'a>> {
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
            if chosen && (OPERATORS.contains(&&*key) || COMPARISONS.contains(&&*key)) {
                return Err(self.illegal(format!(
                    "`{key}` is an operator, and `$or` takes objects of fields: write the field around it"
                )));
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

    /// Whether the field is an attribute, which is a text.
    fn is_attribute(&self) -> bool {
        self.path.len() == 1 && self.path.first().is_some_and(|key| key != DATA)
    }

    /// A value that is no text.
    fn not_in_attribute(&self) -> Parsed<()> {
        if self.is_attribute() {
            return Err(self.illegal("an attribute is a text: write its values in quotes"));
        }
        Ok(())
    }

    fn number(&self, written: &str) -> Parsed<Decimal> {
        self.not_in_attribute()?;
        let number = Decimal::of(written);
        if number.is_in_range() {
            return Ok(number);
        }
        Err(self.illegal(format!(
            "{} is no number that is taken: they go from 1e-324 up to 1.7e308",
            shown(written)
        )))
    }

    /// The values of an array whose beginning was read.
    fn values(&mut self) -> Parsed<Values> {
        let begins = self.reader.begins();
        let mut values = Values::default();
        let mut some = false;
        loop {
            match self.token()? {
                Token::ArrayEnd if some => break,
                Token::ArrayEnd => {
                    return Err(self.illegal_at(
                        begins,
                        "an array without values would match nothing: write those that it may be",
                    ));
                }
                Token::Scalar(Scalar::Text(text)) => {
                    values.texts.insert(text.into());
                }
                Token::Scalar(Scalar::Number(number)) => {
                    values.numbers.insert(self.number(number)?);
                }
                Token::Scalar(Scalar::Null) => {
                    self.not_in_attribute()?;
                    values.null = true;
                }
                Token::Scalar(Scalar::Bool(is)) => {
                    self.not_in_attribute()?;
                    values.truth[usize::from(is)] = true;
                }
                Token::ObjectStart => self.operator(&mut values)?,
                _ => return Err(self.illegal("an array of values holds no array: the values stand side by side")),
            }
            some = true;
        }
        if values.cost() > MAX_COMPARISONS {
            return Err(self.illegal_at(
                begins,
                format!(
                    "it has {} comparisons: a field takes at most {MAX_COMPARISONS}, besides values that are written out",
                    values.cost()
                ),
            ));
        }
        Ok(values)
    }

    /// An operator whose object's beginning was read, added to the values of its field.
    fn operator(&mut self, values: &mut Values) -> Parsed<()> {
        let Token::Scalar(Scalar::Text(name)) = self.token()? else {
            return Err(self.illegal("an object among values holds one operator: write `{\"prefix\": \"invoice.\"}`"));
        };
        let compared = match &*name {
            "exists" => match self.token()? {
                Token::Scalar(Scalar::Bool(true)) => {
                    values.any = true;
                    None
                }
                Token::Scalar(Scalar::Bool(false)) => {
                    values.absent = true;
                    None
                }
                _ => return Err(self.illegal("`exists` takes true or false")),
            },
            "prefix" => Some(self.in_any_case("prefix", Comparison::Start, Comparison::StartInAnyCase)?),
            "suffix" => Some(self.in_any_case("suffix", Comparison::End, Comparison::EndInAnyCase)?),
            "anything-but" => Some(Comparison::AnythingBut(self.anything_but()?)),
            "numeric" => Some(Comparison::Range(self.numeric()?)),
            other => Some(self.comparison(other)?),
        };
        values.comparisons.extend(compared);
        self.end_of_operator(&name)
    }

    /// The end of an object that held one operator.
    fn end_of_operator(&mut self, name: &str) -> Parsed<()> {
        if self.token()? == Token::ObjectEnd {
            return Ok(());
        }
        Err(self.illegal(format!(
            "`{name}` stands alone in its object: write another operator in an object of its own"
        )))
    }

    /// A text, which an operator takes.
    fn text(&mut self, name: &str) -> Parsed<Box<str>> {
        match self.token()? {
            Token::Scalar(Scalar::Text(text)) => Ok(text.into()),
            _ => Err(self.illegal(format!("`{name}` takes a text"))),
        }
    }

    /// An operator that takes one text.
    fn comparison(&mut self, name: &str) -> Parsed<Comparison> {
        match name {
            "equals-ignore-case" => self.text(name).map(Comparison::SameInAnyCase),
            "wildcard" => {
                let text = self.text(name)?;
                self.wildcard(&text)
            }
            "cidr" => {
                let text = self.text(name)?;
                Network::parse(&text)
                    .map(Comparison::Network)
                    .map_err(|why| self.illegal(format!("network {} {why}", shown(&text))))
            }
            unknown => Err(self.illegal(format!("{} is no operator{}", shown(unknown), suggestion(unknown)))),
        }
    }

    fn wildcard(&self, text: &str) -> Parsed<Comparison> {
        Wildcard::parse(text)
            .map(Comparison::Wildcard)
            .map_err(|why| self.illegal(format!("wildcard {} {why}", shown(text))))
    }

    /// `prefix` or `suffix`: a text, or one in an object that says that case does not count.
    fn in_any_case(
        &mut self,
        name: &str,
        exactly: impl Fn(Box<str>) -> Comparison,
        in_any_case: impl Fn(Box<str>) -> Comparison,
    ) -> Parsed<Comparison> {
        match self.token()? {
            Token::Scalar(Scalar::Text(text)) => Ok(exactly(text.into())),
            Token::ObjectStart => {
                if self.token()? != Token::Scalar(Scalar::Text("equals-ignore-case".into())) {
                    return Err(self.illegal(format!("`{name}` takes a text, or an object with `equals-ignore-case`")));
                }
                let text = self.text("equals-ignore-case")?;
                self.end_of_operator("equals-ignore-case")?;
                Ok(in_any_case(text))
            }
            _ => Err(self.illegal(format!("`{name}` takes a text, or an object with `equals-ignore-case`"))),
        }
    }

    /// What `anything-but` leaves out: texts, or numbers, or an object with one operator.
    fn anything_but(&mut self) -> Parsed<Values> {
        let mut values = Values::default();
        let takes = "`anything-but` takes texts, or numbers, or an object with `prefix`, `suffix`, `equals-ignore-case` or `wildcard`";
        match self.token()? {
            Token::ObjectStart => {
                let operator = match self.token()? {
                    Token::Scalar(Scalar::Text(name))
                        if ["prefix", "suffix", "equals-ignore-case", "wildcard"].contains(&&*name) =>
                    {
                        name
                    }
                    _ => return Err(self.illegal(takes)),
                };
                let first = self.token()?;
                self.one_or_more(first, |parser, scalar| {
                    let Scalar::Text(text) = scalar else {
                        return Err(parser.illegal(format!("`{operator}` takes a text, or an array of texts")));
                    };
                    if text.is_empty() && ["prefix", "suffix"].contains(&&*operator) {
                        return Err(parser.illegal(format!("every text has the empty {operator}: nothing would match")));
                    }
                    values.comparisons.push(match &*operator {
                        "prefix" => Comparison::Start(text.into()),
                        "suffix" => Comparison::End(text.into()),
                        "wildcard" => parser.wildcard(&text)?,
                        _ => Comparison::SameInAnyCase(text.into()),
                    });
                    Ok(())
                })?;
                self.end_of_operator(&operator)?;
            }
            first => self.one_or_more(first, |parser, scalar| {
                match scalar {
                    Scalar::Text(text) if values.numbers.is_empty() => {
                        values.texts.insert(text.into());
                    }
                    Scalar::Number(number) if values.texts.is_empty() => {
                        values.numbers.insert(parser.number(number)?);
                    }
                    Scalar::Text(_) | Scalar::Number(_) => {
                        return Err(parser.illegal("`anything-but` takes texts or numbers, and not both"));
                    }
                    Scalar::Null | Scalar::Bool(_) => return Err(parser.illegal(takes)),
                }
                Ok(())
            })?,
        }
        Ok(values)
    }

    /// One scalar, or an array of at least one.
    fn one_or_more(&mut self, first: Token<'a>, mut take: impl FnMut(&Self, Scalar<'a>) -> Parsed<()>) -> Parsed<()> {
        let takes = "here stands a value, or an array of at least one, and no other operator";
        match first {
            Token::Scalar(scalar) => take(self, scalar),
            Token::ArrayStart => {
                let begins = self.reader.begins();
                let mut some = false;
                loop {
                    match self.token()? {
                        Token::Scalar(scalar) => take(self, scalar)?,
                        Token::ArrayEnd if some => return Ok(()),
                        Token::ArrayEnd => return Err(self.illegal_at(begins, takes)),
                        _ => return Err(self.illegal(takes)),
                    }
                    some = true;
                }
            }
            _ => Err(self.illegal(takes)),
        }
    }

    /// The comparisons of `numeric`: `=`, or a bound, or a lower bound and an upper one.
    fn numeric(&mut self) -> Parsed<Range> {
        self.not_in_attribute()?;
        if self.token()? != Token::ArrayStart {
            return Err(self.illegal("`numeric` takes an array: write `[\">\", 0, \"<=\", 5]`"));
        }
        let mut range = Range { from: None, to: None };
        loop {
            let sign = match self.token()? {
                Token::ArrayEnd if range.from.is_some() || range.to.is_some() => break,
                Token::Scalar(Scalar::Text(sign)) if COMPARISONS.contains(&&*sign) => sign,
                _ => return Err(self.illegal("`numeric` takes `=`, `<`, `<=`, `>` or `>=`, each before its number")),
            };
            let at = self.reader.begins();
            let number = match self.token()? {
                Token::Scalar(Scalar::Number(number)) => self.number(number)?,
                _ => return Err(self.illegal(format!("`{sign}` of `numeric` takes a number"))),
            };
            let order = "`numeric` takes `=` alone, or one bound, or a lower bound and then an upper one";
            match &*sign {
                "=" if range.from.is_none() && range.to.is_none() => {
                    range.from = Some((number.clone(), true));
                    range.to = Some((number, true));
                }
                ">" | ">=" if range.from.is_none() && range.to.is_none() => {
                    range.from = Some((number, &*sign == ">="));
                }
                "<" | "<=" if range.to.is_none() => {
                    if range.from.as_ref().is_some_and(|(from, _)| *from >= number) {
                        return Err(self.illegal("the lower bound of `numeric` is not below the upper one"));
                    }
                    range.to = Some((number, &*sign == "<="));
                }
                _ => return Err(self.illegal_at(at, order)),
            }
        }
        Ok(range)
    }
}

/// The operator that was meant.
fn suggestion(unknown: &str) -> String {
    let nearest = OPERATORS.map(|known| (strsim::osa_distance(known, unknown), known));
    match nearest.into_iter().min() {
        Some((wrong, known)) if wrong <= MEANT => format!(": did you mean `{known}`?"),
        _ => format!(": there are {}", OPERATORS.map(|o| format!("`{o}`")).join(", ")),
    }
}
