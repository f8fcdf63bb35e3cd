//! `move`: hands a subscription over to another place.

use std::time::Duration;

use anyhow::Result;
use fanout_plan::{PlaceName, SubscriptionName};
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
