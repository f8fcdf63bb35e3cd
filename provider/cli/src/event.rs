//! `event`: where an event is stored, and what became of it at each subscription.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Result;
use clap::CommandFactory as _;
use clap::error::ErrorKind;
use fanout_plan::fate::Fate;
use fanout_plan::{Code, Problem, show_duration};
use fanout_provider::jetstream::{DeadLetter, Delivered, LogEvent, MOST_OF_ONE_ID, Store};
use fanout_provider::life::{AtSubscription, Life};
use serde_json::json;

use crate::args::{self, Which};
use crate::bus::{self, Refused};
use crate::terminal::{error_line, json_lines, printable, say, table};

pub(crate) async fn event(args: &args::OneEvent, json: bool) -> Result<()> {
    if let (Which::Id(_), None) = (&args.which, &args.tenant) {
        let wanted = "an id is looked for among the events of one tenant: name it with --tenant, or give a position such as 0/42";
        args::Args::command()
            .error(ErrorKind::MissingRequiredArgument, wanted)
            .exit();
    }
    let (store, observed) = bus::observed(&args.store).await?;
    let events = find(&store, args).await?;
    let tenant = args.tenant.as_ref().or(events.first().map(|event| &event.tenant));
    let mut letters = store.dead_letters(None, tenant, usize::MAX).await?;
    letters.retain(|letter| is_of(letter, args));
    let mut lives = Vec::new();
    for event in &events {
        lives.push(Life::of(&store, &observed.registry, event).await?);
    }
    let gone = match events.is_empty() {
        true => deliveries_of_gone(&store, args).await?,
        false => Vec::new(),
    };
    if events.is_empty() && letters.is_empty() && gone.is_empty() {
        return Err(absent(&store, args).into());
    }
    if events.len() == MOST_OF_ONE_ID {
        error_line(format_args!(
            "these are the first {MOST_OF_ONE_ID} that were found, and there may be more: name the source with --source"
        ));
    }
    // The log has let it go; a letter holds it whole.
    let left = letters
        .iter()
        .filter(|l| events.iter().all(|e| e.position != l.id.position));
    let left: Vec<_> = left.collect();
    if json {
        let mut shown = json!({ "events": lives, "letters_of_events_that_expired": left });
        if !gone.is_empty() {
            shown["deliveries_of_an_event_that_expired"] = json!(gone);
        }
        return say!("{}", json_lines(&shown));
    }
    for life in &lives {
        print(life)?;
    }
    for letter in left {
        say!(
            "the log holds event {} no more: dead letter {} of subscription {} does",
            letter.id.position,
            letter.number,
            letter.id.of.name
        )?;
    }
    if !gone.is_empty() {
        say!(
            "the log holds event {} no more; the journal has its deliveries",
            args.which
        )?;
        say!("{}", deliveries(gone.iter()))?;
    }
    Ok(())
}

/// What the journal has of an event of a position that the log holds no more.
async fn deliveries_of_gone(store: &Store, args: &args::OneEvent) -> Result<Vec<Delivered>> {
    let Which::Position(position) = &args.which else {
        return Ok(Vec::new());
    };
    let journaled = store.journal_of(*position, None).await?.unwrap_or_default();
    let mut deliveries = journaled.deliveries;
    // Whose event it was is known from those that say so: one event has one tenant.
    let mut tenants = deliveries.iter().filter_map(|d| d.entry.tenant.as_ref());
    let is_of_another = |tenant| tenants.next().is_none_or(|of| of != tenant);
    if args.source.is_some() || args.tenant.as_ref().is_some_and(is_of_another) {
        deliveries.clear();
    }
    Ok(deliveries)
}

async fn find(store: &Store, args: &args::OneEvent) -> Result<Vec<LogEvent>> {
    match (&args.which, &args.tenant) {
        (Which::Position(position), _) => {
            let found = store.event_at(*position).await?.into_iter();
            let is_asked_for = |event: &LogEvent| {
                args.tenant.as_ref().is_none_or(|tenant| *tenant == event.tenant)
                    && is_of_source(&event.attributes, args)
            };
            Ok(found.filter(is_asked_for).collect())
        }
        (Which::Id(id), Some(tenant)) => {
            let at_a_terminal = std::io::stderr().is_terminal();
            let progress = |seen| {
                if at_a_terminal {
                    error_line(format_args!("looked at {seen} events of tenant {tenant}"));
                }
            };
            Ok(store.events_of(tenant, id, args.source.as_deref(), progress).await?)
        }
        // Refused before the store is opened.
        (Which::Id(_), None) => Ok(Vec::new()),
    }
}

fn is_of_source(attributes: &BTreeMap<String, String>, args: &args::OneEvent) -> bool {
    args.source
        .as_ref()
        .is_none_or(|source| attributes.get("ce-source") == Some(source))
}

fn is_of(letter: &DeadLetter, args: &args::OneEvent) -> bool {
    let is_which = match &args.which {
        Which::Position(position) => letter.id.position == *position,
        Which::Id(id) => letter.attributes.get("ce-id") == Some(id),
    };
    is_which && is_of_source(&letter.attributes, args)
}

