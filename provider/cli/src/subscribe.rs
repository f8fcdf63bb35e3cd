//! `subscribe`: a subscription's events, one on a line, each acknowledged once it is printed, or as [`manual`] says. It
//! ends after a count, when a backfill does, or at a signal. `unsubscribe` ends the subscription itself.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::CommandFactory as _;
use clap::error::ErrorKind;
use fanout_client::{Deliveries, Delivery, Position, Subscription};
use fanout_plan::subscription::Start;
use fanout_plan::{Timestamp, link};
use serde_json::{Value, json};

use crate::args::{Args, To};
use crate::ending::Ending;
use crate::terminal::{error_line, json_line, printable, printable_bytes, say};
use crate::{manual, matching, remote};

#[derive(Debug, clap::Args)]
pub(crate) struct Subscribe {
    #[command(flatten)]
    pub(crate) to: To,
    /// What is needed
    #[arg(long)]
    pub(crate) need: Need,
    /// The subscription's name; the same one again goes on where it was
    #[arg(long)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) events: Events,
    /// Print deliveries as JSON lines with a `token`, and settle each only by a line of standard input: `ack TOKEN`,
    /// `retry TOKEN [AFTER]` or `dead-letter TOKEN REASON`
    #[arg(long)]
    pub(crate) manual: bool,
    /// With --manual: at most so many deliveries that are not settled, 1 to 1000; with 1, TOKEN can always be left out
    #[arg(long, value_name = "DELIVERIES", requires = "manual", default_value_t = 64, value_parser = in_flight())]
    pub(crate) max_in_flight: u32,
}

/// Which events a subscription is given.
#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    /// Where a backfill begins, --need backfill alone: first, a time such as 2026-11-22T10:00:00Z, or a position such as 0/42
    #[arg(long, value_parser = link::start)]
    pub(crate) from: Option<Start>,
    /// Of this tenant only; may be given several times
    #[arg(long)]
    pub(crate) tenant: Vec<String>,
    /// Events of these types only, such as invoice.*; may be given several times
    #[arg(long = "type", value_name = "PATTERN")]
    pub(crate) event_type: Vec<String>,
    /// Events that match the event pattern in this file, too
    #[arg(long, value_name = "FILE")]
    pub(crate) pattern: Option<PathBuf>,
    /// On a bus that has places, whose events: those of all places, or those published at the place where it is made
    #[arg(long, value_enum)]
    pub(crate) scope: Option<Scope>,
    /// End after so many deliveries
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scope {
    /// Those of all places
    Everywhere,
    /// Those published at the place where it is made
    Here,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Need {
    /// Fast, at most once
    Queue,
    /// Everything from now on, at least once
    Durable,
    /// The retained log, then live
    Backfill,
    /// What the operator declared under this name
    Declared,
}

/// How many deliveries may be in flight: as many as a fetch of the bus brings at most.
pub(crate) fn in_flight() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1000)
}

#[derive(Debug, clap::Args)]
pub(crate) struct Unsubscribe {
    #[command(flatten)]
    pub(crate) to: To,
    /// The subscription's name
    #[arg(long)]
    pub(crate) name: String,
}

/// How long settling what was printed may take at the end.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(5);

pub(crate) async fn subscribe(args: &Subscribe, json: bool) -> Result<()> {
    let mut subscription = subscription(args.need, &args.name, &args.events)?;
    if args.manual {
        subscription = subscription.prefetch(args.max_in_flight);
    }
    let bus = remote::connect(&args.to).await?;
    let mut deliveries = bus.subscribe(subscription).await?;
    if args.manual {
        manual::run(&args.name, deliveries, json).await?;
    } else {
        let printed = print(&mut deliveries, json).await;
        deliveries.stop(LAST_WORDS).await;
        printed?;
    }
    if args.need != Need::Declared {
        report_that_it_lasts(&args.name);
    }
    Ok(())
}

/// Says at a terminal that a subscription outlives the command.
pub(crate) fn report_that_it_lasts(name: &str) {
    if std::io::stderr().is_terminal() {
        error_line(format_args!(
            "subscription {name} lasts, and its events wait for it: `fanout unsubscribe --name {name}` ends it",
            name = printable(name)
        ));
    }
}

