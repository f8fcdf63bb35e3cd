//! Brings a bus to what is wanted. Every change takes the same path: observe, plan, apply, then start and stop
//! deliveries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fanout_plan::layout;
use fanout_plan::planner::{self, Asked, Wanted};
use fanout_plan::subscription::Progress;
use fanout_plan::{Code, Policy, Problem, Settings, SubscriptionName, TenantId};
use tracing::{error, info, warn};

use super::Bus;
use crate::clock;
use crate::delivery::{Context, Health, Running};
use crate::inbox::Inbox;
use crate::jetstream::{Promise, Store, StoreError};
use crate::view::View;
use crate::wanted::{detached, key_of, read_links};
use crate::wrpc::Subscriber;

/// How often a plan is made anew because another instance was faster.
const RACES: usize = 10;

impl Bus {
    /// Brings everything to what is wanted. Returns why `called`, a subscription that a component asks for, was
    /// refused, if it was.
    pub(super) async fn reconcile(&self, called: Option<Wanted>) -> Result<Option<Problem>, StoreError> {
        self.reconcile_with(called, None).await
    }

    /// The same, with a place in the log for `tenant`.
    pub(super) async fn reconcile_with(
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
}

fn inboxes(running: &BTreeMap<SubscriptionName, Running>) -> BTreeMap<SubscriptionName, Arc<Inbox>> {
    let fetched = |(n, r): (&SubscriptionName, &Running)| Some((n.clone(), Arc::clone(r.inbox.as_ref()?)));
    running.iter().filter_map(fetched).collect()
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

async fn apply(store: &Store, plan: &planner::Plan) -> Result<(), StoreError> {
    for step in &plan.steps {
        info!("{step}");
        store.apply(step).await?;
    }
    Ok(())
}
