//! The provider's memory: at rest, under each load, and after a million events; the server's beside it.

use anyhow::Result;

use crate::case::Size;
use crate::delivery::{Counting, durable};
use crate::load::{batches, singles};
use crate::report::Report;
use crate::world::World;

/// Events of one part of the million.
const PART: usize = 100_000;

pub(crate) async fn run(report: &mut Report, size: Size) -> Result<()> {
    let links = [
        durable("one", "handler", "one"),
        durable("many", "batch-handler", "many"),
    ];
    let world = World::start(None, &[], &links).await;
    let one = Counting::serve(&world, "one").await?;
    let many = Counting::serve(&world, "many").await?;
    let bus = world.ingress.bus();
    let mut looks = Vec::new();
    let mut look = |case: &'static str| -> Result<()> {
        let (provider, server) = (world.provider_memory()?, world.server_memory()?);
        tell!(
            "  {case}: provider {:.0} MiB, nats-server {:.0} MiB",
            provider.now,
            server.now
        );
        looks.push((case, provider, server));
        world.forget_peaks()
    };
    world.forget_peaks()?;
    look("at rest")?;
    let events = size.events(20_000);
    singles(bus, "acme", "one", size.events(4_000), 1).await?;
    look("publishing, 1 caller")?;
    singles(bus, "acme", "s64", events, 64).await?;
    look("publishing, 64 callers")?;
    batches(bus, "acme", "b", events, 250, 4).await?;
    look("publishing, 250 in a call, 4 callers")?;
    one.handle(&world, "one", "one", events).await?;
    look("delivering to a handler, 64 at once")?;
    many.handle(&world, "many", "many", events).await?;
    look("delivering to a batch-handler, 250 in an invocation")?;
    // What it keeps for an event shows only with many.
    if size != Size::Quick {
        for part in 0..10 {
            let handled = many.handled() + PART;
            batches(bus, "many", &format!("million-{part}"), PART, 250, 4).await?;
            many.until(handled).await?;
        }
        look("a million events published and handled")?;
    }
    for (case, provider, _) in &looks {
        report.value("provider, afterwards", case, "MiB", provider.now)?;
    }
    for (case, provider, _) in &looks {
        report.value("provider, at its most", case, "MiB", provider.peak)?;
    }
    for (case, _, server) in &looks {
        report.value("nats-server, afterwards", case, "MiB", server.now)?;
    }
    Ok(())
}
