//! `match`: an event pattern tried on an event, both in files.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};
use fanout_plan::pattern::{Pattern, View};
use fanout_plan::{Attributes, Problem, structured};
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

/// The event pattern in a file.
pub(crate) fn pattern(path: &Path) -> Result<Pattern> {
    let text = String::from_utf8_lossy(&read(path)?).into_owned();
    text.parse().map_err(|problem| in_file(path, problem).into())
}

/// The event in a file.
pub(crate) fn event(path: &Path) -> Result<(Attributes, Vec<u8>)> {
    structured::read_alone(&read(path)?).map_err(|problem| in_file(path, problem).into())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("can't read {}", path.display()))
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
