//! Brings a bus to what is wanted. Every change takes the same path: observe, plan, apply, then start and stop
//! deliveries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use fanout_plan::planner::Wanted;
use fanout_plan::policy::Durability;
use fanout_plan::{Code, Policy, Problem, Settings};
use tracing::{info, warn};

use super::Bus;
use super::bring::{Brought, Change};
use super::report::report;
use super::requests::Batch;
use super::runs::Runs;
use crate::delivery::{Context, Health};
use crate::inbox::read_secret;
use crate::jetstream::{Promise, Store, StoreError};
use crate::target::Subscriber;
use crate::telemetry::instruments::Reconciled;
use crate::telemetry::{INSTRUMENTS, spans};
use crate::view::View;
use crate::wanted::{detached, key_of, read_links};

/// Has it known with which secret it is written who published an event. Events go on without that.
async fn publishers_are_known(store: &Store) {
    if let Err(problem) = read_secret(store).await {
        warn!(
            code = %problem.code,
            "{}; it is not written down who publishes events until then", problem.message
        );
    }
}

/// What was refused of what callers asked for.
#[derive(Default)]
struct Refused {
    /// By their place among the batch's.
    subscriptions: BTreeMap<usize, Problem>,
    place: Option<Problem>,
}

impl Bus {
    /// Brings everything to what is wanted, and answers those who wait for it.
    pub(super) async fn reconcile(&self, runs: &mut Runs) -> Result<(), StoreError> {
        let _planning = self.0.planning.lock().await;
        let batch = self.0.requests.take();
        let (began, mut span) = (Instant::now(), spans::reconciling());
        match self.reconcile_for(runs, &batch).await {
            Ok(refused) => {
                INSTRUMENTS.reconciled(
                    if self.is_whole() {
                        Reconciled::Done
                    } else {
                        Reconciled::Incomplete
                    },
                    began,
                );
                batch.answer(|i| refused.subscriptions.get(&i).cloned(), refused.place.as_ref());
                Ok(())
            }
            Err(error) => {
                INSTRUMENTS.reconciled(Reconciled::Failed, began);
                let problem = super::why(&error);
                if let Some(span) = &mut span {
                    span.0.fail(problem.code.as_str(), &error.to_string());
                }
                batch.fail(&problem);
                Err(error)
            }
        }
    }

    async fn reconcile_for(&self, runs: &mut Runs, batch: &Batch) -> Result<Refused, StoreError> {
        let inputs = self.inputs(|i| i.clone());
        let before = self.view();
        let mut view = View {
            registry: before.registry.clone(),
            moved: before.moved.clone(),
            between_places: before.between_places.clone(),
            notices: before.notices.clone(),
            nothing_is_published: before.nothing_is_published.clone(),
            unknown_partition: before.unknown_partition.clone(),
            detached: before.detached.clone(),
            failed: before.failed.clone(),
            unmade: before.unmade.clone(),
            unwritten: before.unwritten.clone(),
            ..View::default()
        };
        let store = self.policy_in_force(&inputs.settings, &mut view);
        let mut wanted = read_links(&inputs.links, store.as_ref(), &mut view);
        // Links count from now on, whether or not the store can be reached.
        runs.show(&mut view);
        // Streams are those of the last policy until the new one is applied.
        view.store = before.store.clone();
        self.publish(view.clone());
        let Some(mut store) = store else {
            report(&before, &view);
            return Ok(Refused::default());
        };

        // Asking the servers takes a moment: not while a component waits.
        if batch.is_empty() {
            self.ask_the_servers(&store, &mut view).await;
        }
        let last = before.store.as_ref().filter(|last| last.policy() != store.policy());
        let with_calls = |wanted: &[Wanted]| -> Vec<Wanted> { [wanted, batch.subscriptions.as_slice()].concat() };
        let mut all = with_calls(&wanted);
        let of = Change {
            wanted: &[],
            called_from: 0,
            tenant: batch.tenant.as_ref(),
            before: &before,
        };
        let change = Change {
            wanted: &all,
            called_from: wanted.len(),
            ..of
        };
        let mut brought = self.bring(&store, change, last.is_some()).await;
        if let (Err(StoreError::Refused(problems)), Some(last)) = (&mut brought, last) {
            // The last policy is that of the streams; subscriptions go on under it.
            view.policy_problems = std::mem::take(problems);
            store = last.clone();
            wanted = read_links(&inputs.links, Some(&store), &mut view);
            all = with_calls(&wanted);
            let change = Change {
                wanted: &all,
                called_from: wanted.len(),
                ..of
            };
            brought = self.bring(&store, change, false).await;
        }
        let brought = match brought {
            Ok(brought) => brought,
            Err(error) => {
                self.go_on_without(&error, &store, runs, &before, &mut view);
                report(&before, &view);
                self.publish(view);
                return Err(error);
            }
        };
        let layout = brought.plan.layout.clone();
        let in_force = brought.has_turned && brought.plan.problems.iter().all(|p| p.code == Code::WouldLoseEvents);
        let change = Change {
            wanted: &all,
            called_from: wanted.len(),
            ..of
        };
        let refused = note(brought, change, &store, &mut view);
        let store = store.with_layout(layout);
        let is_new = in_force && !store.is_in_force();
        let store = if in_force { store.brought() } else { store };
        // The first events have it, too; later it is read when nobody waits, since the registry may have been made again.
        let is_first = !store.knows_publishers();
        if is_first {
            publishers_are_known(&store).await;
        }
        view.store = Some(store.clone());
        self.run(&store, runs, &mut view);
        report(&before, &view);
        self.publish(view);
        if !is_first && batch.is_empty() {
            publishers_are_known(&store).await;
        }
        if is_new {
            // 0 where the policy has none.
            info!(revision = store.policy().in_force.revision, "the policy is in force");
        }
        Ok(refused)
    }

