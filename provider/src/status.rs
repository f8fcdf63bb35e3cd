//! How the provider, its links and its subscriptions are doing: one JSON document, for whoever asks on the lattice.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use async_nats::Subscriber;
use bytes::Bytes;
use fanout_plan::gap::Lost;
use fanout_plan::step::Part;
use fanout_plan::subscription::{MadeBy, Need, Progress, Registered};
use fanout_plan::{Code, Position, Problem, SubscriptionId, SubscriptionName, timestamp};
use fanout_transport::Lattice;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tracing::debug;

use crate::bus::Bus;
use crate::jetstream::{Store, StoreError};
use crate::view::View;
use crate::{clock, metrics};

/// Requests that are answered with one document.
const ANSWERED_TOGETHER: usize = 256;
/// Subscriptions that are read at once.
const AT_ONCE: usize = 32;

/// What a subscription is doing.
#[derive(Clone, Debug)]
pub(crate) enum Doing {
    Active,
    CatchingUp,
    Finished,
    Paused,
    Waiting(Problem),
}

/// A subscription and what is known of it now.
#[derive(Clone, Debug)]
pub(crate) struct SubscriptionStatus {
    pub(crate) registered: Registered,
    pub(crate) doing: Doing,
    /// Whether the store was read: the counts are those of now, and not 0 because nobody knows.
    is_known: bool,
    pub(crate) pending: u64,
    pub(crate) in_flight: u64,
    pub(crate) redelivered: u64,
    /// Refused events that wait for their next attempt, or are at it.
    pub(crate) waiting_for_retry: u64,
    /// When the oldest event that is not handled expires, nanoseconds since the Unix epoch.
    pub(crate) expires_at: Option<i64>,
    pub(crate) oldest: Option<Position>,
    pub(crate) lost: BTreeMap<u32, Lost>,
    /// Of losses that somebody acknowledged.
    seen_events: u64,
}

impl SubscriptionStatus {
    /// Reads a subscription's state; where the store does not tell it, it is shown as waiting for the store.
    pub(crate) async fn read(view: &View, registered: &Registered) -> Self {
        let subscription = &registered.subscription;
        let mut status = Self {
            registered: registered.clone(),
            doing: Doing::Active,
            is_known: true,
            pending: 0,
            in_flight: 0,
            redelivered: 0,
            waiting_for_retry: 0,
            expires_at: None,
            oldest: None,
            lost: BTreeMap::new(),
            seen_events: 0,
        };
        let mut unread = view.stuck(&subscription.name).cloned();
        match &view.store {
            _ if registered.progress == Progress::Finished => {}
            Some(store) if !subscription.keeps_a_place(store.policy()) => {}
            Some(store) if !view.unmade.contains(&subscription.name) => {
                if let Err(error) = status.read_from(store).await {
                    status.is_known = false;
                    unread.get_or_insert_with(|| {
                        Problem::new(
                            Code::StoreUnavailable,
                            format!("subscription {}: {error}", subscription.name),
                        )
                    });
                }
            }
            _ => status.is_known = false,
        }
        // Of an order, its owner knows: this instance, where it is the one.
        let resting = view.health.get(&subscription.name).map_or(0, |h| h.resting());
        status.waiting_for_retry += resting;
        // Last, so that it is not older than the counts that are shown beside it.
        let waiting = unread
            .or_else(|| view.detached.get(&subscription.name).cloned())
            .or_else(|| view.health.get(&subscription.name)?.waiting());
        status.doing = match (registered.progress, waiting) {
            (Progress::Finished, _) => Doing::Finished,
            _ if registered.paused => Doing::Paused,
            (_, Some(problem)) => Doing::Waiting(problem),
            (Progress::Replaying | Progress::Telling(_), None)
                if matches!(subscription.need, Need::Backfill { .. }) =>
            {
                Doing::CatchingUp
            }
            (_, None) => Doing::Active,
        };
        status
    }

    async fn read_from(&mut self, store: &Store) -> Result<(), StoreError> {
        let state = store.consumer_state(&self.registered).await?;
        (self.pending, self.in_flight, self.redelivered) = (state.pending, state.unsettled, state.redelivered);
        self.waiting_for_retry = store.waiting_for_retry(&self.registered).await?;
        let retention = store.retention(&self.registered).await?;
        self.oldest = retention.oldest.map(|(position, _)| position);
        self.expires_at = retention.oldest.map(|(_, expires_at)| expires_at);
        self.lost = retention.lost;
        self.seen_events = retention.seen_events;
        Ok(())
    }
}

/// Answers on `fanout.{lattice}.{provider}.status` and `.metrics` until the connection ends.
pub(crate) async fn serve(lattice: &Lattice, bus: Bus) -> Result<(), async_nats::SubscribeError> {
    for (what, render) in [
        ("status", (|status: &Value| status.to_string()) as fn(&Value) -> String),
        ("metrics", metrics::render),
    ] {
        let subject = format!("fanout.{}.{}.{what}", bus.lattice_name(), bus.provider());
        // One instance answers; each sees the same store, links and registry.
        let requests = lattice.nats().queue_subscribe(subject.clone(), subject).await?;
        let (lattice, bus) = (lattice.clone(), bus.clone());
        tokio::spawn(answer(lattice, requests, what, async move || {
            render(&document(&bus).await)
        }));
    }
    Ok(())
}

