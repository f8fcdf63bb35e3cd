//! JSON, read strictly where two readers could see two things, and leniently where none could.
//!
//! - A key that comes twice in an object, at any depth, is refused: which of the two a consumer sees depends on its reader.
//!   Keys are compared as they are meant: `"a"` and `"\u0061"` are one key.
//! - A byte order mark in front is skipped.
//! - A string that is no Unicode text (a lone surrogate, bytes that are no UTF-8) is no reason to refuse the document: it
//!   is a string without a text, and only who asks for its text is given nothing.
//! - A whole number is its digits, however many.
//!
//! The grammar is that of RFC 8259 and nothing beyond it. Depth and number of values are bounded.

use std::collections::BTreeMap;

use crate::document::{Kind, Node, Unreadable};

/// The deepest nesting.
pub(crate) const MAX_DEPTH: u32 = 128;
/// The most values in one document: some 40 bytes of memory for each.
pub(crate) const MAX_VALUES: u32 = 1_000_000;

/// Reads a document. `start` is where it begins in `bytes`; spans count from the beginning of `bytes`.
pub(crate) fn read(bytes: &[u8], start: usize) -> Result<Node, Unreadable> {
    let mut reader = Reader {
        bytes,
        at: start,
        values: 0,
    };
    let node = reader.value(0)?;
    reader.blanks();
    if reader.at == bytes.len() {
        Ok(node)
    } else {
        Err(reader.no_json())
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    values: u32,
}

impl Reader<'_> {
    fn no_json(&self) -> Unreadable {
        Unreadable::NoJson { at: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Takes one byte if it is this one.
    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), Unreadable> {
        if self.take(byte) { Ok(()) } else { Err(self.no_json()) }
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: u32) -> Result<Node, Unreadable> {
        if depth > MAX_DEPTH {
            return Err(Unreadable::TooDeep { max: MAX_DEPTH });
        }
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(Unreadable::TooMany { max: MAX_VALUES });
        }
        self.blanks();
        let start = self.at;
        let kind = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Kind::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word(b"true")?,
            Some(b'f') => self.word(b"false")?,
            Some(b'n') => self.word(b"null")?,
            _ => return Err(self.no_json()),
        };
        Ok(Node {
            kind,
            span: start..self.at,
        })
    }

    fn object(&mut self, depth: u32) -> Result<Kind, Unreadable> {
        self.expect(b'{')?;
        self.blanks();
        let mut fields = BTreeMap::new();
        if self.take(b'}') {
            return Ok(Kind::Object(fields));
        }
        loop {
            self.blanks();
            let key_at = self.at;
            let key = self.string()?;
            self.blanks();
            self.expect(b':')?;
            let value = self.value(depth + 1)?;
            if fields.insert(key, value).is_some() {
                return Err(Unreadable::KeyTwice { at: key_at });
            }
            self.blanks();
            if self.take(b'}') {
                return Ok(Kind::Object(fields));
            }
            self.expect(b',')?;
        }
    }

    fn list(&mut self, depth: u32) -> Result<Kind, Unreadable> {
        self.expect(b'[')?;
        self.blanks();
        let mut entries = Vec::new();
        if self.take(b']') {
            return Ok(Kind::List(entries));
        }
        loop {
            entries.push(self.value(depth + 1)?);
            self.blanks();
            if self.take(b']') {
                return Ok(Kind::List(entries));
            }
            self.expect(b',')?;
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<Kind, Unreadable> {
        if self.bytes[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(Kind::Other)
        } else {
            Err(self.no_json())
        }
    }

    fn number(&mut self) -> Result<Kind, Unreadable> {
        let start = self.at;
        self.take(b'-');
        // No number begins with a 0 that is not the whole of it.
        if !self.take(b'0') {
            self.digits()?;
        }
        let whole = self.at;
        if self.take(b'.') {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        if self.at == whole {
            Ok(Kind::Whole(self.bytes[start..whole].into()))
        } else {
            Ok(Kind::Other)
        }
    }

    fn digits(&mut self) -> Result<(), Unreadable> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.no_json()) } else { Ok(()) }
    }

    /// The bytes that a string means: UTF-8 where it is Unicode text, and no UTF-8 where it is not.
    fn string(&mut self) -> Result<Box<[u8]>, Unreadable> {
        self.expect(b'"')?;
        let mut text = Vec::new();
        loop {
            let start = self.at;
            while self
                .peek()
                .is_some_and(|byte| byte >= b' ' && byte != b'"' && byte != b'\\')
            {
                self.at += 1;
            }
            text.extend_from_slice(&self.bytes[start..self.at]);
            if self.take(b'"') {
                return Ok(text.into());
            }
            // Here stands an escape, a control character, or the end.
            self.expect(b'\\')?;
            let escaped = self.peek().ok_or(self.no_json())?;
            self.at += 1;
            match escaped {
                b'"' | b'\\' | b'/' => text.push(escaped),
                b'b' => text.push(8),
                b'f' => text.push(12),
                b'n' => text.push(b'\n'),
                b'r' => text.push(b'\r'),
                b't' => text.push(b'\t'),
                b'u' => self.unit(&mut text)?,
                _ => return Err(self.no_json()),
            }
        }
    }

    /// What follows `\u`, and the second half of a pair.
    fn unit(&mut self, text: &mut Vec<u8>) -> Result<(), Unreadable> {
        let first = self.four_digits()?;
        let mut code = first;
        if (0xd800..0xdc00).contains(&first) && self.bytes[self.at..].starts_with(b"\\u") {
            let before = self.at;
            self.at += 2;
            let second = self.four_digits()?;
            if (0xdc00..0xe000).contains(&second) {
                code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            } else {
                // It stands for itself.
                self.at = before;
            }
        }
        match char::from_u32(code) {
            Some(character) => text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            // A lone surrogate, in the three bytes that it would have if it were a character. No UTF-8 holds them, so
            // that the whole string has no text, and two such strings are equal only if they are the same.
            None => text.extend(surrogate(code)),
        }
        Ok(())
    }

    fn four_digits(&mut self) -> Result<u32, Unreadable> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16 + digit.ok_or(self.no_json())?;
            self.at += 1;
        }
        Ok(code)
    }
}

