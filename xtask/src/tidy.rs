//! `cargo xtask tidy`: layers, licences, advisories, format, lint; the quick ones first.

use anyhow::Result;
use clap::Args;

use crate::runner::Runner;
use crate::workspace::Workspace;
use crate::{advisories, build, layers, licences};

/// Clippy's warnings are errors here.
const DENY_WARNINGS: [&str; 3] = ["--", "--deny", "warnings"];

/// `cargo xtask tidy`.
#[derive(Debug, Args)]
pub(crate) struct Tidy {
    /// Change no file; fail if one is not formatted
    #[arg(long)]
    check: bool,
}

impl Tidy {
    pub(crate) fn run(&self, workspace: &Workspace, runner: &Runner) -> Result<()> {
        runner.step("holding the source to its layers");
        layers::check(workspace)?;
        runner.step("checking the licences of all dependencies");
        licences::check(workspace, runner)?;
        runner.step("holding all dependencies against security advisories");
        advisories::check(workspace, runner)?;

        let verb = if self.check {
            "checking the format of"
        } else {
            "formatting"
        };
        for (name, manifest) in [
            ("the workspace", workspace.root().join("Cargo.toml")),
            ("the dev host", workspace.dev_host_manifest()),
        ] {
            runner.step(format!("{verb} {name}"));
            let mut format = workspace.cargo();
            format.args(["fmt", "--all", "--manifest-path"]).arg(manifest);
            if self.check {
                format.arg("--check");
            }
            runner.run(&mut format)?;
        }

        runner.step("linting the workspace");
        let mut lint = workspace.cargo();
        lint.args(["clippy", "--locked", "--workspace", "--all-targets"]);
        runner.run(lint.args(DENY_WARNINGS))?;

        // Their bindings are compiled for no other target.
        runner.step("linting the components");
        crate::wasm::ensure(runner)?;
        runner.run(build::components(workspace, "clippy", &build::all_components()).args(DENY_WARNINGS))?;

        runner.step("linting the dev host");
        let mut lint = build::dev_host(workspace, runner, "clippy")?;
        runner.run(lint.arg("--all-targets").args(DENY_WARNINGS))?;

        runner.step("tidy");
        Ok(())
    }
}
