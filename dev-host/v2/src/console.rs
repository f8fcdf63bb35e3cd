//! What a person reads: lines on standard output, with the time since the run began.

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a count is printed.
const SAY_EVERY: Duration = Duration::from_secs(3);

/// Where the lines go.
#[derive(Debug)]
pub(crate) struct Console {
    started: Instant,
}

impl Default for Console {
    fn default() -> Self {
        Self {
            started: Instant::now(),
        }
    }
}

impl Console {
    /// The time since the run began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Prints a line. A reader that has gone away is no reason to leave processes behind, so that is not an error.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        let mut output = std::io::stdout().lock();
        drop(writeln!(output, "{}", text.as_ref()).and_then(|()| output.flush()));
    }

    /// Prints a line with the time since the run began.
    pub(crate) fn timed(&self, text: impl AsRef<str>) {
        self.line(format!("{:6.1} s  {}", self.elapsed().as_secs_f64(), text.as_ref()));
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
}

/// A count that grows.
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
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.elapsed() >= SAY_EVERY {
            *said = Instant::now();
            self.console.timed(format!("{}: {done} of {}", self.label, self.total));
        }
    }
}
