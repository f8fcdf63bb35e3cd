//! `role = edge`: a provider beside a wasmCloud host that keeps no events. What its components publish goes to a bus
//! elsewhere, over any transport; the subscriptions that its links declare are fetched there, and their events handed
//! to its components over the lattice. Neither component nor link notices.
//!
//! The guarantee is the bus's: an event is settled there only after the component's handler returned success, and a
//! receipt is the bus's own. An edge that dies loses nothing; what it held is given out again.
//!
//! Deliberately absent: subscriptions by a call. The bus knows the edge, not its components, so that an edge which comes
//! back would not know whose they were; links say it.

mod deliver;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fanout_client::{Bus as Upstream, ClientIdentity, ClientTls, Options, Pem};
use fanout_plan::link::{Grant, declared_subscription};
use fanout_plan::subscription::{Reach, Subscription};
use fanout_plan::{Code, Problem, SubscriptionName};
use fanout_transport::Lattice;
use futures::StreamExt as _;
use serde_json::json;
use tokio::sync::{Notify, OnceCell};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::link::{Hears, Link, LinkKey, Links, Role};
use crate::view::LinkOutcome;
use crate::wrpc::Subscriber;

/// How long a request to the bus may take, tries included.
const DEADLINE: Duration = Duration::from_secs(8);
/// How long one try may take.
const TRY_DEADLINE: Duration = Duration::from_secs(3);
/// The wait between tries to reach the bus.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// An edge, shared by everything that serves it.
#[derive(Clone)]
pub(crate) struct Edge(Arc<Inner>);

struct Inner {
    provider: String,
    lattice_name: String,
    lattice: Lattice,
    settings: fanout_plan::edge::Edge,
    /// Once it was reached.
    upstream: OnceCell<Upstream>,
    links: Mutex<Links>,
    outcomes: Mutex<Arc<BTreeMap<LinkKey, LinkOutcome>>>,
    running: tokio::sync::Mutex<BTreeMap<SubscriptionName, deliver::Running>>,
    changed: Notify,
    stop: CancellationToken,
}

/// A subscription that a link declares.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Declared {
    subscription: Subscription,
    component: String,
}

