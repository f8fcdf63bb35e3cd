//! `fanout-places`: one bus in two regions and a leaf, which a region joins and another leaves, told as a story that checks itself.
//!
//! Real parts run: nats-servers that leaf links join, a `fanout serve` at each place, and the webhook-ingress component in each region.
//! The links go through a proxy that cuts them ([`world`]), [`load`] publishes and [`handler`] handles without a pause, and [`ledger`]
//! notes both from outside the bus. [`table`] says at the end whether anything is off.

// The story's futures hold the client's, which are nested deeper than the compiler follows by default (128).
#![recursion_limit = "256"]

#[path = "../../src/demo/checks.rs"]
#[allow(dead_code, reason = "its test alone asks for what is at most a number")]
mod checks;
mod cli;
#[path = "../../v2/src/console.rs"]
mod console;
mod handler;
mod ledger;
mod load;
mod operator;
mod place;
mod servers;
mod story;
mod table;
#[path = "../../src/wait.rs"]
mod wait;
mod world;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Cli;
use crate::console::Console;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let console = Console::default();
    let told = tokio::runtime::Runtime::new()
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(tell(&cli, &console)));
    match told {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fanout-places: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells the story, or ends it at a signal. Either way every process is ended: whoever started it kills it when it is dropped.
async fn tell(cli: &Cli, console: &Console) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("can't hear signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("can't hear signals")?;
    tokio::select! {
        told = story::run(cli, console) => told.map(|()| ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}
