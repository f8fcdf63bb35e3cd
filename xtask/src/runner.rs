//! Runs one command after the other, says what and when, and ends with them when asked to.
//!
//! Each command is a process group of its own, so that a signal to this process, from a terminal or not, reaches the
//! command and everything it started exactly once: through the thread that listens here.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
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
    /// The groups of the commands that run now: the one that is waited for, and what is built meanwhile.
    groups: Vec<Pid>,
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
        self.ended(&child);
        succeeded(command, status)
    }

    /// Starts a command that gives way to all others for the processor. Its output goes to a file.
    pub(crate) fn start_giving_way(&self, command: &Command, log: PathBuf) -> Result<Beside<'_>> {
        let mut gives_way = Command::new("nice");
        gives_way
            .args(["-n", "19"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => gives_way.env(name, value),
                None => gives_way.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            gives_way.current_dir(folder);
        }
        self.start_beside(gives_way, log)
    }

    /// Starts a command beside others, as their equal. Its output goes to a file.
    pub(crate) fn start_beside(&self, mut command: Command, log: PathBuf) -> Result<Beside<'_>> {
        let out = log
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| File::create(&log))
            .with_context(|| format!("can't write {}", log.display()))?;
        let err = out
            .try_clone()
            .with_context(|| format!("can't write {}", log.display()))?;
        let child = self.spawn(command.stdout(out).stderr(err))?;
        Ok(Beside {
            runner: self,
            child,
            command,
            log,
        })
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
        let group = group(&child);
        let output = child.wait_with_output();
        self.forget(group);
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
        state.groups.extend(group(&child));
        Ok(child)
    }

    fn ended(&self, child: &Child) {
        self.forget(group(child));
    }

    fn forget(&self, ended: Option<Pid>) {
        lock(&self.state).groups.retain(|group| Some(*group) != ended);
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
        if self.groups.is_empty() {
            std::process::exit(128 + signal);
        }
        for group in &self.groups {
            // An error means that the group is gone already, which is what was wanted.
            kill_process_group(*group, passed_on).unwrap_or_default();
        }
    }
}

/// A command that runs beside others. Dropped before its end, it is ended.
#[derive(Debug)]
pub(crate) struct Beside<'a> {
    runner: &'a Runner,
    child: Child,
    command: Command,
    log: PathBuf,
}

impl Beside<'_> {
    /// Waits for its end. If it failed, its output is printed.
    pub(crate) fn wait(mut self) -> Result<()> {
        let ended = self.end();
        if ended.is_err() {
            drop(writeln!(std::io::stderr(), "{}", self.output()));
        }
        ended
    }

    /// Waits for its end, and prints its output.
    pub(crate) fn wait_and_print(mut self) -> Result<()> {
        let ended = self.end();
        drop(writeln!(std::io::stdout(), "{}", self.output()));
        ended
    }

    fn end(&mut self) -> Result<()> {
        let status = self.child.wait();
        succeeded(&self.command, status)
    }

    fn output(&self) -> String {
        let output = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&output).into_owned()
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        if let (Some(group), Ok(None)) = (group(&self.child), self.child.try_wait()) {
            kill_process_group(group, Signal::TERM).unwrap_or_default();
            drop(self.child.wait());
        }
        self.runner.ended(&self.child);
    }
}

fn group(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn succeeded(command: &Command, status: std::io::Result<ExitStatus>) -> Result<()> {
    let status = status.with_context(|| format!("can't wait for {}", line(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", line(command));
    }
    Ok(())
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

    #[test]
    fn what_runs_beside_is_waited_for_or_ended() {
        let folder = tempfile::tempdir().unwrap();
        let runner = Runner::start().unwrap();
        let start = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).env("WORD", "hello");
            runner
                .start_giving_way(&command, folder.path().join("logs/beside.log"))
                .unwrap()
        };
        start("echo $WORD; nice").wait().unwrap();
        let told = std::fs::read_to_string(folder.path().join("logs/beside.log")).unwrap();
        assert_eq!(told, "hello\n19\n");
        // What runs as the equal of others gives way to none, and its failure is told behind its output.
        let mut equal = Command::new("sh");
        equal.args(["-c", "nice; exit 3"]);
        let log = folder.path().join("logs/equal.log");
        let equal = runner.start_beside(equal, log.clone()).unwrap();
        let error = equal.wait_and_print().unwrap_err();
        assert!(error.to_string().ends_with("ended with exit status: 3"), "{error}");
        let own = runner.read(&mut Command::new("nice")).unwrap();
        assert_eq!(std::fs::read_to_string(log).unwrap(), own);
        let error = start("exit 3").wait().unwrap_err();
        assert!(error.to_string().ends_with("ended with exit status: 3"), "{error}");

        let unfinished = start("sleep 600");
        let id = Pid::from_child(&unfinished.child);
        drop(unfinished);
        assert!(rustix::process::test_kill_process(id).is_err(), "it runs on");
        assert!(lock(&runner.state).groups.is_empty());
    }
}