impl Edge {
    pub(crate) fn new(provider: &str, lattice_name: &str, lattice: Lattice, settings: fanout_plan::edge::Edge) -> Self {
        Self(Arc::new(Inner {
            provider: provider.to_owned(),
            lattice_name: lattice_name.to_owned(),
            lattice,
            settings,
            upstream: OnceCell::new(),
            links: Mutex::default(),
            outcomes: Mutex::default(),
            running: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// The bus.
    ///
    /// # Errors
    /// When it was not reached yet.
    pub(crate) fn upstream(&self) -> Result<&Upstream, Problem> {
        self.0.upstream.get().ok_or_else(|| {
            let url = &self.0.settings.upstream;
            Problem::new(
                Code::BusNotReady,
                format!("this edge has not reached its bus at {url} yet: try again"),
            )
        })
    }

    /// What came of each link.
    pub(crate) fn outcomes(&self) -> Arc<BTreeMap<LinkKey, LinkOutcome>> {
        Arc::clone(&self.0.outcomes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a component may do through its link, at this edge; the bus has the last word.
    pub(crate) fn grant(&self, component: &str, link: &str) -> Result<Grant, Problem> {
        crate::view::link_grant(&self.outcomes(), component, link).cloned()
    }

    /// Reaches the bus and follows the links, until it is stopped.
    pub(crate) async fn keep(self) {
        loop {
            self.reconcile().await;
            tokio::select! {
                () = self.0.stop.cancelled() => return,
                () = self.0.changed.notified() => {}
                () = self.reach(), if self.0.upstream.get().is_none() => {}
            }
        }
    }

    /// Tries until the bus answers. From then on the connection mends itself.
    async fn reach(&self) {
        let settings = &self.0.settings;
        let mut said = String::new();
        loop {
            match fanout_client::connect_with(&settings.upstream, options(settings)).await {
                Ok(upstream) => {
                    info!(upstream = settings.upstream, "the bus is reached");
                    // Nobody else sets it.
                    self.0.upstream.set(upstream).ok();
                    return;
                }
                Err(error) => {
                    // Once, not each time.
                    let error = error.to_string();
                    if said != error {
                        warn!(
                            upstream = settings.upstream,
                            error, "the bus is not reached; it is tried again"
                        );
                        said = error;
                    }
                    tokio::time::sleep(TRY_EVERY).await;
                }
            }
        }
    }

    async fn reconcile(&self) {
        let links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (outcomes, wanted) = self.read(&links);
        let before = self.outcomes();
        for (key, outcome) in &outcomes {
            if before.get(key).map(|o| &o.problems) != Some(&outcome.problems) {
                for p in &outcome.problems {
                    warn!(code = %p.code, "{}", p.message);
                }
            }
        }
        *self.0.outcomes.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(outcomes);
        let mut running = self.0.running.lock().await;
        let over: Vec<_> = running
            .iter()
            .filter(|(name, r)| wanted.get(*name) != Some(&r.declared))
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            if let Some(r) = running.remove(&name) {
                r.stop().await;
            }
        }
        let Some(upstream) = self.0.upstream.get() else { return };
        for (name, declared) in wanted {
            if running.contains_key(&name) {
                continue;
            }
            info!(subscription = %name, component = declared.component, "fetching from the bus");
            let subscriber = Subscriber::new(
                &self.0.lattice,
                &self.0.lattice_name,
                &declared.component,
                &self.0.provider,
                self.0.settings.defaults.delivery_deadline,
            );
            let stop = self.0.stop.child_token();
            let started = deliver::Running::start(declared, upstream.clone(), subscriber, stop);
            running.insert(name, started);
        }
    }

    fn read(&self, links: &Links) -> (BTreeMap<LinkKey, LinkOutcome>, BTreeMap<SubscriptionName, Declared>) {
        let mut outcomes = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (key, link) in links.iter() {
            let mut outcome = LinkOutcome::default();
            match self.read_one(key, link) {
                Ok(Read::Grant(grant)) => outcome.grant = Some(grant),
                Ok(Read::Declared(declared)) => {
                    let name = declared.subscription.name.clone();
                    if seen.insert(name.clone()) {
                        outcome.subscription = Some(name.clone());
                        wanted.insert(name, declared);
                    } else {
                        outcome.problems.push(Problem::new(
                            Code::SubscriptionConflict,
                            format!("subscription {name} is declared by two links: give one of them another name"),
                        ));
                    }
                }
                Err(problems) => outcome.problems = problems,
            }
            outcomes.insert(key.clone(), outcome);
        }
        (outcomes, wanted)
    }

    fn read_one(&self, key: &LinkKey, link: &Link) -> Result<Read, Vec<Problem>> {
        let owner = key.describe();
        if key.role == Role::Caller {
            return Grant::from_settings(&owner, &link.interfaces, &link.settings).map(Read::Grant);
        }
        let defaults = &self.0.settings.defaults;
        let subscription = declared_subscription(&owner, &key.component, &link.interfaces, &link.settings, defaults)?;
        if subscription.reach == Reach::Inbox {
            return Err(vec![Problem::new(
                Code::NotAtAnEdge,
                format!("{owner}: components fetch at the bus itself, not at an edge: give it a handler here"),
            )]);
        }
        Ok(Read::Declared(Declared {
            subscription,
            component: key.component.clone(),
        }))
    }

    /// Answers on the subject of the status, as a bus does.
    pub(crate) async fn serve_status(&self) -> Result<(), async_nats::SubscribeError> {
        let nats = self.0.lattice.nats().clone();
        let subject = format!("fanout.{}.{}.status", self.0.lattice_name, self.0.provider);
        let mut requests = nats.queue_subscribe(subject.clone(), subject).await?;
        let edge = self.clone();
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                let Some(reply) = request.reply else { continue };
                let answer = edge.document().await.to_string();
                if let Err(error) = nats.publish(reply, answer.into()).await {
                    debug!(%error, "a status was not sent");
                }
            }
        });
        Ok(())
    }

    async fn document(&self) -> serde_json::Value {
        let running = self.0.running.lock().await;
        let subscriptions: Vec<_> = running
            .iter()
            .map(|(name, r)| {
                let waiting = r.health.waiting();
                json!({
                    "name": name,
                    "need": r.declared.subscription.need.as_str(),
                    "component": r.declared.component,
                    "state": if waiting.is_some() { "waiting" } else { "active" },
                    "problem": waiting,
                    "this_instance": {
                        "handled": r.health.handled.load(std::sync::atomic::Ordering::Relaxed),
                        "refused": r.health.refused.load(std::sync::atomic::Ordering::Relaxed),
                    },
                })
            })
            .collect();
        let links: Vec<_> = self
            .outcomes()
            .iter()
            .map(|(key, outcome)| {
                json!({
                    "component": key.component,
                    "name": key.name,
                    "role": key.role.as_str(),
                    "subscription": outcome.subscription,
                    "state": if outcome.problems.is_empty() { "applied" } else { "refused" },
                    "problems": outcome.problems,
                })
            })
            .collect();
        json!({
            "provider": self.0.provider,
            "role": "edge",
            "upstream": self.0.settings.upstream,
            "policy": { "state": "applied", "problems": [] },
            "links": links,
            "subscriptions": subscriptions,
        })
    }

    /// Stops: deliveries under way end, and are settled at the bus.
    pub(crate) async fn stop(&self) {
        self.0.stop.cancel();
        let running = std::mem::take(&mut *self.0.running.lock().await);
        futures::future::join_all(running.into_values().map(deliver::Running::stop)).await;
    }
}

enum Read {
    Grant(Grant),
    Declared(Declared),
}

impl Hears for Edge {
    fn put_link(&self, key: LinkKey, link: Link) {
        let changed = self
            .0
            .links
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(key, link);
        if changed {
            self.0.changed.notify_one();
        }
    }

    fn delete_link(&self, key: &LinkKey) {
        if self.0.links.lock().unwrap_or_else(PoisonError::into_inner).delete(key) {
            self.0.changed.notify_one();
        }
    }
}

/// As whom the bus knows this edge, and how long a component waits for it: less than the lattice lets a call take.
fn options(settings: &fanout_plan::edge::Edge) -> Options {
    let file = |path: &String| Pem::File(path.into());
    let identity = settings.identity.as_ref().map(|(certificate, key)| ClientIdentity {
        certificate: file(certificate),
        key: file(key),
    });
    let mut options = Options::default();
    options.deadline = DEADLINE;
    options.try_deadline = TRY_DEADLINE;
    options.tls = settings.server_ca.as_ref().map(|ca| ClientTls {
        server_ca: file(ca),
        identity,
        server_name: settings.server_name.clone(),
    });
    options
}
