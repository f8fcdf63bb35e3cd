//! A delivery, and why it was not handled, as plain Rust.

use jiff::Timestamp;

/// The part of a delivery that the components look at, borrowed from it.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// The subscription it belongs to.
    pub subscription: &'a str,
    /// Whose event it is.
    pub tenant: &'a str,
    /// What kind of event it is.
    pub event_type: &'a str,
    /// The event's id: with the tenant and the source, the key to be idempotent by.
    pub id: &'a str,
    /// Where the event came from. Two sources may use one id for two events.
    pub source: &'a str,
    /// When it happened, as the producer says: nanoseconds since 1970.
    pub time: Option<i64>,
    /// When the bus stored it: nanoseconds since 1970.
    pub published_at: i64,
    /// True when the event was in the log before its subscription asked for it.
    pub replayed: bool,
    /// The payload.
    pub data: &'a [u8],
}

impl Delivery<'_> {
    /// When it happened, or else when it was stored. The same at each attempt.
    pub fn happened_at(&self) -> Timestamp {
        timestamp(self.time.unwrap_or(self.published_at))
    }

    /// The day on which it happened in UTC, such as `2026-11-22`.
    pub fn day(&self) -> String {
        self.happened_at().strftime("%Y-%m-%d").to_string()
    }
}

/// The time that many nanoseconds after 1970.
pub fn timestamp(nanoseconds: i64) -> Timestamp {
    // Nanoseconds in an i64 reach from 1677 to 2262, well within what is representable.
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Why a delivery was not handled, and what should come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Try again by the bus's schedule.
    Retry(String),
    /// Never try again: set the event aside.
    DeadLetter(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_is_that_of_the_event_in_utc() {
        let day = |time, published_at| {
            let delivery = Delivery {
                subscription: "",
                tenant: "",
                event_type: "",
                id: "",
                source: "",
                time,
                published_at,
                replayed: false,
                data: b"",
            };
            delivery.day()
        };
        let last_of_2025 = 1_767_225_599_999_999_999;
        assert_eq!(day(Some(last_of_2025), 0), "2025-12-31");
        assert_eq!(day(Some(last_of_2025 + 1), 0), "2026-01-01");
        assert_eq!(day(None, last_of_2025), "2025-12-31");
        assert_eq!(day(Some(-1), 0), "1969-12-31");
        assert_eq!(day(Some(i64::MIN), 0), "1677-09-21");
        assert_eq!(day(Some(i64::MAX), 0), "2262-04-11");
    }
}
