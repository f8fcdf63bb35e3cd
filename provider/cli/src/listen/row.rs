//! A line for each answer, as it comes.

use anyhow::Result;
use fanout_client::Event;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::forward::Answer;
use crate::terminal::{json_line, printable, say};

/// The most characters of an answer that a line shows; `--json` has all that was read.
const MAX_SHOWN: usize = 200;

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was answered with 2xx.
    Acknowledged,
    /// It was not, and comes again by the bus's schedule, or when the program asks for it.
    Retry,
    /// The command ended first: it comes again, untried.
    Released,
    /// There is no bus to tell.
    Replayed,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Retry => "retry",
            Self::Released => "released",
            Self::Replayed => "replayed",
        }
    }
}

/// Prints the names of the columns.
pub(super) fn header(json: bool) -> Result<()> {
    if json {
        return Ok(());
    }
    say!(
        "{:<24} {:<12} {:<20} {:<20} {:>6} {:>6}  OUTCOME",
        "TIME",
        "TENANT",
        "TYPE",
        "ID",
        "STATUS",
        "MS"
    )
}

/// Prints the answer to an event; without an answer, that the event was released.
pub(super) fn print(
    event: &Event,
    attempt: Option<u32>,
    answer: Option<&Answer>,
    outcome: Outcome,
    json: bool,
) -> Result<()> {
    let at = format!("{:.3}", Timestamp::now());
    let status = answer.and_then(|a| a.status).map(|status| status.as_u16());
    let text = answer.map(|a| a.text.as_str());
    if json {
        let (body, error) = match status {
            Some(_) => (text, None),
            None => (None, text),
        };
        let shown: Value = json!({
            "time": at,
            "tenant": event.tenant,
            "type": event.event_type,
            "id": event.id,
            "source": event.source,
            "attempt": attempt,
            "status": status,
            "milliseconds": answer.map(|a| a.milliseconds),
            "outcome": outcome.as_str(),
            "retry_after_ms": answer.and_then(|a| a.retry_after).map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            "answer": body,
            "error": error,
        });
        return say!("{}", json_line(&shown));
    }
    let or_none = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let why = match answer {
        Some(answer) if !answer.is_accepted() && !answer.text.is_empty() => {
            let shown: String = answer.text.chars().take(MAX_SHOWN).collect();
            format!(": {}", printable(&shown))
        }
        _ => String::new(),
    };
    say!(
        "{at:<24} {:<12} {:<20} {:<20} {:>6} {:>6}  {}{why}",
        printable(&event.tenant),
        printable(&event.event_type),
        printable(&event.id),
        or_none(status.map(u64::from)),
        or_none(answer.map(|a| a.milliseconds)),
        outcome.as_str(),
    )
}
