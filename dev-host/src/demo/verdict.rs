//! The end of the story: its numbers, and whether all held that had to.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{Story, table};
use crate::cli::Demo;

impl Story<'_> {
    /// Measures, writes the report that was asked for, and judges. `place` says where all of it ran.
    pub(super) async fn verdict(&mut self, demo: &Demo, ready: Duration, place: &str) -> Result<()> {
        let outcome = table::measure(self).await?;
        if let Some(path) = &demo.report {
            let report = outcome.report(&self.ledger, &self.checks, demo, ready);
            std::fs::write(path, format!("{report:#}\n")).with_context(|| format!("can't write {}", path.display()))?;
        }
        outcome.print(self.console, &self.ledger);
        let off = self.checks.off();
        if off.is_empty() {
            self.console.line(format!(
                "PROVED by {} checks, {place}: {}",
                self.checks.count(),
                table::PROVED
            ));
            return Ok(());
        }
        bail!(
            "{} of {} checks are off:\n  {}",
            off.len(),
            self.checks.count(),
            off.join("\n  ")
        )
    }
}

/// Seconds to a tenth, for a person.
pub(super) fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}
