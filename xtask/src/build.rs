//! Builds what the demo and the tests run.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::runner::Runner;
use crate::workspace::{WASM_PROFILE, WASM_TARGET, Workspace};
use crate::{nats, upstream, wasm};

/// The components of `wadm/local.yaml`, the README's example, and what the bench `host` runs.
const COMPONENTS: [&str; 6] = [
    "analytics",
    "bench-component",
    "entitlements",
    "invoicing",
    "minimal",
    "webhook-ingress",
];

/// What was built or found.
#[derive(Debug)]
pub(crate) struct Parts {
    nats_server: PathBuf,
}

/// Which targets of the main workspace are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Targets {
    /// Libraries and binaries.
    Binaries,
    /// Those, and the tests.
    AndTests,
}

/// Finds or builds every part.
pub(crate) fn everything(workspace: &Workspace, runner: &Runner, targets: Targets) -> Result<Parts> {
    wasm::ensure(runner)?;
    let nats_server = nats::find(workspace, runner)?;

    runner.step("building the workspace");
    let mut build = workspace.cargo();
    // The whole workspace, always: with `-p`, features unify differently, and much is built a second time.
    build.args(["build", "--locked", "--workspace"]);
    if targets == Targets::AndTests {
        build.arg("--all-targets");
    }
    runner.run(&mut build)?;

    runner.step("building the components");
    runner.run(components(workspace, "build").args(["--profile", WASM_PROFILE]))?;

    runner.step("building the dev host (from nothing, this takes about ten minutes on two cores)");
    runner.run(&mut dev_host(workspace, runner, "build")?)?;
    Ok(Parts { nats_server })
}

/// A cargo command for the components as components.
pub(crate) fn components(workspace: &Workspace, subcommand: &str) -> Command {
    let mut command = workspace.cargo();
    command.args([subcommand, "--locked", "--target", WASM_TARGET]);
    for component in COMPONENTS {
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
            .env("FANOUT_LOGS", workspace.logs());
    }
}
