//! One bus: what it was given (settings, links), what it remembers, what it runs, and what is asked of it. How it is kept
//! as it should be is in `keep`, how a change is made in `reconcile`, what callers wait for in `requests`, and its
//! deliveries are in `runs`. `scheduled` publishes the events that are due.

mod bring;
mod keep;
mod reconcile;
mod report;
mod requests;
mod runs;
mod scheduled;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use fanout_plan::planner::Wanted;
use fanout_plan::subscription::{MadeBy, Registered, Start, Subscription};
use fanout_plan::{Code, Policy, Problem, Settings, SubscriptionName, TenantId};
use fanout_transport::Lattice;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::requests::{Answer, Requests, Want};
use crate::jetstream::{Store, StoreError};
use crate::journal::Journal;
use crate::link::{Link, LinkKey, LinkSink, Links};
use crate::quota::Gate;
use crate::view::View;
use crate::wanted::read_grants;

/// How long calls and deliveries under way may take when the bus is to stop.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

/// How often a tenant's partition is read while another instance changes the partitions, and the wait between.
const PLACE_READS: u32 = 10;
const PLACE_READ_EVERY: Duration = Duration::from_millis(200);

/// The waits between tries while the store can't be reached: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// For how long a tenant that can't have a place in the log is answered without asking the store.
const NO_PLACE_FOR: Duration = Duration::from_secs(5);
/// The same where the store did not answer.
const UNANSWERED_FOR: Duration = Duration::from_secs(1);
/// The most tenants of which that is known.
const MOST_WITHOUT_PLACE: usize = 4_096;
/// For how long a caller that pauses a subscription waits for the invocations under way: less than its call may take.
const LAST_INVOCATIONS: Duration = Duration::from_secs(5);

/// A bus, shared by everything that serves it.
#[derive(Clone)]
pub(crate) struct Bus(Arc<Inner>);

struct Inner {
    provider: String,
    lattice_name: String,
    lattice: Lattice,
    /// Which of the bus's instances this is: no other ever has this id.
    instance: Arc<str>,
    /// Where its deliveries are written down.
    journal: Journal,
    inputs: std::sync::Mutex<Inputs>,
    view: watch::Sender<Arc<View>>,
    replan: Arc<Notify>,
    requests: Requests,
    /// Held while a plan is made and carried out: what changes of the registry meanwhile is compared with what came of it.
    planning: tokio::sync::Mutex<()>,
    stop: CancellationToken,
    gate: Gate,
    /// Who can't have a place in the log, as it was found out: each try reads the whole store.
    no_place: std::sync::Mutex<NoPlace>,
    /// One place is made at a time: who waits may then have one, or know that there is none.
    placing: tokio::sync::Mutex<()>,
    /// One event at a time is published again in a new place.
    republish_lock: tokio::sync::Mutex<()>,
    /// Why what is published here is stored by another, too, as it was found last.
    not_alone: std::sync::Mutex<Option<Problem>>,
}

/// Why there is no place in the log, and until when that is known.
#[derive(Default)]
struct NoPlace {
    /// For one tenant.
    tenants: HashMap<TenantId, (Instant, Problem)>,
    /// For whoever has none yet: there are as many places as may be, or the store does not answer.
    anyone: Option<(Instant, Problem)>,
}

/// The host's settings and links.
#[derive(Clone, Default)]
struct Inputs {
    settings: Settings,
    links: Links,
    /// The newest of the settings that were legal.
    policy: Option<Arc<Policy>>,
}

