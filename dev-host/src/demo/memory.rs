//! What each process holds at the end.

use super::Story;
use super::checks::Checks;
use crate::nats::NatsServer;
use crate::processes;
use crate::served::ServedBus;
use crate::stack::{KEYVALUE_ARCHIVE, PROVIDER_ARCHIVE, Stack};

/// The provider's memory must stay below this.
const PROVIDER_LIMIT: u64 = 64;
const MEGABYTE: u64 = 1 << 20;
const PROVIDER: &str = "fanout-provider";

/// Megabytes of each process.
pub(super) fn of(story: &Story<'_>) -> Vec<(&'static str, u64)> {
    let bus = story.stack.served_bus();
    let processes = [
        (PROVIDER, processes::child(PROVIDER_ARCHIVE)),
        ("fanout-dev-keyvalue", processes::child(KEYVALUE_ARCHIVE)),
        ("nats-server", story.stack.nats().ok().map(|nats| nats.process())),
        ("host and wadm (this process)", Some(std::process::id())),
        ("the bus", bus.and_then(ServedBus::process)),
        (
            "its nats-server",
            bus.and(story.stack.bus_nats().ok()).map(NatsServer::process),
        ),
    ];
    let measured =
        |(name, process): (&'static str, Option<u32>)| Some((name, processes::memory(process?)?.div_ceil(MEGABYTE)));
    processes.into_iter().filter_map(measured).collect()
}

/// Every process is there, and the provider is small.
pub(super) fn check(checks: &mut Checks, memory: &[(&'static str, u64)], stack: &Stack) {
    if let Some((_, provider)) = memory.iter().find(|(name, _)| *name == PROVIDER) {
        checks.below("MB of fanout-provider", PROVIDER_LIMIT, *provider);
    }
    let processes = if stack.served_bus().is_some() { 6 } else { 4 };
    checks.equal("processes measured", processes, memory.len());
}
