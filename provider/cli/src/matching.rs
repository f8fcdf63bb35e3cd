//! `match`: an event pattern tried on an event, both in files.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::Result;
use fanout_plan::pattern::{self, Pattern, View};
use fanout_plan::{Attributes, Code, Problem, structured};
use serde_json::json;

use crate::terminal::{json_line, printable, say};

/// The event does not match. It was said already.
#[derive(Debug)]
pub(crate) struct DoesNotMatch;

impl fmt::Display for DoesNotMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the event does not match")
    }
}

impl std::error::Error for DoesNotMatch {}

/// A pattern or an event that is none.
#[derive(Debug)]
pub(crate) struct NotLegal(pub(crate) Problem);

impl fmt::Display for NotLegal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for NotLegal {}

/// The largest file of an event that is read: no bus takes a larger one, and Base64 and escapes make it longer.
const MAX_EVENT_BYTES: u64 = 128 << 20;

/// What some editors write before a text (RFC 8259, 8.1: it may be ignored).
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The event pattern in a file.
pub(crate) fn pattern(path: &Path) -> Result<Pattern> {
    let (most, what) = (pattern::MAX_BYTES as u64, Code::InvalidPattern);
    let bytes = read(path, most, what)?;
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        let message = format!("the event pattern is no UTF-8 from byte {} on", e.valid_up_to() + 1);
        in_file(path, Problem::new(what, message))
    })?;
    text.parse().map_err(|problem| in_file(path, problem).into())
}

/// The event in a file.
pub(crate) fn event(path: &Path) -> Result<(Attributes, Vec<u8>)> {
    let bytes = read(path, MAX_EVENT_BYTES, Code::InvalidAttribute)?;
    let document = bytes.strip_prefix(MARK).unwrap_or(&bytes);
    structured::read_alone(document).map_err(|problem| in_file(path, problem).into())
}

/// What a file holds, of so many bytes at most.
fn read(path: &Path, most: u64, code: Code) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let refused = |message| in_file(path, Problem::new(code, message)).into();
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    // Of a file that is not there an exit code must not say that something in it does not match.
    read.map_err(|error| refused(format!("it can't be read: {error}")))?;
    if bytes.len() as u64 > most {
        return Err(refused(format!("it has more than {most} bytes: no more are taken")));
    }
    Ok(bytes)
}

fn in_file(path: &Path, problem: Problem) -> NotLegal {
    let message = format!("{}: {}", path.display(), problem.message);
    NotLegal(Problem { message, ..problem })
}

pub(crate) fn run(pattern: &Path, event: &Path, json: bool) -> Result<()> {
    let wanted = self::pattern(pattern)?;
    let (attributes, data) = self::event(event)?;
    let mismatches = wanted.explain(View {
        event: attributes.raw(),
        data: &data,
    });
    if json {
        let shown = json!({ "matches": mismatches.is_none(), "mismatches": mismatches.as_deref().unwrap_or_default() });
        say!("{}", json_line(&shown))?;
    } else {
        match &mismatches {
            None => say!("the event matches")?,
            Some(mismatches) => {
                say!("the event does not match")?;
                for mismatch in mismatches {
                    say!("{}", printable(&mismatch.to_string()))?;
                }
            }
        }
    }
    match mismatches {
        None => Ok(()),
        Some(_) => Err(DoesNotMatch.into()),
    }
}
