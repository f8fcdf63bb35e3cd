//! `cargo xtask findings`: builds the experiments, the provider and the command line in release form, and becomes the experiments.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::nats;
use crate::runner::Runner;
use crate::workspace::Workspace;

/// `cargo xtask findings`.
#[derive(Debug, Args)]
pub(crate) struct Findings {
    /// Experiments and options: `cargo xtask findings --help` tells them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Findings {
    pub(crate) fn run(&self, workspace: &Workspace, runner: &Runner) -> Result<()> {
        let nats_server = nats::find(workspace, runner)?;
        runner.step("building the provider, the command line and the experiments");
        let mut build = workspace.cargo();
        build.args(["build", "--locked", "--release"]);
        let packages = ["fanout-provider", "fanout-cli", "fanout-findings"];
        runner.run(build.args(packages.iter().flat_map(|package| ["--package", package])))?;
        let mut command = Command::new(workspace.released("fanout-findings"));
        command
            .current_dir(workspace.root())
            .env(nats::VARIABLE, nats_server)
            .env("FANOUT_PROVIDER_BIN", workspace.released("fanout-provider"))
            .env("RUST_LOG", "warn")
            .args(&self.arguments);
        runner.become_command(&mut command)
    }
}
