//! `cargo xtask bench`: builds the provider and the load programs for speed, and then becomes `fanout-bench`.

use anyhow::Result;
use clap::Args;

use crate::runner::Runner;
use crate::workspace::Workspace;
use crate::{host, host_v2, nats, webhooks};

/// `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// What to measure; all of it if nothing is named
    names: Vec<String>,
    /// Fewer events and rounds: to see that it runs, not to quote
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// More rounds
    #[arg(long)]
    full: bool,
    /// Put the tables into docs/benchmarks.md
    #[arg(long)]
    write: bool,
}

impl Bench {
    pub(crate) fn run(&self, workspace: &Workspace, runner: &Runner) -> Result<()> {
        let server = nats::find(workspace, runner)?;
        runner.step("building the provider and the load programs for speed");
        let named = |name: &str| self.names.is_empty() || self.names.iter().any(|named| named == name);
        let webhooks = named(webhooks::NAME);
        let mut build = workspace.cargo();
        build.args(["build", "--locked", "--release"]);
        build.args(["--package", "fanout-provider", "--package", "fanout-bench"]);
        if webhooks {
            // In one go: by itself, its dependencies would be built once more.
            build.args(["--package", webhooks::MEASURE]);
        }
        if named(host_v2::NAME) {
            build.args(["--package", host_v2::BUS]);
        }
        runner.run(&mut build)?;
        let mut parts = Vec::new();
        if webhooks {
            parts.extend(webhooks::build(workspace, runner)?);
        }
        if named(host::NAME) {
            parts.extend(host::build(workspace, runner, self.quick)?);
        }
        if named(host_v2::NAME) {
            parts.extend(host_v2::build(workspace, runner)?);
        }

        runner.step("measuring");
        let mut command = std::process::Command::new(workspace.released("fanout-bench"));
        command
            .current_dir(workspace.root())
            .env(nats::VARIABLE, server)
            .env("FANOUT_PROVIDER_BIN", workspace.released("fanout-provider"))
            .env("RUST_LOG", "warn")
            .envs(parts)
            .args(&self.names)
            .arg("--samples")
            .arg(workspace.samples());
        if self.quick {
            command.arg("--quick");
        }
        if self.full {
            command.arg("--full");
        }
        if self.write {
            command.arg("--page").arg(workspace.root().join("docs/benchmarks.md"));
        }
        runner.become_command(&mut command)
    }
}
