//! `status`: the bus and its subscriptions, as the store knows them.

use anyhow::Result;
use fanout_plan::planner::{self, Asked, Observed};
use fanout_plan::status::{BusStatus, MirrorStatus, OrphanedLetters, PlaceStatus, State, SubscriptionStatus};
use fanout_plan::subscription::Registered;
use fanout_plan::{Code, Position, Problem};
use fanout_provider::jetstream::{Store, StoreError};
use serde_json::json;

use crate::policy::now;
use crate::terminal::{json_lines, printable, say, table};
use crate::{args, bus, lost};

pub(crate) async fn status(args: &args::Store, json: bool) -> Result<()> {
    let (store, observed) = bus::observed(args).await?;
    let status = read(&store, &observed).await;
    if json {
        return say!("{}", json_lines(&json!(status)));
    }
    let heads = status.heads.iter().flat_map(|heads| &heads.0);
    let heads = heads.map(|(&partition, &offset)| Position { partition, offset }.to_string());
    let heads: Vec<_> = heads.collect();
    say!(
        "bus {}: {}, {} subscriptions",
        store.policy().bus,
        if heads.is_empty() {
            "an empty log".to_owned()
        } else {
            format!("log up to {}", heads.join(", "))
        },
        status.subscriptions.len()
    )?;
    if let Some(place) = &status.place {
        say!("place {}", place.name)?;
        for mirror in place.mirrors.iter().flatten() {
            say!("  {}", mirrored(mirror))?;
        }
        for retiring in &place.retiring {
            say!("  {retiring}")?;
        }
        for (name, at) in &place.moved {
            say!("  subscription {name} was here, and is at place {at}")?;
        }
    }
    for problem in &status.notices {
        say!("  {}", printable(&problem.to_string()))?;
    }
    for letters in status.orphaned_dead_letters.iter().flatten() {
        let OrphanedLetters {
            of,
            dead_letters,
            moved_to,
        } = letters;
        match moved_to {
            None => say!(
                "  {dead_letters} orphaned dead letters of subscription {}, which has ended: see `fanout dead-letters list`",
                of.name
            )?,
            Some(place) => say!(
                "  {dead_letters} dead letters of subscription {}, which is at place {place}, stayed here: see `fanout dead-letters list`",
                of.name
            )?,
        }
    }
    if status.subscriptions.is_empty() {
        return Ok(());
    }
    let header = [
        "name",
        "need",
        "component",
        "state",
        "pending",
        "in flight",
        "waiting for retry",
        "dead letters",
        "expires at",
    ];
    let rows = status.subscriptions.iter().map(row);
    say!("\n{}", table(header, 4..8, rows))?;
    for s in &status.subscriptions {
        if let Some(pattern) = &s.pattern {
            say!(
                "subscription {} is for what matches {}",
                s.name,
                printable(&cut(pattern))
            )?;
        }
        for (place, letters) in &s.dead_letters_elsewhere {
            say!(
                "{letters} dead letters of subscription {} stayed at place {place}: see `fanout dead-letters list --place {place}`",
                s.name
            )?;
        }
        if let Some(problem) = &s.problem {
            say!("{}", printable(&problem.to_string()))?;
        }
        if !s.lost.is_empty() {
            say!("subscription {}:", s.name)?;
            lost::show(&s.lost)?;
        }
    }
    Ok(())
}

/// How far a mirror is.
pub(crate) fn mirrored(mirror: &MirrorStatus) -> String {
    let MirrorStatus { place, partition, .. } = mirror;
    let reached = match mirror.reached {
        0 => "has nothing".to_owned(),
        offset => format!("has all up to {partition}/{offset}"),
    };
    let time = match mirror.lag_seconds {
        Some(seconds) if mirror.lag.is_some_and(|lag| lag > 0) => format!(" and {seconds} s"),
        _ => String::new(),
    };
    let reached = match mirror.lag {
        Some(0) => format!("has caught up: {reached}"),
        _ => reached,
    };
    match (mirror.lag, mirror.heard_seconds_ago) {
        (Some(lag), Some(ago)) => {
            format!(
                "partition {partition} of place {place}: {reached}, {lag} events{time} behind when it was heard of {ago} s ago"
            )
        }
        _ => format!("partition {partition} of place {place}: {reached}, and nothing was heard of it yet"),
    }
}

