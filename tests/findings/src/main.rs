//! `fanout-findings`: runs the experiments behind `docs/findings/` and writes its pages.
//!
//! Each experiment starts the nats-servers it needs, keeps every sample as a line of JSON, and gives tables and plots; a
//! page of `pages/` says around them what was asked, expected and learnt. A figure is never typed by hand: a page that
//! names a table which the experiment did not give, or leaves one out, is an error.

/// As `eprintln!`, which panics once nobody reads standard error.
macro_rules! tell {
    ($($what:tt)*) => {
        drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", format_args!($($what)*))))
    };
}

mod drained;
mod experiment;
mod fanout;
mod flow;
mod histogram;
mod latency;
mod leaf;
mod load;
mod machine;
mod migration;
mod mirrored;
mod outward;
mod pace;
mod packets;
mod page;
mod places;
mod plot;
mod proxy;
mod quotas;
mod raw;
mod regions;
mod retention;
mod said;
mod server;
mod subjects;
mod summary;
mod table;
mod transport;
mod ways;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Parser;

use crate::experiment::{Experiment, Lab, Scale};
use crate::machine::Machine;
use crate::raw::Raw;

/// Runs experiments on real nats-servers and writes what came of them.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask findings", bin_name = "cargo xtask findings")]
struct Cli {
    /// The experiments to run; all of them without a name
    names: Vec<Experiment>,
    /// Small sizes, minutes in all (the default)
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// The sizes that the questions ask for: about an hour
    #[arg(long)]
    full: bool,
    /// Sizes that show that the harness works, seconds in all; no figure means anything
    #[arg(long, conflicts_with_all = ["quick", "full"])]
    smoke: bool,
    /// The seed of everything random
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// What else the machine does meanwhile, for the pages
    #[arg(long, value_name = "WORDS")]
    beside: Option<String>,
    /// Where the pages go
    #[arg(long, default_value = "docs/findings", value_name = "FOLDER")]
    out: PathBuf,
    /// Where the samples go
    #[arg(long, default_value = "target/findings", value_name = "FOLDER")]
    raw: PathBuf,
}

impl Cli {
    fn scale(&self) -> Scale {
        match (self.smoke, self.full) {
            (true, _) => Scale::Smoke,
            (_, true) => Scale::Full,
            _ => Scale::Quick,
        }
    }

    /// The command that repeats one experiment.
    fn command(&self, experiment: Experiment) -> String {
        format!(
            "cargo xtask findings {} --{} --seed {}",
            experiment.name(),
            self.scale().name(),
            self.seed
        )
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match std::env::var(transport::FAR_SIDE) {
        Ok(told) => transport::far_side(&told).await,
        Err(_) => run(&Cli::parse()).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: &Cli) -> Result<()> {
    let machine = Machine::read(cli.beside.clone()).await?;
    tell!("{machine}");
    let names = if cli.names.is_empty() {
        Experiment::ALL.to_vec()
    } else {
        cli.names.clone()
    };
    let count = names.len();
    for (i, experiment) in names.into_iter().enumerate() {
        let start = Instant::now();
        let raw = Raw::create(&cli.raw, experiment.name())?;
        let lab = Lab::new(cli.scale(), cli.seed, raw);
        tell!("[{} of {count}] {}: {}", i + 1, experiment.name(), experiment.title());
        let findings = experiment
            .run(&lab)
            .await
            .with_context(|| format!("experiment {}", experiment.name()))?;
        let took = start.elapsed();
        let written = page::write(&page::Run {
            experiment,
            findings: &findings,
            machine: &machine,
            command: &cli.command(experiment),
            seed: cli.seed,
            took,
            out: &cli.out,
        })?;
        if findings.tables.is_empty() {
            bail!("experiment {} gave no table", experiment.name());
        }
        let ran = summary::Ran {
            scale: cli.scale().name().to_owned(),
            command: cli.command(experiment),
            machine: machine.to_string(),
            seconds: took.as_secs(),
            figures: findings.figures,
        };
        ran.save(&cli.raw, experiment)?;
        tell!(
            "{}: {:.0} s, {} samples in {}, page {}",
            experiment.name(),
            took.as_secs_f64(),
            lab.raw.samples(),
            lab.raw.path().display(),
            written.display()
        );
    }
    match summary::write(&cli.raw, &cli.out, cli.scale().name())? {
        Ok(page) => tell!("summary: {}", page.display()),
        Err(missing) => tell!("no summary yet: not run at this scale: {}", missing.join(", ")),
    }
    Ok(())
}
