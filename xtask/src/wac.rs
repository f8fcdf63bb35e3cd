//! `wac`, which composes components: the one named, the one on the path, or one built from its source under `target/tools`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::nats::on_path;
use crate::runner::Runner;
use crate::workspace::Workspace;

/// The variable that names one.
pub(crate) const VARIABLE: &str = "FANOUT_WAC";

const CRATE: &str = "wac-cli";
const VERSION: &str = "0.12.0";

/// Finds one, or builds one: nobody publishes it as a program. It has a lock of its own, since its libraries would change the
/// features of the workspace's.
pub(crate) fn find(workspace: &Workspace, runner: &Runner) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return std::path::absolute(named).context("FANOUT_WAC names no file");
    }
    if let Some(found) = on_path("wac") {
        return Ok(found);
    }
    let installed = workspace.tools().join(format!("{CRATE}-{VERSION}"));
    let wac = installed.join("bin/wac");
    if wac.is_file() {
        return Ok(wac);
    }
    runner.step(format!("building {CRATE} {VERSION} (a minute on two cores)"));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        // What a workspace says of compilers and flags is not its.
        .current_dir(std::env::temp_dir())
        .env_remove("CARGO_TARGET_DIR")
        .args([
            "install",
            "--locked",
            "--quiet",
            "--debug",
            "--no-default-features",
            "--version",
            VERSION,
            CRATE,
            "--root",
        ])
        .arg(&installed);
    runner.run(&mut command).context(
        "install wac (https://github.com/bytecodealliance/wac) and put it on the PATH or name it in FANOUT_WAC",
    )?;
    Ok(wac)
}
