//! `fanout`: the command line of a bus. It needs no wasmCloud host: what a bus is lives in NATS.
//!
//! Exit codes: 0 done, 1 the policy or the request was refused, 2 the command line is wrong, 3 the store, the bus or the URL can't be
//! reached.

mod args;
mod bus;
mod dead_letters;
mod place;
mod policy;
mod publish;
mod remote;
mod serve;
mod status;
mod subscribe;
mod tail;
mod webhook;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use fanout_provider::ServeError;
use fanout_provider::jetstream::StoreError;

use crate::args::{Args, Verb};
use crate::bus::Refused;
use crate::webhook::{NotAccepted, Unreachable};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.verb {
        Verb::Check(a) => policy::check(&a, args.json).await,
        Verb::Explain(a) => policy::explain(&a, args.json).await,
        Verb::Plan(a) => policy::plan(&a, args.json).await,
        Verb::Apply(a) => policy::apply(&a, args.json).await,
        Verb::Status(a) => status::status(&a, args.json).await,
        Verb::Rewind {
            store,
            subscription,
            to,
            skip_unhandled,
        } => place::rewind(&store, &subscription, to, skip_unhandled, args.json).await,
        Verb::Pause { store, subscription } => place::pause(&store, &subscription, true, args.json).await,
        Verb::Resume { store, subscription } => place::pause(&store, &subscription, false, args.json).await,
        Verb::Tail(a) => tail::tail(&a, args.json).await,
        Verb::DeadLetters(a) => dead_letters::run(&a, args.json).await,
        Verb::Webhook(a) => webhook::run(&a, args.json).await,
        Verb::Serve(a) => serve::serve(&a, args.json).await,
        Verb::Publish(a) => publish::publish(&a, args.json).await,
        Verb::Subscribe(a) => subscribe::subscribe(&a, args.json).await,
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "fanout", &mut std::io::stdout());
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<NotAccepted>() {
                report(&error, args.json);
            }
            ExitCode::from(code(&error))
        }
    }
}

/// Tells what went wrong, with every problem on a line of its own.
fn report(error: &anyhow::Error, json: bool) {
    let problems = problems(error);
    if let Some(e) = error.downcast_ref::<fanout_client::Error>()
        && json
    {
        let problem = serde_json::json!({ "code": e.code, "message": e.message });
        return eprintln!("{}", serde_json::json!({ "problems": [problem] }));
    }
    match problems {
        Some(problems) if json => eprintln!("{}", serde_json::json!({ "problems": problems })),
        Some(problems) => problems.iter().for_each(|p| eprintln!("error: {p}")),
        None if json => eprintln!("{}", serde_json::json!({ "error": format!("{error:#}") })),
        None => eprintln!("error: {error:#}"),
    }
}

fn problems(error: &anyhow::Error) -> Option<&[fanout_plan::Problem]> {
    if let Some(refused) = error.downcast_ref::<Refused>() {
        return Some(&refused.0);
    }
    if let Some(StoreError::Refused(problems)) = error.downcast_ref() {
        return Some(problems);
    }
    match error.downcast_ref() {
        Some(ServeError::Refused(problems)) => Some(problems),
        _ => None,
    }
}

fn code(error: &anyhow::Error) -> u8 {
    if let Some(e) = error.downcast_ref::<fanout_client::Error>() {
        return if e.is_transient() { 3 } else { 1 };
    }
    if let Some(ServeError::Store(_)) = error.downcast_ref() {
        return 3;
    }
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::Refused(_)) => 1,
        Some(_) => 3,
        None if error.is::<fanout_transport::Error>() || error.is::<Unreachable>() => 3,
        None => 1,
    }
}
