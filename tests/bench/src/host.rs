//! The bus and wasmCloud's own messaging side by side: given to components and published by components in one wasmCloud
//! host, on one server, beside the plain client.
//!
//! The host's own messaging does another job: it stores nothing, and what became of a message it does not learn. What is
//! compared is what it costs to do that job, and the bus's.

mod deliver;
mod latency;
mod orders;
mod publish;
mod world;

use anyhow::Result;

pub(crate) use self::orders::{Orders, add_up};

use crate::case::Size;
use crate::host::world::HostWorld;
use crate::report::Report;

pub(crate) async fn run(report: &mut Report, size: Size) -> Result<()> {
    let world = HostWorld::start().await?;
    deliver::run(report, size, &world).await?;
    latency::run(report, size, &world).await?;
    publish::run(report, size, &world).await
}
