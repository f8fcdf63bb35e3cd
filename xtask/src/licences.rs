//! Holds the licence of every dependency of both workspaces against the list in `deny.toml`.
//!
//! `deny.toml` is cargo-deny's own, and `cargo deny check` reads it too. This check needs nothing installed and
//! nothing from the network but what a build needs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use spdx::{Expression, ParseMode};

use crate::runner::Runner;
use crate::upstream;
use crate::workspace::{WASM_TARGET, Workspace};

#[derive(Debug, Deserialize)]
struct Deny {
    licenses: Licences,
}

#[derive(Debug, Default, Deserialize)]
struct Licences {
    allow: BTreeSet<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
    #[serde(default)]
    clarify: Vec<Clarification>,
}

#[derive(Debug, Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: BTreeSet<String>,
}

/// What the licence of a crate is whose manifest names none.
#[derive(Debug, Deserialize)]
struct Clarification {
    #[serde(rename = "crate")]
    name: String,
    expression: String,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
}

/// Checks both workspaces.
pub(crate) fn check(workspace: &Workspace, runner: &Runner) -> Result<()> {
    let path = workspace.root().join("deny.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
    let deny: Deny = toml::from_str(&text).with_context(|| format!("{} makes no sense", path.display()))?;
    let host = upstream::host(workspace, runner)?;
    let mut packages = read(workspace, runner, &workspace.root().join("Cargo.toml"), &host)?;
    packages.extend(read(workspace, runner, &workspace.dev_host_manifest(), &host)?);
    let refused = deny.licenses.refused(&packages);
    if !refused.is_empty() {
        let lines: Vec<_> = refused.into_iter().collect();
        bail!(
            "{} does not allow the licences of:\n  {}",
            path.display(),
            lines.join("\n  ")
        );
    }
    runner.step(format!("{} packages, all under allowed licences", packages.len()));
    Ok(())
}

type Packages = BTreeMap<(String, String), Option<String>>;

fn read(workspace: &Workspace, runner: &Runner, manifest: &Path, host: &str) -> Result<Packages> {
    let mut command = workspace.cargo();
    command
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(["--filter-platform", host, "--filter-platform", WASM_TARGET])
        .arg("--manifest-path")
        .arg(manifest);
    let metadata = runner.read(&mut command)?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("cargo's metadata makes no sense")?;
    let packages = metadata.packages.into_iter();
    Ok(packages
        .map(|package| ((package.name, package.version), package.license))
        .collect())
}

impl Licences {
    fn refused(&self, packages: &Packages) -> BTreeSet<String> {
        let allows = |name: &str, licence: &str| {
            let exceptions = self.exceptions.iter().filter(|exception| exception.name == name);
            let allowed = exceptions.flat_map(|exception| &exception.allow).chain(&self.allow);
            is_fulfilled(licence, &allowed.map(String::as_str).collect())
        };
        let clarified = |name: &str| self.clarify.iter().find(|clarification| clarification.name == name);
        let refused = packages.iter().filter_map(|((name, version), given)| {
            let licence = given
                .as_deref()
                .or_else(|| clarified(name).map(|found| found.expression.as_str()));
            match licence {
                Some(licence) if allows(name, licence) => None,
                Some(licence) => Some(format!("{name} {version}: {licence}")),
                None => Some(format!("{name} {version}: none given")),
            }
        });
        refused.collect()
    }
}

/// True when the licences in `allowed` are enough to fulfil an expression of a manifest, such as `MIT OR Apache-2.0` or the
/// old `MIT/Apache-2.0`; false too when it is no expression.
fn is_fulfilled(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let parsed = Expression::parse_mode(expression, ParseMode::LAX);
    parsed.is_ok_and(|parsed| parsed.evaluate(|licence| allowed.contains(licence.to_string().as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_fulfilled_by_what_is_allowed() {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"].into();
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("MIT OR GPL-3.0-only", true),
            ("GPL-3.0-only/MIT", true),
            ("MIT AND GPL-3.0-only", false),
            ("(MIT OR GPL-3.0-only) AND Unicode-3.0", true),
            ("GPL-3.0-only OR MIT AND BSL-1.0", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("MIT WITH LLVM-exception", false),
            ("", false),
            ("MIT OR", false),
            ("(MIT", false),
            ("MIT Apache-2.0", false),
        ] {
            assert_eq!(is_fulfilled(expression, &allowed), expected, "{expression}");
        }
    }

    #[test]
    fn an_exception_holds_for_its_crate_alone() {
        let deny: Deny = toml::from_str(
            r#"
            [licenses]
            allow = ["MIT"]
            exceptions = [{ crate = "special", allow = ["MPL-2.0"] }]
            [[licenses.clarify]]
            crate = "clarified"
            expression = "MIT"
            license-files = []
            "#,
        )
        .unwrap();
        let package =
            |name: &str, licence: Option<&str>| ((name.to_owned(), "1.0.0".to_owned()), licence.map(str::to_owned));
        let packages = Packages::from([
            package("plain", Some("MIT")),
            package("special", Some("MPL-2.0")),
            package("other", Some("MPL-2.0")),
            package("silent", None),
            package("clarified", None),
        ]);
        let refused = deny.licenses.refused(&packages);
        assert_eq!(
            refused.into_iter().collect::<Vec<_>>(),
            ["other 1.0.0: MPL-2.0", "silent 1.0.0: none given"]
        );
    }
}
