//! `cargo xtask test`: all tests.
//!
//! The tests of the workspace wait more than they compute. So those that wait the most run beside the others, and what takes
//! the longest to build, the dev host and the fuzz targets, is built meanwhile, with the processor time that they leave. What
//! needs these comes after.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::build;
use crate::fuzz::Fuzz;
use crate::runner::Runner;
use crate::test_tools::TestTools;
use crate::workspace::Workspace;

/// The files of integration tests that start the dev host.
const ON_THE_DEV_HOST: [&str; 7] = [
    "end_to_end",
    "places_demo",
    "provenance",
    "same_wasm",
    "story",
    "together",
    "webhooks_on_the_host",
];

/// The files of integration tests that do little but wait, for what ends by itself: they run beside the others.
const WAITING: [&str; 13] = [
    "conformance",
    "gap",
    "journal",
    "odd_stores",
    "order_faults",
    "publish_order",
    "published",
    "readers",
    "retries",
    "runbook",
    "schedule",
    "smoke",
    "traces",
];

/// `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Only these files of integration tests, such as `durable,retries`. Components and the dev host stay as they are
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    only: Vec<String>,
}

impl Test {
    /// Builds and runs the tests. What the last tests print is the last that is printed.
    pub(crate) fn run(&self, workspace: &Workspace, runner: &Runner) -> Result<()> {
        if self.only.is_empty() {
            return everything(workspace, runner);
        }
        let chosen = named(&self.only);
        let parts = build::programs(workspace, runner, &chosen)?;
        let tools = TestTools::find(workspace, runner)?;
        Tests {
            workspace,
            runner,
            parts,
            tools,
        }
        .run("testing what was chosen", &chosen)
    }
}

/// What tests run with.
struct Tests<'a> {
    workspace: &'a Workspace,
    runner: &'a Runner,
    parts: build::Parts,
    tools: TestTools,
}

impl Tests<'_> {
    fn run(&self, step: &str, chosen: &[&str]) -> Result<()> {
        self.runner.step(step);
        self.runner.run(&mut self.command(chosen))
    }

    fn command(&self, chosen: &[&str]) -> Command {
        let mut test = self.workspace.cargo();
        // One failure does not hide the next.
        test.args(["test", "--locked", "--workspace", "--no-fail-fast"])
            .args(chosen);
        self.parts.tell(self.workspace, &mut test);
        self.tools.tell(&mut test);
        test
    }

    fn dev_host(&self) -> Result<()> {
        self.runner.step("testing the dev host");
        let mut test = build::dev_host(self.workspace, self.runner, "test")?;
        self.parts.tell(self.workspace, &mut test);
        self.runner.run(&mut test)
    }

    fn documentation(&self) -> Result<()> {
        self.runner.step("testing the documentation's examples");
        let mut test = self.workspace.cargo();
        self.runner.run(test.args(["test", "--locked", "--workspace", "--doc"]))
    }
}

fn everything(workspace: &Workspace, runner: &Runner) -> Result<()> {
    let parts = build::all_but_the_dev_host(workspace, runner)?;
    let tools = TestTools::find(workspace, runner)?;
    let tests = Tests {
        workspace,
        runner,
        parts,
        tools,
    };

    runner.step("building the dev host and the fuzz targets beside the tests; their output is in target/logs");
    let mut dev_host = build::dev_host(workspace, runner, "build")?;
    dev_host.arg("--all-targets");
    let dev_host = runner.start_giving_way(&dev_host, workspace.logs().join("build-dev-host.log"))?;
    let fuzz = Fuzz::build_beside(workspace, runner)?;

    let files = files_of_tests(workspace, runner)?;
    let elsewhere: Vec<_> = files
        .into_iter()
        .filter(|file| !ON_THE_DEV_HOST.contains(&file.as_str()) && !WAITING.contains(&file.as_str()))
        .collect();
    let mut chosen = named(&elsewhere);
    chosen.extend(["--lib", "--bins", "--examples", "--benches"]);
    let mut failed = Vec::new();
    let mut note = |outcome: Result<()>| failed.extend(outcome.err());
    runner.step("testing what waits beside the rest; its output follows when it has ended, and is in target/logs");
    let waiting = tests.command(&named(&WAITING.map(str::to_owned)));
    let waiting = runner.start_beside(waiting, workspace.logs().join("test-waiting.log"))?;
    note(tests.run("testing the workspace", &chosen));
    note(tests.documentation());
    runner.step("waiting for the tests that wait");
    note(waiting.wait_and_print());

    runner.step("waiting for the dev host and the fuzz targets");
    let dev_host = dev_host.wait();
    if let Some(fuzz) = fuzz {
        note(fuzz.wait().and_then(|()| Fuzz::quick().run(workspace, runner)));
    }
    let on_the_dev_host = ON_THE_DEV_HOST.map(str::to_owned);
    match dev_host {
        Ok(()) => {
            note(tests.dev_host());
            note(tests.run("testing what runs on the dev host", &named(&on_the_dev_host)));
        }
        Err(error) => note(Err(error)),
    }
    if failed.is_empty() {
        return Ok(());
    }
    let failed: Vec<_> = failed.iter().map(|error| format!("{error:#}")).collect();
    bail!("{}", failed.join("; "))
}

fn named(files: &[String]) -> Vec<&str> {
    files.iter().flat_map(|file| ["--test", file.as_str()]).collect()
}

/// The integration tests of all members.
fn files_of_tests(workspace: &Workspace, runner: &Runner) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        targets: Vec<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
        kind: Vec<String>,
    }

    let mut command = workspace.cargo();
    command.args(["metadata", "--locked", "--no-deps", "--format-version", "1"]);
    let metadata: Metadata =
        serde_json::from_str(&runner.read(&mut command)?).context("cargo's metadata makes no sense")?;
    let targets = metadata.packages.into_iter().flat_map(|package| package.targets);
    let tests = targets.filter(|target| target.kind.iter().any(|kind| kind == "test"));
    Ok(tests.map(|target| target.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_that_start_the_dev_host_are_those_that_wait_for_it() {
        let workspace = Workspace::find().unwrap();
        let folder = workspace.root().join("tests/tests");
        let mut start_it: Vec<_> = (folder.read_dir().unwrap())
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
            .filter(|path| {
                let source = std::fs::read_to_string(path).unwrap();
                ["WebhookHost", "Hosted", "FANOUT_DEV_BIN"]
                    .iter()
                    .any(|name| source.contains(name))
            })
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        start_it.sort();
        assert_eq!(start_it, ON_THE_DEV_HOST);

        let files = files_of_tests(&workspace, &Runner::start().unwrap()).unwrap();
        assert!(
            ON_THE_DEV_HOST
                .iter()
                .all(|file| files.iter().any(|known| known == file))
        );
        assert!(
            WAITING.iter().all(|file| files.iter().any(|known| known == file)),
            "{files:?}"
        );
    }
}
