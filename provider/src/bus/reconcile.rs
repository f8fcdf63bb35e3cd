//! Brings a bus to what is wanted. Every change takes the same path: observe, plan, apply, then start and stop
//! deliveries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use fanout_plan::layout;
use fanout_plan::planner::{self, Asked, Observed, Plan, Wanted};
use fanout_plan::policy::Durability;
use fanout_plan::step::{Failures, Part, Step};
use fanout_plan::topology::StreamSpec;
use fanout_plan::{Code, Policy, Problem, Settings, SubscriptionName, TenantId};
use tracing::{error, info, warn};

use super::Bus;
use super::requests::Batch;
use super::runs::Runs;
use crate::clock;
use crate::delivery::{Context, Health};
use crate::inbox::read_secret;
use crate::jetstream::{Promise, Store, StoreError};
use crate::target::Subscriber;
use crate::telemetry::instruments::{Reconciled, StoreOperation};
use crate::telemetry::{INSTRUMENTS, spans};
use crate::view::View;
use crate::wanted::{detached, key_of, read_links};

/// How often a plan is made anew because another instance was faster.
const RACES: usize = 10;

/// A plan, and what came of it.
struct Brought {
    plan: Plan,
    /// The partitions were kept although the policy asks for others.
    kept: bool,
    /// What could not be had.
    failed: BTreeMap<Part, Problem>,
    /// Subscriptions of which the store holds nothing.
    unmade: BTreeSet<SubscriptionName>,
    /// Why what was called for was not made, by its place among the wanted.
    refused: BTreeMap<usize, Problem>,
    /// Why the tenant has no place in the log.
    no_place: Option<Problem>,
}

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

/// What a plan is made for.
#[derive(Clone, Copy)]
struct Change<'a> {
    wanted: &'a [Wanted],
    /// The wanted from here on are those that components wait for.
    called_from: usize,
    tenant: Option<&'a TenantId>,
    /// What was seen last: what failed then is not tried again while somebody waits.
    before: &'a View,
}

