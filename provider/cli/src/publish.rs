//! `publish`: one event, from the command line, a file or standard input.

use std::io::Read as _;

use anyhow::{Context as _, Result};
use fanout_client::Event;
use fanout_plan::Timestamp;
use jiff::Span;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::args::To;
use crate::remote;
use crate::terminal::{json_line, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Publish {
    #[command(flatten)]
    pub(crate) to: To,
    /// Whose event it is
    #[arg(long)]
    pub(crate) tenant: String,
    /// Its type, such as invoice.paid
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) event_type: String,
    /// Its id: the same one of its source again is the same event
    #[arg(long)]
    pub(crate) id: String,
    /// The payload: @FILE, - for standard input, or the text itself
    #[arg(long, default_value = "")]
    pub(crate) data: String,
    /// Where it comes from, a URI reference; without it, the caller's own source
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) source: String,
    /// What it is about
    #[arg(long)]
    pub(crate) subject: Option<String>,
    /// The payload's media type
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// Events of one tenant with one key are kept in order
    #[arg(long, value_name = "KEY")]
    pub(crate) ordering_key: Option<String>,
    /// A CloudEvents extension; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = extension)]
    pub(crate) extension: Vec<(String, String)>,
    /// Publish it later: at a time such as 2026-11-22T10:00:00Z, or from now on such as +10m
    #[arg(long, value_name = "TIME", value_parser = later)]
    pub(crate) at: Option<Timestamp>,
    /// The W3C trace context that it is published in, as a `traceparent` header has it
    #[arg(long, value_name = "TRACEPARENT", value_parser = traceparent)]
    pub(crate) traceparent: Option<String>,
}

fn extension(s: &str) -> Result<(String, String), String> {
    s.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "write NAME=VALUE".to_owned())
}

/// A trace context. The bus leaves out what is none; whoever types one is told.
fn traceparent(s: &str) -> Result<String, String> {
    let legal = fanout_transport::traceparent(s).map(str::to_owned);
    legal.ok_or_else(|| {
        "write a W3C trace context, such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01, in lower case"
            .to_owned()
    })
}

/// A time, or after `+` how long from now.
fn later(s: &str) -> Result<Timestamp, String> {
    let time = match s.strip_prefix('+') {
        None => s.strip_prefix("time:").unwrap_or(s).parse().ok(),
        // Days are those of UTC: 24 hours.
        Some(wait) => wait.parse::<Span>().ok().and_then(|wait| {
            let due = jiff::Timestamp::now().to_zoned(TimeZone::UTC).checked_add(wait).ok()?;
            Some(due.timestamp().into())
        }),
    };
    time.ok_or_else(|| {
        "write a time such as 2026-11-22T10:00:00Z, or a wait such as +90s, +10m, +1h30m or +2d".to_owned()
    })
}

pub(crate) async fn publish(args: &Publish, json: bool) -> Result<()> {
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
