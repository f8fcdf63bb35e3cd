//! Nanoseconds since the Unix epoch, to and from RFC 3339.

use jiff::Timestamp;

/// RFC 3339 in UTC.
pub fn to_rfc3339(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).map_or_else(|_| String::new(), |t| t.to_string())
}

/// Nanoseconds since the Unix epoch; `None` for what is not RFC 3339 or lies beyond the years 1677 to 2262.
pub fn from_rfc3339(text: &str) -> Option<i64> {
    let at: Timestamp = text.parse().ok()?;
    i64::try_from(at.as_nanosecond()).ok()
}
