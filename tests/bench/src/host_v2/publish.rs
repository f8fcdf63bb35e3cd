//! What a component publishes, on orders that come as messages of the host's own.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, timeout};

use super::world::WorldV2;
use crate::case::{Case, Size, in_turns};
use crate::load::raw;
use crate::report::Report;

/// So many single calls in an invocation.
const SINGLES: usize = 20;
/// So many events where a call takes many.
const MANY: usize = 1_000;
const PROBE: Duration = Duration::from_secs(5);
const READY_LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn run(report: &mut Report, size: Size, world: &WorldV2) -> Result<()> {
    let running = world.deploy("publishes").await?;
    listens(world).await?;
    let (many, few) = (size.events(20_000), size.events(2_000));
    let by_component = |way, events, each, at_once| {
        move |r: usize| {
            let run = format!("{way}-{at_once}-{r}");
            async move { world.orders.of(way, &run, events, each, at_once).await }
        }
    };
    let cases = vec![
        Case::new("async-nats, native, 256 in flight, each acknowledged", |r| {
            let run = format!("raw-{r}");
            async move { raw(&world.js, "acme", &run, many, 256).await }
        }),
        Case::new(
            "v2 host: publish-tenant-event, 1 caller",
            by_component("event", few / 4, SINGLES, 1),
        ),
        Case::new(
            "v2 host: publish-tenant-event, 16 callers",
            by_component("event", few, SINGLES, 16),
        ),
        Case::new(
            "v2 host: publish-tenant-events, 250 in a call, 4 callers",
            by_component("events", many, MANY, 4),
        ),
    ];
    in_turns(report, "published by a component", size, cases, || world.clear()).await?;
    world.end(&running).await
}

/// Waits until the component takes orders.
async fn listens(world: &WorldV2) -> Result<()> {
    let until = Instant::now() + READY_LIMIT;
    loop {
        let why = match timeout(PROBE, world.orders.of("event", "probe", 1, 1, 1)).await {
            Ok(Ok(_)) => return world.clear().await,
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "it did not answer".to_owned(),
        };
        if Instant::now() > until {
            bail!("the component takes no orders: {why}; {}", world.said());
        }
    }
}
