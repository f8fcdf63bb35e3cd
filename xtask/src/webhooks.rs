//! What the bench `webhooks` runs: the program that times verifications, natively and as a component; the ingress, with its
//! features and without; the dev host that runs both.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::runner::Runner;
use crate::workspace::Workspace;
use crate::{build, wasm};

/// The bench's name.
pub(crate) const NAME: &str = "webhooks";

const INGRESS: &str = "webhook-ingress";

/// The program that times verifications: for this machine it is built with the bench.
pub(crate) const MEASURE: &str = "webhook-measure";

/// Builds the others, and says in which variables the bench looks for all of them.
pub(crate) fn build(workspace: &Workspace, runner: &Runner) -> Result<Vec<(&'static str, PathBuf)>> {
    wasm::ensure(runner)?;
    runner.step("building what times webhooks as a component, and the ingress");
    runner.run(&mut build::component(workspace, MEASURE))?;
    // First without, as both leave their file in the same place.
    runner.run(build::component(workspace, INGRESS).arg("--no-default-features"))?;
    let ingress = workspace.components().join("webhook_ingress.wasm");
    let without_paypal = workspace.samples().join("webhook_ingress-without-paypal.wasm");
    std::fs::create_dir_all(workspace.samples())
        .and_then(|()| std::fs::copy(&ingress, &without_paypal))
        .with_context(|| format!("can't copy {} to {}", ingress.display(), without_paypal.display()))?;
    runner.run(&mut build::component(workspace, INGRESS))?;

    runner.step("building the dev host (from nothing, this takes about ten minutes on two cores)");
    runner.run(&mut build::dev_host(workspace, runner, "build")?)?;
    let mut command = build::dev_host(workspace, runner, "build")?;
    runner.run(command.args(["--example", "command"]))?;
    Ok(vec![
        ("FANOUT_MEASURE_BIN", workspace.released(MEASURE)),
        (
            "FANOUT_MEASURE_WASM",
            workspace.components().join("webhook-measure.wasm"),
        ),
        (
            "FANOUT_COMMAND_BIN",
            workspace.dev_host_target().join("debug/examples/command"),
        ),
        ("FANOUT_INGRESS_WASM", ingress),
        ("FANOUT_INGRESS_WITHOUT_PAYPAL_WASM", without_paypal),
        ("FANOUT_DEV_BIN", workspace.dev_host()),
        ("FANOUT_COMPONENTS", workspace.components()),
    ])
}
