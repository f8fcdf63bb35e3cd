//! What a person reads: lines on standard output, with a bar where it is a terminal and plain lines where it is not.
//!
//! Standard error goes to a file: the host, wadm and the providers (which inherit it) write there by the thousand
//! lines. A copy of the original is kept for the one line that says what went wrong.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a count is printed where no bar is drawn.
const SAY_EVERY: Duration = Duration::from_secs(3);

const BAR: &str = "          {bar:30} {pos}/{len} {msg}";

/// Where the lines go.
#[derive(Debug)]
pub(crate) struct Console {
    started: Instant,
    errors: Mutex<File>,
    bars: MultiProgress,
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
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::stdout()),
        })
    }

    /// The time since the run began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Prints a line. A reader that has gone away is no reason to leave processes behind, so that is not an error.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        self.bars.suspend(|| {
            let mut output = std::io::stdout().lock();
            drop(writeln!(output, "{}", text.as_ref()).and_then(|()| output.flush()));
        });
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
        let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style.progress_chars("━━╌"));
        Progress {
            console: self,
            bar: self.bars.add(bar.with_message(label.into())),
            said: Mutex::new(Instant::now()),
        }
    }
}

/// A count that grows. Nothing is left of it on a terminal once it is dropped.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    console: &'a Console,
    bar: ProgressBar,
    said: Mutex<Instant>,
}

impl Progress<'_> {
    /// Says how far it has come, if it is time to.
    pub(crate) fn set(&self, done: u64) {
        self.bar.set_position(done);
        let Ok(mut said) = self.said.lock() else { return };
        if self.bar.is_hidden() && said.elapsed() >= SAY_EVERY {
            *said = Instant::now();
            let total = self.bar.length().unwrap_or_default();
            self.console.timed(format!("{}: {done} of {total}", self.bar.message()));
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
