//! Licence expressions as Cargo manifests have them: `MIT OR Apache-2.0`, `(A OR B) AND C WITH D`, and the old `A/B`.

use std::collections::BTreeSet;

/// True when the licences in `allowed` are enough to fulfil `expression`; false too when it is not an expression.
pub(crate) fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let tokens = tokens(expression);
    let mut parser = Parser {
        tokens: &tokens,
        allowed,
    };
    let fulfilled = parser.any_of();
    fulfilled == Some(true) && parser.tokens.is_empty()
}

fn tokens(expression: &str) -> Vec<String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    spaced.split_whitespace().map(str::to_owned).collect()
}

struct Parser<'a> {
    tokens: &'a [String],
    allowed: &'a BTreeSet<String>,
}

impl Parser<'_> {
    /// `AND` binds tighter than `OR`.
    fn any_of(&mut self) -> Option<bool> {
        let mut fulfilled = self.all_of()?;
        while self.take("OR") {
            fulfilled |= self.all_of()?;
        }
        Some(fulfilled)
    }

    fn all_of(&mut self) -> Option<bool> {
        let mut fulfilled = self.one()?;
        while self.take("AND") {
            fulfilled &= self.one()?;
        }
        Some(fulfilled)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let fulfilled = self.any_of()?;
            return self.take(")").then_some(fulfilled);
        }
        let mut licence = self.word()?;
        if self.take("WITH") {
            licence = format!("{licence} WITH {}", self.word()?);
        }
        Some(self.allowed.contains(&licence))
    }

    fn word(&mut self) -> Option<String> {
        let (first, rest) = self.tokens.split_first()?;
        if matches!(first.as_str(), "(" | ")" | "AND" | "OR" | "WITH") {
            return None;
        }
        self.tokens = rest;
        Some(first.clone())
    }

    fn take(&mut self, token: &str) -> bool {
        match self.tokens.split_first() {
            Some((first, rest)) if first == token => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_fulfilled_by_what_is_allowed() {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"];
        let allowed = allowed.map(str::to_owned).into();
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("MIT OR GPL-3.0-only", true),
            ("GPL-3.0-only/MIT", true),
            ("MIT AND GPL-3.0-only", false),
            ("(MIT OR GPL-3.0-only) AND Unicode-3.0", true),
            ("GPL-3.0-only OR MIT AND BSL-1.0", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("MIT WITH LLVM-exception", false),
            ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", true),
            ("", false),
            ("MIT OR", false),
            ("(MIT", false),
            ("MIT)", false),
            ("MIT Apache-2.0", false),
        ] {
            assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
        }
    }
}
