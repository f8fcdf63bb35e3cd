//! `status`: the bus and its subscriptions, as the store knows them.

use anyhow::Result;
use fanout_plan::subscription::{Need, Progress, Registered};
use fanout_provider::jetstream::{ConsumerState, Store};
use serde_json::json;

use crate::{args, bus};

/// A subscription and what the store knows of it.
struct Row<'a> {
    registered: &'a Registered,
    state: ConsumerState,
    dead_letters: u64,
}

pub(crate) async fn status(args: &args::Store, json: bool) -> Result<()> {
    let store = bus::store(args).await?;
    let observed = store.observe().await?;
    let store = store.with_layout(observed.topology.layout());
    let mut rows = Vec::new();
    for registered in observed.registry.values() {
        rows.push(row(&store, registered).await?);
    }
    let bus = &store.policy().bus;
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|r| {
                let s = &r.registered.subscription;
                json!({
                    "name": s.name, "need": s.need.as_str(), "component": r.registered.component,
                    "progress": r.registered.progress, "pending": r.state.pending,
                    "in_flight": r.state.unsettled, "dead_letters": r.dead_letters,
                })
            })
            .collect();
        println!(
            "{:#}",
            json!({ "bus": bus, "last_offset": observed.heads().0.values().max().copied().unwrap_or(0), "subscriptions": rows })
        );
        return Ok(());
    }
    println!(
        "bus {bus}: last offset {}, {} subscriptions",
        observed.heads().0.values().max().copied().unwrap_or(0),
        rows.len()
    );
    if rows.is_empty() {
        return Ok(());
    }
    println!(
        "\n{:<20} {:<9} {:<20} {:<12} {:>10} {:>10} {:>12}",
        "subscription", "need", "component", "progress", "pending", "in flight", "dead letters"
    );
    for r in rows {
        let s = &r.registered.subscription;
        println!(
            "{:<20} {:<9} {:<20} {:<12} {:>10} {:>10} {:>12}",
            s.name.as_str(),
            s.need.as_str(),
            r.registered.component,
            progress(r.registered),
            r.state.pending,
            r.state.unsettled,
            r.dead_letters
        );
    }
    Ok(())
}

async fn row<'a>(store: &Store, registered: &'a Registered) -> Result<Row<'a>> {
    let name = &registered.subscription.name;
    let has_consumer = registered.subscription.need != Need::Queue && registered.progress != Progress::Finished;
    Ok(Row {
        registered,
        state: if has_consumer {
            store.consumer_state(&registered.subscription).await?
        } else {
            ConsumerState::default()
        },
        dead_letters: store.dead_letter_count(name).await?,
    })
}

fn progress(r: &Registered) -> &'static str {
    match (r.subscription.need, r.progress) {
        (_, Progress::Finished) => "finished",
        (Need::Backfill { .. }, Progress::Replaying | Progress::Telling(_)) => "replaying",
        (Need::Backfill { .. }, Progress::CaughtUp) => "caught up",
        (Need::Queue | Need::Durable, _) => "live",
    }
}
