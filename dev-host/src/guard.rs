//! Ties a command's life to a pipe: `fanout-dev guard -- CMD...` ends CMD when its own standard input ends.
//!
//! The parent holds the other end of that pipe. The kernel closes it however the parent ends, SIGKILL included, so a
//! guarded command is never left behind. The guard owns the clean-up that a killed parent can't do any more: it
//! removes the run's folder, unless the parent said [`FAREWELL`] first and so does it itself. It deliberately knows
//! nothing about what it runs.

use std::io::Read as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cli::Guard;

/// What a parent writes before it closes the pipe when it ends in order.
pub(crate) const FAREWELL: &[u8] = b".";

/// How often the command is looked at. It delays only the news that the command ended by itself.
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// Runs the command until it ends or standard input does.
pub(crate) fn run(guard: &Guard) -> Result<ExitCode> {
    let (program, arguments) = guard.command.split_first().context("no command to guard")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("can't run {}", program.to_string_lossy()))?;
    let input = watch_input();
    let parent = loop {
        if let Some(status) = child.try_wait().context("can't wait for the guarded command")? {
            let code = u8::try_from(status.code().unwrap_or(1)).unwrap_or(1);
            return Ok(ExitCode::from(code));
        }
        match input.recv_timeout(CHECK_EVERY) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(parent) => break parent,
            Err(mpsc::RecvTimeoutError::Disconnected) => break Parent::Vanished,
        }
    };
    end(&mut child)?;
    if let (Parent::Vanished, Some(folder)) = (parent, &guard.remove) {
        std::fs::remove_dir_all(folder).with_context(|| format!("can't remove {}", folder.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How the parent went.
#[derive(Debug, Clone, Copy)]
enum Parent {
    SaidFarewell,
    Vanished,
}

fn watch_input() -> mpsc::Receiver<Parent> {
    let (ended, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut said = Vec::new();
        let parent = match std::io::stdin().lock().read_to_end(&mut said) {
            Ok(_) if said == FAREWELL => Parent::SaidFarewell,
            _ => Parent::Vanished,
        };
        // The receiver is gone only when the guard is about to exit: nobody is left to tell.
        ended.send(parent).unwrap_or_default();
    });
    receiver
}

/// SIGKILL: what a guarded command stores belongs to the run's folder, which goes with it.
fn end(child: &mut Child) -> Result<()> {
    child.kill().context("can't end the guarded command")?;
    child.wait().context("can't wait for the guarded command")?;
    Ok(())
}