/// The beginning of a pattern, which may be long.
fn cut(pattern: &str) -> String {
    const SHOWN_CHARS: usize = 200;
    match pattern.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &pattern[..end]),
        None => pattern.to_owned(),
    }
}

fn row(s: &SubscriptionStatus) -> [String; 9] {
    let text = |known: &Option<String>| printable(known.as_deref().unwrap_or("-")).into_owned();
    let count = |known: Option<u64>| known.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let nobody = s.attended == Some(false) && s.state != State::Waiting;
    [
        s.name.to_string(),
        text(&s.need),
        text(&s.component),
        format!("{}{}", s.state.as_str(), if nobody { ", not attended" } else { "" }),
        count(s.pending),
        count(s.in_flight),
        count(s.waiting_for_retry),
        count(s.dead_letters),
        s.expires_at.map_or_else(|| "-".to_owned(), |at| at.to_string()),
    ]
}

/// What the store knows. What of it can't be read does not hide the rest.
async fn read(store: &Store, observed: &Observed) -> BusStatus {
    let mut letters = store.dead_letter_counts().await.ok();
    let mut elsewhere = store.letters_elsewhere(observed.registry.values()).await;
    let mut subscriptions = Vec::new();
    for registered in observed.registry.values().filter(|r| !r.has_moved()) {
        let mut status = SubscriptionStatus::of(registered);
        status.dead_letters = letters.as_mut().map(|all| all.remove(&registered.id()).unwrap_or(0));
        status.dead_letters_elsewhere = elsewhere.remove(&registered.id()).unwrap_or_default();
        // What can't be read may hold what it has: counts without that would be too small.
        if let Some(unread) = observed.unread.values().next() {
            status.wait_for(unread.clone());
        } else if let Err(error) = store.read_status(registered, &mut status).await {
            status.wait_for(problem(store, observed, registered, &error));
        }
        subscriptions.push(status);
    }
    let unreadable = observed.unreadable.iter();
    subscriptions.extend(unreadable.map(|(name, problem)| SubscriptionStatus::unknown(name.clone(), problem.clone())));
    let moved = observed.registry.values().filter_map(|r| Some((r.id(), r.moved_to()?)));
    let ended = letters.map(|letters| {
        letters
            .into_iter()
            .filter(|(of, _)| !observed.unreadable.contains_key(&of.name))
            .map(|(of, dead_letters)| OrphanedLetters {
                moved_to: moved.clone().find(|(id, _)| *id == of).map(|(_, at)| at.clone()),
                of,
                dead_letters,
            })
            .collect()
    });
    let places = store.policy().places.as_ref();
    let place = match places {
        Some(places) => Some(PlaceStatus {
            name: places.here.clone(),
            mirrors: store.mirrors().await.ok(),
            retiring: store.retiring().await,
            moved: observed
                .registry
                .values()
                .filter_map(|r| Some((r.subscription.name.clone(), r.moved_to()?.clone())))
                .collect(),
        }),
        None => None,
    };
    let plan = planner::plan_around(store.policy(), Asked::default(), observed, now());
    let conflicts = plan.problems.iter().filter(|p| p.code == Code::PlaceConflict);
    BusStatus {
        place,
        bus: Some(store.policy().bus.clone()),
        notices: observed
            .in_the_way
            .iter()
            .chain(conflicts)
            .chain(plan.places.values())
            .cloned()
            .chain(planner::notices(store.policy(), observed))
            .map(Into::into)
            .collect(),
        subscriptions,
        orphaned_dead_letters: ended,
        heads: Some(observed.heads()),
        ..BusStatus::default()
    }
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
