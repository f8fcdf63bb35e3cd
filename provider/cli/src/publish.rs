//! `publish`: one event, from the command line, a file or standard input.

use std::io::Read as _;

use anyhow::{Context as _, Result};
use fanout_client::Event;
use fanout_plan::Timestamp;
use serde_json::json;

use crate::terminal::{json_line, say};
use crate::{args, remote};

pub(crate) async fn publish(args: &args::Publish, json: bool) -> Result<()> {
    let data = data(&args.data)?;
    let mut event = Event::new(&args.tenant, &args.event_type, &args.id)
        .source(&args.source)
        .data(data);
    event.subject.clone_from(&args.subject);
    event.data_content_type.clone_from(&args.content_type);
    event.ordering_key.clone_from(&args.ordering_key);
    event.extensions.clone_from(&args.extension);
    event.traceparent.clone_from(&args.traceparent);
    let bus = remote::connect(&args.to).await?;
    if let Some(at) = args.at {
        let kept = bus.publish_at(&event, at.nanoseconds()).await?;
        let due = Timestamp::from_nanoseconds(kept.due).to_string();
        if json {
            return say!("{}", json_line(&json!({ "due": due, "duplicate": kept.duplicate })));
        }
        let again = if kept.duplicate { ", kept before" } else { "" };
        return say!("to be published at {due}{again}");
    }
    let receipt = bus.publish(&event).await?;
    if json {
        let shown = json!({
            "position": receipt.position.to_string(),
            "duplicate": receipt.duplicate,
            "durable_subscriptions": receipt.durable_subscriptions,
        });
        return say!("{}", json_line(&shown));
    }
    let again = if receipt.duplicate { ", stored before" } else { "" };
    say!(
        "stored at {}{again}, for {} durable subscriptions",
        receipt.position,
        receipt.durable_subscriptions
    )
}

/// `@FILE`, `-` for standard input, or the text itself.
fn data(given: &str) -> Result<Vec<u8>> {
    if given == "-" {
        let mut data = Vec::new();
        let read = std::io::stdin().read_to_end(&mut data);
        read.context("can't read standard input")?;
        return Ok(data);
    }
    match given.strip_prefix('@') {
        Some(path) => std::fs::read(path).with_context(|| format!("can't read {path}")),
        None => Ok(given.as_bytes().to_vec()),
    }
}
