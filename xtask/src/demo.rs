//! `cargo xtask demo`: builds what the demo runs, and then becomes `fanout-dev demo`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::build;
use crate::runner::Runner;
use crate::workspace::Workspace;

/// `cargo xtask demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// What carries calls and deliveries between the host and the bus
    #[arg(long, value_enum, default_value_t)]
    transport: Transport,
    /// How many webhooks to post, 100 or more
    #[arg(long)]
    events: Option<u32>,
    /// The seed that the webhooks are made from
    #[arg(long)]
    seed: Option<u64>,
    /// Leave everything running afterwards and print commands to try
    #[arg(long)]
    stay: bool,
    /// Write the numbers to this file as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Transport {
    /// The provider in the host is the bus: calls and deliveries go over the lattice
    #[default]
    Nats,
    /// The bus is another process with a store of its own, reached over plain TCP
    Tcp,
    /// The same over QUIC with mutual TLS, by certificates made for the run
    Quic,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        }
    }
}

impl Demo {
    pub(crate) fn run(&self, workspace: &Workspace, runner: &Runner) -> Result<()> {
        let parts = build::demo(workspace, runner)?;
        runner.step("telling the story");
        let mut command = Command::new(workspace.dev_host());
        command.arg("demo");
        parts.tell(workspace, &mut command);
        command.args(["--transport", self.transport.name()]);
        if let Some(events) = self.events {
            command.args(["--events", &events.to_string()]);
        }
        if let Some(seed) = self.seed {
            command.args(["--seed", &seed.to_string()]);
        }
        if self.stay {
            command.arg("--stay");
        }
        if let Some(report) = &self.report {
            command.arg("--report").arg(report);
        }
        runner.become_command(&mut command)
    }
}
