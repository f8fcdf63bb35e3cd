//! What the bench `host-v2` runs: the stock wasmCloud v2 host, the bus as `fanout serve`, components, and what composes them.

use std::path::PathBuf;

use anyhow::Result;

use crate::runner::Runner;
use crate::workspace::Workspace;
use crate::{build, wac, wash, wasm};

/// The bench's name.
pub(crate) const NAME: &str = "host-v2";
/// The package of the bus, which is built with the bench.
pub(crate) const BUS: &str = "fanout-cli";

const COMPONENTS: [&str; 6] = [
    "bench-component",
    "fanout-connector",
    "fanout-runner-batch-handler",
    "fanout-runner-handler",
    "fanout-v1-interfaces",
    "webhook-ingress",
];

/// Finds or builds the others, and says in which variables the bench looks for them.
pub(crate) fn build(workspace: &Workspace, runner: &Runner) -> Result<Vec<(&'static str, PathBuf)>> {
    wasm::ensure(runner)?;
    build::build_components(workspace, runner, &COMPONENTS)?;
    Ok(vec![
        (wash::VARIABLE, wash::find(workspace, runner)?),
        (wac::VARIABLE, wac::find(workspace, runner)?),
        ("FANOUT_COMPONENTS", workspace.components()),
        (
            "FANOUT_HOST_V2_MANIFEST",
            workspace.root().join("tests/bench/host-v2.yaml"),
        ),
    ])
}