fn absent(store: &Store, args: &args::OneEvent) -> Refused {
    let (bus, which) = (&store.policy().bus, &args.which);
    let of = args
        .tenant
        .as_ref()
        .map(|t| format!(" of tenant {t}"))
        .unwrap_or_default();
    Refused(vec![Problem::new(
        Code::UnknownEvent,
        format!(
            "bus {bus} holds no event {which}{of}: it was never accepted, is scheduled and not due yet, expired after `retention.max-age`, or was purged"
        ),
    )])
}

fn print(life: &Life) -> Result<()> {
    let attribute = |name: &str| life.attributes.get(name).map(|value| printable(value).into_owned());
    let id = attribute("ce-id").unwrap_or_else(|| "-".to_owned());
    say!("event {id} of tenant {}", printable(life.tenant.as_str()))?;
    for (what, value) in [
        ("position", life.position.to_string()),
        ("type", printable(life.event_type.as_str()).into_owned()),
        ("source", attribute("ce-source").unwrap_or_else(|| "-".to_owned())),
        ("stored", life.published_at.clone()),
        ("expires", life.expires_at.clone()),
        ("payload", format!("{} bytes", life.bytes)),
    ] {
        say!("  {what:<10}{value}")?;
    }
    // Of who published it the store keeps what the event itself says.
    if let Some(scheme) = attribute("ce-webhookscheme") {
        let mut proof = format!("its ingress verified it as {scheme} does");
        for (name, what) in [
            ("ce-webhookcovers", "covers"),
            ("ce-webhookkey", "key"),
            ("ce-webhookverified", "at"),
        ] {
            if let Some(value) = attribute(name) {
                proof.push_str(&format!(", {what} {value}"));
            }
        }
        say!("  {:<10}{proof}", "proof")?;
    }
    let header = [
        "subscription",
        "state",
        "failed attempts",
        "next attempt",
        "last reason",
    ];
    say!("{}", table(header, 2..3, life.subscriptions.iter().map(row)))?;
    for here in &life.subscriptions {
        if let Some(stop) = &here.stops {
            say!("{} does not get it: {}", here.name, printable(&stop.to_string()))?;
        }
        if here.is_redriven {
            say!("{}: its dead letter is to be delivered again", here.name)?;
        }
    }
    // The journal has each attempt; without it, what is remembered of those that failed.
    let at_each = life
        .subscriptions
        .iter()
        .flat_map(|here| here.deliveries.iter().flatten());
    let mut told = at_each.chain(&life.journal.ended).peekable();
    if told.peek().is_some() {
        say!("{}", deliveries(told))?;
    } else if life.subscriptions.iter().any(|here| here.attempts.len() > 1) {
        let failed = life.subscriptions.iter().flat_map(|here| {
            here.attempts.iter().map(|attempt| {
                let reason = printable(&attempt.reason).into_owned();
                [
                    here.name.to_string(),
                    attempt.attempt.to_string(),
                    attempt.at.clone(),
                    reason,
                ]
            })
        });
        say!(
            "{}",
            table(["subscription", "attempt", "failed", "reason"], 1..2, failed)
        )?;
    }
    match life.caveat() {
        Some(caveat) => say!("{}", caveat.lines().map(printable).collect::<Vec<_>>().join("\n")),
        None => Ok(()),
    }
}

fn row(here: &AtSubscription) -> [String; 5] {
    let state = match &here.fate {
        Fate::DeadLettered { letter } => format!("dead-lettered (letter {letter})"),
        fate => fate.as_str().to_owned(),
    };
    let last = here.attempts.last();
    [
        here.name.to_string(),
        state,
        here.attempts.len().to_string(),
        here.next_attempt.clone().unwrap_or_else(|| "-".to_owned()),
        last.map_or_else(|| "-".to_owned(), |a| printable(&a.reason).into_owned()),
    ]
}

/// A table of deliveries.
fn deliveries<'a>(all: impl Iterator<Item = &'a Delivered>) -> String {
    let header = [
        "subscription",
        "attempt",
        "ended",
        "took",
        "instance",
        "outcome",
        "reason",
    ];
    let unknown = || "-".to_owned();
    table(
        header,
        1..2,
        all.map(|Delivered { instance, entry }| {
            let redriven = if entry.redriven { ", redriven" } else { "" };
            let mut why = entry.reason.as_deref().map(|reason| printable(reason).into_owned());
            if let (Some(why), Some(code)) = (&mut why, &entry.code) {
                why.push_str(&format!(" [{}]", printable(code)));
            }
            if let Some(wait) = entry.wait_ms {
                let wait = show_duration(Duration::from_millis(wait));
                why = Some(format!("{}; again after {wait}", why.unwrap_or_default()));
            }
            [
                entry.subscription.to_string(),
                entry.attempt.to_string(),
                entry.ended_at.to_string(),
                entry
                    .took_us
                    .map_or_else(unknown, |us| format!("{}.{:03} ms", us / 1_000, us % 1_000)),
                printable(instance).into_owned(),
                format!("{}{redriven}", entry.outcome.as_str()),
                why.unwrap_or_else(unknown),
            ]
        }),
    )
}
