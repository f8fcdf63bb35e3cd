//! What must hold, noted as it is measured, and said at the end: all of it, or which number is off.

use std::fmt::Display;

use serde::Serialize;

/// One thing that must hold.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    what: String,
    expected: String,
    got: String,
    holds: bool,
}

/// All of them.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Checks(Vec<Check>);

impl Checks {
    /// `got` must be `expected`.
    pub(crate) fn equal<T: PartialEq + Display>(&mut self, what: impl Into<String>, expected: T, got: T) {
        let holds = expected == got;
        self.note(what, expected.to_string(), got.to_string(), holds);
    }

    /// `got` must not be more than `limit`.
    pub(crate) fn at_most<T: PartialOrd + Display>(&mut self, what: impl Into<String>, limit: T, got: T) {
        let holds = got <= limit;
        self.note(what, format!("at most {limit}"), got.to_string(), holds);
    }

    /// `got` must be less than `limit`.
    pub(crate) fn below<T: PartialOrd + Display>(&mut self, what: impl Into<String>, limit: T, got: T) {
        let holds = got < limit;
        self.note(what, format!("below {limit}"), got.to_string(), holds);
    }

    /// `got` must be `limit` or more.
    pub(crate) fn at_least<T: PartialOrd + Display>(&mut self, what: impl Into<String>, limit: T, got: T) {
        let holds = got >= limit;
        self.note(what, format!("at least {limit}"), got.to_string(), holds);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Those that don't hold, a line each.
    pub(crate) fn off(&self) -> Vec<String> {
        let off = self.0.iter().filter(|check| !check.holds);
        off.map(|check| format!("{}: expected {}, got {}", check.what, check.expected, check.got))
            .collect()
    }

    fn note(&mut self, what: impl Into<String>, expected: String, got: String, holds: bool) {
        self.0.push(Check {
            what: what.into(),
            expected,
            got,
            holds,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_is_said_with_both_numbers() {
        let mut checks = Checks::default();
        checks.equal("a", 1, 1);
        checks.equal("lines of acme", 3, 2);
        checks.at_most("missed", 2, 2);
        checks.at_most("missed", 2, 3);
        checks.below("MB", 64, 64);
        checks.at_least("pending", 1, 0);
        assert_eq!(checks.count(), 6);
        assert_eq!(
            checks.off(),
            [
                "lines of acme: expected 3, got 2",
                "missed: expected at most 2, got 3",
                "MB: expected below 64, got 64",
                "pending: expected at least 1, got 0",
            ]
        );
    }
}
