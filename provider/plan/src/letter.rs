//! How large a message of the store may be, and how a dead letter is made to fit: it is what is left of an event that
//! leaves its subscription, so there is always one that the server takes.
//!
//! What the bus accepts leaves [`RESERVED`] bytes for what is written beside it later, so its letters and retries hold all
//! of it. What another client put on the bus's subjects may fill a message to the brim: then something stays behind, and
//! the letter says so.

use crate::retry::{FailedAttempt, MAX_REASON_BYTES, attempts_within, cut};

/// The most bytes of a message's headers that a stream takes (nats-server 2.15, error 10097).
pub const MAX_HEADERS: usize = 65_535;

/// Bytes of headers, and of a whole message, that an event leaves free for what is written beside it while it waits, is
/// retried, or is a dead letter: names, times, the last reason, and attempts as far as they fit.
pub const RESERVED: usize = 4 << 10;

/// The most bytes of headers of an event that the bus accepts.
pub const MAX_EVENT_HEADERS: usize = MAX_HEADERS - RESERVED;

/// What a letter's reason and attempts may take at the least; the event gives way to them.
const LEAST: usize = 1 << 10;

/// What the names of headers that stay behind may take.
const NAMED: usize = 256;

/// The first line of headers and the empty line behind them.
const FRAME: usize = 12;

/// Bytes of headers on the wire.
pub fn wire_bytes<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> usize {
    let each = headers.into_iter().map(|(name, value)| name.len() + value.len() + 4);
    FRAME + each.sum::<usize>()
}

/// Bytes of headers that a message with so many of payload can have, of which so many are taken.
pub fn headers_left(taken: usize, payload: usize, max_message: usize) -> usize {
    MAX_HEADERS
        .min(max_message.saturating_sub(payload))
        .saturating_sub(taken)
}

/// What of an event its dead letter holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitted {
    /// The headers of the event that are kept, by their place; all of them unless another client wrote it.
    pub headers: Vec<usize>,
    /// Bytes of the payload that are kept, from its first.
    pub payload: usize,
    /// What stays behind, for people; none of an event that the bus accepted.
    pub left_out: Option<String>,
    /// Whether it still is the event: its attributes and its payload are whole.
    pub is_whole: bool,
    /// The last attempt's reason.
    pub reason: String,
    /// The attempts, as many as fit and the last one always.
    pub attempts: Vec<FailedAttempt>,
}

