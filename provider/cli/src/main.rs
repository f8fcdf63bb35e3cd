//! `fanout`: the command line of a bus. It needs no wasmCloud host: what a bus is lives in NATS.
//!
//! Exit codes: 0 done, 1 the policy or the request was refused, 2 the command line is wrong, 3 the store, the bus or the URL can't be
//! reached, 141 whoever read the output closed it.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod backup;
mod bus;
mod dead_letters;
mod diagnostic;
mod ending;
mod errors;
mod event;
mod listen;
mod lost;
mod manual;
mod manual_pages;
mod matching;
mod migrate;
mod nats;
mod place;
mod policy;
mod publish;
mod ready;
mod relocate;
mod remote;
mod serve;
mod settled;
mod status;
mod subscribe;
mod tail;
mod terminal;
mod token;
mod webhook;
mod why;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use fanout_provider::ServeError;
use fanout_provider::jetstream::StoreError;
use fanout_transport::causes;

use crate::args::{Args, Verb};
use crate::bus::Refused;
use crate::diagnostic::PolicyRefused;
use crate::matching::{DoesNotMatch, NotLegal};
use crate::terminal::{PipeClosed, error_line, json_line, printable, printable_lines, without_users};
use crate::webhook::{NotAccepted, Unreachable};

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            error_line(format_args!("can't start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run());
    // A name that is being resolved, which can't be called off, must not keep the process there.
    runtime.shutdown_background();
    ended
}

async fn run() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(said) if said.use_stderr() => {
            let said = without_users(&said.render().to_string());
            error_line(format_args!("{}", printable_lines(said.trim_end())));
            return ExitCode::from(2);
        }
        // Help, or the version. Whoever asked may have gone.
        Err(said) => {
            drop(said.print());
            return ExitCode::SUCCESS;
        }
    };
    let done = match args.verb {
        Verb::Check(a) => policy::check(&a, args.json).await,
        Verb::Explain(a) => policy::explain(&a, args.json).await,
        Verb::Size(a) => policy::size(&a, args.json).await,
        Verb::Plan(a) => policy::plan(&a, args.json).await,
        Verb::Apply(a) => policy::apply(&a, args.json).await,
        Verb::Status(a) => status::status(&a, args.json).await,
        Verb::Migrate(a) => migrate::migrate(&a, args.json).await,
        Verb::Rewind {
            store,
            subscription,
            to,
            skip_unhandled,
        } => place::rewind(&store, &subscription, to, skip_unhandled, args.json).await,
        Verb::Pause { store, subscription } => place::pause(&store, &subscription, true, args.json).await,
        Verb::Resume { store, subscription } => place::pause(&store, &subscription, false, args.json).await,
        Verb::Move {
            store,
            subscription,
            to,
            within,
            from_lost: false,
        } => relocate::relocate(&store, &subscription, &to, within, args.json).await,
        Verb::Move {
            store,
            subscription,
            to,
            ..
        } => relocate::from_lost(&store, &subscription, &to, args.json).await,
        Verb::Lost {
            store,
            subscription,
            seen,
        } => lost::lost(&store, subscription.as_ref(), seen, args.json).await,
        Verb::Backup(a) => backup::backup(&a, args.json).await,
        Verb::Restore(a) => backup::restore(&a, args.json).await,
        Verb::Tail(a) => tail::tail(&a, args.json).await,
        Verb::Event(a) => event::event(&a, args.json).await,
        Verb::Errors(a) => errors::errors(&a, args.json).await,
        Verb::DeadLetters(a) => dead_letters::run(&a, args.json).await,
        Verb::Webhook(a) => webhook::run(&a, args.json).await,
        Verb::Serve(a) => serve::serve(&a, args.json).await,
        Verb::Token => token::token(args.json),
        Verb::Publish(a) => publish::publish(&a, args.json).await,
        Verb::Subscribe(a) => subscribe::subscribe(&a, args.json).await,
        Verb::Listen(a) => listen::run(&a, args.json).await,
        Verb::Unsubscribe(a) => subscribe::unsubscribe(&a, args.json).await,
        Verb::Match { pattern, event } => matching::run(&pattern, &event, args.json),
        Verb::Why(a) => why::run(&a, args.json).await,
        Verb::Ready(a) => ready::ready(&a, args.json).await,
        Verb::ManualPages { folder } => manual_pages::manual_pages(folder.as_deref(), args.json),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "fanout", &mut script);
            terminal::line(format_args!("{}", String::from_utf8_lossy(&script).trim_end()))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.is::<PipeClosed>() {
                return ExitCode::from(PipeClosed::EXIT_CODE);
            }
            if !error.is::<NotAccepted>() && !error.is::<DoesNotMatch>() {
                report(&error, args.json);
            }
            ExitCode::from(code(&error))
        }
    }
}

