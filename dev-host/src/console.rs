//! What a person reads: lines on standard output, with a bar where it is a terminal and plain lines where it is not.
//!
//! Standard error goes to a file: the host, wadm and the providers (which inherit it) write there by the thousand
//! lines. A copy of the original is kept for the one line that says what went wrong.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// How often a bar is drawn anew, and a plain line printed.
const DRAW_EVERY: Duration = Duration::from_millis(100);
const SAY_EVERY: Duration = Duration::from_secs(3);

const BAR_CELLS: usize = 30;
const CLEAR_LINE: &str = "\r\x1b[2K";

/// Where the lines go.
#[derive(Debug)]
pub(crate) struct Console {
    started: Instant,
    errors: Mutex<File>,
    /// Whether bars are drawn.
    draws: bool,
    /// Whether one stands on the last line now.
    drawn: Mutex<bool>,
}

impl Console {
    /// Takes over the standard streams; what is written to standard error from now on goes to `log`.
    pub(crate) fn new(log: &Path) -> Result<Self> {
        let errors = std::io::stderr()
            .as_fd()
            .try_clone_to_owned()
            .context("can't copy standard error")?;
        let file = File::create(log).with_context(|| format!("can't make {}", log.display()))?;
        rustix::stdio::dup2_stderr(&file).context("can't send standard error to the log")?;
        Ok(Self {
            started: Instant::now(),
            errors: Mutex::new(File::from(errors)),
            draws: std::io::stdout().is_terminal(),
            drawn: Mutex::new(false),
        })
    }

    /// The time since the run began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Prints a line. A reader that has gone away is no reason to leave processes behind, so that is not an error.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        self.print(&format!("{}\n", text.as_ref()), false);
    }

    /// Prints a line with the time since the run began.
    pub(crate) fn timed(&self, text: impl AsRef<str>) {
        self.line(format!("{:6.1} s  {}", self.elapsed().as_secs_f64(), text.as_ref()));
    }

    /// Prints a line to the original standard error.
    pub(crate) fn error(&self, text: impl AsRef<str>) {
        if let Ok(mut errors) = self.errors.lock() {
            drop(writeln!(errors, "{}", text.as_ref()));
        }
    }

    /// Starts to count towards `total`.
    pub(crate) fn progress(&self, label: impl Into<String>, total: u64) -> Progress<'_> {
        Progress {
            console: self,
            label: label.into(),
            total,
            said: Mutex::new(Instant::now()),
        }
    }

    /// Prints over a bar that stands there.
    fn print(&self, text: &str, is_bar: bool) {
        let Ok(mut drawn) = self.drawn.lock() else { return };
        let mut output = std::io::stdout().lock();
        if std::mem::replace(&mut *drawn, is_bar) {
            drop(write!(output, "{CLEAR_LINE}"));
        }
        drop(write!(output, "{text}"));
        drop(output.flush());
    }
}

/// A count that grows. Nothing is left of it on a terminal once it is dropped.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    console: &'a Console,
    label: String,
    total: u64,
    said: Mutex<Instant>,
}

impl Progress<'_> {
    /// Says how far it has come, if it is time to.
    pub(crate) fn set(&self, done: u64) {
        let Ok(mut said) = self.said.lock() else { return };
        let every = if self.console.draws { DRAW_EVERY } else { SAY_EVERY };
        if said.elapsed() < every {
            return;
        }
        *said = Instant::now();
        if self.console.draws {
            let bar = bar(&self.label, done, self.total);
            self.console.print(&format!("          {bar}"), true);
        } else {
            self.console.timed(format!("{}: {done} of {}", self.label, self.total));
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.console.print("", false);
    }
}

fn bar(label: &str, done: u64, total: u64) -> String {
    let done = done.min(total);
    let share = if total == 0 { 1.0 } else { done as f64 / total as f64 };
    let full = (share * BAR_CELLS as f64) as usize;
    format!(
        "{}{} {done}/{total} {label}",
        "━".repeat(full),
        "╌".repeat(BAR_CELLS - full.min(BAR_CELLS)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_the_work_is_done() {
        assert_eq!(bar("x", 0, 10), format!("{} 0/10 x", "╌".repeat(30)));
        assert_eq!(bar("x", 5, 10), format!("{}{} 5/10 x", "━".repeat(15), "╌".repeat(15)));
        assert_eq!(bar("x", 12, 10), format!("{} 10/10 x", "━".repeat(30)));
        assert_eq!(bar("x", 0, 0), format!("{} 0/0 x", "━".repeat(30)));
    }
}
