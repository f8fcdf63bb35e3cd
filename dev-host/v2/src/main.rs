//! `fanout-v2 demo`: the story of `fanout-dev demo` on the stock wasmCloud v2 host, with the same acts, ledger and checks.
//!
//! What tells the story is in `dev-host/src`, and compiled here as it is; what differs is what runs: another host, and the bus as a
//! process of its own ([`stack`]), so that other things can be killed.

mod addresses;
mod bus;
mod cli;
mod console;
mod demo;
#[path = "../../src/endpoints.rs"]
mod endpoints;
mod http;
#[path = "../../src/signature.rs"]
mod signature;
mod stack;
#[path = "../../src/wait.rs"]
mod wait;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Cli, Command};
use crate::console::Console;

fn main() -> ExitCode {
    let Cli {
        command: Command::Demo(demo),
    } = Cli::parse();
    let console = Console::default();
    let told = tokio::runtime::Runtime::new()
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(tell(&demo, &console)));
    match told {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fanout-v2: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells the story, or ends it at a signal. Either way every process is ended.
async fn tell(demo: &cli::Demo, console: &Console) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("can't hear signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("can't hear signals")?;
    tokio::select! {
        told = demo::run(demo, console) => told.map(|()| ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}