fn surrogate(code: u32) -> [u8; 3] {
    let six_bits = |shift: u32| u8::try_from((code >> shift) & 0x3f).unwrap_or_default();
    [0xe0 | six_bits(12), 0x80 | six_bits(6), 0x80 | six_bits(0)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn text_at(json: &str, pointer: &str) -> Option<String> {
        let node = read(json.as_bytes(), 0).unwrap_or_else(|error| panic!("{json}: {error}"));
        node.pointer(pointer)?.text().map(str::to_owned)
    }

    #[test]
    fn a_text_or_a_whole_number_is_found() {
        let json = r#"{"a/b": [ {"n": 1.10, "big": 123456789012345678901234567890 }, "x\"\\\/\b\f\n\r\t" ],
            "\u0063": -1, "e": 1e3, "t": true, "": 0, "p": "\ud83d\ude00 é"}"#;
        for (pointer, text) in [
            ("/a~1b/0/big", Some("123456789012345678901234567890")),
            ("/a~1b/1", Some("x\"\\/\u{8}\u{c}\n\r\t")),
            ("/c", Some("-1")),
            ("/", Some("0")),
            ("/p", Some("😀 é")),
            ("/a~1b/0/n", None),
            ("/e", None),
            ("/t", None),
            ("/a~1b/2", None),
            ("/a~1b/00", None),
            ("/a~1b/+0", None),
            ("/c/0", None),
            ("/none", None),
            ("", None),
        ] {
            assert_eq!(text_at(json, pointer).as_deref(), text, "{pointer}");
        }
    }

    #[test]
    fn a_key_that_comes_twice_is_refused_at_any_depth_and_in_any_spelling() {
        for (json, at) in [
            (r#"{"a":1,"a":1}"#, 7),
            (r#"{"a":1,"\u0061":2}"#, 7),
            (r#"[{"x":[{"k":{},"b":0,"k":[]}]}]"#, 21),
            (r#"{"\ud800":1,"\uD800":2}"#, 12),
        ] {
            assert_eq!(read(json.as_bytes(), 0), Err(Unreadable::KeyTwice { at }), "{json}");
        }
        // The same key in two objects is none that comes twice, nor are two broken ones that differ.
        assert!(read(br#"{"a":{"a":1},"b":{"a":2}}"#, 0).is_ok());
        assert!(read(br#"{"\ud800":1,"\ud801":2}"#, 0).is_ok());
    }

    #[test]
    fn a_string_that_is_no_text_disturbs_no_other() {
        for broken in [
            &br#""\ud800""#[..],
            br#""a\udc00b""#,
            br#""\ud800\u0041""#,
            br#""\ude00\ud83d""#,
            b"\"\xff\"",
        ] {
            let json = [&br#"{"broken":"#[..], broken, br#","id":"evt_1"}"#].concat();
            let node = read(&json, 0).unwrap();
            assert_eq!(node.pointer("/id").and_then(Node::text), Some("evt_1"));
            assert_eq!(node.pointer("/broken").map(Node::text), Some(None));
        }
    }

    #[test]
    fn nothing_beyond_the_grammar_is_taken() {
        for json in [
            "",
            " ",
            "{",
            "[",
            "\"",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "{'a':1}",
            "01",
            "-",
            "+1",
            "1.",
            ".5",
            "1e",
            "tru",
            "nulL",
            "[1] 2",
            "\"\n\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud800\\u\"",
            "//",
            "[1 2]",
            "{\"a\" 1}",
            "NaN",
            "\u{feff}1",
        ] {
            let refused = read(json.as_bytes(), 0);
            assert!(
                matches!(refused, Err(Unreadable::NoJson { .. })),
                "{json:?}: {refused:?}"
            );
        }
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let max = MAX_DEPTH as usize;
        assert!(read(nested(max).as_bytes(), 0).is_ok());
        assert_eq!(
            read(nested(max + 1).as_bytes(), 0),
            Err(Unreadable::TooDeep { max: MAX_DEPTH })
        );
        assert!(read("[".repeat(1_000_000).as_bytes(), 0).is_err());
        let many = format!("[{}1]", "1,".repeat(MAX_VALUES as usize - 2));
        assert!(read(many.as_bytes(), 0).is_ok());
        let more = format!("[1,{}", &many[1..]);
        assert_eq!(read(more.as_bytes(), 0), Err(Unreadable::TooMany { max: MAX_VALUES }));
    }

    /// The same tree as serde_json's, scalar by scalar.
    fn same(node: &Node, value: &Value) -> bool {
        match (&node.kind, value) {
            (Kind::Object(fields), Value::Object(expected)) => {
                fields.len() == expected.len()
                    && expected
                        .iter()
                        .all(|(key, value)| fields.get(key.as_bytes()).is_some_and(|node| same(node, value)))
            }
            (Kind::List(entries), Value::Array(expected)) => {
                entries.len() == expected.len() && entries.iter().zip(expected).all(|(node, value)| same(node, value))
            }
            (Kind::Text(_), Value::String(text)) => node.text() == Some(text),
            (Kind::Whole(_), Value::Number(number)) if !number.is_f64() => node.text() == Some(&number.to_string()),
            (Kind::Whole(_) | Kind::Other, Value::Number(number)) => number.is_f64(),
            (Kind::Other, Value::Bool(_) | Value::Null) => true,
            _ => false,
        }
    }

    proptest! {
        /// What another reader takes, this one takes and sees the same in it, unless a key comes twice.
        #[test]
        fn it_sees_what_serde_json_sees(text in r#"[{}\[\]":,a-b0-2eE.+\\u\- \n]{0,24}"#, broken in any::<Vec<u8>>()) {
            for bytes in [text.as_bytes(), &broken] {
                match (serde_json::from_slice::<Value>(bytes), read(bytes, 0)) {
                    (Ok(value), Ok(node)) => prop_assert!(same(&node, &value), "{:?}", bytes),
                    (Ok(_), Err(error)) => prop_assert!(matches!(error, Unreadable::KeyTwice { .. }), "{:?}: {}", bytes, error),
                    (Err(_), _) => {}
                }
            }
        }

        #[test]
        fn what_was_written_is_read(keys in prop::collection::btree_map(".{0,6}", any::<(i64, String)>(), 0..6)) {
            let value: Value = keys.iter().map(|(key, (number, text))| (key.clone(), serde_json::json!([number, {"in": text}]))).collect();
            let json = value.to_string();
            let node = read(json.as_bytes(), 0).unwrap();
            prop_assert!(same(&node, &value), "{}", json);
            prop_assert_eq!(node.span, 0..json.len());
        }
    }
}
