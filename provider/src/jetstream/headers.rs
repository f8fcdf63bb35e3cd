//! Values of headers that hold what somebody else wrote. `HeaderMap::insert` panics at a line break in a text and takes any
//! other control character; what goes through here is one line, whatever it was.
//!
//! Attributes of events need none of this: they are percent-encoded ([`fanout_plan::envelope`]).

use async_nats::{HeaderMap, HeaderValue};
use fanout_plan::letter;

/// A text as the value of a header, with a blank for each control character.
pub(crate) fn text(value: &str) -> HeaderValue {
    let one_line: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    HeaderValue::from(one_line)
}

/// Bytes that headers take on the wire.
pub(super) fn header_bytes(headers: &HeaderMap) -> usize {
    let pairs = headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name.as_ref(), value.as_str())));
    letter::wire_bytes(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_line() {
        for (value, kept) in [
            ("a\r\nNats-Rollup: all", "a  Nats-Rollup: all"),
            ("a\0\u{85}\tb", "a   b"),
            ("é", "é"),
        ] {
            assert_eq!(text(value).as_str(), kept);
        }
    }
}
