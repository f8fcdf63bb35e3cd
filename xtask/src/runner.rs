//! Runs one command after the other, says what and when, and ends with them when asked to.
//!
//! Each command is a process group of its own, so that a signal to this process, from a terminal or not, reaches the
//! command and everything it started exactly once: through the thread that listens here.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The runner.
#[derive(Debug)]
pub(crate) struct Runner {
    started: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The group of the command that runs now.
    group: Option<Pid>,
    /// The first signal that asked for the end.
    interrupted_by: Option<u8>,
}

impl Runner {
    /// Listens for signals from now on.
    pub(crate) fn start() -> Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("can't listen for signals")?;
        let heard = Arc::clone(&state);
        std::thread::spawn(move || {
            for signal in signals.forever() {
                lock(&heard).interrupt(signal);
            }
        });
        Ok(Self {
            started: Instant::now(),
            state,
        })
    }

    /// Says what is done next.
    pub(crate) fn step(&self, what: impl AsRef<str>) {
        // Whoever read it may be gone, which is no reason to leave the work.
        let seconds = self.started.elapsed().as_secs_f64();
        drop(writeln!(std::io::stderr(), "{seconds:7.1} s  {}", what.as_ref()));
    }

    /// The signal that ended this run, if one did.
    pub(crate) fn interrupted_by(&self) -> Option<u8> {
        lock(&self.state).interrupted_by
    }

    /// Runs a command whose output is for the user.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        let mut child = self.spawn(command)?;
        let status = child.wait();
        self.ended();
        let status = status.with_context(|| format!("can't wait for {}", line(command)))?;
        if !status.success() {
            bail!("{} ended with {status}", line(command));
        }
        Ok(())
    }

    /// Runs a command and returns what it printed; what it says on standard error is for the user.
    pub(crate) fn read(&self, command: &mut Command) -> Result<String> {
        let Output { status, stdout, .. } = self.output(command.stderr(Stdio::inherit()))?;
        if !status.success() {
            bail!("{} ended with {status}", line(command));
        }
        String::from_utf8(stdout).with_context(|| format!("{} printed something that is not text", line(command)))
    }

    /// Runs a command and returns all of what came of it.
    pub(crate) fn output(&self, command: &mut Command) -> Result<Output> {
        let child = self.spawn(command.stdout(Stdio::piped()))?;
        let output = child.wait_with_output();
        self.ended();
        output.with_context(|| format!("can't wait for {}", line(command)))
    }

    /// Becomes a command. Returns only if that fails.
    pub(crate) fn become_command(&self, command: &mut Command) -> Result<()> {
        self.check_interrupted()?;
        let error = command.exec();
        Err(error).with_context(|| format!("can't run {}", line(command)))
    }

    fn spawn(&self, command: &mut Command) -> Result<Child> {
        let mut state = lock(&self.state);
        if state.interrupted_by.is_some() {
            bail!("interrupted");
        }
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("can't run {}", line(command)))?;
        state.group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok(child)
    }

    fn ended(&self) {
        lock(&self.state).group = None;
    }

    fn check_interrupted(&self) -> Result<()> {
        match self.interrupted_by() {
            Some(_) => bail!("interrupted"),
            None => Ok(()),
        }
    }
}

impl State {
    /// The first signal is passed on, so that cargo and the tests can end in order. A second one kills.
    fn interrupt(&mut self, signal: i32) {
        let passed_on = match (self.interrupted_by, signal) {
            (Some(_), _) => Signal::KILL,
            (None, SIGTERM) => Signal::TERM,
            (None, _) => Signal::INT,
        };
        self.interrupted_by.get_or_insert(u8::try_from(signal).unwrap_or(0));
        match self.group {
            // An error means that the group is gone already, which is what was wanted.
            Some(group) => kill_process_group(group, passed_on).unwrap_or_default(),
            None => std::process::exit(128 + signal),
        }
    }
}

/// A panic elsewhere does not make the state unusable: it is two plain values.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_prints_is_read_and_its_failure_is_named() {
        let runner = Runner::start().unwrap();
        assert_eq!(runner.read(Command::new("echo").arg("hello")).unwrap(), "hello\n");
        let error = runner.run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "sh -c exit 3 ended with exit status: 3");
        let error = runner.run(&mut Command::new("/nonexistent/tool")).unwrap_err();
        assert_eq!(error.to_string(), "can't run /nonexistent/tool");
    }
}
