//! Texts with `*` for any characters, none included. The parts between are found one behind the other, each where it
//! first stands, which is enough where `*` takes anything; so a text is read once, and nothing is tried again.

use memchr::memmem::Finder;

use super::values::Head;

/// A text with wildcards.
#[derive(Clone, Debug)]
pub(super) struct Wildcard {
    start: Box<str>,
    /// Between two wildcards, in order.
    middle: Vec<Finder<'static>>,
    /// Behind the last wildcard; `None` without any.
    end: Option<Box<str>>,
}

impl Wildcard {
    /// Reads `*`, `\*` for the asterisk itself, and `\\` for a backslash.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(written: &str) -> Result<Self, String> {
        let mut parts = vec![String::new()];
        let mut chars = written.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '*' if chars.peek() == Some(&'*') => return Err("has `**`: one `*` takes any characters".to_owned()),
                '*' => parts.push(String::new()),
                '\\' => match chars.next() {
                    Some(c @ ('*' | '\\')) => push(&mut parts, c),
                    _ => {
                        return Err(
                            "has a backslash before something else than `*` or a backslash: write `\\\\` in JSON for each backslash"
                                .to_owned(),
                        );
                    }
                },
                c => push(&mut parts, c),
            }
        }
        let mut parts = parts.into_iter().map(String::into_boxed_str);
        let start = parts.next().unwrap_or_default();
        let end = parts.next_back();
        let middle = parts.map(|part| Finder::new(part.as_bytes()).into_owned()).collect();
        Ok(Self { start, middle, end })
    }

    /// How each of these begins.
    pub(super) fn head(&self) -> Head<'_> {
        match &self.end {
            None => Head::Whole(&self.start),
            Some(end) if self.middle.is_empty() && end.is_empty() => Head::Start(&self.start),
            Some(_) => Head::Within(&self.start),
        }
    }

    /// Whether a text is one of these; takes time linear in the text and the wildcard.
    pub(super) fn matches(&self, text: &str) -> bool {
        let Some(end) = &self.end else {
            return text == &*self.start;
        };
        let Some(rest) = text.strip_prefix(&*self.start) else {
            return false;
        };
        let Some(mut rest) = rest.strip_suffix(&**end).map(str::as_bytes) else {
            return false;
        };
        for part in &self.middle {
            let Some(at) = part.find(rest) else {
                return false;
            };
            rest = &rest[at + part.needle().len()..];
        }
        true
    }
}

fn push(parts: &mut [String], c: char) {
    if let Some(part) = parts.last_mut() {
        part.push(c);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(wildcard: &str, text: &str) -> bool {
        Wildcard::parse(wildcard).unwrap().matches(text)
    }

    #[test]
    fn an_asterisk_takes_any_characters() {
        for (wildcard, text, is) in [
            ("*", "", true),
            ("*", "anything", true),
            ("", "", true),
            ("", "a", false),
            ("a*", "a", true),
            ("*a", "ba", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*/bin/*.jar", "/usr/bin/x.jar", true),
            ("*/bin/*.jar", "/bin/.jar", true),
            ("*/bin/*.jar", "/bin.jar", false),
            ("*ab*ab*", "abab", true),
            ("*ab*ab*", "aab", false),
            (r"\*", "*", true),
            (r"\*", "a", false),
            (r"a\\*b", r"a\xb", true),
            ("é*", "één", true),
        ] {
            assert_eq!(matches(wildcard, text), is, "{wildcard} and {text}");
        }
    }

    #[test]
    fn what_stands_for_nothing_is_refused() {
        for wildcard in ["a**b", "**", r"a\b", r"a\"] {
            Wildcard::parse(wildcard).unwrap_err();
        }
        assert!(matches(r"*\**", "a*"), "an escaped one behind a wildcard");
    }

    /// By every way to share the characters.
    fn naively(wildcard: &[u8], text: &[u8]) -> bool {
        match wildcard.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|taken| naively(rest, &text[taken..])),
            Some((c, rest)) => text.first() == Some(c) && naively(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn it_is_what_every_way_to_share_the_characters_says(wildcard in "([ab]|\\*){0,8}", text in "[ab]{0,10}") {
            if let Ok(parsed) = Wildcard::parse(&wildcard) {
                prop_assert_eq!(parsed.matches(&text), naively(wildcard.as_bytes(), text.as_bytes()));
            }
        }
    }
}
