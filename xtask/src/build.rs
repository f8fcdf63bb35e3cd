//! Builds what the demo and the tests run.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::runner::Runner;
use crate::workspace::{WASM_PROFILE, WASM_TARGET, Workspace};
use crate::{nats, upstream, wasm};

/// The components of `wadm/local.yaml`.
const DEMO_COMPONENTS: [&str; 4] = ["analytics", "entitlements", "invoicing", "webhook-ingress"];

/// What stands for the bus beside them on wasmCloud v2.
const V2_COMPONENTS: [&str; 6] = [
    "fanout-connector",
    "fanout-runner-backfill-batch-handler",
    "fanout-runner-backfill-handler",
    "fanout-runner-batch-handler",
    "fanout-runner-handler",
    "fanout-v1-interfaces",
];

/// The README's example, what the benches on hosts run, and what hosts of nothing but WASI 0.2 lack.
const OTHER_COMPONENTS: [&str; 3] = ["bench-component", "fanout-logging", "minimal"];

/// The programs of the main workspace that the demo runs.
const DEMO_PROGRAMS: [&str; 3] = ["fanout-provider", "fanout-cli", "fanout-dev-keyvalue"];

/// Those that the demo of places runs, and the one component, in the dev host's runtime.
const PLACES_PROGRAMS: [&str; 2] = ["fanout-cli", "fanout-places"];
const PLACES_COMPONENTS: [&str; 1] = ["webhook-ingress"];

/// What was built or found.
#[derive(Debug)]
pub(crate) struct Parts {
    nats_server: PathBuf,
}

/// Finds or builds what the demo runs.
pub(crate) fn demo(workspace: &Workspace, runner: &Runner) -> Result<Parts> {
    with_the_dev_host(workspace, runner, &DEMO_PROGRAMS, &DEMO_COMPONENTS)
}

/// Finds or builds what the demo of places runs.
pub(crate) fn demo_places(workspace: &Workspace, runner: &Runner) -> Result<Parts> {
    with_the_dev_host(workspace, runner, &PLACES_PROGRAMS, &PLACES_COMPONENTS)
}

fn with_the_dev_host(workspace: &Workspace, runner: &Runner, chosen: &[&str], components: &[&str]) -> Result<Parts> {
    let mut programs = workspace.cargo();
    programs.args(["build", "--locked", "--bins"]);
    for program in chosen {
        programs.args(["--package", program]);
    }
    let parts = parts(workspace, runner, &mut programs, components)?;
    runner.step("building the dev host (from nothing, this takes about ten minutes on two cores)");
    runner.run(&mut dev_host(workspace, runner, "build")?)?;
    Ok(parts)
}

/// Finds or builds what the demo on a v2 host runs: no host is built.
pub(crate) fn demo_v2(workspace: &Workspace, runner: &Runner) -> Result<Parts> {
    wasm::ensure(runner)?;
    let nats_server = nats::find(workspace, runner)?;
    runner.step("building the bus and the demo (from nothing, this takes some minutes)");
    let mut programs = workspace.cargo();
    programs.args([
        "build",
        "--locked",
        "--bins",
        "--package",
        "fanout-cli",
        "--package",
        "fanout-v2",
    ]);
    runner.run(&mut programs)?;
    let chosen: Vec<_> = DEMO_COMPONENTS.into_iter().chain(V2_COMPONENTS).collect();
    build_components(workspace, runner, &chosen)?;
    Ok(Parts { nats_server })
}

/// Builds the programs of the main workspace, and what `chosen` names besides.
pub(crate) fn programs(workspace: &Workspace, runner: &Runner, chosen: &[&str]) -> Result<Parts> {
    let nats_server = nats::find(workspace, runner)?;
    runner.step("building the programs and the tests");
    let mut build = workspace.cargo();
    build.args(["build", "--locked", "--workspace", "--bins"]).args(chosen);
    runner.run(&mut build)?;
    Ok(Parts { nats_server })
}

/// Finds or builds every part but the dev host, and the tests.
pub(crate) fn all_but_the_dev_host(workspace: &Workspace, runner: &Runner) -> Result<Parts> {
    let mut programs = workspace.cargo();
    programs.args(["build", "--locked", "--workspace", "--all-targets"]);
    parts(workspace, runner, &mut programs, &all_components())
}

fn parts(workspace: &Workspace, runner: &Runner, programs: &mut Command, chosen: &[&str]) -> Result<Parts> {
    wasm::ensure(runner)?;
    let nats_server = nats::find(workspace, runner)?;

    runner.step("building the workspace (from nothing, this takes some minutes)");
    runner.run(programs)?;

    build_components(workspace, runner, chosen)?;
    Ok(Parts { nats_server })
}

/// Builds components as they are deployed.
pub(crate) fn build_components(workspace: &Workspace, runner: &Runner, chosen: &[&str]) -> Result<()> {
    runner.step("building the components");
    runner.run(components(workspace, "build", chosen).args(["--profile", WASM_PROFILE]))
}

/// Every component.
pub(crate) fn all_components() -> Vec<&'static str> {
    DEMO_COMPONENTS
        .into_iter()
        .chain(V2_COMPONENTS)
        .chain(OTHER_COMPONENTS)
        .collect()
}

/// A cargo command for components as components.
pub(crate) fn components(workspace: &Workspace, subcommand: &str, chosen: &[&str]) -> Command {
    let mut command = workspace.cargo();
    command.args([subcommand, "--locked", "--target", WASM_TARGET]);
    for component in chosen {
        command.args(["--package", component]);
    }
    command
}

/// A cargo command for one component as it is deployed.
pub(crate) fn component(workspace: &Workspace, package: &str) -> Command {
    let mut command = workspace.cargo();
    command.args(["build", "--locked", "--target", WASM_TARGET, "--profile", WASM_PROFILE]);
    command.args(["--package", package]);
    command
}

/// A cargo command for the dev host.
pub(crate) fn dev_host(workspace: &Workspace, runner: &Runner, subcommand: &str) -> Result<Command> {
    let mut command = workspace.cargo();
    command
        .args([subcommand, "--locked", "--workspace", "--manifest-path"])
        .arg(workspace.dev_host_manifest())
        .arg("--target-dir")
        .arg(workspace.dev_host_target())
        .args(upstream::arguments(workspace, runner)?);
    Ok(command)
}

impl Parts {
    /// Tells a command where they are.
    pub(crate) fn tell(&self, workspace: &Workspace, command: &mut Command) {
        command
            .env(nats::VARIABLE, &self.nats_server)
            .env("FANOUT_PROVIDER_BIN", workspace.provider())
            .env("FANOUT_KEYVALUE_BIN", workspace.keyvalue())
            .env("FANOUT_BIN", workspace.fanout())
            .env("FANOUT_DEV_BIN", workspace.dev_host())
            .env("FANOUT_COMPONENTS", workspace.components())
            .env("FANOUT_MANIFEST", workspace.local_manifest())
            .env("FANOUT_V2_MANIFEST", workspace.v2_manifest())
            .env("FANOUT_V2_BIN", workspace.demo_v2())
            .env("FANOUT_LOGS", workspace.logs());
    }
}
