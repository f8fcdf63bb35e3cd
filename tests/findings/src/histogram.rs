//! Latencies: recorded in microseconds, read in milliseconds.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// The longest latency that is told apart: longer ones count as this.
const LONGEST_US: u64 = 600_000_000;

/// Latencies with three significant digits.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(hdrhistogram::Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Result<Self> {
        hdrhistogram::Histogram::new_with_bounds(1, LONGEST_US, 3)
            .map(Self)
            .context("a histogram")
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(LONGEST_US);
        self.0.saturating_record(us.clamp(1, LONGEST_US));
    }

    /// Takes in those of another round.
    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        self.0.add(&other.0).context("add up latencies")
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// In milliseconds.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / 1_000.0
    }

    /// In milliseconds.
    pub(crate) fn max(&self) -> f64 {
        self.0.max() as f64 / 1_000.0
    }

    /// For the raw samples.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "count": self.count(), "p50_ms": self.percentile(50.0), "p90_ms": self.percentile(90.0),
            "p99_ms": self.percentile(99.0), "p999_ms": self.percentile(99.9), "max_ms": self.max(),
        })
    }
}
