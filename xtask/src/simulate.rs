//! `cargo xtask simulate`: the simulation, over as many seeds as are wanted.

use anyhow::Result;
use clap::Args;

use crate::runner::Runner;
use crate::workspace::Workspace;

/// `cargo xtask simulate`.
#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// How many seeds
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// This seed alone, which tells what happened
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
}

impl Simulate {
    pub(crate) fn run(&self, workspace: &Workspace, runner: &Runner) -> Result<()> {
        let mut test = workspace.cargo();
        test.args(["test", "--locked", "--workspace", "--test", "simulation"]);
        match self.seed {
            Some(seed) => test.env("FANOUT_SEED", seed.to_string()),
            None => test
                .env("FANOUT_SEEDS", self.seeds.to_string())
                .env("FANOUT_FIRST_SEED", self.first.to_string()),
        };
        runner.run(&mut test)
    }
}
