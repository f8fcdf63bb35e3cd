//! What the bench `host` runs: a component, and the dev host.

use std::path::PathBuf;

use anyhow::Result;

use crate::runner::Runner;
use crate::workspace::Workspace;
use crate::{build, wasm};

/// The bench's name.
pub(crate) const NAME: &str = "host";

/// Builds them, and says in which variables the bench looks for them. A quick run shows that it works, and does with the
/// dev host of the demo and the tests.
pub(crate) fn build(workspace: &Workspace, runner: &Runner, quick: bool) -> Result<Vec<(&'static str, PathBuf)>> {
    wasm::ensure(runner)?;
    runner.step("building the component that the host runs");
    runner.run(&mut build::component(workspace, "bench-component"))?;

    let mut dev_host = build::dev_host(workspace, runner, "build")?;
    let program = if quick {
        runner.step("building the dev host (from nothing, this takes about ten minutes on two cores)");
        workspace.dev_host()
    } else {
        // A debug build takes several times as long for each call, be it to the bus or to its own messaging.
        runner.step("building the dev host for speed (from nothing, this takes half an hour on two cores)");
        dev_host.arg("--release");
        workspace.released_dev_host()
    };
    runner.run(&mut dev_host)?;
    Ok(vec![
        ("FANOUT_HOST_BIN", program),
        ("FANOUT_COMPONENTS", workspace.components()),
        ("FANOUT_HOST_MANIFEST", workspace.root().join("tests/bench/host.yaml")),
    ])
}
