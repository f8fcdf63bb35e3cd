//! `event`: where an event is stored, and what became of it at each subscription. `errors`: why events are refused.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use anyhow::Result;
use clap::CommandFactory as _;
use clap::error::ErrorKind;
use fanout_plan::{Code, Position, Problem, timestamp};
use fanout_provider::jetstream::{AtSubscription, DeadLetter, LogEvent, MOST_OF_ONE_ID, Store};
use serde_json::{Value, json};

use crate::args::{self, Which};
use crate::bus::{self, Refused};
use crate::terminal::{error_line, json_lines, printable, say, table};

/// The letters of one event, by subscription.
type Letters<'a> = BTreeMap<(String, Position), &'a DeadLetter>;

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
    let letters = store.dead_letters(None, tenant, usize::MAX).await?;
    let letters: Letters<'_> = letters
        .iter()
        .filter(|letter| is_of(letter, args))
        .map(|letter| ((letter.id.of.to_string(), letter.id.position), letter))
        .collect();
    if events.is_empty() && letters.is_empty() {
        return Err(absent(&store, args).into());
    }
    if events.len() == MOST_OF_ONE_ID {
        error_line(format_args!(
            "these are the first {MOST_OF_ONE_ID} that were found, and there may be more: name the source with --source"
        ));
    }
    let mut shown = Vec::new();
    for event in &events {
        let mut at = Vec::new();
        for (name, registered) in &observed.registry {
            let letter = letters.get(&(registered.id().to_string(), event.position)).copied();
            let number = letter.map(|letter| letter.number);
            let here = store.event_at_subscription(registered, event, number).await?;
            at.push((name.to_string(), here, letter));
        }
        match json {
            true => shown.push(as_json(event, &at)),
            false => print(event, &at)?,
        }
    }
    // The log has let it go; a letter holds it whole.
    let left = letters
        .values()
        .filter(|l| events.iter().all(|e| e.position != l.id.position));
    let left: Vec<_> = left.collect();
    if json {
        let shown = json!({ "events": shown, "letters_of_events_that_expired": left });
        return say!("{}", json_lines(&shown));
    }
    for letter in left {
        say!(
            "the log holds event {} no more: dead letter {} of subscription {} does",
            letter.id.position,
            letter.number,
            letter.id.of.name
        )?;
    }
    Ok(())
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

fn print(event: &LogEvent, at: &[(String, AtSubscription, Option<&DeadLetter>)]) -> Result<()> {
    let attribute = |name: &str| printable(event.attributes.get(name).map_or("-", String::as_str)).into_owned();
    say!(
        "event {} of tenant {}",
        attribute("ce-id"),
        printable(event.tenant.as_str())
    )?;
    for (what, value) in [
        ("position", event.position.to_string()),
        ("type", printable(event.event_type.as_str()).into_owned()),
        ("source", attribute("ce-source")),
        ("stored", timestamp::to_rfc3339(event.published_at)),
        ("payload", format!("{} bytes", event.payload.len())),
    ] {
        say!("  {what:<10}{value}")?;
    }
    let header = [
        "subscription",
        "state",
        "failed attempts",
        "next attempt",
        "last reason",
    ];
    let rows = at.iter().map(|(name, here, letter)| {
        let attempts = letter.map_or(&here.attempts, |letter| &letter.attempts);
        let state = match letter {
            Some(letter) => format!("dead-lettered (letter {})", letter.number),
            None => here.fate.as_str().to_owned(),
        };
        [
            name.clone(),
            state,
            attempts.len().to_string(),
            here.due.map_or_else(|| "-".to_owned(), timestamp::to_rfc3339),
            attempts
                .last()
                .map_or_else(|| "-".to_owned(), |a| printable(&a.reason).into_owned()),
        ]
    });
    say!("{}", table(header, 2..3, rows))
}

fn as_json(event: &LogEvent, at: &[(String, AtSubscription, Option<&DeadLetter>)]) -> Value {
    let subscriptions = at.iter().map(|(name, here, letter)| {
        let mut shown = json!(here.fate);
        shown["name"] = json!(name);
        shown["attempts"] = json!(letter.map_or(&here.attempts, |letter| &letter.attempts));
        shown["next_attempt"] = json!(here.due.map(timestamp::to_rfc3339));
        shown
    });
    json!({
        "position": event.position.to_string(),
        "published_at": timestamp::to_rfc3339(event.published_at),
        "tenant": event.tenant,
        "type": event.event_type,
        "attributes": event.attributes,
        "bytes": event.payload.len(),
        "subscriptions": subscriptions.collect::<Vec<_>>(),
    })
}

/// Why the events of one subscription were refused for good.
#[derive(Default)]
struct Refusals {
    letters: usize,
    first: String,
    last: String,
    example: u64,
}

pub(crate) async fn errors(args: &args::Errors, json: bool) -> Result<()> {
    let store = bus::store(&args.store).await?;
    let letters = store
        .dead_letters(args.subscription.as_ref(), args.tenant.as_ref(), usize::MAX)
        .await?;
    let mut reasons: BTreeMap<(String, String), Refusals> = BTreeMap::new();
    for letter in &letters {
        let Some(last) = letter.attempts.last() else { continue };
        let of = reasons
            .entry((letter.id.of.name.to_string(), last.reason.clone()))
            .or_default();
        if of.letters == 0 {
            (of.first, of.example) = (letter.at.clone(), letter.number);
        }
        of.letters += 1;
        of.last.clone_from(&letter.at);
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, of)| std::cmp::Reverse(of.letters));
    if json {
        let shown = reasons.iter().map(|((subscription, reason), of)| {
            json!({
                "subscription": subscription, "reason": reason, "dead_letters": of.letters,
                "first": of.first, "last": of.last, "example": of.example,
            })
        });
        return say!("{}", json_lines(&json!({ "errors": shown.collect::<Vec<_>>() })));
    }
    if reasons.is_empty() {
        return say!("no dead letters");
    }
    let header = ["dead letters", "subscription", "first", "last", "example", "reason"];
    let rows = reasons.into_iter().map(|((subscription, reason), of)| {
        [
            of.letters.to_string(),
            subscription,
            of.first,
            of.last,
            of.example.to_string(),
            printable(&reason).into_owned(),
        ]
    });
    say!("{}", table(header, 0..1, rows))
}
