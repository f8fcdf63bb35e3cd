//! Holds the locks of all workspaces against security advisories.
//!
//! `xtask/advisories.toml` is an extract of the RustSec database, dated: the advisories of crates that are in one of the locks. A check
//! needs nothing installed and nothing from the network. `deny.toml` has the exceptions, in the form that
//! `cargo deny check advisories` reads too, each with its reason and the day on which it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};

use crate::runner::Runner;
use crate::workspace::Workspace;

/// The extract, from the workspace's root.
const EXTRACT: &str = "xtask/advisories.toml";

/// Every lock of the project, from the workspace's root.
const LOCKS: [&str; 3] = ["Cargo.lock", "dev-host/Cargo.lock", "tests/fuzz/Cargo.lock"];

const HEAD: &str = "\
# Security advisories of crates that are in a lock of this project: an extract of the RustSec database (its facts alone:
# CC0-1.0). Written by `cargo xtask advisories --from FOLDER`, with a checkout of that database; not by hand.
";

/// `cargo xtask advisories`.
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// A checkout of the RustSec database: write the extract anew from it
    #[arg(long, value_name = "FOLDER", requires = "as_of")]
    from: Option<PathBuf>,
    /// The day of that checkout's last commit, YYYY-MM-DD
    #[arg(long, value_name = "DATE")]
    as_of: Option<String>,
}

impl Update {
    pub(crate) fn run(&self, workspace: &Workspace, runner: &Runner) -> Result<()> {
        if let (Some(from), Some(as_of)) = (&self.from, &self.as_of) {
            let locked = locked(workspace.root())?;
            let extract = Extract::of_database(from, as_of, &locked)?;
            let path = workspace.root().join(EXTRACT);
            let text = toml::to_string(&extract).context("the extract can't be written")?;
            std::fs::write(&path, format!("{HEAD}\n{text}"))
                .with_context(|| format!("can't write {}", path.display()))?;
            runner.step(format!("{} advisories written to {EXTRACT}", extract.advisories.len()));
        }
        check(workspace, runner)
    }
}

/// The advisories of the crates that are used.
#[derive(Debug, Deserialize, Serialize)]
struct Extract {
    /// The day of the database's last commit.
    as_of: String,
    #[serde(default, rename = "advisory")]
    advisories: Vec<Advisory>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Advisory {
    id: String,
    package: String,
    /// `unmaintained`, `unsound`, `notice`; absent for a vulnerability.
    #[serde(skip_serializing_if = "Option::is_none")]
    informational: Option<String>,
    #[serde(default)]
    patched: Vec<VersionReq>,
    #[serde(default)]
    unaffected: Vec<VersionReq>,
}

/// The head of an advisory's file in the database.
#[derive(Debug, Deserialize)]
struct Published {
    advisory: PublishedAdvisory,
    versions: PublishedVersions,
}

#[derive(Debug, Deserialize)]
struct PublishedAdvisory {
    id: String,
    package: String,
    informational: Option<String>,
    withdrawn: Option<String>,
}

#[derive(Debug, Deserialize)]
struct PublishedVersions {
    #[serde(default)]
    patched: Vec<VersionReq>,
    #[serde(default)]
    unaffected: Vec<VersionReq>,
}

#[derive(Debug, Deserialize)]
struct Deny {
    #[serde(default)]
    advisories: Exceptions,
}

#[derive(Debug, Default, Deserialize)]
struct Exceptions {
    #[serde(default)]
    ignore: Vec<Exception>,
}

#[derive(Debug, Deserialize)]
struct Exception {
    id: String,
    /// `until YYYY-MM-DD: why`.
    reason: String,
}

/// Where each version of a crate is locked.
type Locked = BTreeMap<String, BTreeMap<Version, BTreeSet<&'static str>>>;

/// Checks all locks.
pub(crate) fn check(workspace: &Workspace, runner: &Runner) -> Result<()> {
    let today = today()?;
    let as_of = check_at(workspace.root(), &today)?;
    runner.step(format!("no advisory without an exception (as of {as_of})"));
    Ok(())
}

fn check_at(root: &Path, today: &str) -> Result<String> {
    let extract: Extract = read(&root.join(EXTRACT))?;
    let deny: Deny = read(&root.join("deny.toml"))?;
    let found = extract.found(&locked(root)?);
    let problems = deny.advisories.problems(&found, today);
    if !problems.is_empty() {
        bail!(
            "security advisories (as of {}):\n  {}",
            extract.as_of,
            problems.join("\n  ")
        );
    }
    Ok(extract.as_of)
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} makes no sense", path.display()))
}

