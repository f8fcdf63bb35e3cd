//! The bus and wasmCloud's own messaging side by side: given to components and published by components in one wasmCloud
//! host, on one server, beside the plain client.
//!
//! The host's own messaging does another job: it stores nothing, and what became of a message it does not learn. What is
//! compared is what it costs to do that job, and the bus's.

mod deliver;
mod latency;
mod publish;
mod world;

use anyhow::Result;

use crate::case::Size;
use crate::host::world::HostWorld;
use crate::report::Report;

pub(crate) async fn run(report: &mut Report, size: Size) -> Result<()> {
    let world = HostWorld::start().await?;
    deliver::run(report, size, &world).await?;
    latency::run(report, size, &world).await?;
    publish::run(report, size, &world).await
}
