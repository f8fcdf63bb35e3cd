//! One bus: what it was told (settings, links), what it remembers, what it runs. Every change takes the same path:
//! observe, plan, apply, then start and stop deliveries.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fanout_plan::layout;
use fanout_plan::planner::{self, Asked, Wanted};
use fanout_plan::subscription::{MadeBy, Progress, Registered, Start, Subscription};
use fanout_plan::{Code, Policy, Problem, Settings, SubscriptionName, TenantId};
use fanout_transport::Lattice;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock;
use crate::delivery::{Context, Health, Running};
use crate::inbox::Inbox;
use crate::jetstream::{Promise, Store, StoreError};
use crate::later;
use crate::link::{Hears, Link, LinkKey, Links};
use crate::quota::{Gate, Unanswered};
use crate::view::View;
use crate::wanted::{detached, key_of, read_links};
use crate::wrpc::Subscriber;

/// How often the bus is compared with its policy when nothing seems to have changed: someone may have deleted a
/// consumer by hand.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How often the connection's state is read.
const LOOK_AT_CONNECTION: Duration = Duration::from_millis(200);
/// The waits between tries while the store can't be reached: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often a plan is made anew because another instance was faster.
const RACES: usize = 10;

/// A bus, shared by everything that serves it.
#[derive(Clone)]
pub(crate) struct Bus(Arc<Inner>);

struct Inner {
    provider: String,
    lattice_name: String,
    lattice: Lattice,
    inputs: std::sync::Mutex<Inputs>,
    running: tokio::sync::Mutex<BTreeMap<SubscriptionName, Running>>,
    view: watch::Sender<Arc<View>>,
    replan: Arc<Notify>,
    stop: CancellationToken,
    gate: Gate,
    /// One event at a time is published again in a new place.
    turn: tokio::sync::Mutex<()>,
}

/// What the host has told.
#[derive(Clone, Default)]
struct Inputs {
    settings: Settings,
    links: Links,
}

/// What is changed of a subscription while it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Amendment {
    /// Deliveries stop, or go on.
    Pause(bool),
    /// It begins again at a place.
    Rewind(Start),
}

/// Why a subscription was not made or ended.
#[derive(Debug)]
pub(crate) enum Refusal {
    Conflict(Problem),
    Invalid(Problem),
    Unavailable(Problem),
}

impl Bus {
    /// A bus that has not planned yet.
    pub(crate) fn new(provider: &str, lattice_name: &str, lattice: Lattice, settings: Settings) -> Self {
        Self(Arc::new(Inner {
            provider: provider.to_owned(),
            lattice_name: lattice_name.to_owned(),
            lattice,
            inputs: std::sync::Mutex::new(Inputs {
                settings,
                links: Links::default(),
            }),
            running: tokio::sync::Mutex::default(),
            view: watch::channel(Arc::new(View::default())).0,
            replan: Arc::new(Notify::new()),
            stop: CancellationToken::new(),
            gate: Gate::new(),
            turn: tokio::sync::Mutex::default(),
        }))
    }

