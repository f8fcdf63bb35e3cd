//! `cargo xtask campaign`: builds the programs, and becomes the fault campaign.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::build;
use crate::runner::Runner;
use crate::workspace::Workspace;

/// `cargo xtask campaign`.
#[derive(Debug, Args)]
pub(crate) struct Campaign {
    /// Seed, minutes, faults and more: `cargo xtask campaign --help` tells them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Campaign {
    pub(crate) fn run(&self, workspace: &Workspace, runner: &Runner) -> Result<()> {
        let parts = build::programs(workspace, runner, &[])?;
        let mut command = Command::new(workspace.campaign());
        parts.tell(workspace, &mut command);
        command
            .current_dir(workspace.root())
            .env("RUST_LOG", "info")
            .args(&self.arguments);
        runner.become_command(&mut command)
    }
}
