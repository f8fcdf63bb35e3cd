//! `tail`: follows the log.

use std::io::Write as _;

use anyhow::Result;
use fanout_plan::{Filter, timestamp};
use futures::StreamExt as _;
use serde_json::json;

use crate::{args, bus};

pub(crate) async fn tail(args: &args::Tail, json: bool) -> Result<()> {
    let store = bus::store_with_layout(&args.store).await?;
    let filter = Filter::new(args.tenant.clone(), args.event_type.clone());
    let mut events = std::pin::pin!(store.tail(&filter, args.from).await?);
    let mut left = args.count;
    while left != Some(0) {
        let event = tokio::select! {
            event = events.next() => event,
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
        };
        let Some(event) = event.transpose()? else { break };
        let at = timestamp::to_rfc3339(event.published_at);
        let text = String::from_utf8_lossy(&event.payload);
        let line = if json {
            json!({
                "position": event.position.to_string(), "published_at": at, "tenant": event.tenant,
                "event_type": event.event_type, "attributes": event.attributes, "payload": text,
            })
            .to_string()
        } else {
            format!(
                "{:>12} {at} {} {} {text}",
                event.position.to_string(),
                event.tenant,
                event.event_type
            )
        };
        // A reader that has seen enough closes the pipe: that is no error.
        if writeln!(std::io::stdout(), "{line}").is_err() {
            return Ok(());
        }
        left = left.map(|n| n - 1);
    }
    Ok(())
}