/// Answers each request with a document that is made after it came; those that come together, with one.
pub(crate) async fn answer(lattice: Lattice, requests: Subscriber, what: &str, document: impl AsyncFn() -> String) {
    let mut requests = requests.ready_chunks(ANSWERED_TOGETHER);
    while let Some(together) = requests.next().await {
        let inboxes = lattice.inboxes();
        let asked: Vec<_> = together
            .iter()
            .filter_map(|request| inboxes.reply_to(request))
            .collect();
        if asked.is_empty() {
            continue;
        }
        let document = Bytes::from(document().await);
        for reply in asked {
            if let Err(error) = lattice.nats().publish(reply.into_subject(), document.clone()).await {
                debug!(%error, what, "an answer was not sent");
            }
        }
    }
}

async fn document(bus: &Bus) -> Value {
    let view = bus.view();
    let mut letters = match &view.store {
        Some(store) => store.dead_letter_counts().await.ok(),
        None => None,
    };
    // A store that does not answer is waited for once, not for each.
    let all: Vec<_> = view
        .registry
        .values()
        .map(|r| {
            let letters = letters.as_mut().map(|all| all.remove(&r.id()).unwrap_or(0));
            subscription(&view, r, letters)
        })
        .collect();
    let mut subscriptions: Vec<_> = futures::stream::iter(all).buffered(AT_ONCE).collect().await;
    subscriptions.extend(
        view.failed
            .iter()
            .filter_map(|(part, problem)| unreadable(&view, part, problem)),
    );
    let troubles = view
        .failed
        .iter()
        .filter(|(part, _)| !matches!(part, Part::Subscription(_)));
    json!({
        "provider": bus.provider(),
        "bus": view.store.as_ref().map(|s| s.policy().bus.to_string()),
        "policy": state(&view.policy_problems, view.store.is_some()),
        "notices": view.nothing_is_published.iter().chain(&view.notices).chain(troubles.map(|(_, p)| p)).collect::<Vec<_>>(),
        "links": view.links.iter().map(|(key, outcome)| {
            let mut link = state(&outcome.problems, true);
            link["component"] = json!(key.component);
            link["name"] = json!(key.name);
            link["role"] = json!(key.role.as_str());
            link["subscription"] = json!(outcome.subscription);
            link
        }).collect::<Vec<_>>(),
        "subscriptions": subscriptions,
        "orphaned_dead_letters": letters.map(|left| orphaned(&view, left)),
    })
}

/// Dead letters of subscriptions that have ended: nobody is given them.
fn orphaned(view: &View, letters: BTreeMap<SubscriptionId, u64>) -> Vec<Value> {
    // Of one whose entry can't be read it is not known which it is.
    let is_unread = |name: &SubscriptionName| !view.registry.contains_key(name) && view.stuck(name).is_some();
    let shown = |(of, count): (SubscriptionId, u64)| {
        let mut shown = json!(of);
        shown["dead_letters"] = json!(count);
        shown
    };
    let ended = letters.into_iter().filter(|(of, _)| !is_unread(&of.name));
    ended.map(shown).collect()
}

/// A subscription whose entry can't be read: all that is known of it.
fn unreadable(view: &View, part: &Part, problem: &Problem) -> Option<Value> {
    let Part::Subscription(name) = part else { return None };
    (!view.registry.contains_key(name)).then(|| json!({ "name": name, "state": "waiting", "problem": problem }))
}

fn state(problems: &[Problem], settled: bool) -> Value {
    let word = match (problems.is_empty(), settled) {
        (false, _) => "refused",
        (true, true) => "applied",
        (true, false) => "pending",
    };
    json!({ "state": word, "problems": problems })
}

async fn subscription(view: &View, registered: &Registered, dead_letters: Option<u64>) -> Value {
    let name = &registered.subscription.name;
    let status = SubscriptionStatus::read(view, registered).await;
    let (word, problem) = match &status.doing {
        Doing::Active => ("active", None),
        Doing::CatchingUp => ("catching-up", None),
        Doing::Finished => ("finished", None),
        // Its last invocations are still under way here.
        Doing::Paused if view.is_ending(name) => ("active", None),
        Doing::Paused => ("paused", None),
        Doing::Waiting(p) => ("waiting", Some(p)),
    };
    // Deliveries are made; refused events may hold up others.
    let retries = view.health.get(name).and_then(|h| h.retries_problem());
    let problem = problem.or(retries.as_ref());
    let count = |of: fn(&crate::delivery::Health) -> u64| view.health.get(name).map(|h| of(h));
    // A 0 would say that nothing waits.
    let known = |count: u64| status.is_known.then_some(count);
    json!({
        "name": name,
        "need": registered.subscription.need.as_str(),
        "component": registered.component,
        "made_by": match registered.made_by { MadeBy::Link => "link", MadeBy::Call => "call", MadeBy::Policy => "policy" },
        "state": word,
        "problem": problem,
        "pending": known(status.pending),
        "in_flight": known(status.in_flight),
        "redelivered": known(status.redelivered),
        "waiting_for_retry": known(status.waiting_for_retry),
        "oldest": status.oldest.map(|p| p.to_string()),
        "expires_at": status.expires_at.map(timestamp::to_rfc3339),
        "expires_in_s": status.expires_at.map(|at| (at - clock::now()) / 1_000_000_000),
        "lost": status.lost.iter().map(|(partition, lost)| {
            let mut shown = json!(lost);
            shown["partition"] = json!(partition);
            shown
        }).collect::<Vec<_>>(),
        "lost_events": known(status.lost.values().map(|l| l.events).sum::<u64>() + status.seen_events),
        "rewound": registered.rewound.map(|r| r.generation),
        "dead_letters": dead_letters,
        "this_instance": {
            "handled": count(|h| h.handled.load(Ordering::Relaxed)),
            "refused": count(|h| h.refused.load(Ordering::Relaxed)),
            "dead_lettered": count(|h| h.dead_lettered.load(Ordering::Relaxed)),
            "missed": count(|h| h.missed.load(Ordering::Relaxed)),
        },
    })
}
