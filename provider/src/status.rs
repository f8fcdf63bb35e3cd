//! How the provider, its links and its subscriptions are doing: one document, for whoever asks on the lattice.

use std::collections::BTreeMap;

use async_nats::Subscriber;
use bytes::Bytes;
use fanout_plan::status::{
    BusStatus, LinkStatus, OrphanedLetters, Outcome, OutcomeState, PlaceStatus, State, SubscriptionStatus,
};
use fanout_plan::step::Part;
use fanout_plan::subscription::{Reach, Registered};
use fanout_plan::{Code, Problem, SubscriptionId};
use fanout_transport::Lattice;
use futures::StreamExt as _;
use tracing::debug;

use crate::bus::Bus;
use crate::jetstream::Store;
use crate::link::LinkKey;
use crate::telemetry::{self, AsyncSnapshot as _, Format};
use crate::view::{LinkOutcome, View};

/// Requests that are answered with one document.
const ANSWERED_TOGETHER: usize = 256;
/// Subscriptions that are read at once.
const AT_ONCE: usize = 32;

/// Reads a subscription's status; where the store does not tell it, it waits for the store.
pub(crate) async fn read(view: &View, registered: &Registered) -> SubscriptionStatus {
    let subscription = &registered.subscription;
    let name = &subscription.name;
    let mut status = SubscriptionStatus::of(registered);
    let mut waiting = view.stuck(name).cloned();
    if let Some(store) = &view.store
        && (!view.unmade.contains(name) || !subscription.keeps_a_place(store.policy()))
        && let Err(error) = store.read_status(registered, &mut status).await
    {
        waiting.get_or_insert_with(|| Problem::new(Code::StoreUnavailable, format!("subscription {name}: {error}")));
    }
    let health = view.health.get(name);
    // Of an order, its owner knows: this instance, where it is the one.
    if let (Some(waiting), Some(health)) = (&mut status.waiting_for_retry, health) {
        *waiting += health.resting();
    }
    // Last, so that it is not older than the counts that are shown beside it.
    let waiting = waiting
        .or_else(|| view.detached.get(name).cloned())
        .or_else(|| health?.waiting());
    if let Some(problem) = waiting {
        status.wait_for(problem);
    }
    if matches!(status.state, State::Finished | State::Paused) {
        return status;
    }
    let nobody = [Code::SubscriberUnreachable, Code::SubscriberUnlinked];
    if nobody.iter().any(|code| status.code() == code.as_str()) {
        status.attended = Some(false);
    } else if (subscription.reach != Reach::Inbox && health.is_some())
        || view.inboxes.get(name).is_some_and(|inbox| inbox.is_waited_on())
    {
        status.attended = Some(true);
    }
    status
}

/// Answers on `fanout.{lattice}.{provider}.status` and `.metrics` until the connection ends.
pub(crate) async fn serve(lattice: &Lattice, bus: Bus) -> Result<(), async_nats::SubscribeError> {
    for what in ["status", "metrics"] {
        let subject = format!("fanout.{}.{}.{what}", bus.lattice_name(), bus.provider());
        // One instance answers; each sees the same store, links and registry.
        let requests = lattice.nats().queue_subscribe(subject.clone(), subject).await?;
        let (lattice, bus) = (lattice.clone(), bus.clone());
        tokio::spawn(answer(lattice, requests, what, async move || match what {
            "metrics" => telemetry::render(&bus.snapshot().await, Format::Prometheus),
            _ => as_json(&document(&bus).await),
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

/// The document as it is sent.
pub(crate) fn as_json(status: &BusStatus) -> String {
    // Its keys are texts, and nothing in it fails to be written.
    serde_json::to_string(status).unwrap_or_default()
}

pub(crate) async fn document(bus: &Bus) -> BusStatus {
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
    let notices = view.nothing_is_published.iter().chain(&view.notices).cloned();
    let notices = notices
        .chain(view.unknown_partition.clone())
        .chain(view.place_is_retired());
    let notices = notices.chain(view.between_places.iter().cloned());
    let mut notices: Vec<_> = notices.chain(bus.journal().problem()).collect();
    for (part, problem) in &view.failed {
        match part {
            Part::Subscription(name) if view.registry.contains_key(name) => {}
            // Its entry can't be read.
            Part::Subscription(name) => subscriptions.push(SubscriptionStatus::unknown(name.clone(), problem.clone())),
            _ => notices.push(problem.clone()),
        }
    }
    let place = match &view.store {
        Some(store) => place(&view, store).await,
        None => None,
    };
    let mut policy = Outcome::of(&view.policy_problems);
    if policy.problems.is_empty() && view.store.is_none() {
        policy.state = OutcomeState::Pending;
    }
    BusStatus {
        provider: Some(bus.provider().to_owned()),
        bus: view.store.as_ref().map(|s| s.policy().bus.clone()),
        policy: Some(policy),
        notices: notices.into_iter().map(Into::into).collect(),
        journal: bus.journal().status(),
        place,
        links: links(&view.links),
        subscriptions,
        orphaned_dead_letters: letters.map(|left| orphaned(&view, left)),
        ..BusStatus::default()
    }
}

/// The place of a bus that has places.
async fn place(view: &View, store: &Store) -> Option<PlaceStatus> {
    Some(PlaceStatus {
        name: store.policy().places.as_ref()?.here.clone(),
        mirrors: store.mirrors().await.ok(),
        retiring: store.retiring().await,
        moved: view
            .moved
            .iter()
            .map(|(id, at)| (id.name.clone(), at.clone()))
            .collect(),
    })
}

/// What came of each link.
pub(crate) fn links(links: &BTreeMap<LinkKey, LinkOutcome>) -> Vec<LinkStatus> {
    links
        .iter()
        .map(|(key, outcome)| LinkStatus {
            component: key.component.clone(),
            name: key.name.clone(),
            role: key.role,
            subscription: outcome.subscription.clone(),
            outcome: Outcome::of(&outcome.problems),
        })
        .collect()
}

/// Dead letters of subscriptions that have ended.
fn orphaned(view: &View, letters: BTreeMap<SubscriptionId, u64>) -> Vec<OrphanedLetters> {
    letters
        .into_iter()
        // Of one whose entry can't be read it is not known which it is.
        .filter(|(of, _)| view.registry.contains_key(&of.name) || view.stuck(&of.name).is_none())
        .map(|(of, dead_letters)| OrphanedLetters {
            moved_to: view.moved.get(&of).cloned(),
            of,
            dead_letters,
        })
        .collect()
}

async fn subscription(view: &View, registered: &Registered, dead_letters: Option<u64>) -> SubscriptionStatus {
    let name = &registered.subscription.name;
    let mut status = read(view, registered).await;
    status.dead_letters = dead_letters;
    if status.state == State::Paused && view.is_ending(name) {
        // Its last invocations are still under way here.
        status.state = State::Active;
    }
    if let Some(health) = view.health.get(name) {
        // Deliveries are made; refused events may hold up others.
        if status.problem.is_none() {
            status.problem = health.retries_problem().map(Into::into);
        }
        status.this_instance = Some(health.counts());
    }
    status
}
