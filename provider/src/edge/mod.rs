//! `role = edge`: a provider beside a wasmCloud host that keeps no events. What its components publish goes to a bus
//! elsewhere, over any transport; their subscriptions, declared in links or made by calls, are made and fetched there,
//! and their events handed to them over the lattice. Neither component nor link notices.
//!
//! The guarantee is the bus's: an event is settled there only after the component's handler returned success, and a
//! receipt is the bus's own. An edge that dies loses nothing; what it held is given out again.
//!
//! The bus knows the edge, not its components: which of them a subscription is for is known here alone ([`memory`]).
//!
//! Deliberately absent: events, a policy, and any decision about a retry. They are the bus's.

mod deliver;
mod memory;
mod status;
mod view;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fanout_client::Upstream;
use fanout_plan::subscription::{MadeBy, Subscription};
use fanout_plan::{Code, Problem, SubscriptionName, authority};
use fanout_transport::{ClientIdentity, ClientTls, ConnectOptions, Endpoint, Lattice, Pem, SecretFrom};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::memory::{Called, Memory, Unremembered};
pub(crate) use self::view::{Served, View};
use crate::bus::Refusal;
use crate::inbox::Seal;
use crate::link::{Link, LinkKey, LinkSink, Links};
use crate::target::Subscriber;

/// How long a request to the bus may take, tries included: less than the lattice lets a call take.
const DEADLINE: Duration = Duration::from_secs(8);
/// How long connecting may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// The wait between tries to make a subscription that is fetched.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// An edge, shared by everything that serves it.
#[derive(Clone)]
pub(crate) struct Edge(Arc<Inner>);

struct Inner {
    provider: String,
    lattice_name: String,
    lattice: Lattice,
    settings: fanout_plan::edge::Edge,
    upstream: Upstream,
    memory: Arc<Memory>,
    links: Mutex<Links>,
    view: Mutex<Arc<View>>,
    running: tokio::sync::Mutex<BTreeMap<SubscriptionName, deliver::Running>>,
    /// Deliveries that are ending.
    ending: TaskTracker,
    changed: Notify,
    stop: CancellationToken,
}

impl Edge {
    /// An edge. Nothing is connected yet.
    ///
    /// # Errors
    /// When its bus's URL is none.
    pub(crate) fn new(
        provider: &str,
        lattice_name: &str,
        lattice: Lattice,
        settings: fanout_plan::edge::Edge,
    ) -> Result<Self, Problem> {
        let endpoint = endpoint(provider, &settings)?;
        let upstream = Upstream::new(endpoint, options(provider, &settings), DEADLINE);
        let memory = Memory::new(lattice.nats().clone(), lattice_name, provider);
        Ok(Self(Arc::new(Inner {
            provider: provider.to_owned(),
            lattice_name: lattice_name.to_owned(),
            lattice,
            settings,
            upstream,
            memory: Arc::new(memory),
            links: Mutex::default(),
            view: Mutex::default(),
            running: tokio::sync::Mutex::default(),
            ending: TaskTracker::new(),
            changed: Notify::new(),
            stop: CancellationToken::new(),
        })))
    }

    /// The bus.
    pub(crate) fn upstream(&self) -> &Upstream {
        &self.0.upstream
    }

    /// The edge at this moment.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.0.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What subscriptions take that say nothing else.
    pub(crate) fn defaults(&self) -> &fanout_plan::Policy {
        &self.0.settings.defaults
    }

    /// What seals the tokens of what components fetch here.
    pub(crate) async fn seal(&self) -> Result<Arc<Seal>, Problem> {
        self.0.memory.seal().await
    }

    /// Whether a component's call may make this subscription, before the bus is asked.
    pub(crate) async fn may_make(&self, component: &str, asked: &Subscription) -> Result<(), Refusal> {
        self.0.memory.is_there().await.map_err(|p| match p.code {
            Code::NotAtAnEdge => Refusal::Invalid(p),
            _ => Refusal::Unavailable(p),
        })?;
        let served = self.view().served.get(&asked.name).cloned();
        let Some(served) = served else { return Ok(()) };
        if served.component == component && served.made_by == MadeBy::Call {
            return Ok(());
        }
        Err(Refusal::Conflict(taken(&asked.name, &served)))
    }

    /// Remembers a subscription that the bus has made for a component's call, and delivers it.
    pub(crate) async fn remember(
        &self,
        component: &str,
        link: &str,
        subscription: Subscription,
    ) -> Result<(), Refusal> {
        let name = subscription.name.clone();
        let called = Called {
            component: component.to_owned(),
            link: link.to_owned(),
            subscription,
        };
        match self.0.memory.remember(called).await {
            Ok(()) => {}
            Err(Unremembered::Problem(problem)) => return Err(Refusal::Unavailable(problem)),
            Err(Unremembered::Taken) => {
                return Err(Refusal::Conflict(Problem::new(
                    Code::SubscriptionConflict,
                    format!(
                        "subscription {name} was asked for by another component at the same moment: use another name, or ask again"
                    ),
                )));
            }
        }
        self.reconcile().await;
        Ok(())
    }

    /// Forgets a subscription that the bus has ended.
    pub(crate) async fn forget(&self, name: &SubscriptionName) -> Result<(), Problem> {
        self.0.memory.forget(name).await?;
        self.reconcile().await;
        Ok(())
    }

    /// Begins a subscription's deliveries anew: it was put back, and its subscriber is told again when it has caught up.
    pub(crate) async fn begin_anew(&self, name: &SubscriptionName) -> Result<(), Problem> {
        self.0.memory.forget_notified(name).await?;
        if let Some(running) = self.0.running.lock().await.remove(name) {
            self.0.ending.spawn(running.stop());
        }
        self.reconcile().await;
        Ok(())
    }

