//! `dead-letters`: events that were dead-lettered.

use anyhow::Result;
use clap::Subcommand;
use clap::builder::RangedU64ValueParser;
use fanout_plan::subscription::Progress;
use fanout_plan::{Code, EventType, LetterId, Problem, SubscriptionName, TenantId};
use fanout_provider::jetstream::{DeadLetter, Store};
use serde_json::{Value, json};

use crate::args;
use crate::bus::{self, Refused};
use crate::terminal::{json_lines, printable, printable_lines, say, table};

#[derive(Debug, clap::Args)]
pub(crate) struct DeadLetters {
    #[command(subcommand)]
    pub(crate) verb: DeadLetterVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetterVerb {
    /// List them, oldest first
    List {
        #[command(flatten)]
        store: args::Store,
        /// Of this subscription only
        #[arg(long)]
        subscription: Option<SubscriptionName>,
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantId>,
        /// At most so many
        #[arg(long, value_name = "LETTERS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show one, with its attributes, attempts and payload
    Show {
        #[command(flatten)]
        store: args::Store,
        /// Its number
        #[arg(value_parser = number())]
        number: u64,
    },
    /// Give them to the subscription they came from again, in each tenant's order; a letter goes once it is handled
    #[command(
        group = clap::ArgGroup::new("which").required(true).args(["numbers", "all"]),
        // From the group alone it would be the other way round.
        override_usage = "fanout dead-letters redrive [OPTIONS] <POLICY> <NUMBERS...|--all>"
    )]
    Redrive {
        #[command(flatten)]
        store: args::Store,
        /// Their numbers
        #[arg(value_parser = number())]
        numbers: Vec<u64>,
        /// All of them
        #[arg(long)]
        all: bool,
        // `requires = "all"` would have no effect beside numbers: clap drops a requirement that conflicts with what is given.
        /// With --all: of this subscription only
        #[arg(long, conflicts_with = "numbers")]
        subscription: Option<SubscriptionName>,
        /// With --all: of this tenant only
        #[arg(long, conflicts_with = "numbers")]
        tenant: Option<TenantId>,
    },
    /// Take them away for good, all of them or none; prints each as its receipt
    Discard {
        #[command(flatten)]
        store: args::Store,
        /// Their numbers
        #[arg(required = true, value_parser = number())]
        numbers: Vec<u64>,
    },
}

/// A letter's number: the store counts them from 1.
fn number() -> RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

pub(crate) async fn run(args: &DeadLetters, json: bool) -> Result<()> {
    match &args.verb {
        DeadLetterVerb::List {
            store,
            subscription,
            tenant,
            limit,
        } => {
            let store = bus::store(store).await?;
            let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
            let letters = all(&store, subscription.as_ref(), tenant.as_ref(), limit).await?;
            list(&letters, json)?;
        }
        DeadLetterVerb::Show { store, number } => {
            let store = bus::store(store).await?;
            match store.dead_letter(*number).await? {
                Some(letter) => show(&letter, json)?,
                None => return Err(absent(&store, *number, "").await?.into()),
            }
        }
        DeadLetterVerb::Redrive {
            store,
            numbers,
            all: _,
            subscription,
            tenant,
        } => {
            let store = bus::store(store).await?;
            let letters = if numbers.is_empty() {
                all(&store, subscription.as_ref(), tenant.as_ref(), usize::MAX).await?
            } else {
                chosen(&store, numbers, "redriven").await?
            };
            redrive(&store, letters, json).await?;
        }
        DeadLetterVerb::Discard { store, numbers } => {
            let store = bus::store(store).await?;
            for letter in chosen(&store, numbers, "discarded").await? {
                // What is taken away is printed whole: it is nowhere else any more once the log has let it go.
                show(&letter, json)?;
                store.discard(letter.number).await?;
            }
        }
    }
    Ok(())
}

/// The letters that are asked for without their numbers, at most `limit`. A name that no subscription has, and no letter, is refused.
async fn all(
    store: &Store,
    subscription: Option<&SubscriptionName>,
    tenant: Option<&TenantId>,
    limit: usize,
) -> Result<Vec<DeadLetter>> {
    let letters = store.dead_letters(subscription, tenant, limit).await?;
    if let Some(name) = subscription.filter(|_| letters.is_empty()) {
        bus::known(store, name).await?;
    }
    Ok(letters)
}

/// The letters of these numbers, each once, if all of them are there.
async fn chosen(store: &Store, numbers: &[u64], done: &str) -> Result<Vec<DeadLetter>> {
    let mut letters: Vec<DeadLetter> = Vec::new();
    for number in numbers {
        if letters.iter().any(|letter| letter.number == *number) {
            continue;
        }
        match store.dead_letter(*number).await? {
            Some(letter) => letters.push(letter),
            None => return Err(absent(store, *number, &format!(": nothing was {done}")).await?.into()),
        }
    }
    Ok(letters)
}

/// What is said of a letter that is not there, and what became of it; then of what was asked for.
async fn absent(store: &Store, number: u64, outcome: &str) -> Result<Refused> {
    let became = match store.successor(number).await? {
        Some(letter) => format!(
            "it was redriven and refused again: letter {number} became {}",
            letter.number
        ),
        None => {
            "it was redriven or discarded, or never was: `fanout dead-letters list` has those that there are".to_owned()
        }
    };
    let bus = &store.policy().bus;
    Ok(Refused(vec![Problem::new(
        Code::UnknownDeadLetter,
        format!("there is no dead letter {number} on bus {bus}: {became}{outcome}"),
    )]))
}

