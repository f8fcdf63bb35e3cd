//! How the provider, its links and its subscriptions are doing: one JSON document, for whoever asks on the lattice.

use std::sync::atomic::Ordering;

use fanout_plan::Problem;
use fanout_plan::subscription::{MadeBy, Need, Progress, Registered};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tracing::debug;

use crate::bus::Bus;
use crate::view::View;

/// What a subscription is doing.
#[derive(Clone, Debug)]
pub(crate) enum Doing {
    Active,
    CatchingUp,
    Finished,
    Waiting(Problem),
}

/// A subscription and what is known of it now.
#[derive(Clone, Debug)]
pub(crate) struct SubscriptionStatus {
    pub(crate) registered: Registered,
    pub(crate) doing: Doing,
    pub(crate) pending: u64,
    pub(crate) in_flight: u64,
}

impl SubscriptionStatus {
    /// Reads a subscription's state; what the store does not tell is shown as 0 and as waiting for the store.
    pub(crate) async fn read(view: &View, registered: &Registered) -> Self {
        let subscription = &registered.subscription;
        let mut doing = match registered.progress {
            Progress::Finished => Doing::Finished,
            Progress::Replaying | Progress::Telling(_) if matches!(subscription.need, Need::Backfill { .. }) => {
                Doing::CatchingUp
            }
            _ => Doing::Active,
        };
        let waiting = view
            .detached
            .get(&subscription.name)
            .cloned()
            .or_else(|| view.health.get(&subscription.name)?.waiting());
        if let Some(problem) = waiting
            && registered.progress != Progress::Finished
        {
            doing = Doing::Waiting(problem);
        }
        let (mut pending, mut in_flight) = (0, 0);
        let keeps = !matches!(subscription.need, Need::Queue) && registered.progress != Progress::Finished;
        if let Some(store) = view.store.as_ref().filter(|_| keeps) {
            match store.consumer_state(subscription).await {
                Ok(state) => (pending, in_flight) = (state.pending, state.unsettled),
                Err(error) => {
                    doing = Doing::Waiting(Problem::new(
                        fanout_plan::Code::StoreUnavailable,
                        format!("subscription {}: {error}", subscription.name),
                    ));
                }
            }
        }
        Self {
            registered: registered.clone(),
            doing,
            pending,
            in_flight,
        }
    }
}

/// Answers on `fanout.{lattice}.{provider}.status` until the connection ends.
pub(crate) async fn serve(nats: async_nats::Client, bus: Bus) -> Result<(), async_nats::SubscribeError> {
    let subject = format!("fanout.{}.{}.status", bus.lattice_name(), bus.provider());
    // One instance answers; each sees the same store, links and registry.
    let mut requests = nats.queue_subscribe(subject.clone(), subject).await?;
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let Some(reply) = request.reply else { continue };
            let answer = document(&bus).await.to_string();
            if let Err(error) = nats.publish(reply, answer.into()).await {
                debug!(%error, "a status was not sent");
            }
        }
    });
    Ok(())
}

async fn document(bus: &Bus) -> Value {
    let view = bus.view();
    let mut subscriptions = Vec::new();
    for registered in view.registry.values() {
        subscriptions.push(subscription(&view, SubscriptionStatus::read(&view, registered).await).await);
    }
    json!({
        "provider": bus.provider(),
        "bus": view.store.as_ref().map(|s| s.policy().bus.to_string()),
        "policy": state(&view.policy_problems, view.store.is_some()),
        "links": view.links.iter().map(|(key, outcome)| {
            let mut link = state(&outcome.problems, true);
            link["component"] = json!(key.component);
            link["name"] = json!(key.name);
            link["role"] = json!(key.role.as_str());
            link["subscription"] = json!(outcome.subscription);
            link
        }).collect::<Vec<_>>(),
        "subscriptions": subscriptions,
    })
}

fn state(problems: &[Problem], settled: bool) -> Value {
    let word = match (problems.is_empty(), settled) {
        (false, _) => "refused",
        (true, true) => "applied",
        (true, false) => "pending",
    };
    json!({ "state": word, "problems": problems })
}

async fn subscription(view: &View, status: SubscriptionStatus) -> Value {
    let registered = &status.registered;
    let name = &registered.subscription.name;
    let dead_letters = match &view.store {
        Some(store) => store.dead_letter_count(name).await.ok(),
        None => None,
    };
    let (word, problem) = match &status.doing {
        Doing::Active => ("active", None),
        Doing::CatchingUp => ("catching-up", None),
        Doing::Finished => ("finished", None),
        Doing::Waiting(p) => ("waiting", Some(p)),
    };
    let count = |of: fn(&crate::delivery::Health) -> u64| view.health.get(name).map(|h| of(h));
    json!({
        "name": name,
        "need": registered.subscription.need.as_str(),
        "component": registered.component,
        "made_by": match registered.made_by { MadeBy::Link => "link", MadeBy::Call => "call", MadeBy::Policy => "policy" },
        "state": word,
        "problem": problem,
        "pending": status.pending,
        "in_flight": status.in_flight,
        "dead_letters": dead_letters,
        "this_instance": {
            "handled": count(|h| h.handled.load(Ordering::Relaxed)),
            "refused": count(|h| h.refused.load(Ordering::Relaxed)),
            "dead_lettered": count(|h| h.dead_lettered.load(Ordering::Relaxed)),
            "missed": count(|h| h.missed.load(Ordering::Relaxed)),
        },
    })
}
