//! The command line of `fanout-places`. `cargo xtask demo --places` fills in the paths; tests give them by environment.

use std::path::PathBuf;

use clap::Parser;

/// One bus in two regions and a leaf, which a region joins and another leaves.
#[derive(Debug, Parser)]
#[command(name = "fanout-places", version, about)]
pub(crate) struct Cli {
    /// The `fanout` binary
    #[arg(long, env = "FANOUT_BIN")]
    pub(crate) fanout: PathBuf,
    /// Where a failed run leaves its logs
    #[arg(long, env = "FANOUT_LOGS")]
    pub(crate) logs: PathBuf,
    /// How many events are to be published at each place in each act; more are, where an act takes longer
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub(crate) events: u32,
    /// Write the numbers to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}
