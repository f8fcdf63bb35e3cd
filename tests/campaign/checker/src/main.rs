//! `fanout-campaign-checker HISTORY`: says what breaks a law in a history, and how many lines it read.

use std::io::Write as _;
use std::process::ExitCode;

use fanout_campaign_checker::{History, LAWS, check};

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        return said("usage: fanout-campaign-checker HISTORY.jsonl", 2);
    };
    let read = std::fs::read_to_string(&path)
        .map_err(|e| e.to_string())
        .and_then(|text| History::read(&text));
    let history = match read {
        Ok(history) => history,
        Err(error) => return said(&format!("{path}: {error}"), 2),
    };
    let violations = check(&history);
    let mut text: String = violations.iter().map(|v| format!("{v}\n")).collect();
    text += &format!(
        "{} lines, {} laws, {} violations",
        history.0.len(),
        LAWS.len(),
        violations.len()
    );
    said(&text, u8::from(!violations.is_empty()))
}

/// Whoever read it may be gone.
fn said(text: &str, code: u8) -> ExitCode {
    drop(writeln!(std::io::stdout(), "{text}"));
    ExitCode::from(code)
}