impl Inputs {
    /// Takes settings, and their policy if they are legal.
    fn take(&mut self, owner: &str, settings: Settings) {
        if let Ok(policy) = Policy::from_settings(owner, &settings) {
            self.policy = Some(Arc::new(policy));
        }
        self.settings = settings;
    }
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
        let mut inputs = Inputs::default();
        inputs.take(&owner(provider), settings);
        let view = View {
            policy: inputs.policy.clone(),
            ..View::default()
        };
        let inbox = lattice.nats().new_inbox();
        let instance: Arc<str> = inbox.rsplit('.').next().unwrap_or(&inbox).into();
        Self(Arc::new(Inner {
            provider: provider.to_owned(),
            lattice_name: lattice_name.to_owned(),
            journal: Journal::new(&instance),
            instance,
            lattice,
            inputs: std::sync::Mutex::new(inputs),
            view: watch::channel(Arc::new(view)).0,
            replan: Arc::new(Notify::new()),
            requests: Requests::default(),
            planning: tokio::sync::Mutex::default(),
            stop: CancellationToken::new(),
            gate: Gate::new(),
            no_place: std::sync::Mutex::default(),
            placing: tokio::sync::Mutex::default(),
            republish_lock: tokio::sync::Mutex::default(),
            not_alone: std::sync::Mutex::default(),
        }))
    }

    /// The bus at this moment.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.0.view.borrow())
    }

    /// The bus from now on.
    pub(crate) fn views(&self) -> watch::Receiver<Arc<View>> {
        self.0.view.subscribe()
    }

    pub(crate) fn lattice(&self) -> &Lattice {
        &self.0.lattice
    }

    /// The id of this instance.
    pub(crate) fn instance(&self) -> &str {
        &self.0.instance
    }

    /// Where this instance writes deliveries down.
    pub(crate) fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// Cancelled when this instance is to stop.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.stop
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

    /// Takes changed settings over key by key, as the host sends them. Who may do what is in force when this returns.
    pub(crate) fn put_settings(&self, settings: Settings) {
        self.inputs(|i| i.take(&owner(&self.0.provider), settings));
        self.publish_rights();
        self.0.replan.notify_one();
    }

    /// Shows a view to callers. What callers may do is as it was last given, however long ago the view was begun.
    fn publish(&self, mut view: View) {
        self.inputs(|i| {
            view.policy.clone_from(&i.policy);
            read_grants(&i.links, &mut view);
            self.0.view.send_replace(Arc::new(view));
        });
    }

    /// Brings what callers may do into the view, which is otherwise as it was: the store is not asked, nor waited for.
    fn publish_rights(&self) {
        self.inputs(|i| {
            self.0.view.send_modify(|view| {
                let mut next = View::clone(view);
                next.policy.clone_from(&i.policy);
                read_grants(&i.links, &mut next);
                *view = Arc::new(next);
            });
        });
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

    /// Makes a subscription that a component calls for; the same one twice is one.
    pub(crate) async fn subscribe(
        &self,
        component: &str,
        link: &str,
        subscription: Subscription,
    ) -> Result<Registered, Refusal> {
        let name = subscription.name.clone();
        if let Some(same) = self.made_before(component, link, &subscription).await {
            return Ok(same);
        }
        self.within_limits(component, &subscription)?;
        let wanted = Wanted {
            subscription,
            component: component.to_owned(),
            link: link.to_owned(),
            made_by: MadeBy::Call,
        };
        let planned = self.plan(Want::Subscription(Box::new(wanted))).await;
        if let Some(problem) = planned.map_err(Refusal::Unavailable)? {
            return Err(match problem.code {
                Code::SubscriptionConflict => Refusal::Conflict(problem),
                Code::StoreRefused
                | Code::StoreFull
                | Code::StoreUnavailable
                | Code::ForeignTopology
                | Code::UnreadableSubscription
                | Code::RegistrationLost => Refusal::Unavailable(problem),
                _ => Refusal::Invalid(problem),
            });
        }
        let view = self.view();
        view.subscription_of(component, name.as_str()).cloned().ok_or_else(|| {
            Refusal::Unavailable(Problem::new(
                Code::BusNotReady,
                format!("subscription {name} was not made: the bus has no policy in force"),
            ))
        })
    }

    /// The subscription that a call asks for, where it is there already and would not be changed: no plan is made for what
    /// hundreds of programs ask again when they start. The registry has the last word: another instance may just have
    /// ended it.
    async fn made_before(&self, component: &str, link: &str, asked: &Subscription) -> Option<Registered> {
        let view = self.view();
        let have = view.subscription_of(component, asked.name.as_str())?;
        let name = &have.subscription.name;
        let same = |r: &Registered| {
            let asked = Subscription {
                name: name.clone(),
                ..asked.clone()
            };
            r.subscription == asked && r.component == component && r.link == link && r.made_by == MadeBy::Call
        };
        if !same(have) || have.withheld.is_some() || view.stuck(name).is_some() || view.unmade.contains(name) {
            return None;
        }
        let now = view.store.as_ref()?.registered(name).await.ok()??;
        (same(&now) && now.id() == have.id()).then_some(now)
    }

    /// Has a plan made and carried out that begins after this was asked.
    async fn plan(&self, want: Want) -> Answer {
        let answered = self.0.requests.ask(want);
        self.0.replan.notify_one();
        let stopped = || {
            Problem::new(
                Code::StoreUnavailable,
                "this instance of the bus is being stopped: try again",
            )
        };
        tokio::select! {
            biased;
            answer = answered => answer.unwrap_or_else(|_| Err(stopped())),
            () = self.0.stop.cancelled() => Err(stopped()),
        }
    }

    /// Whether a caller may ask for this at all, before the store is asked anything.
    fn within_limits(&self, component: &str, asked: &Subscription) -> Result<(), Refusal> {
        let view = self.view();
        let store = view.store().map_err(Refusal::Unavailable)?;
        let policy = view.policy.as_deref().unwrap_or_else(|| store.policy());
        let (limits, template) = (policy.limits, &store.policy().subject);
        match view.subscription_of(component, asked.name.as_str()) {
            Some(have) if have.subscription.filter == asked.filter => return Ok(()),
            Some(_) => {}
            None => limits
                .one_more(asked, component, view.registry.values())
                .map_err(Refusal::Invalid)?,
        }
        limits
            .filter(&asked.name, &asked.filter, template, Some(store.max_request()))
            .map_err(Refusal::Invalid)
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
        if let Some(refused) = self.refused_lately(tenant) {
            return Err(refused);
        }
        let _placing = self.0.placing.lock().await;
        let store = self.view().store()?.clone();
        if has_place(&store) {
            return Ok(store);
        }
        if let Some(refused) = self.refused_lately(tenant) {
            return Err(refused);
        }
        let mut reads = 0;
        let problem = loop {
            let refused = match self.plan(Want::Place(tenant.clone())).await {
                Ok(refused) => refused,
                Err(problem) => Some(problem),
            };
            if let Some(problem) = refused {
                break problem;
            }
            let view = self.view();
            let store = view.store()?.clone();
            if has_place(&store) {
                return Ok(store);
            }
            let problem = view.policy_problems.first().cloned().unwrap_or_else(|| {
                Problem::new(
                    Code::StoreUnavailable,
                    "no stream of the log takes its events at this moment: publish again",
                )
            });
            reads += 1;
            // Whoever brings the bus to another policy may be between two steps.
            if !reconcile::is_of_another_policy(problem.code) || reads == PLACE_READS {
                break problem;
            }
            tokio::time::sleep(PLACE_READ_EVERY).await;
        };
        self.refuse_for_now(tenant, problem.clone());
        Err(without_place(tenant, &problem))
    }

    /// Why a tenant can't have a place in the log, if that was found out a moment ago.
    fn refused_lately(&self, tenant: &TenantId) -> Option<Problem> {
        let refused = self.0.no_place.lock().unwrap_or_else(PoisonError::into_inner);
        let known = refused.tenants.get(tenant).into_iter().chain(&refused.anyone);
        let (_, problem) = known.into_iter().find(|(until, _)| Instant::now() < *until)?;
        Some(without_place(tenant, problem))
    }

    fn refuse_for_now(&self, tenant: &TenantId, problem: Problem) {
        let now = Instant::now();
        let mut refused = self.0.no_place.lock().unwrap_or_else(PoisonError::into_inner);
        match problem.code {
            // What says nothing of this tenant is as true of the next one, and there may be many.
            Code::TooManyPartitions | Code::AccountLimit => refused.anyone = Some((now + NO_PLACE_FOR, problem)),
            Code::StoreUnavailable => refused.anyone = Some((now + UNANSWERED_FOR, problem)),
            _ => {
                if refused.tenants.len() >= MOST_WITHOUT_PLACE {
                    refused.tenants.retain(|_, (until, _)| now < *until);
                }
                if refused.tenants.len() < MOST_WITHOUT_PLACE {
                    refused.tenants.insert(tenant.clone(), (now + NO_PLACE_FOR, problem));
                }
            }
        }
    }

    /// Waits until the log's partitions are others than a store knew, at most until then.
    pub(crate) async fn changed_from(&self, was: &Store, until: tokio::time::Instant) {
        let mut views = self.0.view.subscribe();
        let changed = views.wait_for(|v| v.store.as_ref().is_some_and(|now| now.layout() != was.layout()));
        // Either way, where the event goes is asked again.
        drop(tokio::time::timeout_at(until, changed).await);
    }

    /// Waits for the lock under which events are published again, one at a time.
    pub(crate) async fn republish_lock(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.republish_lock.lock().await
    }

    /// Pauses, resumes or rewinds a subscription, and brings everything to it.
    pub(crate) async fn amend(&self, seen: &Registered, change: Amendment) -> Result<Registered, Refusal> {
        let (name, of) = (&seen.subscription.name, seen.id());
        let view = self.view();
        let store = view.store().map_err(Refusal::Unavailable)?;
        let amended = match change {
            Amendment::Pause(paused) => store.pause(name, Some(&of), paused).await,
            Amendment::Rewind(to) => store.rewind(name, Some(&of), to, false).await,
        };
        let amended = amended.map_err(|error| not_changed(name, error))?;
        self.plan(Want::AsRemembered).await.map_err(Refusal::Unavailable)?;
        let ending = self.view().ending.get(name).cloned();
        if let (Amendment::Pause(true), Some(ended)) = (change, ending)
            && tokio::time::timeout(LAST_INVOCATIONS, ended.cancelled()).await.is_err()
        {
            debug!(subscription = %name, "the subscription is paused; invocations are still under way");
        }
        amended.ok_or_else(|| unknown(name))
    }

    /// Ends a subscription: nothing is kept for it any more.
    pub(crate) async fn unsubscribe(&self, seen: &Registered) -> Result<(), Refusal> {
        let view = self.view();
        let store = view.store().map_err(Refusal::Unavailable)?;
        let (name, of) = (&seen.subscription.name, seen.id());
        let ended = store.forget(name, Some(&of)).await;
        ended.map_err(|error| not_changed(name, error))?;
        self.plan(Want::AsRemembered).await.map_err(Refusal::Unavailable)?;
        Ok(())
    }

    /// Tells whatever keeps it to end: deliveries under way end, what is not delivered yet stays in the log.
    pub(crate) fn stop(&self) {
        self.0.stop.cancel();
    }
}

