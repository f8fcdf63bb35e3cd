//! A line of standard input that settles a delivery.

use std::str::FromStr;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// What a line may say.
pub(super) const EXPECTED: &str = "write `ack TOKEN`, `retry TOKEN [AFTER]` or `dead-letter TOKEN REASON`";

/// What becomes of which delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settlement {
    /// The number that the delivery was printed with. Absent, the only delivery that is in flight is meant.
    pub(super) token: Option<u64>,
    pub(super) verdict: Verdict,
}

/// What becomes of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Ack,
    /// After this time; without one, by the bus's schedule.
    Retry(Option<Duration>),
    /// With this reason, in the words of the line. The bus keeps its first 1,024 bytes.
    DeadLetter(String),
}

impl FromStr for Settlement {
    /// What is wrong and what is expected.
    type Err = String;

    /// A first word of digits alone is always a token: `dead-letter 404 not found` means the delivery 404, and is
    /// refused where there is none, instead of another being settled.
    fn from_str(line: &str) -> Result<Self, String> {
        let (verb, rest) = first_word(line);
        let (word, after) = first_word(rest);
        let is_number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        let (token, rest) = match is_number {
            true => (Some(token(word)?), after),
            false => (None, rest),
        };
        let verdict = match verb {
            "ack" if rest.is_empty() => Verdict::Ack,
            "ack" => return Err(format!("{rest:?} is no token: write `ack TOKEN` and nothing more")),
            "retry" if rest.is_empty() => Verdict::Retry(None),
            "retry" => Verdict::Retry(Some(wait(rest)?)),
            "dead-letter" if rest.is_empty() => {
                return Err("the reason is missing: write `dead-letter TOKEN REASON`".to_owned());
            }
            "dead-letter" => Verdict::DeadLetter(rest.to_owned()),
            _ => return Err(format!("{verb:?} settles nothing: {EXPECTED}")),
        };
        Ok(Self { token, verdict })
    }
}

/// The first word of a text, and what follows it, without the blanks around either.
fn first_word(text: &str) -> (&str, &str) {
    let text = text.trim();
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

fn token(word: &str) -> Result<u64, String> {
    word.parse()
        .map_err(|_| format!("{word} is larger than any token: write the `token` of a delivery that was printed"))
}

/// Days are of 24 hours.
fn wait(text: &str) -> Result<Duration, String> {
    let wait = text.parse::<Span>().ok();
    let wait = wait.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    wait.and_then(|wait| Duration::try_from(wait).ok()).ok_or_else(|| {
        format!("{text:?} is no time to wait: write `retry TOKEN AFTER` with a time such as 500ms, 10s, 5m or 1h30m")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (Option<u64>, Verdict) {
        let Settlement { token, verdict } = line.parse().unwrap_or_else(|e| panic!("{line:?}: {e}"));
        (token, verdict)
    }

    #[test]
    fn a_line_says_what_becomes_of_which_delivery() {
        let after = |ms| Verdict::Retry(Some(Duration::from_millis(ms)));
        let dead = |reason: &str| Verdict::DeadLetter(reason.to_owned());
        for (line, token, verdict) in [
            ("ack 3", Some(3), Verdict::Ack),
            ("  ack\t18446744073709551615 \r", Some(u64::MAX), Verdict::Ack),
            ("ack", None, Verdict::Ack),
            ("retry 3", Some(3), Verdict::Retry(None)),
            ("retry", None, Verdict::Retry(None)),
            ("retry 3 10s", Some(3), after(10_000)),
            ("retry 500ms", None, after(500)),
            ("retry 1h30m", None, after(5_400_000)),
            ("retry 7 2d", Some(7), after(172_800_000)),
            ("retry 7 0s", Some(7), after(0)),
            ("dead-letter 3 no such  customer", Some(3), dead("no such  customer")),
            ("dead-letter no such customer", None, dead("no such customer")),
            ("dead-letter 404 not found", Some(404), dead("not found")),
            ("dead-letter 3rd time", None, dead("3rd time")),
        ] {
            assert_eq!(read(line), (token, verdict), "{line:?}");
        }
    }

    #[test]
    fn what_is_no_settlement_says_what_is_expected() {
        for (line, expected) in [
            ("nack 3", "\"nack\" settles nothing: write `ack TOKEN`"),
            ("3", "\"3\" settles nothing"),
            ("ACK 3", "\"ACK\" settles nothing"),
            ("ack three", "\"three\" is no token"),
            ("ack 3 4", "\"4\" is no token"),
            ("ack -1", "\"-1\" is no token"),
            ("ack 18446744073709551616", "larger than any token"),
            ("retry 3 10", "\"10\" is no time to wait"),
            ("retry 3 -10s", "no time to wait"),
            ("retry 3 soon", "write `retry TOKEN AFTER`"),
            ("retry 3 10s because", "no time to wait"),
            ("dead-letter", "the reason is missing"),
            ("dead-letter 3", "the reason is missing"),
        ] {
            let said = line.parse::<Settlement>().unwrap_err();
            assert!(said.contains(expected), "{line:?}: {said}");
        }
    }
}
