//! `cargo xtask release`: builds the program that releases, and becomes it.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::runner::Runner;
use crate::workspace::Workspace;

/// `cargo xtask release`.
#[derive(Debug, Args)]
pub(crate) struct Release {
    /// Registry, output and more: `cargo xtask release --help` tells them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Release {
    pub(crate) fn run(&self, workspace: &Workspace, runner: &Runner) -> Result<()> {
        let mut command = workspace.cargo();
        command
            .args(["run", "--quiet", "--locked", "--package", "fanout-release", "--"])
            .args(&self.arguments);
        runner.become_command(&mut command)
    }
}
