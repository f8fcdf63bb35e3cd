//! The command line of `fanout-v2`. `cargo xtask demo --host v2` fills in the paths; tests give them by environment.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The stock wasmCloud v2 host, a bus, a registry.
#[derive(Debug, Parser)]
#[command(name = "fanout-v2", version, about)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tell the story: webhooks, a subscriber away, the bus and the host killed, a late backfill, poison events
    Demo(Demo),
}

/// `fanout-v2 demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// wasmCloud's command line, 2.10 or newer
    #[arg(long, env = "FANOUT_WASH", default_value = "wash")]
    pub(crate) wash: PathBuf,
    /// The `fanout` binary
    #[arg(long, env = "FANOUT_BIN")]
    pub(crate) fanout: PathBuf,
    /// The folder with the components (*.wasm)
    #[arg(long, env = "FANOUT_COMPONENTS")]
    pub(crate) components: PathBuf,
    /// The WorkloadDeployments
    #[arg(long, env = "FANOUT_V2_MANIFEST")]
    pub(crate) manifest: PathBuf,
    /// Where a failed run leaves its logs
    #[arg(long, env = "FANOUT_LOGS")]
    pub(crate) logs: PathBuf,
    /// How many webhooks to post
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub(crate) events: u32,
    /// The seed that the webhooks are made from
    #[arg(long, default_value_t = 7)]
    pub(crate) seed: u64,
    /// How many requests may be under way at once
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(crate) concurrency: u32,
    /// How many seconds the parts may take until everything answers
    #[arg(long, value_name = "SECONDS", default_value_t = 180.0)]
    pub(crate) ready_limit: f64,
    /// Leave everything running afterwards and print commands to try
    #[arg(long)]
    pub(crate) stay: bool,
    /// Write the numbers to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// What carries calls: there is one way
    #[arg(skip)]
    pub(crate) transport: Transport,
}

/// What carries calls and deliveries between the host and the bus.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Transport;

impl Transport {
    /// For the report.
    pub(crate) fn name(self) -> &'static str {
        "http"
    }
}