impl LinkSink for Bus {
    fn put_link(&self, key: LinkKey, link: Link) {
        if self.inputs(|i| i.links.put(key, link)) {
            self.publish_rights();
            self.0.replan.notify_one();
        }
    }

    fn delete_link(&self, key: &LinkKey) {
        if self.inputs(|i| i.links.delete(key)) {
            self.publish_rights();
            self.0.replan.notify_one();
        }
    }
}

/// Why a tenant has no place in the log.
fn without_place(tenant: &TenantId, problem: &Problem) -> Problem {
    let message = format!("tenant {tenant} has no place in the log: {}", problem.message);
    Problem::new(problem.code, message)
}

/// Whose settings they are, for messages.
fn owner(provider: &str) -> String {
    format!("policy of provider {provider}")
}

fn unknown(name: &SubscriptionName) -> Refusal {
    Refusal::Invalid(Problem::new(
        Code::UnknownSubscription,
        format!("there is no subscription {name}"),
    ))
}

/// Why a subscription was not changed, or ended.
fn not_changed(name: &SubscriptionName, error: StoreError) -> Refusal {
    match error {
        StoreError::Refused(problems) if problems.iter().all(|p| p.code != Code::StoreFull) => {
            let problem = problems.into_iter().next();
            problem.map_or_else(|| unknown(name), Refusal::Invalid)
        }
        other => unavailable(other),
    }
}

fn unavailable(e: StoreError) -> Refusal {
    Refusal::Unavailable(why(&e))
}

/// What a store's error is to a caller.
fn why(e: &StoreError) -> Problem {
    match e {
        StoreError::Refused(problems) if !problems.is_empty() => problems[0].clone(),
        e => Problem::new(Code::StoreUnavailable, format!("{e}: try again")),
    }
}
