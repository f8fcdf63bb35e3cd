//! The provider's memory: at rest, under each load, and after a million events.

use anyhow::Result;

use crate::case::Size;
use crate::load::{batches, singles};
use crate::report::Report;
use crate::world::World;

pub(crate) async fn run(report: &mut Report, size: Size) -> Result<()> {
    let world = World::start(None, &[], &[]).await;
    let bus = world.ingress.bus();
    let say = |report: &mut Report, case: &str| -> Result<()> {
        let (provider, server) = (world.provider_memory()?, world.server_memory()?);
        report.value("provider", &format!("{case}: now"), "MiB", provider.now)?;
        report.value("provider", &format!("{case}: the most so far"), "MiB", provider.peak)?;
        report.value("nats-server", &format!("{case}: now"), "MiB", server.now)
    };
    say(report, "at rest")?;
    let events = size.events(20_000);
    singles(bus, "acme", "one", size.events(4_000), 1).await?;
    say(report, "1 caller")?;
    singles(bus, "acme", "s64", events, 64).await?;
    say(report, "64 callers")?;
    batches(bus, "acme", "b", events, 250, 4).await?;
    say(report, "250 in a call, 4 callers")?;
    if size == Size::Full {
        for part in 0..10 {
            batches(bus, "acme", &format!("million-{part}"), 100_000, 250, 4).await?;
        }
        say(report, "after a million events")?;
    }
    Ok(())
}