/// Tells what went wrong, with every problem on a line of its own.
fn report(error: &anyhow::Error, json: bool) {
    if let Some(refused) = error.downcast_ref::<PolicyRefused>()
        && !json
    {
        return error_line(format_args!("{}", printable_lines(&refused.shown)));
    }
    let unavailable = bus::store_unavailable(error);
    let problems = problems(error).or(unavailable.as_ref().map(std::slice::from_ref));
    let as_json = |value: &serde_json::Value| error_line(format_args!("{}", json_line(value)));
    if let Some(e) = error.downcast_ref::<fanout_client::Error>()
        && json
    {
        let mut problem = serde_json::json!({ "code": e.code, "message": e.message });
        if let Some(wait) = e.retry_after() {
            let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            problem["retry_after_ms"] = wait.into();
        }
        return as_json(&serde_json::json!({ "problems": [problem] }));
    }
    // What a server or a peer said may be in it.
    let as_text = |what: String| error_line(format_args!("error: {}", printable(&what)));
    match problems {
        Some(problems) if json => as_json(&serde_json::json!({ "problems": problems })),
        Some(problems) => problems.iter().for_each(|p| as_text(p.to_string())),
        None if json => as_json(&serde_json::json!({ "error": causes(&**error) })),
        None => as_text(causes(&**error)),
    }
}

fn problems(error: &anyhow::Error) -> Option<&[fanout_plan::Problem]> {
    if let Some(refused) = error.downcast_ref::<Refused>() {
        return Some(&refused.0);
    }
    if let Some(refused) = error.downcast_ref::<PolicyRefused>() {
        return Some(&refused.problems);
    }
    if let Some(NotLegal(problem)) = error.downcast_ref() {
        return Some(std::slice::from_ref(problem));
    }
    match error.downcast_ref() {
        Some(StoreError::Refused(problems)) => return Some(problems),
        Some(StoreError::NoJetStream(problem)) => return Some(std::slice::from_ref(problem)),
        _ => {}
    }
    match error.downcast_ref() {
        Some(ServeError::Refused(problems)) => Some(problems),
        Some(ServeError::NoJetStream(problem)) => Some(std::slice::from_ref(problem)),
        _ => None,
    }
}

fn code(error: &anyhow::Error) -> u8 {
    if let Some(e) = error.downcast_ref::<fanout_client::Error>() {
        return if e.is_transient() { 3 } else { 1 };
    }
    if error.is::<NotLegal>() {
        return 2;
    }
    match error.downcast_ref() {
        Some(ServeError::Store(e)) => return of_transport(e),
        Some(ServeError::NoJetStream(_)) => return 3,
        _ => {}
    }
    if let Some(e) = error.downcast_ref::<fanout_transport::Error>() {
        return of_transport(e);
    }
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::Refused(_)) => 1,
        Some(_) => 3,
        None if error.is::<Unreachable>() => 3,
        None => 1,
    }
}

/// What is wrong with what was given is no trouble of whoever can't be reached.
fn of_transport(error: &fanout_transport::Error) -> u8 {
    use fanout_transport::Error::{Access, Seed, Tls};
    if matches!(error, Access(_) | Seed | Tls { .. }) {
        1
    } else {
        3
    }
}
