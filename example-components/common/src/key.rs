//! Keys that every key-value store accepts.
//!
//! The strictest of the usual stores, NATS, takes `A-Z a-z 0-9 - _ / = .` and no empty part between dots. An id from
//! outside can hold anything, so each segment of a key is escaped as `=XX` for each byte that is not allowed. The escape
//! is reversible: two ids never share a key.

use std::fmt::Write as _;

/// A key of these segments, joined by `/`.
pub fn join(segments: &[&str]) -> String {
    let encoded: Vec<_> = segments.iter().map(|segment| encode(segment)).collect();
    encoded.join("/")
}

/// The prefix that all keys below these segments share.
pub fn prefix(segments: &[&str]) -> String {
    join(segments) + "/"
}

/// The segments of a key that [`join`] made, or nothing if it did not.
pub fn split(key: &str) -> Option<Vec<String>> {
    key.split('/').map(decode).collect()
}

/// Letters, digits, `-` and `_` stand for themselves, and so does a `.` between two of them.
fn encode(segment: &str) -> String {
    let mut encoded = String::with_capacity(segment.len());
    let bytes = segment.as_bytes();
    for (index, &byte) in bytes.iter().enumerate() {
        let plain = match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => true,
            b'.' => index > 0 && index + 1 < bytes.len() && bytes[index - 1] != b'.',
            _ => false,
        };
        if plain {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _written = write!(encoded, "={byte:02X}");
        }
    }
    encoded
}

fn decode(segment: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'=' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            _ => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_readable_where_it_can_be() {
        assert_eq!(join(&["lines", "acme", "evt_1-a.B"]), "lines/acme/evt_1-a.B");
        assert_eq!(join(&["events", "a/b c=d", "é"]), "events/a=2Fb=20c=3Dd/=C3=A9");
        assert_eq!(join(&[".", "..", "a..b", ".a."]), "=2E/=2E=2E/a.=2Eb/=2Ea=2E");
        assert_eq!(prefix(&["lines", "acme"]), "lines/acme/");
    }

    #[test]
    fn what_join_did_not_make_is_not_split() {
        assert_eq!(split("a/=2"), None);
        assert_eq!(split("a/=ZZ"), None);
        assert_eq!(split("a/=FF"), None);
    }

    proptest! {
        #[test]
        fn a_key_is_valid_and_gives_its_segments_back(segments in prop::collection::vec("(?s).{1,12}", 1..4)) {
            let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
            let key = join(&segments);
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_/=.".contains(c);
            prop_assert!(key.chars().all(allowed), "{}", key);
            prop_assert!(!key.split('.').any(str::is_empty), "{}", key);
            prop_assert_eq!(split(&key).unwrap(), segments);
        }

        #[test]
        fn no_key_makes_it_panic(key in any::<String>()) {
            prop_assert!(split(&key).is_none_or(|segments| !segments.is_empty()));
        }
    }
}
