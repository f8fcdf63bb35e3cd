//! `cargo xtask test`: all tests, the quick ones of the dev host and the documentation first.

use anyhow::Result;

use crate::build::{self, Targets};
use crate::fuzz::Fuzz;
use crate::runner::Runner;
use crate::workspace::Workspace;

/// Builds everything and runs all tests. What the last tests print is the last that is printed.
pub(crate) fn run(workspace: &Workspace, runner: &Runner) -> Result<()> {
    let parts = build::everything(workspace, runner, Targets::AndTests)?;

    runner.step("testing the dev host");
    let mut test = build::dev_host(workspace, runner, "test")?;
    parts.tell(workspace, &mut test);
    runner.run(&mut test)?;

    runner.step("testing the documentation's examples");
    runner.run(workspace.cargo().args(["test", "--locked", "--workspace", "--doc"]))?;

    Fuzz::quick().run_if_possible(workspace, runner)?;

    runner.step("testing the workspace");
    let mut test = workspace.cargo();
    // One failure does not hide the next.
    test.args(["test", "--locked", "--workspace", "--all-targets", "--no-fail-fast"]);
    parts.tell(workspace, &mut test);
    runner.run(&mut test)
}
