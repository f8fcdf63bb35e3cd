//! What each process holds at the end.

use super::Story;
use super::checks::Checks;
use crate::stack::Stack;

/// The bus's memory must stay below this.
const BUS_LIMIT: u64 = 64;
const MEGABYTE: u64 = 1 << 20;
const BUS: &str = "the bus";

/// Megabytes of each process.
pub(super) fn of(story: &Story<'_>) -> Vec<(&'static str, u64)> {
    let processes = [
        (BUS, story.stack.bus()),
        ("nats-server", Some(story.stack.nats_process())),
        ("the host", story.stack.host()),
    ];
    let resident = |process: u32| {
        let process = procfs::process::Process::new(i32::try_from(process).ok()?).ok()?;
        process.status().ok()?.vmrss.map(|kibibytes| kibibytes << 10)
    };
    let measured = |(name, process): (&'static str, Option<u32>)| Some((name, resident(process?)?.div_ceil(MEGABYTE)));
    processes.into_iter().filter_map(measured).collect()
}

/// Every process is there, and the bus is small.
pub(super) fn check(checks: &mut Checks, memory: &[(&'static str, u64)], _: &Stack) {
    if let Some((_, bus)) = memory.iter().find(|(name, _)| *name == BUS) {
        checks.below("MB of the bus", BUS_LIMIT, *bus);
    }
    checks.equal("processes measured", 3, memory.len());
}