    /// What goes on although the store, or what it has, keeps the bus from what is wanted.
    fn go_on_without(&self, error: &StoreError, store: &Store, runs: &mut Runs, before: &View, view: &mut View) {
        if let StoreError::Refused(problems) = error
            && problems.iter().any(|p| is_elsewhere(p.code))
        {
            // Nothing may be stored or delivered by what was: what it published now would be another store's.
            view.policy_problems.clone_from(problems);
            view.store = None;
            return;
        }
        if let Some(last) = before.store.as_ref().filter(|_| before.policy_problems.is_empty()) {
            // Nothing speaks against it: deliveries and publishes go by it, on the streams that there are.
            let store = store.with_layout(last.layout().clone());
            view.store = Some(store.clone());
            self.run(&store, runs, view);
        }
    }

    /// Whether everything that was planned last is there.
    pub(super) fn is_whole(&self) -> bool {
        self.view().failed.is_empty()
    }

    /// The store of the policy in force: the one given, or the last good one when that is refused.
    fn policy_in_force(&self, settings: &Settings, view: &mut View) -> Option<Store> {
        let current = self.view().store.clone();
        let owner = super::owner(&self.0.provider);
        let refused = match Policy::from_settings(&owner, settings) {
            Ok(policy) if current.as_ref().is_some_and(|s| *s.policy() == policy) => return current,
            Ok(policy) => {
                let store = Store::new(self.0.lattice.nats().clone(), policy).notifying(&self.0.replan);
                let store = store.after(current.as_ref());
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

    /// Asks whether the servers keep what receipts promise, and whether the store is where and whose it is said to be.
    async fn ask_the_servers(&self, store: &Store, view: &mut View) {
        (view.notices, view.nothing_is_published) = match store.promise().await {
            Promise::Kept => (Vec::new(), None),
            Promise::Unverified(notice) => (vec![notice], None),
            Promise::Broken(problem) => (Vec::new(), Some(problem)),
        };
        view.notices.extend(store.is_not_at_its_place().await);
        view.notices.extend(self.not_alone().clone());
    }

    /// Has deliveries be those of the registry. Waits for none of them.
    fn run(&self, store: &Store, runs: &mut Runs, view: &mut View) {
        let declared: BTreeSet<_> = view
            .links
            .values()
            .filter(|o| o.problems.is_empty())
            .filter_map(|o| o.subscription.clone())
            .collect();
        view.detached.clear();
        self.0.journal.bring(store);
        for (name, registered) in &view.registry {
            if let Some(problem) = detached(registered, &declared, view) {
                view.detached.insert(name.clone(), problem);
            }
        }
        runs.bring(store, view, |registered, after| Context {
            registered: registered.clone(),
            store: store.clone(),
            instance: Arc::clone(&self.0.instance),
            target: Arc::new(Subscriber::new(
                &self.0.lattice,
                &self.0.lattice_name,
                &registered.component,
                &self.0.provider,
                store.policy().delivery.deadline,
            )),
            health: Arc::new(Health::default()),
            journal: self.0.journal.clone(),
            retry: Mutex::new(Arc::new(store.policy().retries.schedule.clone())),
            replan: Arc::clone(&self.0.replan),
            stop: self.0.stop.child_token(),
            after,
        });
    }
}

/// Notes what came of a plan; returns what was refused of what callers asked for.
fn note(brought: Brought, change: Change<'_>, store: &Store, view: &mut View) -> Refused {
    let plan = brought.plan;
    let links = &change.wanted[..change.called_from];
    for (i, problem) in plan.refused {
        if i >= change.wanted.len() {
            // Of a subscription that the policy itself declares.
            view.policy_problems.push(problem);
        } else if let Some(outcome) = links.get(i).and_then(|link| view.links.get_mut(&key_of(link))) {
            outcome.problems.push(problem);
        }
    }
    for (i, name) in plan.names {
        if let Some(outcome) = links.get(i).and_then(|link| view.links.get_mut(&key_of(link))) {
            outcome.subscription = Some(name);
        }
    }
    let called = brought.refused.into_iter();
    let mut refused = Refused {
        subscriptions: called.map(|(i, problem)| (i - change.called_from, problem)).collect(),
        place: brought.no_place,
    };
    if change.tenant.is_some() && change.before.policy_problems.is_empty() {
        // That one tenant can't have a place is none of the bus's troubles.
        refused.place = refused
            .place
            .or_else(|| plan.problems.iter().find(|p| is_fatal(p.code)).cloned());
    } else {
        view.policy_problems.extend(plan.problems);
    }
    if brought.kept && !view.policy_problems.iter().any(|p| is_of_another_policy(p.code)) {
        view.policy_problems.push(topology_changed(store.policy()));
    }
    view.nothing_is_published = not_as_promised(store, view).or_else(|| view.nothing_is_published.take());
    view.registry = plan.registry;
    // Of what was handed over nothing is here but the word where it is.
    view.between_places = plan.notices;
    let moved = view.registry.values();
    view.moved = moved.filter_map(|r| Some((r.id(), r.moved_to()?.clone()))).collect();
    view.registry.retain(|_, registered| !registered.has_moved());
    (view.failed, view.unmade, view.unwritten) = (brought.failed, brought.unmade, brought.unwritten);
    view.unknown_partition = brought.unknown_partition;
    refused
}

/// Whether a problem says that the bus is under another policy.
pub(super) fn is_of_another_policy(code: Code) -> bool {
    matches!(code, Code::OlderPolicy | Code::PolicyConflict | Code::TopologyChanged)
}

/// Whether a problem says that the bus is at another store, or on its way, or that this store is another place's.
pub(super) fn is_elsewhere(code: Code) -> bool {
    matches!(code, Code::BusMoved | Code::BusMigrating | Code::PlaceConflict)
}

/// Whether a problem keeps a policy from its bus. That a setting would lose events keeps that setting from it.
pub(super) fn is_fatal(code: Code) -> bool {
    code != Code::WouldLoseEvents && !is_of_another_policy(code)
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

/// Why nothing is published on streams that are not what the policy says: receipts would promise what is not so.
fn not_as_promised(store: &Store, view: &View) -> Option<Problem> {
    let on_disk = store.policy().durability == Durability::OnDisk;
    let problems = &view.policy_problems;
    problems
        .iter()
        .find(|p| on_disk && p.code == Code::ImmutableSetting)
        .cloned()
}
