//! `move`: hands a subscription over to another place, or has it go on there while its own is lost.

use std::time::Duration;

use anyhow::Result;
use fanout_plan::{PlaceName, SubscriptionName};
use fanout_provider::jetstream::NotMirrored;
use serde_json::json;

use crate::terminal::{json_lines, say};
use crate::{args, bus};

/// How much longer than an instance that is frozen has its events, these are awaited.
const SLACK: Duration = Duration::from_secs(5);

pub(crate) async fn relocate(
    args: &args::Store,
    name: &SubscriptionName,
    to: &PlaceName,
    within: Option<Duration>,
    json: bool,
) -> Result<()> {
    let store = bus::store(args).await?;
    let within = within.unwrap_or(store.policy().delivery.ack_wait + SLACK);
    let moved = store.hand_over(name, to, within).await?;
    if json {
        let shown = json!({
            "subscription": name, "from": moved.from, "to": to, "comes_again": moved.comes_again, "retries": moved.retries,
            "dead_letters_left": moved.dead_letters, "stood_still_ms": moved.stood_still.as_millis(),
        });
        return say!("{}", json_lines(&shown));
    }
    let Some(from) = &moved.from else {
        return say!("subscription {name} is at place {to}");
    };
    say!(
        "subscription {name} is at place {to}, and was at place {from}: {} events that were delivered and not settled are delivered again, {} that wait for a retry went along; nothing was delivered for {} ms",
        moved.comes_again,
        moved.retries,
        moved.stood_still.as_millis()
    )?;
    if moved.dead_letters > 0 {
        say!("{} dead letters stay at place {from}", moved.dead_letters)?;
    }
    Ok(())
}

pub(crate) async fn from_lost(args: &args::Store, name: &SubscriptionName, to: &PlaceName, json: bool) -> Result<()> {
    let store = bus::store(args).await?;
    let moved = store.take_from_lost(name, to).await?;
    if json {
        let missing = moved
            .not_mirrored
            .iter()
            .map(|m| json!({ "first": m.first.to_string(), "last": m.last.to_string() }));
        let shown = json!({
            "subscription": name, "from": moved.from, "to": to, "from_lost": true,
            "known_at": moved.known_at.map(|at| at.to_string()), "may_come_again": moved.may_come_again,
            "retries": moved.retries, "not_mirrored": missing.collect::<Vec<_>>(),
        });
        return say!("{}", json_lines(&shown));
    }
    let Some(from) = &moved.from else {
        return say!("subscription {name} is at place {to}");
    };
    let at = moved
        .known_at
        .map_or_else(String::new, |at| format!(", by what was known of it at {at}"));
    say!(
        "subscription {name} goes on at place {to}, and was at place {from}, which does not answer{at}: of the {} events that it is given now, those come again that {from} handled after that; {} that waited for a retry are delivered as if for the first time",
        moved.may_come_again,
        moved.retries
    )?;
    for NotMirrored { first, last } in &moved.not_mirrored {
        say!("of place {from}'s events {first} to {last} are not here: they come once it is back")?;
    }
    say!(
        "what else is not known of came after place {from} was last heard of (`fanout status`); its dead letters are there, too. Should it come back, it finds the subscription here, and lets it go"
    )
}
