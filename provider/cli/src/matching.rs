//! `match`: an event pattern tried on an event, both in files.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};
use fanout_plan::pattern::{Pattern, View};
use fanout_plan::{Problem, structured};
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

pub(crate) fn run(pattern: &Path, event: &Path, json: bool) -> Result<()> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("can't read {}", path.display()));
    let named = |path: &Path| {
        let file = path.display().to_string();
        move |problem: Problem| {
            let message = format!("{file}: {}", problem.message);
            NotLegal(Problem { message, ..problem })
        }
    };
    let text = String::from_utf8_lossy(&read(pattern)?).into_owned();
    let wanted: Pattern = text.parse().map_err(named(pattern))?;
    let (attributes, data) = structured::read_alone(&read(event)?).map_err(named(event))?;
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
