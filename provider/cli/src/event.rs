//! `event`: where an event is stored, and what became of it at each subscription.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Result;
use clap::CommandFactory as _;
use clap::error::ErrorKind;
use fanout_plan::fate::Fate;
use fanout_plan::publisher::PublishedBy;
use fanout_plan::{Code, Problem, TenantId, show_duration};
use fanout_provider::jetstream::{DeadLetter, Delivered, Kept, LetterNote, LogEvent, MOST_OF_ONE_ID, Store};
use fanout_provider::life::{AtSubscription, Life};
use serde_json::json;

use crate::args::{self, Which};
use crate::bus::{self, Refused};
use crate::terminal::{error_line, json_lines, printable, say, table};

/// How long the journal of one event may take.
const JOURNAL_WITHIN: Duration = Duration::from_secs(10);

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
    let letters = letters(&store, args, tenant).await?;
    let (mut lives, mut journal_within) = (Vec::new(), JOURNAL_WITHIN);
    for event in &events {
        let life = Life::of(&store, &observed.registry, None, event, journal_within).await?;
        if life.journal.unread.is_some() {
            journal_within = Duration::ZERO;
        }
        lives.push(life);
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
    // The log has let it go, and a letter holds it whole; or the subscription has ended, and so has what is told of it.
    let (mut expired, mut ended) = (Vec::new(), Vec::new());
    for letter in letters {
        match events.iter().any(|event| event.position == letter.letter.id.position) {
            false => expired.push(letter),
            true if letter.letter.orphaned => ended.push(letter),
            true => {}
        }
    }
    if json {
        let shown = |letters: &[Left]| letters.iter().map(Left::shown).collect::<serde_json::Value>();
        let mut told = json!({ "events": lives, "letters_of_events_that_expired": shown(&expired) });
        if !ended.is_empty() {
            told["letters_of_subscriptions_that_ended"] = shown(&ended);
        }
        if !gone.is_empty() {
            told["deliveries_of_an_event_that_expired"] = json!(gone);
        }
        return say!("{}", json_lines(&told));
    }
    for life in &lives {
        print(life)?;
    }
    for Left {
        letter,
        publisher,
        redrive_requested_at,
    } in &expired
    {
        let (number, name, position) = (letter.number, &letter.id.of.name, letter.id.position);
        say!("the log holds event {position} no more: dead letter {number} of subscription {name} does")?;
        say!("  {:<10}{}", "publisher", printable(&publisher.to_string()))?;
        if let Some(at) = redrive_requested_at {
            say!("  {:<10}asked for at {at}, and not delivered yet", "redrive")?;
        }
    }
    for Left { letter, .. } in &ended {
        say!(
            "subscription {} has ended: dead letter {} of it is delivered to nobody",
            letter.id.of.name,
            letter.number
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

/// A dead letter of the event that says more than the log and the subscriptions do.
struct Left {
    letter: DeadLetter,
    publisher: PublishedBy,
    redrive_requested_at: Option<String>,
}

impl Left {
    fn shown(&self) -> serde_json::Value {
        let mut shown = json!(self.letter);
        shown["publisher"] = json!(self.publisher);
        if let Some(at) = &self.redrive_requested_at {
            shown["redrive_requested_at"] = json!(at);
        }
        shown
    }
}

/// The dead letters of what is asked for: found by their headers, and only then read.
async fn letters(store: &Store, args: &args::OneEvent, tenant: Option<&TenantId>) -> Result<Vec<Left>> {
    let mut numbers = Vec::new();
    let see = |note: LetterNote| {
        let is_which = match &args.which {
            Which::Position(position) => note.id.position == *position,
            Which::Id(id) => note.event_id.as_ref() == Some(id),
        };
        if is_which {
            numbers.push(note.number);
        }
    };
    store.look_at_letters(None, tenant, see).await?;
    let mut letters = Vec::new();
    for number in numbers {
        // It may have been taken away meanwhile.
        let Some(letter) = store.dead_letter(number).await? else {
            continue;
        };
        if is_of_source(&letter.attributes, args) {
            let (of, whose, at) = (&letter.id.of, &letter.id.tenant, letter.id.at());
            let requested = store.redrive_requested_at(of, whose, at).await?;
            letters.push(Left {
                publisher: store.publisher_of_letter(&letter).await,
                redrive_requested_at: requested.map(|at| at.to_string()),
                letter,
            });
        }
    }
    Ok(letters)
}

/// What the journal has of an event of a position that the log holds no more.
async fn deliveries_of_gone(store: &Store, args: &args::OneEvent) -> Result<Vec<Delivered>> {
    let Which::Position(position) = &args.which else {
        return Ok(Vec::new());
    };
    let journaled = store
        .journal_of(*position, None, JOURNAL_WITHIN)
        .await?
        .unwrap_or_default();
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
        ("copies", life.stored.as_ref().map_or_else(unknown, copies)),
        ("publisher", printable(&life.publisher.to_string()).into_owned()),
    ] {
        say!("  {what:<10}{value}")?;
    }
    // What its ingress says of the sender stands in the event itself: it is as true as its publisher is.
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
        if let Some(at) = &here.redrive_requested_at {
            say!(
                "{}: its dead letter is to be delivered again, as was asked for at {at}",
                here.name
            )?;
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

fn copies(stored: &Kept) -> String {
    let Kept {
        partition,
        stream,
        copies,
        up_to_date,
    } = stored;
    format!("{up_to_date} of {copies} up to date, in stream {stream} (partition {partition})")
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn row(here: &AtSubscription) -> [String; 5] {
    let state = match &here.fate {
        Fate::DeadLettered { letter } => format!("dead-lettered (letter {letter})"),
        Fate::AtAnotherPlace { place } => format!("at-another-place ({place})"),
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
    let absent = || "-".to_owned();
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
                    .map_or_else(absent, |us| format!("{}.{:03} ms", us / 1_000, us % 1_000)),
                printable(instance).into_owned(),
                format!("{}{redriven}", entry.outcome.as_str()),
                why.unwrap_or_else(absent),
            ]
        }),
    )
}
