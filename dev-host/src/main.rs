//! nats-server, wadm and a wasmCloud v1 host in one process, for the demo and the end-to-end tests.
//!
//! It owns starting the parts, deploying a manifest, and leaving nothing behind: no process, no folder. It
//! deliberately holds no knowledge of how events travel; what it knows of Fanout is a status subject, four HTTP
//! endpoints and the names of streams that an operator would look at.

mod addresses;
mod archive;
mod bus;
mod cli;
mod console;
mod control;
mod demo;
mod deployer;
mod endpoints;
mod guard;
mod host;
mod hosted;
mod http;
mod interrupt;
mod links;
mod manifest;
mod nats;
mod processes;
mod readiness;
mod rundir;
mod secrets;
mod served;
mod signature;
mod stack;
mod transport;
mod up;
mod wait;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::console::Console;
use crate::interrupt::{Interrupt, Reason};
use crate::rundir::RunDir;
use crate::stack::Stack;

/// Blocked threads (a read of standard input) don't hold up the end of the process for longer than this.
const RUNTIME_STOP_LIMIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match cli.command {
        Command::Guard(guard) => guard::run(&guard),
        Command::Run(run) => hosted::run(run),
        command => run(&command),
    };
    ended.unwrap_or_else(|error| {
        drop(writeln!(std::io::stderr(), "error: {error:#}"));
        ExitCode::FAILURE
    })
}

fn run(command: &Command) -> Result<ExitCode> {
    let run = RunDir::adopt_or_restart()?;
    let console = Console::new(&run.logs().join("host.log"))?;
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // It would panic where standard error is closed.
        .log_internal_errors(false)
        .init();
    let runtime = tokio::runtime::Runtime::new().context("can't start the runtime")?;
    let code = runtime.block_on(attend(command, run, &console));
    runtime.shutdown_timeout(RUNTIME_STOP_LIMIT);
    code
}

/// How a command ended.
enum Ended {
    Well,
    Interrupted(Reason),
    Failed(anyhow::Error),
}

/// Runs a command until it ends or is interrupted, and then stops every part in either case.
async fn attend(command: &Command, run: RunDir, console: &Console) -> Result<ExitCode> {
    let mut interrupt = Interrupt::listen()?;
    let mut stack = Stack::default();
    let (mut ended, logs) = match command {
        Command::Up(up) => (
            up::run(up, &mut stack, &run, console, &mut interrupt).await,
            &up.parts.logs,
        ),
        Command::Demo(demo) => (
            demo::run(demo, &mut stack, &run, console, &mut interrupt).await,
            &demo.parts.logs,
        ),
        // These run without a folder.
        Command::Guard(_) | Command::Run(_) => (Ended::Well, &None),
    };
    let failures = stack.stop().await;
    if matches!(ended, Ended::Well | Ended::Interrupted(_))
        && let Some(failure) = failures.into_iter().next()
    {
        ended = Ended::Failed(failure.context("the parts did not stop in order"));
    }
    match ended {
        Ended::Well => run.remove().map(|()| ExitCode::SUCCESS),
        Ended::Interrupted(reason) => run.remove().map(|()| ExitCode::from(reason.exit_code())),
        Ended::Failed(error) => {
            console.error(format!("error: {error:#}"));
            let kept = run.keep_logs(logs.as_deref())?;
            console.error(format!("The logs are in {}", kept.display()));
            Ok(ExitCode::FAILURE)
        }
    }
}
