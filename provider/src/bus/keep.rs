//! Keeps a bus as it should be: reconciles it when something has changed, and now and then when nothing seems to have.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fanout_plan::subscription::Registered;
use fanout_plan::{Code, Problem, SubscriptionName};
use futures::StreamExt as _;
use tracing::{error, info, warn};

use super::runs::Runs;
use super::scheduled;
use super::{Bus, RETRY};
use crate::backoff::Backoff;
use crate::jetstream::{Entry, Store};
use crate::view::View;

/// How often the bus is compared with its policy when nothing seems to have changed: someone may have deleted a
/// consumer by hand.
const RECONCILE_EVERY: Duration = Duration::from_secs(30);
/// The wait before what the store refused is tried again for the first time.
const MEND: Duration = Duration::from_secs(1);
/// Changes of the registry that are reconciled together.
const CHANGES: usize = 256;
/// How long the store may take to count what was stored last: one that is away counts nothing more.
const LAST_FLUSH: Duration = Duration::from_secs(2);
/// How often the connection's state is read.
const CHECK_CONNECTION_EVERY: Duration = Duration::from_millis(200);
/// How often it is asked whether another store has the same bus.
const LOOK_FOR_ANOTHER_EVERY: Duration = Duration::from_secs(5);

impl Bus {
    /// Keeps quotas, publishes what is due, and looks for another store of the bus, until the bus is stopped.
    pub(crate) async fn keep_beside(self) {
        tokio::join!(self.keep_quotas(), self.publish_scheduled(), self.look_for_another());
    }

    /// Asks now and then whether what is published here is stored by another, too.
    async fn look_for_another(&self) {
        self.with_store(|store| async move {
            loop {
                tokio::time::sleep(LOOK_FOR_ANOTHER_EVERY).await;
                let found = store.is_not_alone().await;
                let is_news = *self.not_alone() != found;
                *self.not_alone() = found;
                if is_news {
                    self.0.replan.notify_one();
                }
            }
        })
        .await;
    }

    /// Why what is published here is stored by another, too, as it was found last.
    pub(super) fn not_alone(&self) -> std::sync::MutexGuard<'_, Option<Problem>> {
        self.0
            .not_alone
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Counts instances and stored bytes for the policy in force.
    async fn keep_quotas(&self) {
        self.with_store(|store| async move {
            self.gate().keep(&store).await;
        })
        .await;
    }

    /// Adds what this instance stored last to the counters of the quotas: for the end, once no call is under way. Waits
    /// [`LAST_FLUSH`] at most.
    pub(crate) async fn flush_quotas(&self) {
        let Some(store) = self.view().store.clone() else { return };
        if tokio::time::timeout(LAST_FLUSH, self.gate().flush(&store))
            .await
            .is_err()
        {
            warn!(bus = %self.0.provider, "the store did not answer in time: the bytes that tenants stored last through this instance may not be counted against their quotas");
        }
    }

    /// Publishes what is due.
    async fn publish_scheduled(&self) {
        let said = std::sync::Mutex::new(String::new());
        let said = &said;
        self.with_store(|store| async move {
            if let Err(error) = scheduled::publish_due(self, &store).await {
                let error = error.to_string();
                let mut said = said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if *said != error {
                    warn!(
                        error,
                        "scheduled events that are due can't be read; reading is tried again"
                    );
                    *said = error;
                }
            }
        })
        .await;
    }