    /// Follows the links and what is remembered, until it is stopped.
    pub(crate) async fn keep(self) {
        let follow = self.0.memory.follow(&self.0.changed);
        let reconcile = async {
            loop {
                self.reconcile().await;
                self.0.changed.notified().await;
            }
        };
        tokio::select! {
            () = self.0.stop.cancelled() => {}
            () = follow => {}
            () = reconcile => {}
        }
    }

    async fn reconcile(&self) {
        let mut running = self.0.running.lock().await;
        if self.0.stop.is_cancelled() {
            return;
        }
        let links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let memory = &self.0.memory;
        // Asked first: what was read by then is in `called`.
        let is_whole = memory.is_read();
        let mut view = View {
            is_whole,
            ..View::read(&links, &self.0.settings.defaults, &memory.called())
        };
        let before = self.view();
        for (key, outcome) in &view.links {
            if before.links.get(key).map(|o| &o.problems) != Some(&outcome.problems) {
                for p in &outcome.problems {
                    warn!(code = %p.code, "{}", p.message);
                }
            }
        }
        let goes_on = |name: &SubscriptionName, r: &deliver::Running| {
            view.served.get(name) == Some(&r.served) && !view.detached.contains_key(name)
        };
        let over: Vec<_> = running
            .iter()
            .filter(|(name, r)| !goes_on(name, r))
            .map(|(name, _)| name.clone())
            .collect();
        for r in over.iter().filter_map(|name| running.remove(name)) {
            self.0.ending.spawn(r.stop());
        }
        for (name, served) in &view.served {
            if running.contains_key(name) || view.detached.contains_key(name) {
                continue;
            }
            info!(subscription = %name, component = served.component, "fetching from the bus");
            let subscriber = Subscriber::new(
                &self.0.lattice,
                &self.0.lattice_name,
                &served.component,
                &self.0.provider,
                self.0.settings.defaults.delivery.deadline,
            );
            let (upstream, memory) = (self.0.upstream.clone(), Arc::clone(&self.0.memory));
            let started = deliver::Running::start(served.clone(), upstream, subscriber, memory);
            running.insert(name.clone(), started);
        }
        view.states = running
            .iter()
            .filter_map(|(name, r)| Some((name.clone(), r.state()?)))
            .collect();
        *self.0.view.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    /// Stops: deliveries under way end, and are settled at the bus, as far as it can be reached: nothing waits longer than for
    /// one invocation and one request.
    pub(crate) async fn stop(&self) {
        self.0.stop.cancel();
        for r in std::mem::take(&mut *self.0.running.lock().await).into_values() {
            self.0.ending.spawn(r.stop());
        }
        self.0.ending.close();
        let longest = self.0.settings.defaults.delivery.deadline + DEADLINE;
        if tokio::time::timeout(longest, self.0.ending.wait()).await.is_err() {
            let seconds = longest.as_secs();
            warn!("deliveries had not ended {seconds} s after they were to, and are cut off: their events come again");
        }
    }
}

impl LinkSink for Edge {
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

fn taken(name: &SubscriptionName, served: &Served) -> Problem {
    let made = match served.made_by {
        MadeBy::Call => "made by a call",
        MadeBy::Link | MadeBy::Policy => "declared in a link",
    };
    Problem::new(
        Code::SubscriptionConflict,
        format!(
            "subscription {name} is already one of {} at this edge, {made}: use another name, or end that one first",
            authority::named(&served.component)
        ),
    )
}

/// Where the bus is.
fn endpoint(provider: &str, settings: &fanout_plan::edge::Edge) -> Result<Endpoint, Problem> {
    let endpoint: Endpoint = settings
        .upstream
        .parse()
        .map_err(|e| Problem::new(Code::InvalidSetting, format!("provider {provider}: `upstream`: {e}")))?;
    if endpoint.has_tls() && settings.server_ca.is_none() {
        let message = format!(
            "provider {provider}: `upstream` is {endpoint}, whose certificate somebody signed: set `tls.server-ca`"
        );
        return Err(Problem::new(Code::MissingSetting, message));
    }
    Ok(endpoint)
}

/// As whom the bus knows this edge.
fn options(provider: &str, settings: &fanout_plan::edge::Edge) -> ConnectOptions {
    let file = |path: &String| Pem::File(path.into());
    let identity = settings.identity.as_ref().map(|(certificate, key)| ClientIdentity {
        certificate: file(certificate),
        key: file(key),
    });
    ConnectOptions {
        tls: settings.server_ca.as_ref().map(|ca| ClientTls {
            server_ca: file(ca),
            identity,
            server_name: settings.server_name.clone(),
        }),
        token: settings.token_file.as_ref().map(|file| SecretFrom::File(file.into())),
        source: provider.to_owned(),
        connect_deadline: CONNECT_DEADLINE,
        ..ConnectOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_that_shows_a_certificate_needs_who_signed_it() {
        let of = |more: &[(&str, &str)]| {
            let all = [("role", "edge"), ("upstream", "quic://bus.example.org:7762")];
            let all = all.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            let settings = fanout_plan::edge::Edge::from_settings("provider", &all.collect()).unwrap();
            endpoint("bus-edge", &settings)
        };
        assert!(of(&[("tls.server-ca", "ca.pem")]).is_ok());
        let refused = of(&[]).unwrap_err();
        assert_eq!(refused.code, Code::MissingSetting);
        assert!(refused.message.contains("set `tls.server-ca`"), "{}", refused.message);
    }
}
