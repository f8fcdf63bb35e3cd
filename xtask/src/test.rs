//! `cargo xtask test`: all tests, the quick ones of the dev host and the documentation first.

use anyhow::Result;
use clap::Args;

use crate::build;
use crate::fuzz::Fuzz;
use crate::runner::Runner;
use crate::test_tools::TestTools;
use crate::workspace::Workspace;

/// `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Only these files of integration tests, such as `durable,retries`. Components and the dev host stay as they are
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    only: Vec<String>,
}

impl Test {
    /// Builds and runs the tests. What the last tests print is the last that is printed.
    pub(crate) fn run(&self, workspace: &Workspace, runner: &Runner) -> Result<()> {
        let chosen: Vec<_> = self.only.iter().flat_map(|file| ["--test", file.as_str()]).collect();
        let parts = if chosen.is_empty() {
            let parts = build::everything(workspace, runner)?;
            quick_ones(workspace, runner, &parts)?;
            parts
        } else {
            build::programs(workspace, runner, &chosen)?
        };

        let tools = TestTools::find(workspace, runner)?;
        runner.step("testing the workspace");
        let mut test = workspace.cargo();
        // One failure does not hide the next.
        test.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
        if chosen.is_empty() {
            test.arg("--all-targets");
        }
        test.args(chosen);
        parts.tell(workspace, &mut test);
        tools.tell(&mut test);
        runner.run(&mut test)
    }
}

fn quick_ones(workspace: &Workspace, runner: &Runner, parts: &build::Parts) -> Result<()> {
    runner.step("testing the dev host");
    let mut test = build::dev_host(workspace, runner, "test")?;
    parts.tell(workspace, &mut test);
    runner.run(&mut test)?;

    runner.step("testing the documentation's examples");
    runner.run(workspace.cargo().args(["test", "--locked", "--workspace", "--doc"]))?;

    Fuzz::quick().run_if_possible(workspace, runner)
}
