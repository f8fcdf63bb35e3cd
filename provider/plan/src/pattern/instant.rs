//! The attribute `time`. The bus writes it in UTC, with no more digits of a second than it needs; a pattern may write the
//! same moment otherwise.

use crate::Timestamp;
use crate::name::shown;

/// How the bus writes a time, for messages.
const WRITTEN: &str = "the bus writes a time like `2026-01-31T12:00:00Z` or `2026-01-31T12:00:00.5Z`, in UTC";

/// What a text that stands for a part of a time may hold.
const OF_A_TIME: &str = "0123456789-:.TZ";

/// A time as the bus writes it.
///
/// # Errors
/// When it is none, so that no event could have it.
pub(super) fn as_the_bus_writes(time: &str) -> Result<String, String> {
    match time.parse::<Timestamp>() {
        Ok(at) => Ok(at.to_string()),
        Err(_) => Err(format!(
            "{} is no time of RFC 3339 that an event can have (from 1677 up to 2262), so that nothing would match: {WRITTEN}; for a day, write `{{\"prefix\": \"2026-01-31T\"}}`",
            shown(time)
        )),
    }
}

/// Whether a text can stand in a time as the bus writes it.
///
/// # Errors
/// Says that it can't.
pub(super) fn check_part(part: &str) -> Result<(), String> {
    if part.chars().all(|c| OF_A_TIME.contains(c)) {
        return Ok(());
    }
    Err(format!(
        "{} is no part of any time, so that nothing would match: {WRITTEN}",
        shown(part)
    ))
}
