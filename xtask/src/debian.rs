//! Packages of Debian that only tests run, unpacked under `target/tools`: nothing is installed, and nobody has to be root.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::runner::Runner;

/// Unpacks a package into a folder, unless it is there. Says whether it is there now: where there is no apt, or it knows no
/// such package, it is not, and tests go without.
pub(crate) fn unpack(package: &str, folder: &Path, runner: &Runner) -> Result<bool> {
    if folder.is_dir() {
        return Ok(true);
    }
    runner.step(format!("unpacking Debian's {package} into {}", folder.display()));
    // Into a folder beside it and then renamed: one that was broken off is never taken for a whole one.
    let partial = folder.with_extension("partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial).with_context(|| format!("can't remove {}", partial.display()))?;
    }
    std::fs::create_dir_all(&partial).with_context(|| format!("can't make {}", partial.display()))?;
    let mut download = Command::new("apt-get");
    download.args(["download", "--quiet", package]).current_dir(&partial);
    if runner
        .output(download.stderr(Stdio::null()))
        .is_ok_and(|output| output.status.success())
    {
        let archives = std::fs::read_dir(&partial).with_context(|| format!("can't read {}", partial.display()))?;
        for archive in archives {
            let archive = archive.context("can't read a folder")?.path();
            runner.run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&partial))?;
        }
        std::fs::rename(&partial, folder).with_context(|| format!("can't make {}", folder.display()))?;
        return Ok(true);
    }
    runner.step(format!("apt-get can't download {package}: tests go without it"));
    std::fs::remove_dir_all(&partial).with_context(|| format!("can't remove {}", partial.display()))?;
    Ok(false)
}
