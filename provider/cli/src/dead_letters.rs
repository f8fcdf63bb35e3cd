//! `dead-letters`: events that were set aside.

use anyhow::{Result, bail};
use fanout_provider::jetstream::SetAside;
use serde_json::{Value, json};

use crate::args::{DeadLetterVerb, DeadLetters};
use crate::bus;

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
            list(&letters, json);
        }
        DeadLetterVerb::Show { store, number } => {
            let store = bus::store(store).await?;
            match store.dead_letter(*number).await? {
                Some(letter) => show(&letter, json),
                None => bail!("there is no dead letter {number} on bus {}", store.policy().bus),
            }
        }
        DeadLetterVerb::Discard { store, number } => {
            let store = bus::store(store).await?;
            let Some(letter) = store.dead_letter(*number).await? else {
                bail!("there is no dead letter {number} on bus {}", store.policy().bus);
            };
            store.discard(*number).await?;
            // What was taken away is printed whole: it is nowhere else any more once the log has let it go.
            show(&letter, json);
        }
    }
    Ok(())
}

fn list(letters: &[SetAside], json: bool) {
    if json {
        println!("{:#}", json!({ "dead_letters": letters }));
        return;
    }
    if letters.is_empty() {
        println!("no dead letters");
        return;
    }
    println!(
        "{:>8} {:<20} {:<20} {:>12} {:>8}  reason",
        "number", "subscription", "tenant", "position", "attempts"
    );
    for l in letters {
        println!(
            "{:>8} {:<20} {:<20} {:>12} {:>8}  {}",
            l.number,
            l.subscription,
            l.tenant,
            l.position,
            l.attempts.len(),
            l.attempts.last().map_or("", |a| a.reason.as_str())
        );
    }
}

fn show(letter: &SetAside, json: bool) {
    if json {
        let mut shown = json!(letter);
        shown["payload"] = match std::str::from_utf8(&letter.payload) {
            Ok(text) => Value::from(text),
            Err(_) => json!({ "bytes": letter.payload }),
        };
        println!("{shown:#}");
        return;
    }
    println!("dead letter {} of subscription {}", letter.number, letter.subscription);
    println!(
        "tenant {}, position {}, set aside {}",
        letter.tenant, letter.position, letter.at
    );
    for a in &letter.attempts {
        println!("attempt {} at {}: {}", a.attempt, a.at, a.reason);
    }
    for (name, value) in &letter.attributes {
        println!("{name}: {value}");
    }
    println!("\n{}", String::from_utf8_lossy(&letter.payload));
}