fn locked(root: &Path) -> Result<Locked> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: Version,
    }
    let mut locked = Locked::new();
    for name in LOCKS {
        let lock: Lock = read(&root.join(name))?;
        for package in lock.package {
            let versions = locked.entry(package.name).or_default();
            versions.entry(package.version).or_default().insert(name);
        }
    }
    Ok(locked)
}

impl Extract {
    fn of_database(folder: &Path, as_of: &str, locked: &Locked) -> Result<Self> {
        let mut advisories = Vec::new();
        for name in locked.keys() {
            // Most crates have none, and so no folder.
            let Ok(files) = std::fs::read_dir(folder.join("crates").join(name)) else {
                continue;
            };
            for file in files {
                let path = file
                    .with_context(|| format!("can't list the advisories of {name}"))?
                    .path();
                advisories.extend(Advisory::read(&path)?);
            }
        }
        advisories.sort_by(|a, b| (&a.package, &a.id).cmp(&(&b.package, &b.id)));
        if advisories.is_empty() {
            bail!(
                "{} holds no advisory: is it a checkout of the RustSec database?",
                folder.display()
            );
        }
        Ok(Self {
            as_of: as_of.to_owned(),
            advisories,
        })
    }

    /// What the locks hold that an advisory is about: its id, and a line that says so.
    fn found(&self, locked: &Locked) -> BTreeMap<&str, String> {
        let mut found = BTreeMap::new();
        for advisory in &self.advisories {
            let versions = locked.get(&advisory.package).into_iter().flatten();
            for (version, locks) in versions.filter(|(version, _)| advisory.concerns(version)) {
                let line: &mut String = found.entry(advisory.id.as_str()).or_default();
                let what = advisory.informational.as_deref().unwrap_or("vulnerable");
                let locks: Vec<_> = locks.iter().copied().collect();
                let separator = if line.is_empty() { "" } else { "; " };
                // Writing to a String can't fail.
                write!(
                    line,
                    "{separator}{} {version} is {what} ({})",
                    advisory.package,
                    locks.join(", ")
                )
                .unwrap_or_default();
            }
        }
        found
    }
}

impl Advisory {
    fn read(path: &Path) -> Result<Option<Self>> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("can't read {shown}"))?;
        let head = text
            .strip_prefix("```toml")
            .and_then(|rest| rest.split_once("```"))
            .with_context(|| format!("{shown} does not begin with its facts"))?
            .0;
        let published: Published = toml::from_str(head).with_context(|| format!("{shown} makes no sense"))?;
        let Published { advisory, versions } = published;
        Ok(advisory.withdrawn.is_none().then_some(Self {
            id: advisory.id,
            package: advisory.package,
            informational: advisory.informational,
            patched: versions.patched,
            unaffected: versions.unaffected,
        }))
    }

    fn concerns(&self, version: &Version) -> bool {
        let mut safe = self.patched.iter().chain(&self.unaffected);
        !safe.any(|range| range.matches(version))
    }
}

