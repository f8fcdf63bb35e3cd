//! `subscribe`: a subscription's events, one on a line, each acknowledged once it is printed, or as [`manual`] says. It
//! ends after a count, when a backfill does, or at a signal. `unsubscribe` ends the subscription itself.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Result;
use clap::CommandFactory as _;
use clap::error::ErrorKind;
use fanout_client::{Deliveries, Delivery, Position, Subscription};
use fanout_plan::Timestamp;
use fanout_plan::subscription::Start;
use serde_json::{Value, json};

use crate::args::{self, Events, Need};
use crate::ending::Ending;
use crate::terminal::{error_line, json_line, printable, printable_bytes, say};
use crate::{manual, matching, remote};

/// How long settling what was printed may take at the end.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(5);

pub(crate) async fn subscribe(args: &args::Subscribe, json: bool) -> Result<()> {
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

/// A subscription as the command line names it.
pub(crate) fn subscription(need: Need, name: &str, events: &Events) -> Result<Subscription> {
    if need == Need::Declared && events.pattern.is_some() {
        // It would be given what the pattern leaves out.
        let wanted = "what is declared has the event pattern that the operator gave it: leave --pattern out";
        args::Args::command().error(ErrorKind::ArgumentConflict, wanted).exit();
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

pub(crate) async fn unsubscribe(args: &args::Unsubscribe, json: bool) -> Result<()> {
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
