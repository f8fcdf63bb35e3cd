//! `cargo xtask demo`: builds what the demo runs, and then becomes `fanout-dev demo`, `fanout-v2 demo` or `fanout-places`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::runner::Runner;
use crate::workspace::Workspace;
use crate::{build, wash};

/// `cargo xtask demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Which wasmCloud host runs the components
    #[arg(long, value_enum, default_value_t)]
    host: Host,
    /// What carries calls and deliveries between a v1 host and the bus; to a v2 host it is HTTP
    #[arg(long, value_enum, default_value_t)]
    transport: Transport,
    /// Another story: one bus in two regions and a leaf, whose links are cut, and one that moves to another server
    #[arg(long, conflicts_with_all = ["host", "transport", "seed", "stay"])]
    places: bool,
    /// How many webhooks to post, 100 or more; with --places, how many events each place publishes in each act
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

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Host {
    /// The last of the 1.x line, embedded, with wadm
    #[default]
    V1,
    /// The stock 2.x host, `wash host`
    V2,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
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
        let mut command = match self.host {
            _ if self.places => places(workspace, runner)?,
            Host::V1 => self.on_v1(workspace, runner)?,
            Host::V2 => self.on_v2(workspace, runner)?,
        };
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
        runner.step("telling the story");
        runner.become_command(&mut command)
    }

    fn on_v1(&self, workspace: &Workspace, runner: &Runner) -> Result<Command> {
        let parts = build::demo(workspace, runner)?;
        let mut command = Command::new(workspace.dev_host());
        command.arg("demo");
        parts.tell(workspace, &mut command);
        command.args(["--transport", self.transport.name()]);
        Ok(command)
    }

    fn on_v2(&self, workspace: &Workspace, runner: &Runner) -> Result<Command> {
        if self.transport != Transport::Nats {
            bail!("--transport is of a v1 host: components on a v2 host reach the bus over HTTP");
        }
        let wash = wash::find(workspace, runner)?;
        let parts = build::demo_v2(workspace, runner)?;
        let mut command = Command::new(workspace.demo_v2());
        command.arg("demo").env(wash::VARIABLE, wash);
        parts.tell(workspace, &mut command);
        Ok(command)
    }
}

fn places(workspace: &Workspace, runner: &Runner) -> Result<Command> {
    let parts = build::demo_places(workspace, runner)?;
    let mut command = Command::new(workspace.demo_places());
    parts.tell(workspace, &mut command);
    Ok(command)
}
