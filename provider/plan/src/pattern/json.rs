//! The tokens of a JSON text, numbers as they are written. Whether the text is JSON, `serde_json` says first; what is
//! here only goes through a text that is, once, without recursion. Deliberately absent: a tree, and numbers as `f64`,
//! which would lose digits.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// What a text that is no Unicode (half of a surrogate pair, `"\ud800"`) is read as.
const NO_UNICODE: &str = "\u{fffd}";

/// One token. Commas and colons are passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    ObjectStart,
    ObjectEnd,
    ArrayStart,
    ArrayEnd,
    Scalar(Scalar<'a>),
}

/// A value without others in it; the key of a member is one too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    /// As it is written.
    Number(&'a str),
    Text(Cow<'a, str>),
}

/// A text without the byte order mark that some editors write before it (RFC 8259, 8.1: it may be ignored).
pub(super) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Reads a JSON text from its beginning to its end.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    begins: usize,
}

impl<'a> Reader<'a> {
    /// A reader of `text`; takes time linear in it and no memory for what is nested.
    ///
    /// # Errors
    /// Where it is no JSON.
    pub(super) fn new(text: &'a str) -> serde_json::Result<Self> {
        serde_json::from_str::<IgnoredAny>(text)?;
        Ok(Self { text, at: 0, begins: 0 })
    }

    /// The byte at which the last token begins.
    pub(super) fn begins(&self) -> usize {
        self.begins
    }

    /// The text from the byte `from` to the end of the last token.
    pub(super) fn since(&self, from: usize) -> &'a str {
        self.text.get(from..self.at).unwrap_or_default()
    }

    /// The next token; `None` at the end.
    pub(super) fn token(&mut self) -> Option<Token<'a>> {
        let bytes = self.text.as_bytes();
        while matches!(bytes.get(self.at)?, b' ' | b'\t' | b'\n' | b'\r' | b',' | b':') {
            self.at += 1;
        }
        self.begins = self.at;
        let one = |token| (token, self.at + 1);
        let (token, end) = match bytes.get(self.at)? {
            b'{' => one(Token::ObjectStart),
            b'}' => one(Token::ObjectEnd),
            b'[' => one(Token::ArrayStart),
            b']' => one(Token::ArrayEnd),
            b'"' => {
                let (text, end) = self.string()?;
                (Token::Scalar(Scalar::Text(text)), end)
            }
            b'n' => (Token::Scalar(Scalar::Null), self.at + 4),
            b't' => (Token::Scalar(Scalar::Bool(true)), self.at + 4),
            b'f' => (Token::Scalar(Scalar::Bool(false)), self.at + 5),
            _ => {
                let rest = &self.text[self.at..];
                let length = rest
                    .find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'))
                    .unwrap_or(rest.len());
                (Token::Scalar(Scalar::Number(&rest[..length])), self.at + length)
            }
        };
        // A text that `new` took has no other byte; one that had could not hold a reader up for ever.
        self.at = end.max(self.at + 1);
        Some(token)
    }

    /// The string that begins here, and where it ends.
    fn string(&self) -> Option<(Cow<'a, str>, usize)> {
        let inner = self.text.get(self.at + 1..)?;
        let bytes = inner.as_bytes();
        let (mut at, mut escaped) = (0, false);
        loop {
            match bytes.get(at)? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    at += 2;
                }
                _ => at += 1,
            }
        }
        let end = self.at + at + 2;
        if !escaped {
            return Some((Cow::Borrowed(&inner[..at]), end));
        }
        let text = serde_json::from_str(self.text.get(self.at..end)?).unwrap_or_else(|_| NO_UNICODE.to_owned());
        Some((Cow::Owned(text), end))
    }

    /// Passes over what is left of the object or array whose first token was the last.
    pub(super) fn pass_rest(&mut self) {
        let bytes = self.text.as_bytes();
        let mut open = 1_usize;
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.at += 1;
                    while let Some(byte) = bytes.get(self.at) {
                        match byte {
                            b'"' => break,
                            b'\\' => self.at += 2,
                            _ => self.at += 1,
                        }
                    }
                }
                b'{' | b'[' => open += 1,
                b'}' | b']' => open -= 1,
                _ => {}
            }
            self.at += 1;
            if open == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A JSON value that is read and written again by its tokens.
    fn rewritten(text: &str) -> serde_json::Value {
        fn value(reader: &mut Reader<'_>, token: Token<'_>) -> serde_json::Value {
            match token {
                Token::ObjectStart => {
                    let mut members = serde_json::Map::new();
                    while let Some(Token::Scalar(Scalar::Text(key))) = reader.token() {
                        let first = reader.token().unwrap();
                        members.insert(key.into_owned(), value(reader, first));
                    }
                    members.into()
                }
                Token::ArrayStart => {
                    let mut elements = Vec::new();
                    loop {
                        match reader.token().unwrap() {
                            Token::ArrayEnd => return elements.into(),
                            first => elements.push(value(reader, first)),
                        }
                    }
                }
                Token::Scalar(Scalar::Null) => serde_json::Value::Null,
                Token::Scalar(Scalar::Bool(is)) => is.into(),
                Token::Scalar(Scalar::Number(number)) => serde_json::from_str(number).unwrap(),
                Token::Scalar(Scalar::Text(text)) => text.into(),
                end => panic!("{end:?}"),
            }
        }
        let mut reader = Reader::new(text).unwrap();
        let first = reader.token().unwrap();
        let value = value(&mut reader, first);
        assert_eq!(reader.token(), None);
        value
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "[a\\\\\"{}\\[\\]:, é\u{1f600}\n\t]{0,6}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::btree_map("[a\\\\\"]{0,3}", inner, 0..4)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(value in json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            prop_assert_eq!(rewritten(&text.unwrap()), value);
        }

        #[test]
        fn what_is_passed_over_ends_where_it_ends(value in json()) {
            let text = format!("[[{value}], 1]");
            let mut reader = Reader::new(&text).unwrap();
            reader.token();
            reader.token();
            reader.pass_rest();
            prop_assert_eq!(reader.token(), Some(Token::Scalar(Scalar::Number("1"))));
        }
    }

    #[test]
    fn what_is_nested_deep_takes_no_stack() {
        let text = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        let mut reader = Reader::new(&text).unwrap();
        reader.token();
        reader.pass_rest();
        assert_eq!(reader.token(), None);
    }

    #[test]
    fn half_a_surrogate_pair_is_no_text_of_an_event() {
        let mut reader = Reader::new(r#"["\ud800", "\ud83d\ude00"]"#).unwrap();
        reader.token();
        assert_eq!(reader.token(), Some(Token::Scalar(Scalar::Text("\u{fffd}".into()))));
        assert_eq!(reader.token(), Some(Token::Scalar(Scalar::Text("\u{1f600}".into()))));
    }
}