/// Asks for each, oldest event first, so that a tenant's come in order. One that can't be redriven stops nothing.
async fn redrive(store: &Store, mut letters: Vec<DeadLetter>, json: bool) -> Result<()> {
    let known = store.observe().await?.registry;
    letters.sort_by_key(|l| l.id.position);
    let (mut asked, mut before, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for letter in &letters {
        let LetterId { of, tenant, .. } = &letter.id;
        let registered = known.values().find(|r| r.id() == *of);
        let event_type = letter
            .attributes
            .get("ce-type")
            .and_then(|t| t.parse::<EventType>().ok());
        let mut refuse = |why: &str| {
            refused.push(Problem::new(
                Code::NotRedrivable,
                format!("dead letter {} of subscription {}: {why}", letter.number, of.name),
            ));
        };
        if registered.is_none_or(|r| r.progress == Progress::Finished) {
            let again = known.contains_key(&of.name);
            refuse(if again && letter.orphaned {
                "it has ended, and the one that has its name now is another"
            } else {
                "it has ended"
            });
        } else if let Some(place) = registered.and_then(|r| r.moved_to()) {
            refuse(&format!(
                "the subscription is at place {place} now, and its letter stayed here, from where nobody delivers it: move the subscription back, or publish the event again for it"
            ));
        } else if !letter.attributes.contains_key("ce-id") {
            refuse("it holds no event");
        } else if let (Some(registered), Some(event_type)) = (registered, &event_type)
            && !registered.subscription.filter.allows(tenant, event_type)
        {
            refuse(&format!(
                "tenant {tenant} and event type {event_type} are not within what it asks for any more: widen its filter"
            ));
        } else if store.redrive(letter).await? {
            asked.push(letter.number);
        } else {
            before.push(letter.number);
        }
    }
    if json {
        let shown = json!({ "redriven": asked, "already_asked": before, "refused": refused });
        say!("{}", json_lines(&shown))?;
    } else {
        say!(
            "{} to be redriven, {} of them asked for before",
            asked.len() + before.len(),
            before.len()
        )?;
    }
    if refused.is_empty() {
        Ok(())
    } else {
        Err(Refused(refused).into())
    }
}

fn list(letters: &[DeadLetter], json: bool) -> Result<()> {
    if json {
        let letters: Vec<_> = letters.iter().map(as_json).collect();
        return say!("{}", json_lines(&json!({ "dead_letters": letters })));
    }
    if letters.is_empty() {
        return say!("no dead letters");
    }
    let header = [
        "number",
        "subscription",
        "tenant",
        "position",
        "type",
        "id",
        "at",
        "attempts",
        "predecessors",
        "reason",
    ];
    say!("{}", table(header, 0..1, letters.iter().map(row)))
}

/// A letter without its payload.
fn as_json(letter: &DeadLetter) -> Value {
    let mut shown = json!(letter);
    for (key, attribute) in [("type", "ce-type"), ("id", "ce-id"), ("source", "ce-source")] {
        shown[key] = json!(letter.attributes.get(attribute));
    }
    shown
}

fn row(letter: &DeadLetter) -> [String; 10] {
    let attribute = |name: &str| printable(letter.attributes.get(name).map_or("-", String::as_str)).into_owned();
    let orphaned = if letter.orphaned {
        " (orphaned: it has ended)"
    } else {
        ""
    };
    [
        letter.number.to_string(),
        format!("{}{orphaned}", letter.id.of.name),
        printable(letter.id.tenant.as_str()).into_owned(),
        letter.id.position.to_string(),
        attribute("ce-type"),
        attribute("ce-id"),
        letter.at.clone(),
        letter.attempts.len().to_string(),
        numbers(&letter.predecessors),
        letter
            .attempts
            .last()
            .map_or_else(String::new, |a| printable(&a.reason).into_owned()),
    ]
}

/// Numbers of letters; `-` for none.
fn numbers(letters: &[u64]) -> String {
    if letters.is_empty() {
        return "-".to_owned();
    }
    letters.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn show(letter: &DeadLetter, json: bool) -> Result<()> {
    if json {
        let mut shown = as_json(letter);
        shown["data"] = match std::str::from_utf8(&letter.payload) {
            Ok(text) => Value::from(text),
            Err(_) => json!({ "bytes": letter.payload }),
        };
        return say!("{}", json_lines(&shown));
    }
    say!("dead letter {} of subscription {}", letter.number, letter.id.of.name)?;
    if let Some(before) = letter.predecessors.last() {
        say!(
            "its event was redriven and refused again: letter {before} became {}",
            letter.number
        )?;
    }
    if letter.orphaned {
        say!("orphaned: its subscription has ended, and no other is given it")?;
    }
    say!(
        "tenant {}, position {}, dead-lettered {}",
        printable(letter.id.tenant.as_str()),
        letter.id.position,
        printable(&letter.at)
    )?;
    for a in &letter.attempts {
        say!(
            "attempt {} at {}: {}",
            a.attempt,
            printable(&a.at),
            printable(&a.reason)
        )?;
    }
    for (name, value) in &letter.attributes {
        say!("{}: {}", printable(name), printable(value))?;
    }
    say!("\n{}", printable_lines(&String::from_utf8_lossy(&letter.payload)))
}