/// Fits an event into a dead letter. `own` is what the letter's other headers take ([`wire_bytes`]), with the names of
/// those for the reason, the attempts and what stays behind.
pub fn fit(
    headers: &[(&str, &str)],
    payload: usize,
    own: usize,
    attempts: &[FailedAttempt],
    max_message: usize,
) -> Fitted {
    let needed = own + LEAST + NAMED;
    let in_headers = headers_left(needed, 0, max_message);
    let beside_payload = headers_left(needed, payload, max_message);
    let size = |i: &usize| wire_bytes([headers[*i]]) - FRAME;
    let is_attribute = |i: &usize| headers[*i].0.to_ascii_lowercase().starts_with(crate::envelope::PREFIX);
    let mut kept: Vec<usize> = (0..headers.len()).collect();
    let mut total: usize = kept.iter().map(size).sum();
    // What is no attribute goes first, then the end of the payload, then attributes; and the largest before others.
    let mut by_worth = kept.clone();
    by_worth.sort_by_key(|i| (is_attribute(i), std::cmp::Reverse(size(i))));
    let mut left: Vec<usize> = Vec::new();
    for i in by_worth {
        if total > if is_attribute(&i) { in_headers } else { beside_payload } {
            total -= size(&i);
            left.push(i);
        }
    }
    let kept_payload = payload.min(max_message.saturating_sub(needed + total));
    kept.retain(|i| !left.contains(i));
    let is_whole = kept_payload == payload && !left.iter().any(is_attribute);
    let left_out = (kept_payload < payload || !left.is_empty()).then(|| {
        let cut_payload = (kept_payload < payload).then(|| format!("{} bytes of payload", payload - kept_payload));
        let names = left.iter().map(|i| headers[*i].0.to_owned());
        let mut all = cut_payload.into_iter().chain(names).collect::<Vec<_>>().join(", ");
        all.truncate(cut(&all, NAMED));
        all
    });
    let said = left_out.as_ref().map_or(0, String::len);
    let free = headers_left(own + total + said, kept_payload, max_message);
    let mut reason = attempts.last().map_or_else(String::new, |a| a.reason.clone());
    reason.truncate(cut(&reason, MAX_REASON_BYTES.min(free / 4)));
    let attempts = attempts_within(attempts, free.saturating_sub(reason.len()));
    Fitted {
        headers: kept,
        payload: kept_payload,
        left_out,
        is_whole,
        reason,
        attempts,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the bus's own headers of a letter take at the most: a subscription's name, a position, a time, and names.
    const OWN: usize = 700;

    fn attempts(n: u32, reason: usize) -> Vec<FailedAttempt> {
        let attempt = |attempt| FailedAttempt {
            attempt,
            at: "2026-11-28T16:00:00.000000000Z".into(),
            reason: "é".repeat(reason / 2),
            late: None,
        };
        (1..=n).map(attempt).collect()
    }

    fn headers(sizes: &[(bool, usize)]) -> Vec<(String, String)> {
        let header = |(i, (is_attribute, size)): (usize, &(bool, usize))| {
            let prefix = if *is_attribute { "ce-x" } else { "x-" };
            (format!("{prefix}{i}"), "v".repeat(*size))
        };
        sizes.iter().enumerate().map(header).collect()
    }

    fn pairs(headers: &[(String, String)]) -> Vec<(&str, &str)> {
        headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect()
    }

    /// Bytes of the letter's headers, and of all of it.
    fn letter(fitted: &Fitted, headers: &[(&str, &str)]) -> (usize, usize) {
        let event = wire_bytes(fitted.headers.iter().map(|i| headers[*i])) - FRAME;
        let attempts = serde_json::to_string(&fitted.attempts).unwrap().len();
        let said = fitted.left_out.as_ref().map_or(0, String::len);
        let all = OWN + event + attempts + fitted.reason.len() + said;
        (all, all + fitted.payload)
    }

    proptest! {
        #[test]
        fn what_the_bus_accepts_is_whole_in_its_letter_and_its_retry(
            sizes in proptest::collection::vec((any::<bool>(), 0usize..3_072), 1..43),
            (n, reason) in (1u32..1_000, 0usize..=MAX_REASON_BYTES),
            (max_message, below) in (64usize << 10..8 << 20, 0usize..4_096),
        ) {
            let headers = headers(&sizes);
            let headers = pairs(&headers);
            let event = wire_bytes(headers.iter().copied());
            prop_assume!(event <= MAX_EVENT_HEADERS && event + RESERVED + below <= max_message);
            let payload = max_message - RESERVED - below - event;
            let attempts = attempts(n, reason);
            let fitted = fit(&headers, payload, OWN, &attempts, max_message);
            prop_assert!(fitted.is_whole && fitted.left_out.is_none());
            prop_assert_eq!((fitted.headers.len(), fitted.payload), (headers.len(), payload));
            prop_assert_eq!(fitted.attempts.last().map(|a| a.attempt), Some(n), "the last attempt is told");
            let (all, message) = letter(&fitted, &headers);
            prop_assert!(all <= MAX_HEADERS && message <= max_message, "{all} {message}");
            // A retry's note has the names and times of a letter, and no reason of its own.
            let room = headers_left(event + OWN, payload, max_message);
            prop_assert!(!attempts_within(&attempts, room).is_empty());
        }

        #[test]
        fn there_is_a_letter_for_whatever_a_message_can_hold(
            sizes in proptest::collection::vec((any::<bool>(), 0usize..65_000), 0..60),
            (n, reason) in (1u32..100, 0usize..=MAX_REASON_BYTES),
            (max_message, full) in (16usize << 10..2 << 20, any::<bool>()),
            part in 0usize..2 << 20,
        ) {
            let headers = headers(&sizes);
            let headers = pairs(&headers);
            let payload = if full { max_message } else { part.min(max_message) };
            let fitted = fit(&headers, payload, OWN, &attempts(n, reason), max_message);
            let (all, message) = letter(&fitted, &headers);
            prop_assert!(all <= MAX_HEADERS && message <= max_message, "{all} {message}");
            prop_assert_eq!(fitted.attempts.last().map(|a| a.attempt), Some(n));
            let lost = fitted.payload < payload || fitted.headers.len() < headers.len();
            prop_assert_eq!(lost, fitted.left_out.is_some(), "what stays behind is said");
        }
    }

    #[test]
    fn attributes_stay_longest() {
        let headers = headers(&[(true, 30_000), (false, 30_000), (true, 20_000), (false, 10)]);
        let fitted = fit(&pairs(&headers), 100, OWN, &attempts(1, 100), 1 << 20);
        assert_eq!((fitted.headers, fitted.is_whole), (vec![0, 2, 3], true));
        assert_eq!(fitted.left_out.as_deref(), Some("x-1"));
    }
}
