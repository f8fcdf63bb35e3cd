//! Load programs. Each runs Fanout beside the plain client on the same server in the same run, alternating, so that a
//! busy machine slows both; what counts is the ratio.
//!
//! Deliberately absent: verdicts. Nothing here fails because it was slow; tests prove, benches show.

/// As `eprintln!`, which panics once nobody reads standard error.
macro_rules! tell {
    ($($what:tt)*) => {
        drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", format_args!($($what)*))))
    };
}

mod case;
mod delivery;
mod docs;
mod host;
mod host_v2;
mod http;
mod load;
mod memory;
mod native;
mod patterns;
mod processor;
mod publish;
mod quota;
mod relay;
mod report;
mod tally;
mod telemetry;
mod transport;
mod transport_server;
mod webhooks;
mod world;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;

use crate::case::Size;
use crate::report::Report;

/// Measures the bus beside the plain client.
#[derive(Debug, Parser)]
#[command(name = "fanout-bench")]
struct Cli {
    /// What to measure: transport, publish, http, delivery, patterns, host, host-v2, quota, memory, telemetry, webhooks; all of them if none is named
    names: Vec<String>,
    /// Fewer events and rounds: to see that it runs, not to quote
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// More rounds
    #[arg(long)]
    full: bool,
    /// Where the raw samples go, one file of JSON lines for each name
    #[arg(long, default_value = "target/bench")]
    samples: PathBuf,
    /// Put the tables into this page, in place of those that stand there
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

/// Ends quietly, as other tools do, when nobody reads standard output any more.
fn print(table: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{table}") {
        // What a shell shows for a tool that ended because of SIGPIPE.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(141),
        printed => Ok(printed?),
    }
}

/// What can be measured.
const NAMES: [&str; 11] = [
    "transport",
    "publish",
    "http",
    "delivery",
    "patterns",
    "host",
    "host-v2",
    "quota",
    "memory",
    "telemetry",
    "webhooks",
];

#[tokio::main]
async fn main() -> Result<()> {
    if let Ok(nats) = std::env::var(transport_server::SERVE) {
        return transport_server::run(&nats).await;
    }
    if let Ok(nats) = std::env::var(relay::RELAY) {
        return relay::run(&nats).await;
    }
    if let Ok(nats) = std::env::var(native::NATIVE) {
        return native::run(&nats).await;
    }
    let cli = Cli::parse();
    if let Some(unknown) = cli.names.iter().find(|n| !NAMES.contains(&n.as_str())) {
        bail!("there is no bench {unknown:?}: there are {}", NAMES.join(", "));
    }
    let size = match (cli.quick, cli.full) {
        (true, _) => Size::Quick,
        (_, true) => Size::Full,
        _ => Size::Usual,
    };
    let mut tables = Vec::new();
    for name in NAMES {
        if !cli.names.is_empty() && !cli.names.iter().any(|n| n == name) {
            continue;
        }
        let mut report = Report::new(name, size, &cli.samples)?;
        match name {
            "transport" => transport::run(&mut report, size).await?,
            "publish" => publish::run(&mut report, size).await?,
            "http" => http::run(&mut report, size).await?,
            "delivery" => delivery::run(&mut report, size).await?,
            "patterns" => patterns::run(&mut report, size).await?,
            "host" => host::run(&mut report, size).await?,
            "host-v2" => host_v2::run(&mut report, size).await?,
            "quota" => quota::run(&mut report, size).await?,
            "memory" => memory::run(&mut report, size).await?,
            "telemetry" => telemetry::run(&mut report, size).await?,
            _ => webhooks::run(&mut report, size).await?,
        }
        let table = report.finish()?;
        print(&table)?;
        tables.push((name, table));
    }
    if let Some(page) = &cli.page {
        for (name, table) in &tables {
            docs::replace(page, name, table)?;
        }
    }
    Ok(())
}
