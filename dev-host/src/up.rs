//! `fanout-dev up`: the parts, ready, until told to end.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Map, json};

use crate::Ended;
use crate::cli::Up;
use crate::console::Console;
use crate::endpoints::Endpoints;
use crate::host::LATTICE;
use crate::interrupt::Interrupt;
use crate::rundir::RunDir;
use crate::signature::Secret;
use crate::stack::Stack;
use crate::transport::Transport;

/// Starts the parts and stays until a signal or the end of standard input.
pub(crate) async fn run(
    up: &Up,
    stack: &mut Stack,
    run: &RunDir,
    console: &Console,
    interrupt: &mut Interrupt,
) -> Ended {
    let started = async {
        let secret = Secret::random()?;
        let endpoints = stack.prepare(&up.parts, run, &secret).await?;
        let took = stack.start(&up.parts, run, &endpoints, Transport::Nats).await?;
        say_ready(up, stack, run, console, took, &endpoints, &secret)
    };
    tokio::select! {
        started = started => match started {
            Ok(()) => Ended::Interrupted(interrupt.signalled_or_input_end().await),
            Err(error) => Ended::Failed(error),
        },
        reason = interrupt.signalled_or_input_end() => Ended::Interrupted(reason),
    }
}

fn say_ready(
    up: &Up,
    stack: &Stack,
    run: &RunDir,
    console: &Console,
    took: Duration,
    endpoints: &Endpoints,
    secret: &Secret,
) -> Result<()> {
    let seconds = took.as_secs_f64();
    let nats = format!("nats://{}", stack.nats()?.address());
    if up.json {
        let urls: Map<_, _> = endpoints
            .all()
            .map(|endpoint| (endpoint.name().to_owned(), endpoint.url("").into()))
            .collect();
        let ready = json!({
            "ready_seconds": seconds,
            "nats": nats,
            "lattice": LATTICE,
            "host_id": stack.host()?.id(),
            "endpoints": urls,
            "stripe_secret": secret.expose(),
            "folder": run.root(),
        });
        console.line(ready.to_string());
        return Ok(());
    }
    console.line(format!("READY after {seconds:.1} s"));
    console.line(format!("  nats          {nats}"));
    let application = stack.application()?;
    for endpoint in endpoints
        .all()
        .filter(|endpoint| application.mentions(endpoint.authority()))
    {
        console.line(format!("  {:<13} {}", endpoint.name(), endpoint.url("")));
    }
    console.line(format!("  stripe secret {}", secret.expose()));
    console.line(format!("  logs          {}", run.logs().display()));
    console.line("Ctrl-C ends it.");
    Ok(())
}
