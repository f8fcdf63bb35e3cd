//! What the bus shows of itself to those who watch it: numbers and traces, in the ecosystem's terms.
//!
//! - `instruments`: what is counted where it happens, without a lock; `snapshot`: everything there is to show at one moment.
//! - `families`: the one table of metrics, from which text, OTLP and the page of the documentation are made. `text`: for
//!   Prometheus and OpenMetrics. `push`: by OTLP.
//! - `spans`: traces. `export`: where both go, if anywhere. `logs`: what is logged, in which form.
//!
//! Deliberately absent: names of tenants that no setting names, and anything that grows with events.

mod export;
mod families;
pub(crate) mod instruments;
mod logs;
mod push;
mod snapshot;
pub(crate) mod spans;
mod text;

pub(crate) use export::{AsyncSnapshot, Export};
pub(crate) use instruments::{Histogram, INSTRUMENTS};
pub use logs::{log_as_json, log_to_standard_error};
pub(crate) use snapshot::Snapshot;
pub(crate) use text::{Format, render};
