//! One plan for the bus, and the steps it takes, as far as the store lets them be taken.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use fanout_plan::layout;
use fanout_plan::place::Places;
use fanout_plan::planner::{self, Asked, Observed, Plan, Wanted};
use fanout_plan::step::{Failures, Part, Step};
use fanout_plan::topology::StreamSpec;
use fanout_plan::{Code, Problem, SubscriptionName, TenantId};
use tracing::{info, warn};

use super::Bus;
use super::reconcile::{is_elsewhere, is_fatal};
use crate::jetstream::{Store, StoreError};
use crate::telemetry::INSTRUMENTS;
use crate::telemetry::instruments::StoreOperation;
use crate::view::View;

/// How often a plan is made anew because another instance was faster.
const RACES: usize = 10;

/// A plan, and what came of it.
pub(super) struct Brought {
    pub(super) plan: Plan,
    /// The partitions were kept although the policy asks for others.
    pub(super) kept: bool,
    /// What could not be had.
    pub(super) failed: BTreeMap<Part, Problem>,
    /// Subscriptions of which the store holds nothing.
    pub(super) unmade: BTreeSet<SubscriptionName>,
    /// Subscriptions that the registry does not have yet.
    pub(super) unwritten: BTreeSet<SubscriptionName>,
    /// Why what was called for was not made, by its place among the wanted.
    pub(super) refused: BTreeMap<usize, Problem>,
    /// Why the tenant has no place in the log.
    pub(super) no_place: Option<Problem>,
    /// The log has changed from one generation to the next, if it was to.
    pub(super) has_turned: bool,
    /// A part of the log that can't be read, and was not read before: what it knows of ids is not known.
    pub(super) unknown_partition: Option<Problem>,
}

/// What a plan is made for.
#[derive(Clone, Copy)]
pub(super) struct Change<'a> {
    pub(super) wanted: &'a [Wanted],
    /// The wanted from here on are those that components wait for.
    pub(super) called_from: usize,
    pub(super) tenant: Option<&'a TenantId>,
    /// What was seen last: what failed then is not tried again while somebody waits.
    pub(super) before: &'a View,
}

impl Change<'_> {
    /// Whether somebody waits for it.
    fn is_called(&self) -> bool {
        self.called_from < self.wanted.len() || self.tenant.is_some()
    }
}

impl Bus {
    /// Observe, plan, apply; again when another instance was faster. Goes on past what the store refuses. `whole` asks for
    /// the policy as a whole, or nothing.
    ///
    /// # Errors
    /// When the store is away; or with the problems of a policy that can't be had as a whole.
    pub(super) async fn bring(&self, store: &Store, change: Change<'_>, whole: bool) -> Result<Brought, StoreError> {
        for race in 0..=RACES {
            let began = Instant::now();
            let observed = store
                .observe_knowing(&change.before.registry, &change.before.unwritten)
                .await?;
            INSTRUMENTS.store(StoreOperation::Observe).since(began);
            let now = store.read_time(&observed).await?;
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
            let plan = planner::plan_around(store.policy(), asked, &observed, now);
            // What is at another store, or of another place, is not gone on with.
            let is_refused = |p: &Problem| is_elsewhere(p.code) || whole && is_fatal(p.code);
            if plan.problems.iter().any(is_refused) {
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
        let has_turned = plan.leave_undone(|i| !taken.done.contains(&i), &observed.topology.layout());
        for (i, step) in plan.steps.iter().enumerate() {
            if let Step::CreateStream(StreamSpec { partition: Some(p), .. }) = step
                && !taken.done.contains(&i)
                && change.tenant.is_some_and(|tenant| p.slot.holds(tenant))
            {
                no_place = no_place.or_else(|| taken.failures.forgive(&step.part()));
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
        let written: BTreeSet<_> = taken
            .done
            .iter()
            .filter_map(|i| match &plan.steps[*i] {
                Step::Remember(r) => Some(&r.subscription.name),
                _ => None,
            })
            .collect();
        let there = |name: &SubscriptionName| observed.registry.contains_key(name) || written.contains(name);
        let unwritten = plan.registry.keys().filter(|name| !there(name)).cloned().collect();
        // A partition that can't be read now has its events all the same.
        let mut unknown_partition = None;
        for (number, problem) in &observed.unread {
            match store.layout().partitions.get(number) {
                Some(there) => drop(plan.layout.partitions.entry(*number).or_insert_with(|| there.clone())),
                None if may_know_ids(store, *number, problem) => unknown_partition = Some(unknown(*number, problem)),
                None => {}
            }
        }
        Ok(Brought {
            plan,
            kept: false,
            failed,
            unmade,
            unwritten,
            refused,
            no_place,
            has_turned,
            unknown_partition,
        })
    }
}

/// Whether what can't be read may be a part of the log into which this place has published: no mirror, and nobody else's stream.
fn may_know_ids(store: &Store, partition: u32, problem: &Problem) -> bool {
    let places = store.policy().places.as_ref();
    let own = places.and_then(Places::own);
    problem.code != Code::ForeignTopology && own.is_none_or(|own| own.partitions().contains(&partition))
}

/// Why nothing is published while a part of the log is not known.
fn unknown(partition: u32, problem: &Problem) -> Problem {
    Problem::new(
        problem.code,
        format!(
            "partition {partition} of the log may know the ids of events that are published again, and was not read since this instance began ({}): nothing is published until it is; see to the servers that hold it, or delete its stream if they are lost",
            problem.message
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
