//! The shape of Stripe's events, as far as the components read it.
//!
//! `{"id": "evt_…", "type": "invoice.paid", "created": 1767225600, "data": {"object": {…}}}`. The id and the type come
//! with the delivery; here is the rest.
//!
//! The payload is as the sender wrote it: a byte order mark before it is passed over, and half of a surrogate pair in a text,
//! which JSON can hold and Unicode can't, is read as U+FFFD. Neither is a reason to lose an event.

use jiff::Timestamp;
use serde_json::Value;

/// A Stripe event.
#[derive(Clone, Debug, PartialEq)]
pub struct StripeEvent {
    created: Option<Timestamp>,
    object: Value,
}

/// Why an event's data is no Stripe event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotStripe {
    /// It is no JSON.
    #[error("the data is no JSON: {0}")]
    NotJson(serde_json::Error),
    /// It is not about an object.
    #[error("the data has no object at data.object")]
    NoObject,
}

impl StripeEvent {
    /// Reads an event's data.
    pub fn parse(data: &[u8]) -> Result<Self, NotStripe> {
        let json = data.strip_prefix(BYTE_ORDER_MARK).unwrap_or(data);
        let mut event: Value = serde_json::from_slice(json)
            .or_else(|error| serde_json::from_slice(&without_lone_surrogates(json)).map_err(|_| error))
            .map_err(NotStripe::NotJson)?;
        let created = event.get("created").and_then(Value::as_i64);
        let object = event
            .pointer_mut("/data/object")
            .filter(|object| object.is_object())
            .map(Value::take);
        Ok(Self {
            created: created.and_then(from_seconds),
            object: object.ok_or(NotStripe::NoObject)?,
        })
    }

    /// When it happened, to the second.
    pub fn created(&self) -> Option<Timestamp> {
        self.created
    }

    /// A text of the object, by JSON pointer, such as `/customer`. An empty one counts as absent.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.object.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
    }

    /// A whole number of the object, by JSON pointer, such as `/amount_paid`.
    pub fn integer(&self, pointer: &str) -> Option<i64> {
        self.object.pointer(pointer)?.as_i64()
    }
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The same JSON, with U+FFFD for each escape of half a surrogate pair.
fn without_lone_surrogates(json: &[u8]) -> Vec<u8> {
    let mut cleaned = json.to_vec();
    let mut at = 0;
    while at + 1 < cleaned.len() {
        // An escaped backslash escapes nothing itself.
        if cleaned[at] != b'\\' {
            at += 1;
        } else if let Some(first) = unit_at(&cleaned, at) {
            let second = unit_at(&cleaned, at + 6);
            let is_pair = HIGH.contains(&first) && second.is_some_and(|second| LOW.contains(&second));
            if !is_pair && (HIGH.contains(&first) || LOW.contains(&first)) {
                cleaned[at + 2..at + 6].copy_from_slice(b"fffd");
            }
            at += if is_pair { 12 } else { 6 };
        } else {
            at += 2;
        }
    }
    cleaned
}

const HIGH: std::ops::Range<u32> = 0xd800..0xdc00;
const LOW: std::ops::Range<u32> = 0xdc00..0xe000;

/// The number in an escape like `\ud83d`.
fn unit_at(json: &[u8], at: usize) -> Option<u32> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    digits.iter().try_fold(0, |unit, byte| Some(unit * 16 + digit(byte)?))
}

/// When the year 0 began, in seconds since 1970.
const YEAR_0_S: i64 = -62_167_219_200;

/// A time that RFC 3339 can express: the years 0 to 9999.
fn from_seconds(seconds: i64) -> Option<Timestamp> {
    Timestamp::from_second(seconds).ok().filter(|_| seconds >= YEAR_0_S)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_object_is_read_by_pointer() {
        let event = StripeEvent::parse(
            br#"{"created": 1767225600, "data": {"object": {"customer": "cus_1", "amount_paid": 12, "e": "", "f": 1.5}}}"#,
        );
        let event = event.unwrap();
        assert_eq!(event.created(), Timestamp::from_second(1_767_225_600).ok());
        assert_eq!(event.text("/customer"), Some("cus_1"));
        assert_eq!(event.integer("/amount_paid"), Some(12));
        assert_eq!(event.text("/e"), None);
        assert_eq!(event.integer("/f"), None);
        assert_eq!(event.integer("/customer"), None);
        assert_eq!(event.text("/nothing/0/there"), None);
    }

    #[test]
    fn a_byte_order_mark_or_half_a_pair_loses_no_event() {
        let event = |note: &str| {
            let data = format!("\u{feff}{{\"data\":{{\"object\":{{\"customer\":\"cus_1\",\"note\":\"{note}\"}}}}}}");
            let event = StripeEvent::parse(data.as_bytes()).unwrap_or_else(|error| panic!("{note}: {error}"));
            assert_eq!(event.text("/customer"), Some("cus_1"));
            event.text("/note").unwrap().to_owned()
        };
        assert_eq!(event("a"), "a");
        assert_eq!(event(r"\ud83d\ude00"), "😀");
        assert_eq!(event(r"\ud83d\ude00\ud83d"), "😀\u{fffd}");
        assert_eq!(event(r"\ude00\uD83Db"), "\u{fffd}\u{fffd}b");
        assert_eq!(event(r"\\ud83d\ud83d"), "\\ud83d\u{fffd}");
    }

    #[test]
    fn what_is_no_event_is_said() {
        assert!(matches!(StripeEvent::parse(b"not json"), Err(NotStripe::NotJson(_))));
        for data in [
            "{}",
            "[]",
            "null",
            r#"{"data": {}}"#,
            r#"{"data": {"object": "cus_1"}}"#,
        ] {
            assert!(
                matches!(StripeEvent::parse(data.as_bytes()), Err(NotStripe::NoObject)),
                "{data}"
            );
        }
    }

    #[test]
    fn a_time_out_of_range_counts_as_absent() {
        for created in [i64::MAX, i64::MIN, -100_000_000_000, 300_000_000_000] {
            let event = format!(r#"{{"created": {created}, "data": {{"object": {{}}}}}}"#);
            assert_eq!(
                StripeEvent::parse(event.as_bytes()).unwrap().created(),
                None,
                "{created}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_data_makes_it_panic(data in any::<Vec<u8>>(), text in r#"[{}\[\]":,a-z0-9]{0,40}"#) {
            prop_assert!(StripeEvent::parse(&data).is_err());
            prop_assert!(StripeEvent::parse(text.as_bytes()).is_err());
        }
    }
}
