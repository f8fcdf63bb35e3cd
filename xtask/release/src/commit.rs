//! The commit that is released: what it is called, and when it was made. No other time is written anywhere.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace::read;

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its hash.
    pub revision: String,
    /// When it was made, in seconds since 1970.
    pub seconds: u64,
}

impl Commit {
    /// The commit that is checked out. `SOURCE_DATE_EPOCH`, where it is set, counts before the commit's own time.
    ///
    /// # Errors
    ///
    /// If there is no git repository, or if files differ from the commit and `allow_dirty` is not set.
    pub fn checked_out(root: &Path, allow_dirty: bool) -> Result<Self> {
        let git = |arguments: &[&str]| {
            let mut command = Command::new("git");
            command.arg("-C").arg(root).args(arguments);
            read(&mut command).context("a release is made from a git repository")
        };
        let changed = git(&["status", "--porcelain"])?;
        if !changed.trim().is_empty() && !allow_dirty {
            bail!("these files differ from the commit (--allow-dirty releases them all the same):\n{changed}");
        }
        let said = git(&["log", "-1", "--format=%H %ct"])?;
        let (revision, own) = said.trim().split_once(' ').context("git log has another form")?;
        let chosen = std::env::var("SOURCE_DATE_EPOCH").unwrap_or_else(|_| own.to_owned());
        Ok(Self {
            revision: revision.to_owned(),
            seconds: chosen
                .trim()
                .parse()
                .context("SOURCE_DATE_EPOCH is no number of seconds")?,
        })
    }

    /// Its time as RFC 3339.
    ///
    /// # Errors
    ///
    /// If it lies outside of what a calendar holds.
    pub fn time(&self) -> Result<String> {
        let seconds = i64::try_from(self.seconds).context("the commit's time is out of range")?;
        let time = jiff::Timestamp::from_second(seconds).context("the commit's time is out of range")?;
        Ok(time.to_string())
    }
}
