//! `dead-letters`: events that were set aside.

use anyhow::{Result, bail};
use fanout_plan::subscription::Progress;
use fanout_plan::{Code, Position, Problem, SubscriptionName};
use fanout_provider::jetstream::{SetAside, Store};
use serde_json::{Value, json};

use crate::args::{DeadLetterVerb, DeadLetters};
use crate::bus::{self, Refused};
use crate::terminal::{json_lines, printable, printable_lines, say};

pub(crate) async fn run(args: &DeadLetters, json: bool) -> Result<()> {
    match &args.verb {
        DeadLetterVerb::List {
            store,
            subscription,
            tenant,
            limit,
        } => {
            let store = bus::store(store).await?;
            let letters = store.set_aside(subscription.as_ref(), tenant.as_ref(), *limit).await?;
            list(&letters, json)?;
        }
        DeadLetterVerb::Show { store, number } => {
            let store = bus::store(store).await?;
            match store.dead_letter(*number).await? {
                Some(letter) => show(&letter, json)?,
                None => bail!("there is no dead letter {number} on bus {}", store.policy().bus),
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
                store
                    .set_aside(subscription.as_ref(), tenant.as_ref(), usize::MAX)
                    .await?
            } else {
                chosen(&store, numbers).await?
            };
            redrive(&store, letters, json).await?;
        }
        DeadLetterVerb::Discard { store, number } => {
            let store = bus::store(store).await?;
            let Some(letter) = store.dead_letter(*number).await? else {
                bail!("there is no dead letter {number} on bus {}", store.policy().bus);
            };
            store.discard(*number).await?;
            // What was taken away is printed whole: it is nowhere else any more once the log has let it go.
            show(&letter, json)?;
        }
    }
    Ok(())
}

async fn chosen(store: &Store, numbers: &[u64]) -> Result<Vec<SetAside>> {
    let mut letters = Vec::new();
    for number in numbers {
        match store.dead_letter(*number).await? {
            Some(letter) => letters.push(letter),
            None => bail!(
                "there is no dead letter {number} on bus {}: nothing was redriven",
                store.policy().bus
            ),
        }
    }
    Ok(letters)
}

/// Asks for each, oldest event first, so that a tenant's come in order. One that can't be redriven stops nothing.
async fn redrive(store: &Store, mut letters: Vec<SetAside>, json: bool) -> Result<()> {
    let known = store.observe().await?.registry;
    letters.sort_by_key(|l| l.position.parse::<Position>().ok());
    let (mut asked, mut before, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for letter in &letters {
        let subscription = &letter.subscription;
        let name = subscription.parse::<SubscriptionName>().ok();
        let registered = name.and_then(|name| known.get(&name));
        let mut refuse = |why: &str| {
            refused.push(Problem::new(
                Code::NotRedrivable,
                format!("dead letter {} of subscription {subscription}: {why}", letter.number),
            ));
        };
        if registered.is_none_or(|r| r.progress == Progress::Finished) {
            refuse("it has ended");
        } else if !letter.attributes.contains_key("ce-id") {
            refuse("it holds no event");
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

fn list(letters: &[SetAside], json: bool) -> Result<()> {
    if json {
        return say!("{}", json_lines(&json!({ "dead_letters": letters })));
    }
    if letters.is_empty() {
        return say!("no dead letters");
    }
    say!(
        "{:>8} {:<20} {:<20} {:>12} {:>8}  reason",
        "number",
        "subscription",
        "tenant",
        "position",
        "attempts"
    )?;
    for l in letters {
        say!(
            "{:>8} {:<20} {:<20} {:>12} {:>8}  {}",
            l.number,
            printable(&l.subscription),
            printable(&l.tenant),
            printable(&l.position),
            l.attempts.len(),
            l.attempts.last().map_or("".into(), |a| printable(&a.reason))
        )?;
    }
    Ok(())
}

fn show(letter: &SetAside, json: bool) -> Result<()> {
    if json {
        let mut shown = json!(letter);
        shown["payload"] = match std::str::from_utf8(&letter.payload) {
            Ok(text) => Value::from(text),
            Err(_) => json!({ "bytes": letter.payload }),
        };
        return say!("{}", json_lines(&shown));
    }
    say!(
        "dead letter {} of subscription {}",
        letter.number,
        printable(&letter.subscription)
    )?;
    say!(
        "tenant {}, position {}, set aside {}",
        printable(&letter.tenant),
        printable(&letter.position),
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
