//! The shape of Stripe's events, as far as the components read it.
//!
//! `{"id": "evt_…", "type": "invoice.paid", "created": 1767225600, "data": {"object": {…}}}`. The id and the type come
//! with the delivery; here is the rest.

use serde_json::Value;
use time::OffsetDateTime;

/// A Stripe event.
#[derive(Clone, Debug, PartialEq)]
pub struct StripeEvent {
    created: Option<OffsetDateTime>,
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
        let mut event: Value = serde_json::from_slice(data).map_err(NotStripe::NotJson)?;
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
    pub fn created(&self) -> Option<OffsetDateTime> {
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

/// A time that RFC 3339 can express: the years 0 to 9999.
fn from_seconds(seconds: i64) -> Option<OffsetDateTime> {
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    if (0..=9999).contains(&time.year()) {
        Some(time)
    } else {
        None
    }
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
        assert_eq!(event.created(), OffsetDateTime::from_unix_timestamp(1_767_225_600).ok());
        assert_eq!(event.text("/customer"), Some("cus_1"));
        assert_eq!(event.integer("/amount_paid"), Some(12));
        assert_eq!(event.text("/e"), None);
        assert_eq!(event.integer("/f"), None);
        assert_eq!(event.integer("/customer"), None);
        assert_eq!(event.text("/nothing/0/there"), None);
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
