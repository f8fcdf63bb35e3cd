//! The stock wasmCloud v2 host, as it is released: webhooks to components on it, deliveries to one, publishes by one, with the bus
//! as `fanout serve` over HTTP. Beside them what a native program of axum and async-nats does on the same server: the limit.

mod deliver;
mod publish;
mod webhooks;
mod world;

use anyhow::Result;

use self::world::WorldV2;
use crate::case::Size;
use crate::report::Report;

pub(crate) async fn run(report: &mut Report, size: Size) -> Result<()> {
    let world = WorldV2::start().await?;
    webhooks::run(report, size, &world).await?;
    deliver::run(report, size, &world).await?;
    publish::run(report, size, &world).await
}
