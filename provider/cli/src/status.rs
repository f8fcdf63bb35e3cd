//! `status`: the bus and its subscriptions, as the store knows them.

use std::collections::BTreeMap;

use anyhow::Result;
use fanout_plan::gap::Lost;
use fanout_plan::planner::Observed;
use fanout_plan::subscription::{Need, Progress, Registered};
use fanout_plan::{Code, Problem, timestamp};
use fanout_provider::jetstream::{ConsumerState, Store, StoreError};
use serde_json::json;

use crate::terminal::{json_lines, printable, say};
use crate::{args, bus, lost};

/// A subscription and what the store knows of it.
struct Row<'a> {
    registered: &'a Registered,
    state: ConsumerState,
    /// Refused events that wait for their next attempt, or are at it.
    waiting_for_retry: u64,
    dead_letters: u64,
    /// When the oldest event that is not handled expires, nanoseconds since the Unix epoch.
    expires_at: Option<i64>,
    lost: BTreeMap<u32, Lost>,
    /// Why not everything is known, or the store does not hold what it should.
    problem: Option<Problem>,
}

pub(crate) async fn status(args: &args::Store, json: bool) -> Result<()> {
    let store = bus::store(args).await?;
    let observed = store.observe().await?;
    let store = store.with_layout(observed.topology.layout());
    let mut rows = Vec::new();
    // One that can't be read does not hide the others.
    let mut letters = store.dead_letter_counts().await.unwrap_or_default();
    for registered in observed.registry.values() {
        let of = letters.remove(&registered.id()).unwrap_or(0);
        rows.push(row(&store, &observed, registered, of).await);
    }
    letters.retain(|of, _| !observed.unreadable.contains_key(&of.name));
    let bus = &store.policy().bus;
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|r| {
                let s = &r.registered.subscription;
                json!({
                    "name": s.name, "need": s.need.as_str(), "component": r.registered.component,
                    "progress": r.registered.progress, "pending": r.state.pending,
                    "in_flight": r.state.unsettled, "redelivered": r.state.redelivered,
                    "waiting_for_retry": r.waiting_for_retry,
                    "dead_letters": r.dead_letters, "paused": r.registered.paused,
                    "expires_at": r.expires_at.map(timestamp::to_rfc3339), "lost": r.lost, "problem": r.problem,
                })
            })
            .chain(
                observed
                    .unreadable
                    .iter()
                    .map(|(name, problem)| json!({ "name": name, "problem": problem })),
            )
            .collect();
        let head = observed.heads().0.values().max().copied().unwrap_or(0);
        let orphaned: Vec<_> = letters
            .iter()
            .map(|(of, count)| json!({ "subscription": of.name, "incarnation": of.incarnation, "dead_letters": count }))
            .collect();
        let shown = json!({
            "bus": bus, "last_offset": head, "subscriptions": rows, "orphaned_dead_letters": orphaned,
        });
        return say!("{}", json_lines(&shown));
    }
    say!(
        "bus {bus}: last offset {}, {} subscriptions",
        observed.heads().0.values().max().copied().unwrap_or(0),
        rows.len()
    )?;
    for problem in observed.in_the_way.iter().chain(observed.unreadable.values()) {
        say!("  {}", printable(&problem.to_string()))?;
    }
    for (of, count) in &letters {
        say!(
            "  {count} orphaned dead letters of subscription {}, which has ended: see `fanout dead-letters list`",
            of.name
        )?;
    }
    if rows.is_empty() {
        return Ok(());
    }
    say!(
        "\n{:<20} {:<9} {:<20} {:<12} {:>10} {:>10} {:>8} {:>12}  oldest expires",
        "subscription",
        "need",
        "component",
        "progress",
        "pending",
        "in flight",
        "retrying",
        "dead letters"
    )?;
    for r in rows {
        let s = &r.registered.subscription;
        say!(
            "{:<20} {:<9} {:<20} {:<12} {:>10} {:>10} {:>8} {:>12}  {}",
            s.name.as_str(),
            s.need.as_str(),
            printable(&r.registered.component),
            progress(r.registered),
            r.state.pending,
            r.state.unsettled,
            r.waiting_for_retry,
            r.dead_letters,
            r.expires_at.map_or_else(|| "-".to_owned(), timestamp::to_rfc3339)
        )?;
        if let Some(problem) = &r.problem {
            say!("  {}", printable(&problem.to_string()))?;
        }
        lost::tell(&r.lost)?;
    }
    Ok(())
}

async fn row<'a>(store: &Store, observed: &Observed, registered: &'a Registered, dead_letters: u64) -> Row<'a> {
    let mut row = Row {
        registered,
        state: ConsumerState::default(),
        waiting_for_retry: 0,
        dead_letters,
        expires_at: None,
        lost: BTreeMap::new(),
        problem: None,
    };
    // One that can't be read does not hide the others.
    if let Err(error) = read(store, &mut row).await {
        row.problem = Some(problem(store, observed, registered, &error));
    }
    row
}

/// Why not everything of a subscription is known.
fn problem(store: &Store, observed: &Observed, registered: &Registered, error: &StoreError) -> Problem {
    let name = &registered.subscription.name;
    let missing = store.readers_of(registered).find(|(partition, reader)| {
        let key = (partition.number, registered.consumer_of(reader));
        !partition.is_retired() && !observed.topology.consumers.contains_key(&key)
    });
    match missing {
        Some((partition, _)) => Problem::new(
            Code::StoreRefused,
            format!(
                "subscription {name}: the store holds no consumer for it in partition {}: `fanout apply` says why it can't be made",
                partition.number
            ),
        ),
        None => Problem::new(Code::StoreUnavailable, format!("subscription {name}: {error}")),
    }
}

async fn read(store: &Store, row: &mut Row<'_>) -> Result<(), StoreError> {
    let registered = row.registered;
    let keeps = registered.subscription.keeps_a_place(store.policy());
    if keeps && registered.progress != Progress::Finished {
        row.state = store.consumer_state(registered).await?;
        row.waiting_for_retry = store.waiting_for_retry(registered).await?;
        let retention = store.retention(registered).await?;
        row.expires_at = retention.oldest.map(|(_, expires_at)| expires_at);
        row.lost = retention.lost;
    }
    Ok(())
}

fn progress(r: &Registered) -> &'static str {
    match (r.subscription.need, r.progress) {
        _ if r.paused && r.progress != Progress::Finished => "paused",
        (_, Progress::Finished) => "finished",
        (Need::Backfill { .. }, Progress::Replaying | Progress::Telling(_)) => "replaying",
        (Need::Backfill { .. }, Progress::CaughtUp) => "caught up",
        (Need::Queue | Need::Durable, _) => "live",
    }
}
