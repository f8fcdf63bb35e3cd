//! The project's own commands: demo, test, fuzz, bench, findings, campaign, simulate, guards, release, tidy, advisories.
//!
//! It prepares what cargo can't (a nats-server, the wasm target, a mended copy of one dependency), runs cargo and says
//! how long each step took. It deliberately has no heavy dependency, so that it is there in seconds from a clean
//! clone, and it downloads nothing by itself: rustup, pip and cargo do.

mod advisories;
mod bench;
mod build;
mod campaign;
mod debian;
mod demo;
mod findings;
mod fuzz;
mod guards;
mod host;
mod host_v2;
mod layers;
mod licences;
mod nats;
mod pypi;
mod release;
mod runner;
mod simulate;
mod test;
mod test_tools;
mod tidy;
mod upstream;
mod wac;
mod wash;
mod wasm;
mod wasmtime;
mod webhooks;
mod workspace;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::runner::Runner;
use crate::workspace::Workspace;

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build everything and tell the story on real parts
    Demo(demo::Demo),
    /// Run all tests, the end-to-end one on a real host included
    Test(test::Test),
    /// Fuzz the parsers for a bounded time
    Fuzz(fuzz::Fuzz),
    /// Measure the bus beside the plain client
    Bench(bench::Bench),
    /// Run the experiments and write docs/findings
    Findings(findings::Findings),
    /// Run a bus under random faults, and hold what happened to its promises
    #[command(disable_help_flag = true)]
    Campaign(campaign::Campaign),
    /// Run the sessions and the client on a simulated network, seed by seed
    Simulate(simulate::Simulate),
    /// Switch guards of the bus off, and see that the fault campaign's checker finds each
    Guards(guards::Guards),
    /// Build what is installed, and push it to a registry
    #[command(disable_help_flag = true)]
    Release(release::Release),
    /// Format, lint, and check the licences of all dependencies and the advisories about them
    Tidy(tidy::Tidy),
    /// Hold all dependencies against security advisories
    Advisories(advisories::Update),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runner = match Runner::start() {
        Ok(runner) => runner,
        Err(error) => return failed(&error),
    };
    let ended = run(&cli.command, &runner);
    // What a signal broke off failed because of the signal: that is what there is to say.
    if let Some(signal) = runner.interrupted_by() {
        return ExitCode::from(128 + signal);
    }
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn run(command: &Command, runner: &Runner) -> Result<()> {
    let workspace = Workspace::find()?;
    match command {
        Command::Demo(demo) => demo.run(&workspace, runner),
        Command::Test(test) => test.run(&workspace, runner),
        Command::Fuzz(fuzz) => fuzz.run(&workspace, runner),
        Command::Bench(bench) => bench.run(&workspace, runner),
        Command::Findings(findings) => findings.run(&workspace, runner),
        Command::Campaign(campaign) => campaign.run(&workspace, runner),
        Command::Simulate(simulate) => simulate.run(&workspace, runner),
        Command::Guards(guards) => guards.run(&workspace, runner),
        Command::Release(release) => release.run(&workspace, runner),
        Command::Tidy(tidy) => tidy.run(&workspace, runner),
        Command::Advisories(update) => update.run(&workspace, runner),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    drop(writeln!(std::io::stderr(), "error: {error:#}"));
    ExitCode::FAILURE
}
