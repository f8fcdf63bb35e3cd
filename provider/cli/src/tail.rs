//! `tail`: follows the log.

use std::path::PathBuf;

use anyhow::Result;
use fanout_plan::subscription::Start;
use fanout_plan::{Code, Filter, Problem, TenantId, TypePattern, link};
use fanout_provider::jetstream::{Read, TailError, TailFrom};
use serde_json::json;

use crate::args::Store;
use crate::bus::{self, Refused};
use crate::matching;
use crate::terminal::{error_line, json_line, printable, printable_bytes, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    pub(crate) store: Store,
    /// Events of these tenants only
    #[arg(long)]
    pub(crate) tenant: Vec<TenantId>,
    /// Events of these types only, such as `invoice.*`
    #[arg(long = "type", value_name = "PATTERN")]
    pub(crate) event_type: Vec<TypePattern>,
    /// Events that match the event pattern in this file, too
    #[arg(long, value_name = "FILE")]
    pub(crate) pattern: Option<PathBuf>,
    /// Begin here: first, a time such as 2026-11-22T10:00:00Z, or a position such as 0/42; without it, with the next event
    #[arg(long, value_parser = link::start)]
    pub(crate) from: Option<Start>,
    /// End after so many events; without it, never
    #[arg(long)]
    pub(crate) count: Option<usize>,
}

pub(crate) async fn tail(args: &Tail, json: bool) -> Result<()> {
    let pattern = args.pattern.as_deref().map(matching::pattern).transpose()?;
    let filter = Filter::new(args.tenant.clone(), args.event_type.clone());
    let filter = filter.with_pattern(pattern).map_err(|p| Refused(vec![p]))?;
    let (store, _) = bus::observed(&args.store).await?;
    let from = args.from.map_or(TailFrom::Now, TailFrom::Start);
    let mut log = store.tail(&filter, from).await.map_err(failed)?;
    let mut left = args.count;
    while left != Some(0) {
        let read = tokio::select! {
            read = log.next() => read,
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
        };
        let event = match read.transpose().map_err(failed)? {
            Some(Read::Event(event)) => event,
            Some(Read::Expired { first, last }) => {
                error_line(format_args!(
                    "what stood from {first} to {last} expired before it was read"
                ));
                continue;
            }
            None => break,
        };
        let at = event.published_at.to_string();
        if json {
            let data = match std::str::from_utf8(&event.payload) {
                Ok(text) => json!(text),
                Err(_) => json!({ "bytes": event.payload.to_vec() }),
            };
            let shown = json!({
                "position": event.position.to_string(), "published_at": at, "tenant": event.tenant,
                "type": event.event_type, "id": event.attributes.get("ce-id"),
                "source": event.attributes.get("ce-source"), "attributes": event.attributes, "data": data,
            });
            say!("{}", json_line(&shown))?;
        } else {
            // CloudEvents' identity is the source and the id.
            let attribute = |name: &str| printable(event.attributes.get(name).map_or("-", String::as_str));
            say!(
                "{:>12} {at} {} {} {} {} {}",
                event.position.to_string(),
                printable(event.tenant.as_str()),
                printable(event.event_type.as_str()),
                attribute("ce-source"),
                attribute("ce-id"),
                printable_bytes(&event.payload)
            )?;
        }
        left = left.map(|n| n - 1);
    }
    Ok(())
}

/// A position that means nothing is a refusal; the rest is the store's trouble.
fn failed(error: TailError) -> anyhow::Error {
    match error {
        TailError::Store(error) => error.into(),
        TailError::Refused(problem) => Refused(vec![problem]).into(),
        error => Refused(vec![Problem::new(Code::UnknownPosition, error.to_string())]).into(),
    }
}