/// What is given and would have no effect on a subscription of this need: it would be given what the flags leave out, and
/// acknowledge it.
fn unused(need: Need, events: &Events) -> Option<String> {
    let is_declared = need == Need::Declared;
    let is_kept = matches!(need, Need::Durable | Need::Backfill);
    let flags = [
        ("--tenant", !events.tenant.is_empty(), !is_declared),
        ("--type", !events.event_type.is_empty(), !is_declared),
        ("--pattern", events.pattern.is_some(), !is_declared),
        ("--from", events.from.is_some(), need == Need::Backfill),
        ("--scope", events.scope.is_some(), is_kept),
    ];
    let unused = flags.into_iter().filter(|(_, is_given, is_used)| *is_given && !is_used);
    let unused: Vec<_> = unused.map(|(flag, ..)| flag).collect();
    let why = match unused.as_slice() {
        [] => return None,
        _ if is_declared => "what is declared is given the events that the operator said",
        ["--from"] => "only a backfill begins at a place in the log",
        ["--scope"] => "only a durable or backfill subscription has a scope",
        _ => "a queue subscription is given what is published at its own place from now on",
    };
    Some(format!("{why}: leave {} out", unused.join(" and ")))
}

/// A subscription as the command line names it.
pub(crate) fn subscription(need: Need, name: &str, events: &Events) -> Result<Subscription> {
    if let Some(wanted) = unused(need, events) {
        Args::command().error(ErrorKind::ArgumentConflict, wanted).exit();
    }
    let subscription = match need {
        Need::Queue => Subscription::queue(name),
        Need::Durable => Subscription::durable(name),
        Need::Backfill => Subscription::backfill(name, begins(events.from)),
        Need::Declared => Subscription::declared(name),
    };
    let subscription = subscription.tenants(&events.tenant).event_types(&events.event_type);
    let subscription = match &events.pattern {
        // Judged here, where the file has a name.
        Some(file) => subscription.pattern(matching::pattern(file)?.as_str()),
        None => subscription,
    };
    let subscription = match events.scope {
        Some(Scope::Here) => subscription.of_this_place(),
        Some(Scope::Everywhere) | None => subscription,
    };
    Ok(match events.count {
        Some(count) => subscription.at_most(count),
        None => subscription,
    })
}

fn begins(from: Option<Start>) -> fanout_client::Start {
    match from {
        None | Some(Start::First) => fanout_client::Start::First,
        Some(Start::Time(t)) => fanout_client::Start::Time(t.nanoseconds()),
        Some(Start::Position(fanout_plan::Position { partition, offset })) => {
            fanout_client::Start::Position(Position { partition, offset })
        }
    }
}

pub(crate) async fn unsubscribe(args: &Unsubscribe, json: bool) -> Result<()> {
    let bus = remote::connect(&args.to).await?;
    bus.unsubscribe(&args.name).await?;
    if json {
        return say!("{}", json_line(&json!({ "subscription": args.name, "state": "ended" })));
    }
    say!("subscription {} is ended", printable(&args.name))
}

async fn print(deliveries: &mut Deliveries, json: bool) -> Result<()> {
    let mut ending = Ending::new()?;
    loop {
        let next = tokio::select! {
            biased;
            () = ending.signalled() => return Ok(()),
            next = deliveries.recv() => next,
        };
        let Some(delivery) = next else { return Ok(()) };
        let delivery = delivery?;
        let line = if json {
            json_line(&as_json(&delivery))
        } else {
            as_text(&delivery)
        };
        // Acknowledged only once it is out: a reader that is gone gets it next time.
        say!("{line}")?;
        delivery.ack().await?;
    }
}

fn as_text(d: &Delivery) -> String {
    let e = d.event();
    // One event is one line.
    format!(
        "{} {} {} {} {}",
        d.position(),
        printable(&e.tenant),
        printable(&e.event_type),
        printable(&e.id),
        printable_bytes(&e.data)
    )
}

/// Every attribute of a delivery and of its event.
pub(crate) fn as_json(d: &Delivery) -> Value {
    let e = d.event();
    let data = match std::str::from_utf8(&e.data) {
        Ok(text) => json!(text),
        Err(_) => json!({ "bytes": e.data.to_vec() }),
    };
    let extensions: serde_json::Map<_, _> = e.extensions.iter().map(|(n, v)| (n.clone(), json!(v))).collect();
    json!({
        "position": d.position().to_string(),
        "attempt": d.attempt(),
        "replayed": d.replayed(),
        "published_at": Timestamp::from_nanoseconds(d.published_at()).to_string(),
        "tenant": e.tenant,
        "type": e.event_type,
        "id": e.id,
        "source": e.source,
        "subject": e.subject,
        "time": e.time.map(|time| Timestamp::from_nanoseconds(time).to_string()),
        "data_content_type": e.data_content_type,
        "data_schema": e.data_schema,
        "ordering_key": e.ordering_key,
        "extensions": extensions,
        "traceparent": e.traceparent,
        "data": data,
    })
}
