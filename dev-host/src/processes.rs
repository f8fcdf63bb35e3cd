//! The processes of a run: their memory, and those that this process started.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};

use crate::wait::{Check, until};

const GONE_LIMIT: Duration = Duration::from_secs(5);
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// The memory of a process in bytes; `None` when it is gone. Where the system tells it apart (Linux), only what is the
/// process's own: the pages of its program's file are the kernel's to take back, and a debug build has many.
pub(crate) fn memory(process: u32) -> Option<u64> {
    own_memory(process).or_else(|| resident_memory(process))
}

fn own_memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = kib.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

fn resident_memory(process: u32) -> Option<u64> {
    let id = Pid::from_u32(process);
    let mut system = System::new();
    let wanted = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[id]), true, wanted);
    system.process(id).map(sysinfo::Process::memory)
}

/// The child of this process whose program's file name contains `name`. The host names a provider's file after the
/// reference of its archive.
pub(crate) fn child(name: &str) -> Option<u32> {
    children()
        .into_iter()
        .find(|child| child.program.contains(name))
        .map(|child| child.id)
}

/// The one child of another process.
pub(crate) fn child_of(parent: u32) -> Option<u32> {
    children_of(parent).into_iter().next().map(|child| child.id)
}

/// Kills a process with SIGKILL.
pub(crate) fn kill(process: u32) -> Result<()> {
    signal(process, Signal::KILL)
}

/// Asks a process to end, with SIGTERM.
pub(crate) fn terminate(process: u32) -> Result<()> {
    signal(process, Signal::TERM)
}

fn signal(process: u32, signal: Signal) -> Result<()> {
    let id = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw);
    let id = id.with_context(|| format!("{process} is no process id"))?;
    rustix::process::kill_process(id, signal).with_context(|| format!("can't signal process {process}"))
}

/// Waits until this process has no children, and kills those that stay.
pub(crate) async fn no_children_left() -> Result<()> {
    let waited = until("the providers to end", GONE_LIMIT, CHECK_EVERY, async || {
        let left = children();
        Ok(if left.is_empty() {
            Check::Found(())
        } else {
            Check::NotYet(format!("{} left", left.len()))
        })
    });
    if waited.await.is_ok() {
        return Ok(());
    }
    let left = children();
    for child in &left {
        kill(child.id)?;
    }
    let names: Vec<_> = left
        .iter()
        .map(|child| format!("{} ({})", child.program, child.id))
        .collect();
    bail!("these did not end by themselves and were killed: {}", names.join(", "))
}

#[derive(Debug)]
struct Child {
    id: u32,
    program: String,
}

fn children() -> Vec<Child> {
    children_of(std::process::id())
}

fn children_of(parent: u32) -> Vec<Child> {
    let mut system = System::new();
    let wanted = ProcessRefreshKind::nothing()
        .with_exe(UpdateKind::Always)
        .without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, wanted);
    let own = Pid::from_u32(parent);
    let is_child = |process: &&sysinfo::Process| {
        process.parent() == Some(own)
            && process.thread_kind().is_none()
            && process.status() != sysinfo::ProcessStatus::Zombie
    };
    let named = |process: &sysinfo::Process| Child {
        id: process.pid().as_u32(),
        program: process
            .exe()
            .and_then(|path| path.file_name())
            .unwrap_or(process.name())
            .to_string_lossy()
            .into_owned(),
    };
    system.processes().values().filter(is_child).map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_killed_child_has_none() {
        assert!(memory(std::process::id()).expect("own memory") > 1 << 20);
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().expect("a child");
        assert_eq!(child("sleep"), Some(sleeper.id()));
        kill(sleeper.id()).expect("killed");
        sleeper.wait().expect("waited");
        assert_eq!(memory(sleeper.id()), None);
        assert_eq!(child("sleep"), None);
    }
}
