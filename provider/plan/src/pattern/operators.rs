//! What a field may be: values that are written out, and operators, as a pattern writes them.

use std::borrow::Cow;

use super::MAX_COMPARISONS;
use super::instant;
use super::json::{Scalar, Token};
use super::network::{self, Network};
use super::number::{Decimal, Range};
use super::parse::{DATA, Parsed, Parser};
use super::values::{Comparison, Values};
use super::wildcard::Wildcard;
use crate::name::shown;

/// The operators of a list of values.
pub(super) const OPERATORS: [&str; 9] = [
    "anything-but",
    "cidr",
    "equals-ignore-case",
    "exactly",
    "exists",
    "numeric",
    "prefix",
    "suffix",
    "wildcard",
];

/// How many letters may be wrong in a name that is taken for another.
const MEANT: usize = 3;

/// The signs of `numeric`.
pub(super) const SIGNS: [&str; 5] = ["=", "<", "<=", ">", ">="];

impl<'a> Parser<'a> {
    /// Whether the field is an attribute, which is a text.
    fn is_attribute(&self) -> bool {
        self.path.len() == 1 && self.path.first().is_some_and(|key| key != DATA)
    }

    /// Whether the field is this attribute.
    fn is(&self, attribute: &str) -> bool {
        self.is_attribute() && self.path.first().is_some_and(|key| key == attribute)
    }

    /// Whether a text at this field may be an address. Types and tenants are names, by which the store is asked.
    fn may_be_address(&self) -> bool {
        !self.is("tenant") && !self.is("type")
    }

    /// A text that stands for a whole value. A time is that of the bus.
    fn whole(&self, text: Cow<'_, str>) -> Parsed<Box<str>> {
        if !self.is("time") {
            return Ok(text.into());
        }
        let written = instant::as_the_bus_writes(&text).map_err(|why| self.illegal(why))?;
        Ok(written.into())
    }

    /// A text that stands for a part of a value.
    fn part(&self, text: Cow<'_, str>) -> Parsed<Box<str>> {
        if self.is("time") {
            instant::check_part(&text).map_err(|why| self.illegal(why))?;
        }
        Ok(text.into())
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
    pub(super) fn values(&mut self) -> Parsed<Values> {
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
                    if self.may_be_address() {
                        values.addresses.extend(network::address(&text));
                    }
                    values.texts.insert(self.whole(text)?);
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
            "exactly" => {
                let text = self.text("exactly")?;
                values.texts.insert(self.whole(text)?);
                None
            }
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
    fn text(&mut self, name: &str) -> Parsed<Cow<'a, str>> {
        match self.token()? {
            Token::Scalar(Scalar::Text(text)) => Ok(text),
            _ => Err(self.illegal(format!("`{name}` takes a text"))),
        }
    }

    /// An operator that takes one text.
    fn comparison(&mut self, name: &str) -> Parsed<Comparison> {
        match name {
            "equals-ignore-case" => {
                let text = self.text(name)?;
                self.whole(text).map(Comparison::SameInAnyCase)
            }
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
        if self.is("time") {
            self.part(text.replace('*', "").into())?;
        }
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
            Token::Scalar(Scalar::Text(text)) => self.part(text).map(exactly),
            Token::ObjectStart => {
                if self.token()? != Token::Scalar(Scalar::Text("equals-ignore-case".into())) {
                    return Err(self.illegal(format!("`{name}` takes a text, or an object with `equals-ignore-case`")));
                }
                let text = self.text("equals-ignore-case")?;
                let text = self.part(text.to_uppercase().into()).and(Ok(text.into()))?;
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
                        "prefix" => Comparison::Start(parser.part(text)?),
                        "suffix" => Comparison::End(parser.part(text)?),
                        "wildcard" => parser.wildcard(&text)?,
                        _ => Comparison::SameInAnyCase(parser.whole(text)?),
                    });
                    Ok(())
                })?;
                self.end_of_operator(&operator)?;
            }
            first => self.one_or_more(first, |parser, scalar| {
                match scalar {
                    Scalar::Text(text) if values.numbers.is_empty() => {
                        values.texts.insert(parser.whole(text)?);
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
                Token::Scalar(Scalar::Text(sign)) if SIGNS.contains(&&*sign) => sign,
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
