//! Keys of components as keys of NATS KV, which takes fewer characters: any other becomes `=` and two hex digits.

use std::fmt::Write as _;

use crate::store::Error;

/// NATS refuses longer subjects than about 4 KB; an escaped key is three times as long at most.
const MAX_KEY_BYTES: usize = 1024;

fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/')
}

/// A dot separates the parts of a subject, and `=` begins an escape: both are escaped as well.
pub(crate) fn encode(key: &str) -> Result<String, Error> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(Error::Other(format!(
            "a key has 1 to {MAX_KEY_BYTES} bytes, not {}",
            key.len()
        )));
    }
    let mut encoded = String::with_capacity(key.len());
    for byte in key.bytes() {
        if plain(byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            write!(encoded, "={byte:02X}").ok();
        }
    }
    Ok(encoded)
}

/// `None` for what [`encode`] never makes: somebody else's key.
pub(crate) fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'=' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    let key = String::from_utf8(bytes).ok()?;
    (encode(&key).ok()? == encoded).then_some(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_key_comes_back_and_no_two_are_one(key in ".{1,40}", other in ".{1,40}") {
            let encoded = encode(&key).expect("a key");
            prop_assert!(encoded.bytes().all(|byte| plain(byte) || byte == b'='), "{}", encoded);
            prop_assert_eq!(decode(&encoded), Some(key.clone()));
            prop_assert_eq!(encode(&other).expect("a key") == encoded, other == key);
        }

        #[test]
        fn nothing_else_is_a_key(encoded in "[-/_=.a-zA-Z0-9]{1,20}") {
            if let Some(key) = decode(&encoded) {
                prop_assert_eq!(encode(&key).expect("a key"), encoded);
            }
        }
    }

    #[test]
    fn a_key_has_a_length() {
        assert!(encode("").is_err());
        assert!(encode(&"x".repeat(MAX_KEY_BYTES)).is_ok());
        assert!(encode(&"x".repeat(MAX_KEY_BYTES + 1)).is_err());
        assert_eq!(encode("lines/acme/evt.1").expect("a key"), "lines/acme/evt=2E1");
    }
}
