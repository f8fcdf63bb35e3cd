//! Processor time of the load program and of all that it started. A busy machine changes how long a round takes, and much
//! less how much work it is.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use procfs::process::{Stat, all_processes};

use crate::native;

/// Who used it, in the order of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// nats-server.
    Server,
    /// The provider, or `fanout serve`.
    Bus,
    /// The wasmCloud host, with its components.
    Host,
    /// The native program that webhooks are also posted to.
    Native,
    /// The load program and its other processes.
    Programs,
}

impl Part {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Bus => "bus",
            Self::Host => "host",
            Self::Native => "native",
            Self::Programs => "programs",
        }
    }

    /// By the name of the process and of the one that started it. A host names a provider after where it was fetched from.
    fn of(process: &str, parent: &str) -> Self {
        match (process, parent) {
            ("nats-server", _) => Self::Server,
            ("fanout-dev" | "wash", _) => Self::Host,
            (native::PROCESS, _) => Self::Native,
            ("fanout-provider" | "fanout", _) | (_, "fanout-dev") => Self::Bus,
            _ => Self::Programs,
        }
    }
}

/// Seconds of processor time, in steps of the kernel's 10 ms.
pub(crate) type Used = BTreeMap<Part, f64>;

/// What was used since this process began.
pub(crate) fn used() -> Result<Used> {
    let mut processes = Vec::new();
    for process in all_processes().context("look at the processes")? {
        // One that ends meanwhile is none.
        if let Ok(stat) = process.and_then(|process| process.stat()) {
            processes.push(stat);
        }
    }
    let own = i32::try_from(std::process::id())?;
    let per_second = procfs::ticks_per_second() as f64;
    let names: BTreeMap<_, _> = processes.iter().map(|p| (p.pid, p.comm.as_str())).collect();
    let mut used = Used::new();
    for stat in family(&processes, own) {
        let parent = names.get(&stat.ppid).copied().unwrap_or_default();
        *used.entry(Part::of(&stat.comm, parent)).or_default() += (stat.utime + stat.stime) as f64 / per_second;
    }
    Ok(used)
}

/// What was used between two looks.
pub(crate) fn between(before: &Used, after: &Used) -> Used {
    let since = |(part, seconds): (&Part, &f64)| (*part, seconds - before.get(part).unwrap_or(&0.0));
    after.iter().map(since).collect()
}

/// A process with all that descend from it.
fn family(processes: &[Stat], of: i32) -> impl Iterator<Item = &Stat> {
    let mut members = BTreeSet::from([of]);
    loop {
        let before = members.len();
        members.extend(
            processes
                .iter()
                .filter(|p| members.contains(&p.ppid))
                .map(|p| p.pid)
                .collect::<Vec<_>>(),
        );
        if members.len() == before {
            break;
        }
    }
    processes.iter().filter(move |p| members.contains(&p.pid))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn work_of_this_process_counts_as_the_programs() {
        let before = used().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            std::hint::black_box((0..100_000).map(std::hint::black_box).sum::<u64>());
            let since = between(&before, &used().unwrap());
            if since.get(&Part::Programs).is_some_and(|seconds| *seconds > 0.0) {
                return;
            }
            assert!(Instant::now() < deadline, "{since:?}");
        }
    }

    #[test]
    fn a_provider_is_the_bus_whoever_started_it() {
        for (process, parent, part) in [
            ("fanout-provider", "fanout-bench", Part::Bus),
            ("_tmp_cache_bus", "fanout-dev", Part::Bus),
            ("fanout-dev", "fanout-dev", Part::Host),
            ("nats-server", "fanout-dev", Part::Server),
            ("fanout-bench", "cargo", Part::Programs),
        ] {
            assert_eq!(Part::of(process, parent), part, "{process} of {parent}");
        }
    }

    #[test]
    fn a_process_that_was_started_counts() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let all: Vec<_> = all_processes().unwrap().filter_map(|p| p.ok()?.stat().ok()).collect();
        let own = i32::try_from(std::process::id()).unwrap();
        let child_id = i32::try_from(child.id()).unwrap();
        let members: Vec<_> = family(&all, own).map(|p| p.pid).collect();
        assert!(members.contains(&own) && members.contains(&child_id));
        assert!(family(&all, child_id).all(|p| p.pid != own), "a parent is none of them");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
