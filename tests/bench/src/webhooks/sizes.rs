//! How large the ingress is, with each feature and without.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::{named, whole};
use crate::report::Report;

const GROUP: &str = "size of the component";

/// Measures, and makes the table.
pub(super) fn table(report: &mut Report) -> Result<String> {
    let all = size(report, "every feature", "FANOUT_INGRESS_WASM")?;
    let without = size(report, "without paypal", "FANOUT_INGRESS_WITHOUT_PAYPAL_WASM")?;
    let mut table = String::new();
    writeln!(table, "\n| webhook-ingress | bytes |\n|---|---:|")?;
    writeln!(table, "| every feature | {} |", whole(Some(all)))?;
    writeln!(table, "| without `paypal` | {} |", whole(Some(without)))?;
    writeln!(table, "| so `paypal` takes | {} |", whole(Some(all - without)))?;
    Ok(table)
}

fn size(report: &mut Report, case: &str, variable: &str) -> Result<f64> {
    let file = named(variable)?;
    let bytes = std::fs::metadata(&file).with_context(|| format!("can't look at {}", file.display()))?;
    let bytes = bytes.len() as f64;
    report.keep(GROUP, case, "bytes", bytes, None)?;
    Ok(bytes)
}