    /// The bus at this moment.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.0.view.borrow())
    }

    /// The tenants' quotas.
    pub(crate) fn gate(&self) -> &Gate {
        &self.0.gate
    }

    pub(crate) fn provider(&self) -> &str {
        &self.0.provider
    }

    pub(crate) fn lattice_name(&self) -> &str {
        &self.0.lattice_name
    }

    /// Takes changed settings over key by key, as the host sends them.
    pub(crate) fn put_settings(&self, settings: Settings) {
        self.inputs(|i| i.settings = settings);
        self.0.replan.notify_one();
    }

    fn inputs<T>(&self, act: impl FnOnce(&mut Inputs) -> T) -> T {
        act(&mut self.0.inputs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until a policy is in force or refused, so that a new instance does not answer for the bus before it can;
    /// not for ever, since an error says more than silence.
    pub(crate) async fn settled(&self) {
        let mut views = self.0.view.subscribe();
        let settled = views.wait_for(|v| v.store.is_some() || !v.policy_problems.is_empty());
        if tokio::time::timeout(RETRY.1, settled).await.is_err() {
            warn!("the store did not answer yet; calls are answered with an error until it does");
        }
    }

    /// Keeps the bus as it should be until it is stopped.
    pub(crate) async fn keep(self) {
        tokio::join!(self.keep_policy(), self.keep_quotas(), self.keep_later());
    }

    /// Counts instances and stored bytes for the policy in force.
    async fn keep_quotas(&self) {
        self.with_store(|store| async move {
            self.gate().keep(&store).await;
        })
        .await;
        if let Some(store) = &self.view().store {
            self.gate().tell(store, &mut Unanswered::default()).await;
        }
    }

    /// Publishes what is due.
    async fn keep_later(&self) {
        self.with_store(|store| async move {
            if let Err(error) = later::keep(self, &store).await {
                warn!(%error, "what is due can't be read; it is tried again");
            }
        })
        .await;
    }

    /// Does something with the store for as long as its policy is in force, again when it ends, until the bus stops.
    async fn with_store<F: Future<Output = ()>>(&self, act: impl Fn(Store) -> F) {
        let mut views = self.0.view.subscribe();
        loop {
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
                _ = replaced => {}
                () = acting => tokio::time::sleep(RETRY.0).await,
            }
        }
    }

    /// Brings the bus to its policy whenever something has changed.
    async fn keep_policy(&self) {
        let (first, longest) = RETRY;
        let mut retry = first;
        loop {
            let wait = match self.reconcile(None).await {
                Ok(_) => {
                    retry = first;
                    LOOK_EVERY
                }
                Err(error) => {
                    error!(bus = %self.0.provider, ?error, "{error}; it is tried again");
                    // However many publishes find the store gone, it is not asked more often than this.
                    tokio::time::sleep(first).await;
                    retry = (retry * 2).min(longest);
                    retry
                }
            };
            tokio::select! {
                () = self.0.stop.cancelled() => return,
                () = self.0.replan.notified() => {}
                () = self.reconnected() => info!("the store is there again"),
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
            tokio::time::sleep(LOOK_AT_CONNECTION).await;
        }
    }

    /// Tells `keep` of changes that other instances make to the registry.
    pub(crate) async fn watch_registry(self) {
        use futures::StreamExt as _;
        let mut views = self.0.view.subscribe();
        loop {
            let store = views.borrow_and_update().store.clone();
            let changes = match &store {
                Some(store) => store.watch_registry().await.ok(),
                None => None,
            };
            if let Some(mut changes) = changes {
                while let Some(Ok(_)) = changes.next().await {
                    self.0.replan.notify_one();
                }
            }
            tokio::select! {
                () = self.0.stop.cancelled() => return,
                _ = views.changed() => {}
                () = tokio::time::sleep(RETRY.1) => {}
            }
        }
    }

    /// Makes a subscription that a component calls for; the same one twice is one.
    pub(crate) async fn subscribe(
        &self,
        component: &str,
        link: &str,
        subscription: Subscription,
    ) -> Result<Registered, Refusal> {
        let name = subscription.name.clone();
        let wanted = Wanted {
            subscription,
            component: component.to_owned(),
            link: link.to_owned(),
            made_by: MadeBy::Call,
        };
        if let Some(problem) = self.reconcile(Some(wanted)).await.map_err(unavailable)? {
            return Err(match problem.code {
                Code::SubscriptionConflict => Refusal::Conflict(problem),
                _ => Refusal::Invalid(problem),
            });
        }
        self.view().registry.get(&name).cloned().ok_or_else(|| {
            Refusal::Unavailable(Problem::new(
                Code::BusNotReady,
                format!("subscription {name} was not made: the bus has no policy in force"),
            ))
        })
    }

    /// The store, with a place in its log for a tenant: where each tenant has a stream of its own, it is made when the
    /// first event comes.
    ///
    /// # Errors
    /// When the bus has no policy in force, or the place can't be made.
    pub(crate) async fn store_for(&self, tenant: &TenantId) -> Result<Store, Problem> {
        let has_place = |store: &Store| store.layout().publish_to(tenant).is_some();
        let store = self.view().store()?.clone();
        if has_place(&store) || !store.policy().serves(tenant) {
            return Ok(store);
        }
        if let Err(e) = self.reconcile_with(None, Some(tenant)).await {
            return Err(Problem::new(
                Code::StoreUnavailable,
                format!("tenant {tenant} has no place in the log yet: {e}"),
            ));
        }
        let view = self.view();
        let store = view.store()?.clone();
        if has_place(&store) {
            return Ok(store);
        }
        let why = view.policy_problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        Err(Problem::new(
            view.policy_problems.first().map_or(Code::StoreUnavailable, |p| p.code),
            format!("tenant {tenant} has no place in the log: {}", why.join("; ")),
        ))
    }

    /// Waits until the log's partitions are others than a store knew, at most until then.
    pub(crate) async fn changed_from(&self, was: &Store, until: tokio::time::Instant) {
        let mut views = self.0.view.subscribe();
        let changed = views.wait_for(|v| v.store.as_ref().is_some_and(|now| now.layout() != was.layout()));
        // Either way, where the event goes is asked again.
        drop(tokio::time::timeout_at(until, changed).await);
    }

    /// Waits for one's turn among the events that are published again.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.turn.lock().await
    }

    /// Pauses, resumes or rewinds a subscription, and brings everything to it.
    pub(crate) async fn amend(&self, name: &SubscriptionName, change: Amendment) -> Result<Registered, Refusal> {
        let view = self.view();
        let store = view.store().map_err(Refusal::Unavailable)?;
        let amended = match change {
            Amendment::Pause(paused) => store.pause(name, paused).await,
            Amendment::Rewind(to) => store.rewind(name, to, false).await,
        };
        let amended = match amended {
            Err(StoreError::Refused(problems)) => {
                let problem = problems.into_iter().next();
                return Err(problem.map_or_else(|| unknown(name), Refusal::Invalid));
            }
            other => other.map_err(unavailable)?,
        };
        self.reconcile(None).await.map_err(unavailable)?;
        amended.ok_or_else(|| unknown(name))
    }

    /// Ends a subscription: nothing is kept for it any more.
    pub(crate) async fn unsubscribe(&self, name: &SubscriptionName) -> Result<(), Refusal> {
        let view = self.view();
        let store = view.store().map_err(Refusal::Unavailable)?;
        store.forget(name).await.map_err(unavailable)?;
        self.reconcile(None).await.map_err(unavailable)?;
        Ok(())
    }

    /// Brings everything to what is wanted. Returns why `called`, a subscription that a component asks for, was
    /// refused, if it was.
    async fn reconcile(&self, called: Option<Wanted>) -> Result<Option<Problem>, StoreError> {
        self.reconcile_with(called, None).await
    }

    /// The same, with a place in the log for `tenant`.
    async fn reconcile_with(
        &self,
        called: Option<Wanted>,
        tenant: Option<&TenantId>,
    ) -> Result<Option<Problem>, StoreError> {
        let mut running = self.0.running.lock().await;
        let inputs = self.inputs(|i| i.clone());
        let before = self.view();
        let mut view = View {
            registry: before.registry.clone(),
            notices: before.notices.clone(),
            nothing_is_published: before.nothing_is_published.clone(),
            ..View::default()
        };
        let store = self.policy_in_force(&inputs.settings, &mut view);
        let mut wanted = read_links(&inputs.links, store.as_ref(), &mut view);
        // Links count from now on, whether or not the store can be reached.
        view.health = running
            .iter()
            .map(|(n, r)| (n.clone(), Arc::clone(&r.health)))
            .collect();
        view.inboxes = inboxes(&running);
        // A policy is in force once it is applied; until then, and when it is refused, the last one is.
        view.store = before.store.clone();
        self.0.view.send_replace(Arc::new(view.clone()));
        let Some(store) = store else {
            report(&before, &view);
            return Ok(None);
        };

        // Asking the servers takes a moment: not while a component waits.
        if called.is_none() && tenant.is_none() {
            (view.notices, view.nothing_is_published) = match store.promise().await {
                Promise::Kept => (Vec::new(), None),
                Promise::Unverified(notice) => (vec![notice], None),
                Promise::Broken(problem) => (Vec::new(), Some(problem)),
            };
        }
        let declared = wanted.len();
        wanted.extend(called);
        let asked = Asked {
            wanted: &wanted,
            tenant,
            keep_partitions: false,
        };
        let (plan, kept) = match self.bring(&store, asked).await {
            Err(StoreError::Refused(problems)) => {
                view.policy_problems = problems;
                report(&before, &view);
                self.0.view.send_replace(Arc::new(view));
                return Ok(None);
            }
            other => other?,
        };
        let mut refused_call = None;
        for (i, problem) in plan.refused {
            if i >= wanted.len() {
                // Of a subscription that the policy itself declares.
                view.policy_problems.push(problem);
            } else if i >= declared {
                refused_call = Some(problem);
            } else if let Some(outcome) = view.links.get_mut(&key_of(&wanted[i])) {
                outcome.problems.push(problem);
            }
        }
        if kept {
            view.policy_problems.push(topology_changed(store.policy()));
        }
        view.registry = plan.registry;
        let store = store.with_layout(plan.layout);
        view.store = Some(store.clone());
        self.run(&store, &mut running, &mut view).await;
        report(&before, &view);
        self.0.view.send_replace(Arc::new(view));
        Ok(refused_call)
    }

    /// The store of the policy in force: the one given, or the last good one when that is refused.
    fn policy_in_force(&self, settings: &Settings, view: &mut View) -> Option<Store> {
        let current = self.view().store.clone();
        let owner = format!("policy of provider {}", self.0.provider);
        let refused = match Policy::from_settings(&owner, settings) {
            Ok(policy) if current.as_ref().is_some_and(|s| *s.policy() == policy) => return current,
            Ok(policy) => {
                let store = Store::new(self.0.lattice.nats().clone(), policy).telling(&self.0.replan);
                match store.fits_the_server() {
                    Ok(()) => return Some(store),
                    Err(problem) => vec![problem],
                }
            }
            Err(problems) => problems,
        };
        view.policy_problems = refused;
        current
    }

    /// Observe, plan, apply; again when another instance was faster. Says too whether the partitions were kept although
    /// the policy asks for others.
    async fn bring(&self, store: &Store, asked: Asked<'_>) -> Result<(planner::Plan, bool), StoreError> {
        for _ in 0..RACES {
            let observed = store.observe().await?;
            // Once this policy was in force, only another instance's can have changed the partitions: two that took
            // turns would change them for ever.
            let theirs = observed.topology.layout();
            let changed = store.layout().newest().is_some() && !layout::fits(store.policy(), &theirs);
            let asked = Asked {
                keep_partitions: changed && theirs.partitions.values().any(|p| !p.is_retired()),
                ..asked
            };
            let plan = planner::plan(store.policy(), asked, &observed, clock::now()).map_err(StoreError::Refused)?;
            match apply(store, &plan).await {
                Ok(()) => return Ok((plan, asked.keep_partitions)),
                Err(StoreError::Raced { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Err(StoreError::Raced {
            what: "the bus".to_owned(),
        })
    }

    /// Starts and stops deliveries so that they are those of the registry.
    async fn run(&self, store: &Store, running: &mut BTreeMap<SubscriptionName, Running>, view: &mut View) {
        let declared: BTreeSet<_> = view
            .links
            .values()
            .filter(|o| o.problems.is_empty())
            .filter_map(|o| o.subscription.clone())
            .collect();
        for (name, registered) in &view.registry {
            if let Some(problem) = detached(registered, &declared, view) {
                view.detached.insert(name.clone(), problem);
            }
        }
        let goes_on = |name: &SubscriptionName, r: &Running| {
            r.policy == *store.policy()
                && r.reads(store)
                && !view.detached.contains_key(name)
                && view
                    .registry
                    .get(name)
                    .is_some_and(|now| now.progress != Progress::Finished && !now.paused && r.serves(now))
        };
        let over: Vec<_> = running
            .iter()
            .filter(|(n, r)| !goes_on(n, r))
            .map(|(n, _)| n.clone())
            .collect();
        for name in over {
            if let Some(r) = running.remove(&name) {
                r.stop().await;
            }
        }
        for (name, registered) in &view.registry {
            if running.contains_key(name)
                || view.detached.contains_key(name)
                || registered.progress == Progress::Finished
                || registered.paused
            {
                continue;
            }
            let context = Context {
                registered: registered.clone(),
                store: store.clone(),
                subscriber: Subscriber::new(
                    &self.0.lattice,
                    &self.0.lattice_name,
                    &registered.component,
                    &self.0.provider,
                    store.policy().delivery_deadline,
                ),
                health: Arc::new(Health::default()),
                replan: Arc::clone(&self.0.replan),
                stop: self.0.stop.child_token(),
            };
            info!(subscription = %name, component = registered.component, need = registered.subscription.need.as_str(), "delivering");
            running.insert(name.clone(), Running::start(context));
        }
        view.health = running
            .iter()
            .map(|(n, r)| (n.clone(), Arc::clone(&r.health)))
            .collect();
        view.inboxes = inboxes(running);
    }

    /// Stops: deliveries under way end, what is not delivered yet stays in the log.
    pub(crate) async fn stop(&self) {
        self.0.stop.cancel();
        let running = std::mem::take(&mut *self.0.running.lock().await);
        for (_, r) in running {
            r.stop().await;
        }
    }
}

fn inboxes(running: &BTreeMap<SubscriptionName, Running>) -> BTreeMap<SubscriptionName, Arc<Inbox>> {
    let fetched = |(n, r): (&SubscriptionName, &Running)| Some((n.clone(), Arc::clone(r.inbox.as_ref()?)));
    running.iter().filter_map(fetched).collect()
}

impl Hears for Bus {
    fn put_link(&self, key: LinkKey, link: Link) {
        if self.inputs(|i| i.links.put(key, link)) {
            self.0.replan.notify_one();
        }
    }

    fn delete_link(&self, key: &LinkKey) {
        if self.inputs(|i| i.links.delete(key)) {
            self.0.replan.notify_one();
        }
    }
}

/// Logs what was not so before: the same problem is logged once, not at each look.
fn report(before: &View, now: &View) {
    if before.policy_problems != now.policy_problems {
        for p in &now.policy_problems {
            error!(code = %p.code, "{}", p.message);
        }
    }
    for p in &now.notices {
        if !before.notices.contains(p) {
            warn!(code = %p.code, "{}", p.message);
        }
    }
    if let Some(p) = now
        .nothing_is_published
        .iter()
        .find(|p| before.nothing_is_published.as_ref() != Some(p))
    {
        error!(code = %p.code, "{}", p.message);
    }
    for (key, outcome) in &now.links {
        if before.links.get(key).map(|o| &o.problems) != Some(&outcome.problems) {
            for p in &outcome.problems {
                warn!(code = %p.code, "{}", p.message);
            }
        }
    }
}

fn topology_changed(policy: &Policy) -> Problem {
    Problem::new(
        Code::TopologyChanged,
        format!(
            "the topology of bus {} was changed by another instance or by `fanout apply`, and this policy still asks for `topology` = `{}` on {}: give every instance the same policy; until then this one goes on with what is there",
            policy.bus, policy.shape, policy.subject
        ),
    )
}

fn unknown(name: &SubscriptionName) -> Refusal {
    Refusal::Invalid(Problem::new(
        Code::UnknownSubscription,
        format!("there is no subscription {name}"),
    ))
}

fn unavailable(e: StoreError) -> Refusal {
    Refusal::Unavailable(Problem::new(Code::StoreUnavailable, format!("{e}: try again")))
}

async fn apply(store: &Store, plan: &planner::Plan) -> Result<(), StoreError> {
    for step in &plan.steps {
        info!("{step}");
        store.apply(step).await?;
    }
    Ok(())
}
