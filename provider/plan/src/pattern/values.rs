//! What a pattern accepts at one field: values that are written out, and comparisons.

use core::net::IpAddr;
use std::collections::BTreeSet;

use super::json::Scalar;
use super::network::{self, Network};
use super::number::{Decimal, Range};
use super::text::{same, strip_end, strip_start};
use super::wildcard::Wildcard;

/// The list of a field, any of which may accept a value.
#[derive(Clone, Debug, Default)]
pub(super) struct Values {
    pub(super) null: bool,
    /// `false`, and `true`.
    pub(super) truth: [bool; 2],
    pub(super) texts: BTreeSet<Box<str>>,
    /// Addresses, however a value writes them.
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) numbers: BTreeSet<Decimal>,
    /// Any value.
    pub(super) any: bool,
    /// No value.
    pub(super) absent: bool,
    pub(super) comparisons: Vec<Comparison>,
}

/// A comparison that is tried on each value, in time linear in the value.
#[derive(Clone, Debug)]
pub(super) enum Comparison {
    Start(Box<str>),
    StartInAnyCase(Box<str>),
    End(Box<str>),
    EndInAnyCase(Box<str>),
    SameInAnyCase(Box<str>),
    Wildcard(Wildcard),
    Range(Range),
    Network(Network),
    /// Whatever these do not accept.
    AnythingBut(Values),
}

/// What is known of the beginning of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head<'a> {
    /// The text is this.
    Whole(&'a str),
    /// It begins with this, and may go on as it will.
    Start(&'a str),
    /// It begins with this, and not every text that does is one.
    Within(&'a str),
}

impl Values {
    /// Whether a value is one of these. `steps` grows by what was compared.
    pub(super) fn accept(&self, value: &Scalar<'_>, steps: &mut u64) -> bool {
        *steps += 1;
        let number = match value {
            Scalar::Number(written) => Some(Decimal::of(written)),
            _ => None,
        };
        self.any
            || match value {
                Scalar::Null => self.null,
                Scalar::Bool(is) => self.truth[usize::from(*is)],
                Scalar::Number(_) => number.as_ref().is_some_and(|number| self.numbers.contains(number)),
                Scalar::Text(text) => self.texts.contains(&**text) || self.names_address(text),
            }
            || self
                .comparisons
                .iter()
                .any(|comparison| comparison.accepts(value, number.as_ref(), steps))
    }

    /// Whether a text is one of the addresses.
    fn names_address(&self, text: &str) -> bool {
        !self.addresses.is_empty() && network::address(text).is_some_and(|address| self.addresses.contains(&address))
    }

    /// How many comparisons a value may take.
    pub(super) fn cost(&self) -> usize {
        let inner = |comparison: &Comparison| match comparison {
            Comparison::AnythingBut(values) => 1 + values.cost(),
            _ => 1,
        };
        self.comparisons.iter().map(inner).sum()
    }

    /// The beginnings of everything that these accept of what is there; `None` where one of them accepts other texts too.
    pub(super) fn heads(&self) -> Option<Vec<Head<'_>>> {
        if self.any {
            return None;
        }
        let mut heads: Vec<_> = self.texts.iter().map(|text| Head::Whole(text)).collect();
        for comparison in &self.comparisons {
            match comparison {
                Comparison::Start(start) => heads.push(Head::Start(start)),
                Comparison::Wildcard(wildcard) => heads.push(wildcard.head()),
                _ => return None,
            }
        }
        Some(heads)
    }
}

impl Comparison {
    fn accepts(&self, value: &Scalar<'_>, number: Option<&Decimal>, steps: &mut u64) -> bool {
        *steps += 1;
        match (self, value) {
            (Self::AnythingBut(values), _) => !values.accept(value, steps),
            (Self::Range(range), _) => number.is_some_and(|number| range.holds(number)),
            (Self::Start(start), Scalar::Text(text)) => text.starts_with(&**start),
            (Self::StartInAnyCase(start), Scalar::Text(text)) => strip_start(start, text).is_some(),
            (Self::End(end), Scalar::Text(text)) => text.ends_with(&**end),
            (Self::EndInAnyCase(end), Scalar::Text(text)) => strip_end(end, text).is_some(),
            (Self::SameInAnyCase(wanted), Scalar::Text(text)) => same(wanted, text),
            (Self::Wildcard(wildcard), Scalar::Text(text)) => wildcard.matches(text),
            (Self::Network(network), Scalar::Text(text)) => network.holds(text),
            _ => false,
        }
    }
}
