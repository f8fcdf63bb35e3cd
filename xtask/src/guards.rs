//! `cargo xtask guards`: switches guards of the production code off, one after another, and looks whether the checker of the
//! fault campaign finds it.
//!
//! `tests/campaign/guards.toml` lists them. All are changed in one copy of the source, below the target folder, and built
//! once; a variable of the programs says which is off.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::build;
use crate::runner::Runner;
use crate::workspace::Workspace;

/// The variable that names the guard that is off.
const VARIABLE: &str = "FANOUT_WITHOUT_GUARD";
/// What stands for "this guard is off" in an edit.
const OFF: &str = "OFF";
/// For how long rounds are begun until one finds it.
const MINUTES: &str = "4";

/// `cargo xtask guards`.
#[derive(Debug, Args)]
pub(crate) struct Guards {
    /// The guards to switch off; all if none is named
    names: Vec<String>,
    /// Decides the first round of each
    #[arg(long, default_value = "1")]
    seed: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    guard: Vec<Guard>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Guard {
    name: String,
    /// What it sees to.
    what: String,
    /// The law that is broken without it.
    law: String,
    /// Arguments of the campaign.
    campaign: String,
    ordering: Option<String>,
    edit: Vec<Edit>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    file: String,
    find: String,
    without: String,
}

impl Guards {
    /// Fails if a guard is not missed.
    pub(crate) fn run(&self, workspace: &Workspace, runner: &Runner) -> Result<()> {
        let guards = read(workspace)?;
        if let Some(unknown) = self.names.iter().find(|name| guards.iter().all(|g| g.name != **name)) {
            let known: Vec<_> = guards.iter().map(|guard| guard.name.as_str()).collect();
            bail!("there is no guard {unknown}; there are {}", known.join(", "));
        }
        let parts = build::programs(workspace, runner, &[])?;
        runner.step(format!(
            "building the bus with {} guards that can be switched off",
            guards.len()
        ));
        let programs = build_without(workspace, runner, &guards)?;

        // It runs the programs that lie beside it.
        let program = programs.join("fanout-campaign");
        std::fs::copy(workspace.campaign(), &program).context("can't copy the campaign")?;
        let mut missed = Vec::new();
        let chosen = guards
            .iter()
            .filter(|g| self.names.is_empty() || self.names.contains(&g.name));
        for guard in chosen {
            let campaign = |off: bool| {
                let mut campaign = Command::new(&program);
                parts.tell(workspace, &mut campaign);
                campaign
                    .current_dir(workspace.root())
                    .env("FANOUT_PROVIDER_BIN", programs.join("fanout-provider"))
                    .args(guard.campaign.split_whitespace())
                    .args(guard.ordering.iter().flat_map(|ordering| ["--ordering", ordering]))
                    .args([
                        "--seed",
                        &self.seed.to_string(),
                        "--events",
                        "300",
                        "--shrink",
                        "0",
                        "--out",
                    ])
                    .arg(workspace.guards().join("rounds").join(&guard.name))
                    .stderr(Stdio::piped());
                if off {
                    campaign.env(VARIABLE, &guard.name).args(["--minutes", MINUTES]);
                }
                campaign
            };
            // A law that is broken with every guard in its place says nothing of this one.
            let told = runner.output(&mut campaign(false))?;
            let told = String::from_utf8_lossy(&told.stderr).into_owned();
            let before = violations(&told);
            let without = runner.output(&mut campaign(true))?;
            let without = String::from_utf8_lossy(&without.stderr).into_owned();
            let broken = violations(&without);
            let found = broken.iter().filter(|law| **law == guard.law).count();
            let rounds = without.lines().filter(|line| line.starts_with("round ")).count();
            if found > 0 && before.is_empty() {
                let (what, law, all) = (&guard.what, &guard.law, broken.len());
                runner.step(format!(
                    "| {what} | {law} | {found} of {all} violations, round {rounds} |"
                ));
                continue;
            }
            missed.push(guard.name.as_str());
            let log = workspace.guards().join(format!("{}.log", guard.name));
            drop(std::fs::write(
                &log,
                format!("with it:\n{told}\nwithout it:\n{without}"),
            ));
            let (name, law) = (&guard.name, &guard.law);
            runner.step(format!(
                "{name}: {} violations with it, and without it {found} of {law} among {} in {rounds} rounds; {}",
                before.len(),
                broken.len(),
                log.display()
            ));
        }
        if missed.is_empty() {
            return Ok(());
        }
        bail!("switched off, these are not missed: {}", missed.join(", "))
    }
}

/// The laws that were found broken, once for each time.
fn violations(told: &str) -> Vec<&str> {
    let lines = told.lines().filter_map(|line| line.trim().strip_prefix("VIOLATION "));
    lines.filter_map(|line| Some(line.split_once(':')?.0)).collect()
}

fn read(workspace: &Workspace) -> Result<Vec<Guard>> {
    let path = workspace.root().join("tests/campaign/guards.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
    let table: Table = toml::from_str(&text).with_context(|| format!("{} makes no sense", path.display()))?;
    Ok(table.guard)
}

impl Edit {
    /// The source of its file with the guard switchable.
    fn apply(&self, source: &str, guard: &str) -> Result<String> {
        let find = self.find.trim_matches('\n');
        let found = source.matches(find).count();
        if found != 1 {
            bail!("guard {guard}: {} has {found} times, and not once: {find}", self.file);
        }
        let off = format!("std::env::var_os({VARIABLE:?}).is_some_and(|off| off == {guard:?})");
        let without = words_replaced(self.without.trim_matches('\n'), OFF, &off);
        Ok(source.replace(find, &without))
    }
}

/// A word is replaced where it is one.
fn words_replaced(text: &str, word: &str, with: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        replaced.push_str(before);
        let is_word = !before.ends_with(is_part) && !after.starts_with(is_part);
        replaced.push_str(if is_word { with } else { word });
        rest = after;
    }
    replaced + rest
}

/// Builds the bus from a copy of the source in which each guard can be switched off; returns where its programs are.
fn build_without(workspace: &Workspace, runner: &Runner, guards: &[Guard]) -> Result<PathBuf> {
    let copy = workspace.guards().join("source");
    // What the source has no more is no part of the copy either.
    for folder in ["provider", "wit"] {
        let stale = copy.join(folder);
        if stale.exists() {
            remove_missing(&stale, &workspace.root().join(folder))?;
        }
    }
    let listed = runner.read(Command::new("git").current_dir(workspace.root()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    for file in listed.lines() {
        let source = workspace.root().join(file);
        // Removed, and not yet committed.
        let Ok(mut content) = std::fs::read(&source) else {
            continue;
        };
        let edits = guards
            .iter()
            .flat_map(|guard| guard.edit.iter().map(move |edit| (guard, edit)));
        for (guard, edit) in edits.filter(|(_, edit)| edit.file == file) {
            let text = String::from_utf8(content).with_context(|| format!("{file} is not UTF-8"))?;
            content = edit.apply(&text, &guard.name)?.into_bytes();
        }
        write_if_new(&copy.join(file), &content)?;
    }
    let target = workspace.guards().join("build");
    let mut cargo = workspace.cargo();
    cargo
        .current_dir(&copy)
        .args([
            "build",
            "--locked",
            "--bins",
            "--package",
            "fanout-cli",
            "--package",
            "fanout-provider",
        ])
        .arg("--target-dir")
        .arg(&target);
    runner.run(&mut cargo)?;
    Ok(target.join("debug"))
}

fn remove_missing(copy: &Path, source: &Path) -> Result<()> {
    for entry in copy
        .read_dir()
        .with_context(|| format!("can't read {}", copy.display()))?
    {
        let path = entry.with_context(|| format!("can't read {}", copy.display()))?.path();
        let Some(name) = path.file_name() else { continue };
        let there = source.join(name);
        if path.is_dir() && there.is_dir() {
            remove_missing(&path, &there)?;
        } else if path.is_file() && !there.is_file() {
            std::fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// What is the same stays as old as it is: cargo builds it once.
fn write_if_new(path: &Path, content: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    let folder = path.parent().context("a file is in a folder")?;
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, content))
        .with_context(|| format!("can't write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guard_is_in_the_source_and_every_law_is_one() {
        let workspace = Workspace::find().unwrap();
        let guards = read(&workspace).unwrap();
        assert!(guards.len() >= 10, "{}", guards.len());
        let laws = std::fs::read_to_string(workspace.root().join("tests/campaign/checker/src/laws/mod.rs")).unwrap();
        for guard in guards {
            assert!(
                laws.contains(&format!("{:?}", guard.law)),
                "{}: {}",
                guard.name,
                guard.law
            );
            for edit in &guard.edit {
                let source = std::fs::read_to_string(workspace.root().join(&edit.file)).unwrap();
                let without = edit.apply(&source, &guard.name).unwrap();
                assert!(without.contains(VARIABLE), "{}: it is never off", guard.name);
            }
        }
    }

    #[test]
    fn a_law_is_read_whole() {
        let told = "round r1\n  VIOLATION order: k1 went back\n  VIOLATION orderly: x\nVIOLATION nothing\n";
        assert_eq!(violations(told), ["order", "orderly"]);
    }

    #[test]
    fn a_word_is_replaced_and_no_part_of_one() {
        assert_eq!(
            words_replaced("if OFF || OFFER && !OFF {", "OFF", "x()"),
            "if x() || OFFER && !x() {"
        );
    }
}
