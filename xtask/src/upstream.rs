//! A mended copy of the one dependency that does not compile as it is published: see `docs/adr/0002`.
//!
//! The copy is made from the very source that the dev host's lock file names and cargo verified, and lives in the
//! target folder. cargo is told of it on the command line (`paths`), which leaves manifest and lock file as they are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::runner::Runner;
use crate::workspace::Workspace;

/// The package, and the line that rustc asks for: without it, "queries overflow the depth limit!".
const PACKAGE: &str = "wasmcloud-host";
const MEND: &str = "#![recursion_limit = \"256\"]\n";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    manifest_path: PathBuf,
}

/// Makes the copy, unless it is there, and returns cargo's arguments to build with it.
pub(crate) fn arguments(workspace: &Workspace, runner: &Runner) -> Result<[String; 2]> {
    let published = find(workspace, runner)?;
    let name = format!("{}-{}", published.name, published.version);
    let copy = workspace.dev_host_target().join("upstream").join(&name);
    if !copy.is_dir() {
        runner.step(format!("mending a copy of {name}"));
        make(&published, &copy)?;
    }
    let path = copy.to_str().context("the target folder's path is not UTF-8")?;
    // A TOML string; JSON's escapes are a subset of TOML's.
    let quoted = serde_json::to_string(path).context("the target folder's path can't be quoted")?;
    Ok(["--config".to_owned(), format!("paths=[{quoted}]")])
}

fn find(workspace: &Workspace, runner: &Runner) -> Result<Package> {
    let mut command = workspace.cargo();
    command
        .args([
            "metadata",
            "--locked",
            "--format-version",
            "1",
            "--filter-platform",
            &host(workspace, runner)?,
        ])
        .arg("--manifest-path")
        .arg(workspace.dev_host_manifest());
    let metadata = runner.read(&mut command)?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("cargo's metadata makes no sense")?;
    let mut packages = metadata.packages.into_iter().filter(|package| package.name == PACKAGE);
    match (packages.next(), packages.next()) {
        (Some(package), None) => Ok(package),
        (None, _) => bail!("the dev host does not depend on {PACKAGE}"),
        (Some(_), Some(_)) => bail!("the dev host depends on several versions of {PACKAGE}"),
    }
}

/// The target that this machine builds for.
pub(crate) fn host(workspace: &Workspace, runner: &Runner) -> Result<String> {
    let version = runner.read(workspace.cargo().arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .context("cargo does not say which target it builds for")
}

/// Made beside its place and then renamed: one that was broken off is never taken for a whole one.
fn make(published: &Package, copy: &Path) -> Result<()> {
    let source = published.manifest_path.parent().context("a package without a folder")?;
    let partial = copy.with_extension("partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial).with_context(|| format!("can't remove {}", partial.display()))?;
    }
    copy_folder(source, &partial)?;
    let root = partial.join("src/lib.rs");
    let text = std::fs::read_to_string(&root).with_context(|| format!("can't read {}", root.display()))?;
    std::fs::write(&root, mended(&text)?).with_context(|| format!("can't write {}", root.display()))?;
    std::fs::rename(&partial, copy).with_context(|| format!("can't make {}", copy.display()))
}

fn mended(text: &str) -> Result<String> {
    if text.contains("recursion_limit") {
        bail!(
            "{PACKAGE} sets a recursion limit itself now: remove xtask/src/upstream.rs and docs/adr/0002's second half"
        );
    }
    Ok(format!("{MEND}{text}"))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("can't copy {} to {}", from.display(), to.display());
    std::fs::create_dir_all(to).with_context(failed)?;
    for entry in std::fs::read_dir(from).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let target = to.join(entry.file_name());
        if entry.file_type().with_context(failed)?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target).with_context(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_goes_first_and_only_once() {
        let text = mended("//! docs\n\n#![warn(missing_docs)]\n").unwrap();
        assert_eq!(
            text,
            "#![recursion_limit = \"256\"]\n//! docs\n\n#![warn(missing_docs)]\n"
        );
        assert!(mended(&text).is_err());
    }

    #[test]
    fn a_copy_is_whole_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("registry/x-1.0.0");
        std::fs::create_dir_all(source.join("src/deep")).unwrap();
        std::fs::write(source.join("Cargo.toml"), "[package]").unwrap();
        std::fs::write(source.join("src/lib.rs"), "mod deep;\n").unwrap();
        std::fs::write(source.join("src/deep/mod.rs"), "// deep\n").unwrap();
        let published = Package {
            name: "x".into(),
            version: "1.0.0".into(),
            manifest_path: source.join("Cargo.toml"),
        };
        let copy = folder.path().join("upstream/x-1.0.0");
        make(&published, &copy).unwrap();
        assert_eq!(
            std::fs::read_to_string(copy.join("src/lib.rs")).unwrap(),
            format!("{MEND}mod deep;\n")
        );
        assert_eq!(
            std::fs::read_to_string(copy.join("src/deep/mod.rs")).unwrap(),
            "// deep\n"
        );
        assert_eq!(
            std::fs::read_to_string(source.join("src/lib.rs")).unwrap(),
            "mod deep;\n"
        );
    }
}
