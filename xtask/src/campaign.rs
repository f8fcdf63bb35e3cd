//! `cargo xtask campaign`: builds the programs, finds what faults need, and becomes the fault campaign.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::runner::Runner;
use crate::workspace::Workspace;
use crate::{build, debian, nats};

/// What gives a program a clock of its own.
const FAKETIME: &str = "libfaketime";

/// `cargo xtask campaign`.
#[derive(Debug, Args)]
pub(crate) struct Campaign {
    /// A commit whose `fanout` instances begin as, for the fault `upgrade-bus`: built once, and kept
    #[arg(long, value_name = "COMMIT")]
    from: Option<String>,
    /// Seed, minutes, faults and more: `cargo xtask campaign -- --help` tells them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Campaign {
    pub(crate) fn run(&self, workspace: &Workspace, runner: &Runner) -> Result<()> {
        let parts = build::programs(workspace, runner, &[])?;
        let mut command = Command::new(workspace.campaign());
        parts.tell(workspace, &mut command);
        // A round goes without what can't be had, and says so.
        if std::env::var_os(nats::OLDER_VARIABLE).is_none()
            && let Ok(older) = nats::older(workspace, runner)
        {
            command.env(nats::OLDER_VARIABLE, older);
        }
        if let Some(library) = faketime(workspace, runner)? {
            command.env("FANOUT_FAKETIME", library);
        }
        if let Some(commit) = &self.from {
            command.env("FANOUT_OLDER", older(commit, workspace, runner)?);
        }
        command
            .current_dir(workspace.root())
            .env("RUST_LOG", "info,fanout_provider::jetstream::moved=debug")
            .args(&self.arguments);
        runner.become_command(&mut command)
    }
}

/// The library that a program's clock is set by.
fn faketime(workspace: &Workspace, runner: &Runner) -> Result<Option<PathBuf>> {
    let folder = workspace.tools().join(FAKETIME);
    if !debian::unpack(FAKETIME, &folder, runner)? {
        return Ok(None);
    }
    // One folder a platform.
    let platforms = std::fs::read_dir(folder.join("usr/lib")).context("Debian's libfaketime has no usr/lib")?;
    let libraries = platforms.filter_map(|platform| Some(platform.ok()?.path().join("faketime/libfaketimeMT.so.1")));
    Ok(libraries.into_iter().find(|library| library.is_file()))
}

/// The command line as it was at a commit.
fn older(commit: &str, workspace: &Workspace, runner: &Runner) -> Result<PathBuf> {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(workspace.root()).args(arguments);
        git
    };
    let hash = runner.read(&mut git(&["rev-parse", "--verify", &format!("{commit}^{{commit}}")]))?;
    let folder = workspace.older().join(hash.trim());
    let program = folder.join("fanout");
    if program.is_file() {
        return Ok(program);
    }
    runner.step(format!("building fanout as it was at {commit} (once; some minutes)"));
    let source = folder.join("source");
    std::fs::create_dir_all(&source).with_context(|| format!("can't make {}", source.display()))?;
    unpack(git(&["archive", hash.trim()]), &source)?;
    let target = folder.join("build");
    let mut cargo = workspace.cargo();
    cargo
        .current_dir(&source)
        .args(["build", "--locked", "--package", "fanout-cli", "--target-dir"])
        .arg(&target);
    runner.run(&mut cargo)?;
    std::fs::rename(target.join("debug/fanout"), &program)
        .with_context(|| format!("can't keep {}", program.display()))?;
    for done in [source, target] {
        std::fs::remove_dir_all(&done).with_context(|| format!("can't remove {}", done.display()))?;
    }
    Ok(program)
}

fn unpack(mut archive: Command, into: &Path) -> Result<()> {
    let mut archive = archive
        .stdout(Stdio::piped())
        .spawn()
        .context("can't run git archive")?;
    let from = archive.stdout.take().context("git archive has no output")?;
    let unpacked = Command::new("tar").arg("-x").current_dir(into).stdin(from).status();
    if !unpacked.context("can't run tar")?.success() || !archive.wait()?.success() {
        bail!("can't unpack the commit into {}", into.display());
    }
    Ok(())
}
