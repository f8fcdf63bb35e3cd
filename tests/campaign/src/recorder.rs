//! Writes the history while it happens.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use fanout_campaign_checker::history::{Line, Micros, What};

/// A history that is being written. Its clock is this process's monotonic one.
#[derive(Debug)]
pub(crate) struct Recorder {
    began: Instant,
    /// The wall clock when it began, in nanoseconds since 1970.
    epoch: i64,
    file: Mutex<BufWriter<File>>,
    next: AtomicU64,
}

impl Recorder {
    /// Begins a history.
    pub(crate) fn begin(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("can't write {}", path.display()))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(Self {
            began: Instant::now(),
            epoch: i64::try_from(now.as_nanos())?,
            file: Mutex::new(BufWriter::new(file)),
            next: AtomicU64::new(1),
        })
    }

    /// A number that nothing else has: of a call, a delivery or a fault.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes a line; returns its moment.
    pub(crate) fn tell(&self, by: &str, what: What) -> Micros {
        self.tell_numbered(by, |_| what)
    }

    /// The same for what has a number of its own: lines that are numbered so are in the order of their numbers.
    pub(crate) fn tell_numbered(&self, by: &str, what: impl FnOnce(u64) -> What) -> Micros {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.now();
        let what = what(self.number());
        let line = Line {
            at,
            by: by.to_owned(),
            what,
        };
        // A history that can't be written is found when it is read.
        let written = serde_json::to_writer(&mut *file, &line).map_err(std::io::Error::from);
        drop(written.and_then(|()| file.write_all(b"\n")));
        at
    }

    /// Microseconds since it began.
    pub(crate) fn now(&self) -> Micros {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// How far the machine's wall clock was set since it began, microseconds.
    pub(crate) fn wall_clock_was_set_by(&self) -> Micros {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
        let now = i64::try_from(self.now()).unwrap_or(i64::MAX);
        ((wall - self.epoch) / 1_000 - now).unsigned_abs()
    }

    /// A wall clock's nanoseconds on this clock; 0 for what was before.
    pub(crate) fn at_wall(&self, nanoseconds: i64) -> Micros {
        u64::try_from((nanoseconds - self.epoch) / 1_000).unwrap_or(0)
    }

    /// The wall clock's nanoseconds in so many microseconds.
    pub(crate) fn wall_in(&self, micros: Micros) -> i64 {
        let at = i64::try_from(self.now() + micros).unwrap_or(i64::MAX / 1_000);
        self.epoch + at.saturating_mul(1_000)
    }

    /// Brings all lines to the file.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(file.flush()?)
    }
}