impl Exceptions {
    /// What has no exception, what has one that is over, and which exceptions nothing needs.
    fn problems(&self, found: &BTreeMap<&str, String>, today: &str) -> Vec<String> {
        let mut problems = Vec::new();
        for (id, line) in found {
            match self.ignore.iter().find(|exception| exception.id == *id) {
                None => problems.push(format!("{id}: {line}")),
                Some(exception) => match exception.until() {
                    None => problems.push(format!(
                        "{id}: the reason of its exception does not begin with `until YYYY-MM-DD: `"
                    )),
                    Some(until) if until < today => {
                        problems.push(format!("{id}: {line}; its exception ended on {until}"));
                    }
                    Some(_) => {}
                },
            }
        }
        let unneeded = self
            .ignore
            .iter()
            .filter(|exception| !found.contains_key(exception.id.as_str()));
        problems
            .extend(unneeded.map(|exception| format!("{}: nothing needs its exception: take it out", exception.id)));
        problems
    }
}

impl Exception {
    /// Dates of this form order as texts do.
    fn until(&self) -> Option<&str> {
        let (date, why) = self.reason.strip_prefix("until ")?.split_once(": ")?;
        let is_date = date.len() == 10
            && date.bytes().enumerate().all(|(i, b)| {
                if i == 4 || i == 7 {
                    b == b'-'
                } else {
                    b.is_ascii_digit()
                }
            });
        (is_date && !why.is_empty()).then_some(date)
    }
}

/// Today in UTC, YYYY-MM-DD.
fn today() -> Result<String> {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .context("the clock stands before 1970")?;
    let date = jiff::Timestamp::from_second(i64::try_from(since.as_secs())?).context("the clock is too far ahead")?;
    Ok(date.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: &str = "2026-01-02";

    fn extract() -> Extract {
        toml::from_str(
            r#"
            as_of = "2026-01-01"
            [[advisory]]
            id = "RUSTSEC-2026-0001"
            package = "holed"
            patched = [">= 1.2.3, < 2.0.0", ">= 2.1.0"]
            unaffected = ["< 1.0.0"]
            "#,
        )
        .unwrap()
    }

    fn locked(version: &str) -> Locked {
        let versions = BTreeMap::from([(version.parse().unwrap(), BTreeSet::from(["Cargo.lock"]))]);
        Locked::from([("holed".to_owned(), versions)])
    }

    fn exceptions(reason: &str) -> Exceptions {
        Exceptions {
            ignore: vec![Exception {
                id: "RUSTSEC-2026-0001".to_owned(),
                reason: reason.to_owned(),
            }],
        }
    }

    #[test]
    fn an_advisory_concerns_what_is_neither_patched_nor_unaffected() {
        for (version, concerned) in [
            ("0.9.0", false),
            ("1.2.2", true),
            ("1.2.3", false),
            ("2.0.0", true),
            ("2.1.0", false),
        ] {
            assert_eq!(
                extract().found(&locked(version)).len(),
                usize::from(concerned),
                "{version}"
            );
        }
    }

    #[test]
    fn an_exception_needs_a_reason_with_a_day_that_has_not_passed() {
        let extract = extract();
        let found = extract.found(&locked("1.0.0"));
        let problems = |exceptions: Exceptions| exceptions.problems(&found, LATER);
        assert_eq!(
            problems(Exceptions::default()),
            ["RUSTSEC-2026-0001: holed 1.0.0 is vulnerable (Cargo.lock)"]
        );
        assert!(problems(exceptions("until 2026-01-02: not reached here")).is_empty());
        assert_eq!(problems(exceptions("until 2026-01-01: not reached here")).len(), 1);
        assert_eq!(problems(exceptions("not reached here")).len(), 1);
        assert_eq!(problems(exceptions("until soon: not reached here")).len(), 1);
    }

    #[test]
    fn an_exception_that_nothing_needs_goes() {
        let extract = extract();
        let found = extract.found(&locked("2.1.0"));
        assert_eq!(exceptions("until 2026-12-31: why").problems(&found, LATER).len(), 1);
    }

    /// As of the extract's own day, so that it fails for a change of the locks and never for a change of the date.
    #[test]
    fn no_lock_of_this_project_has_an_advisory_without_an_exception() {
        let root = Workspace::find().unwrap().root().to_owned();
        let extract: Extract = read(&root.join(EXTRACT)).unwrap();
        check_at(&root, &extract.as_of).unwrap();
    }
}