    /// Does something with the store for as long as its policy is in force, again when it ends, until the bus stops.
    async fn with_store<F: Future<Output = ()>>(&self, act: impl Fn(Store) -> F) {
        let mut views = self.0.view.subscribe();
        let mut retry = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let began = tokio::time::Instant::now();
            let store = views.borrow_and_update().store.clone();
            let acting = async {
                match &store {
                    Some(store) => act(store.clone()).await,
                    None => std::future::pending().await,
                }
            };
            let replaced = async {
                let other = views.wait_for(|now| match (&now.store, &store) {
                    (Some(now), Some(store)) => !now.is_of_same_policy(store),
                    (now, store) => now.is_some() != store.is_some(),
                });
                other.await.is_ok()
            };
            tokio::select! {
                () = self.0.stop.cancelled() => return,
                _ = replaced => retry.reset(),
                () = acting => {
                    if began.elapsed() > RETRY.1 {
                        retry.reset();
                    }
                    tokio::select! {
                        () = self.0.stop.cancelled() => return,
                        () = tokio::time::sleep(retry.next()) => {}
                    }
                }
            }
        }
    }

    /// Brings the bus to its policy whenever something has changed or is asked for, until it is stopped and its deliveries
    /// have ended.
    pub(crate) async fn keep(self) {
        let mut runs = Runs::default();
        tokio::select! {
            () = self.0.stop.cancelled() => {}
            () = self.keep_policy(&mut runs) => {}
        }
        runs.stop().await;
    }

    async fn keep_policy(&self, runs: &mut Runs) {
        let (mut retry, mut mend) = (Backoff::new(RETRY.0, RETRY.1), Backoff::new(MEND, RECONCILE_EVERY));
        let mut said = String::new();
        loop {
            let wait = match self.reconcile(runs).await {
                Ok(()) => {
                    retry.reset();
                    said.clear();
                    // What the store refused is tried again, less and less often.
                    if self.is_whole() {
                        mend.reset();
                        RECONCILE_EVERY
                    } else {
                        mend.next()
                    }
                }
                Err(error) => {
                    let words = format!("{error:?}");
                    if words != said {
                        error!(bus = %self.0.provider, ?error, "{error}; it is tried again");
                        said = words;
                    }
                    // However many publishes find the store gone, it is not asked more often than this.
                    tokio::time::sleep(RETRY.0).await;
                    // Callers wait for the moment in which it begins here.
                    let is_on_its_way = |p: &Problem| matches!(p.code, Code::BusMoved | Code::BusMigrating);
                    if self.view().policy_problems.iter().any(is_on_its_way) {
                        retry.reset();
                    }
                    retry.next()
                }
            };
            if !self.0.requests.is_empty() {
                continue;
            }
            tokio::select! {
                () = self.0.replan.notified() => {}
                () = self.reconnected() => info!("the store is reached again"),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Returns when the connection to the store was lost and is there again: what the server kept in memory only is
    /// gone then.
    async fn reconnected(&self) {
        let nats = self.0.lattice.nats();
        let mut lost = false;
        loop {
            let connected = nats.connection_state() == async_nats::connection::State::Connected;
            if connected && lost {
                return;
            }
            lost |= !connected;
            tokio::time::sleep(CHECK_CONNECTION_EVERY).await;
        }
    }

    /// Receives changes that other instances make to the registry. Those that concern what is planned are; how far a
    /// subscription has come is shown.
    pub(crate) async fn watch_registry(self) {
        let mut views = self.0.view.subscribe();
        loop {
            let store = views.borrow_and_update().store.clone();
            let changes = match &store {
                Some(store) => store.registry_changes().await.ok(),
                None => None,
            };
            if let Some(changes) = changes {
                // What changed before it was watched was not heard.
                self.0.replan.notify_one();
                let mut changes = changes.ready_chunks(CHANGES);
                while let Some(changes) = changes.next().await {
                    if self.note(changes).await {
                        self.0.replan.notify_one();
                    }
                }
            }
            tokio::select! {
                () = self.0.stop.cancelled() => return,
                _ = views.changed(), if store.is_none() => {}
                () = tokio::time::sleep(RETRY.1) => {}
            }
        }
    }

    /// Takes changes of the registry in. Says whether they concern what is planned.
    async fn note(&self, changes: Vec<(SubscriptionName, Entry)>) -> bool {
        // A plan that is being carried out has made some of them, and its view is compared with them.
        let _planning = self.0.planning.lock().await;
        let Some(further) = further(&self.view(), changes) else {
            return true;
        };
        if !further.is_empty() {
            self.0.view.send_modify(|view| {
                let mut next = View::clone(view);
                next.registry.extend(further);
                *view = Arc::new(next);
            });
        }
        false
    }
}

/// Which subscriptions have come further than the view shows; `None` if something has to be planned.
fn further(view: &View, changes: Vec<(SubscriptionName, Entry)>) -> Option<BTreeMap<SubscriptionName, Registered>> {
    // Of several changes of one subscription the last one stands, which the view may have already.
    let last: BTreeMap<_, _> = changes.into_iter().collect();
    let mut further = BTreeMap::new();
    for (name, entry) in last {
        match (view.registry.get(&name), entry) {
            (Some(have), Entry::There(now)) if have.is_planned_like(&now) => {
                if *have != *now {
                    further.insert(name, *now);
                }
            }
            // What could not be read until now can be let go.
            (None, Entry::Ended(_)) if view.stuck(&name).is_none() => {}
            _ => return None,
        }
    }
    Some(further)
}

#[cfg(test)]
mod tests {
    use fanout_plan::Timestamp;
    use fanout_plan::subscription::Progress;

    use super::*;

    fn backfill(progress: Progress) -> Registered {
        let written = r#"{"name":"replay","need":"durable","filter":{"tenants":[],"event_types":["**"]},"reach":"handler",
            "batch_size":1,"concurrency":4,"tell_caught_up":false,"component":"c","link":"default","made_by":"link",
            "made_at":1,"head":{"0":7},"replayed":{},"progress":"replaying"}"#;
        Registered {
            progress,
            ..serde_json::from_str(written).unwrap()
        }
    }

    fn changes(progress: &[Progress]) -> Vec<(SubscriptionName, Entry)> {
        let change = |progress: &Progress| {
            let now = backfill(*progress);
            (now.subscription.name.clone(), Entry::There(Box::new(now)))
        };
        progress.iter().map(change).collect()
    }

    fn shows(progress: Progress) -> View {
        let have = backfill(progress);
        View {
            registry: [(have.subscription.name.clone(), have)].into(),
            ..View::default()
        }
    }

    #[test]
    fn of_changes_that_come_together_the_last_one_is_shown() {
        let both = || changes(&[Progress::Notifying(Timestamp::EPOCH), Progress::CaughtUp]);
        let seen = further(&shows(Progress::Replaying), both()).unwrap();
        assert!(seen.values().map(|r| r.progress).eq([Progress::CaughtUp]));
        // A plan has read the last one meanwhile.
        assert_eq!(further(&shows(Progress::CaughtUp), both()), Some(BTreeMap::new()));
    }

    #[test]
    fn one_that_has_finished_is_planned() {
        assert_eq!(
            further(&shows(Progress::CaughtUp), changes(&[Progress::Finished])),
            None
        );
    }
}