impl Change<'_> {
    /// Whether somebody waits for it.
    fn is_called(&self) -> bool {
        self.called_from < self.wanted.len() || self.tenant.is_some()
    }
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
                // Nobody waits for it.
                if let Some(store) = &self.view().store {
                    store.read_time().await;
                }
                Ok(())
            }
            Err(error) => {
                INSTRUMENTS.reconciled(Reconciled::Failed, began);
                if let Some(span) = &mut span {
                    span.0.fail(Code::StoreUnavailable.as_str(), &error.to_string());
                }
                batch.fail(&Problem::new(Code::StoreUnavailable, format!("{error}: try again")));
                Err(error)
            }
        }
    }

    async fn reconcile_for(&self, runs: &mut Runs, batch: &Batch) -> Result<Refused, StoreError> {
        let inputs = self.inputs(|i| i.clone());
        let tenant = batch.tenant.as_ref();
        let before = self.view();
        let mut view = View {
            registry: before.registry.clone(),
            moved: before.moved.clone(),
            between_places: before.between_places.clone(),
            notices: before.notices.clone(),
            nothing_is_published: before.nothing_is_published.clone(),
            detached: before.detached.clone(),
            failed: before.failed.clone(),
            unmade: before.unmade.clone(),
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
            (view.notices, view.nothing_is_published) = match store.promise().await {
                Promise::Kept => (Vec::new(), None),
                Promise::Unverified(notice) => (vec![notice], None),
                Promise::Broken(problem) => (Vec::new(), Some(problem)),
            };
            view.notices.extend(store.is_not_at_its_place().await);
            if let Some(last) = &before.store {
                view.notices.extend(last.is_not_alone().await);
            }
        }
        let last = before.store.as_ref().filter(|last| last.policy() != store.policy());
        let with_calls = |wanted: &[Wanted]| -> Vec<Wanted> { [wanted, batch.subscriptions.as_slice()].concat() };
        let mut all = with_calls(&wanted);
        let of = Change {
            wanted: &[],
            called_from: 0,
            tenant,
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
                if let StoreError::Refused(problems) = &error
                    && problems.iter().any(|p| is_elsewhere(p.code))
                {
                    // Nothing may be stored or delivered by what was: what it published now would be another store's.
                    view.policy_problems.clone_from(problems);
                    view.store = None;
                    report(&before, &view);
                    self.publish(view);
                    return Err(error);
                }
                let refused = !before.policy_problems.is_empty();
                if let Some(last) = before.store.as_ref().filter(|_| !refused) {
                    // Nothing speaks against it: deliveries and publishes go by it, on the streams that there are.
                    let store = store.with_layout(last.layout().clone());
                    view.store = Some(store.clone());
                    self.run(&store, runs, &mut view);
                }
                report(&before, &view);
                self.publish(view);
                return Err(error);
            }
        };
        let plan = brought.plan;
        for (i, problem) in plan.refused {
            if i >= all.len() {
                // Of a subscription that the policy itself declares.
                view.policy_problems.push(problem);
            } else if i < wanted.len()
                && let Some(outcome) = view.links.get_mut(&key_of(&wanted[i]))
            {
                outcome.problems.push(problem);
            }
        }
        for (i, name) in plan.names {
            if i < wanted.len()
                && let Some(outcome) = view.links.get_mut(&key_of(&wanted[i]))
            {
                outcome.subscription = Some(name);
            }
        }
        let in_force = plan.problems.iter().all(|p| p.code == Code::WouldLoseEvents);
        let called = brought.refused.into_iter();
        let mut refused = Refused {
            subscriptions: called.map(|(i, problem)| (i - wanted.len(), problem)).collect(),
            place: brought.no_place,
        };
        if tenant.is_some() && before.policy_problems.is_empty() {
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
        view.nothing_is_published = not_as_promised(&store, &view).or(view.nothing_is_published);
        view.registry = plan.registry;
        // Of what was handed over nothing is here but the word where it is.
        view.between_places = plan.notices;
        let moved = view.registry.values();
        view.moved = moved.filter_map(|r| Some((r.id(), r.moved_to()?.clone()))).collect();
        view.registry.retain(|_, registered| !registered.has_moved());
        (view.failed, view.unmade) = (brought.failed, brought.unmade);
        let store = store.with_layout(plan.layout);
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

    /// Observe, plan, apply; again when another instance was faster. Goes on past what the store refuses. `whole` asks for
    /// the policy as a whole, or nothing.
    ///
    /// # Errors
    /// When the store is away; or with the problems of a policy that can't be had as a whole.
    async fn bring(&self, store: &Store, change: Change<'_>, whole: bool) -> Result<Brought, StoreError> {
        for race in 0..=RACES {
            let began = Instant::now();
            let observed = store.observe_knowing(&change.before.registry).await?;
            INSTRUMENTS.store(StoreOperation::Observe).since(began);
            // Once this policy was in force, only another instance's can have changed the partitions: two that took
            // turns would change them for ever.
            let theirs = observed.topology.layout();
            let changed = store.is_in_force() && observed.unread.is_empty() && !layout::fits(store.policy(), &theirs);
            let asked = Asked {
                wanted: change.wanted,
                tenant: change.tenant,
                // Where the store has lost them all, they are made again.
                keep_partitions: changed && theirs.own().any(|p| !p.is_retired()),
                max_payload: Some(store.max_request()),
                was_in_force: store.is_in_force(),
            };
            let plan = planner::plan_around(store.policy(), asked, &observed, clock::now());
            if whole && plan.problems.iter().any(|p| is_fatal(p.code)) {
                return Err(StoreError::Refused(plan.problems));
            }
            match self.take(store, change, plan, &observed, race < RACES).await {
                Err(StoreError::Raced { .. }) if race < RACES => {}
                Ok(brought) => {
                    return Ok(Brought {
                        kept: asked.keep_partitions,
                        ..brought
                    });
                }
                Err(e) => return Err(e),
            }
        }
        Err(StoreError::Raced {
            what: "the bus".to_owned(),
        })
    }

    /// Takes a plan's steps, and takes back what was done of a call that the store then refused.
    async fn take(
        &self,
        store: &Store,
        change: Change<'_>,
        mut plan: Plan,
        observed: &Observed,
        races: bool,
    ) -> Result<Brought, StoreError> {
        let calls = change.called_from..change.wanted.len();
        let called: Vec<_> = calls
            .clone()
            .filter_map(|i| Some((i, Part::Subscription(plan.names.get(&i)?.clone()))))
            .collect();
        let mut given_up = BTreeMap::new();
        if change.is_called() {
            given_up.clone_from(&change.before.failed);
            // The number of a partition that one tenant could not have is the next one's.
            given_up.retain(|part, _| {
                called.iter().all(|(_, c)| c != part) && !matches!(part, Part::Partition(_) | Part::Place(_))
            });
        }
        let say = |step: &Step| info!("{step}");
        let mut taken = store
            .carry_out(&plan.steps, Failures::giving_up(given_up), races, say)
            .await?;
        let mut no_place = None;
        let mut refused: BTreeMap<usize, Problem> =
            calls.filter_map(|i| Some((i, plan.refused.get(&i)?.clone()))).collect();
        for (i, part) in &called {
            let failed = taken.failures.of(part).cloned();
            let Part::Subscription(name) = part else { continue };
            let stuck = || plan.stuck.get(name).cloned();
            let Some(problem) = failed.clone().or_else(|| refused.get(i).cloned()).or_else(stuck) else {
                continue;
            };
            refused.insert(*i, problem);
            // What the store refused a caller is as if it had not asked; what it did not answer is made later.
            let is_refused = match failed {
                Some(_) => taken.is_refused(part),
                None => !observed.registry.contains_key(name),
            };
            if is_refused {
                match store.undo(&plan.steps, &taken.done, part, observed).await {
                    Ok(()) => {
                        taken.failures.forgive(part);
                        plan.stuck.remove(name);
                        restore(&mut plan, part, observed);
                    }
                    Err(error) => {
                        warn!(%part, %error, "a part of the topology could not be made, and is removed with the next round")
                    }
                }
            }
        }
        // A partition that could not be made is no place for events.
        for (i, step) in plan.steps.iter().enumerate() {
            if let Step::CreateStream(StreamSpec { partition: Some(p), .. }) = step
                && !taken.done.contains(&i)
            {
                plan.layout.partitions.remove(&p.number);
                if change.tenant.is_some_and(|tenant| p.slot.holds(tenant)) {
                    no_place = no_place.or_else(|| taken.failures.forgive(&step.part()));
                }
            }
        }
        let mut made: BTreeSet<_> = observed
            .topology
            .consumers
            .keys()
            .filter_map(|(_, name)| name.subscription())
            .collect();
        made.extend(taken.done.iter().filter_map(|i| match &plan.steps[*i] {
            Step::CreateConsumer(c) => c.name.subscription(),
            _ => None,
        }));
        let mut failed = std::mem::take(&mut taken.failures).into_parts();
        for (name, problem) in &plan.stuck {
            failed
                .entry(Part::Subscription(name.clone()))
                .or_insert_with(|| problem.clone());
        }
        for (number, problem) in &observed.unread {
            failed
                .entry(Part::Partition(*number))
                .or_insert_with(|| problem.clone());
        }
        for (place, problem) in &plan.places {
            failed.insert(Part::Place(place.clone()), problem.clone());
        }
        let unmade = failed
            .keys()
            .filter_map(|part| match part {
                Part::Subscription(name) if !made.contains(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        // A partition that can't be read now has its events all the same.
        for number in observed.unread.keys() {
            if let Some(there) = store.layout().partitions.get(number) {
                let partitions = &mut plan.layout.partitions;
                partitions.entry(*number).or_insert_with(|| there.clone());
            }
        }
        Ok(Brought {
            plan,
            kept: false,
            failed,
            unmade,
            refused,
            no_place,
        })
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

/// Logs what was not so before: the same problem is logged once, not at each round.
fn report(before: &View, now: &View) {
    if before.policy_problems != now.policy_problems {
        for p in &now.policy_problems {
            error!(code = %p.code, "{}", p.message);
        }
    }
    for p in now.notices.iter().chain(&now.between_places) {
        if !before.notices.contains(p) && !before.between_places.contains(p) {
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
    for (part, p) in &now.failed {
        if before.failed.get(part) != Some(p) {
            error!(code = %p.code, %part, "{}", p.message);
        }
    }
    for (name, registered) in &now.registry {
        let was = before.registry.get(name).and_then(|r| r.withheld.as_ref());
        if let Some(p) = registered
            .withheld_problem()
            .filter(|_| was != registered.withheld.as_ref())
        {
            warn!(code = %p.code, "{}", p.message);
        }
    }
    for (id, place) in now.moved.iter().filter(|(id, _)| !before.moved.contains_key(*id)) {
        // Where it went on while this place was lost, nobody here was told.
        warn!(code = %Code::AtAnotherPlace, "subscription {} is at place {place} now: nothing of it is delivered here", id.name);
    }
    for part in before.failed.keys().filter(|part| !now.failed.contains_key(*part)) {
        info!(%part, "a part of the topology is in order again, or is not needed any more");
    }
    for (key, outcome) in &now.links {
        if before.links.get(key).map(|o| &o.problems) != Some(&outcome.problems) {
            for p in &outcome.problems {
                warn!(code = %p.code, "{}", p.message);
            }
        }
    }
}

/// Whether a problem says that the bus is under another policy.
pub(super) fn is_of_another_policy(code: Code) -> bool {
    matches!(code, Code::OlderPolicy | Code::PolicyConflict | Code::TopologyChanged)
}

/// Whether a problem says that the bus is at another store, or on its way.
pub(super) fn is_elsewhere(code: Code) -> bool {
    matches!(code, Code::BusMoved | Code::BusMigrating)
}

/// Whether a problem keeps a policy from its bus. That a setting would lose events keeps that setting from it.
fn is_fatal(code: Code) -> bool {
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

/// What is remembered of a subscription once what was done for it is taken back.
fn restore(plan: &mut Plan, part: &Part, observed: &Observed) {
    let Part::Subscription(name) = part else { return };
    match observed.registry.get(name) {
        Some(have) => drop(plan.registry.insert(name.clone(), have.clone())),
        None => drop(plan.registry.remove(name)),
    }
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
