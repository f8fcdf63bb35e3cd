//! From what is wanted and what is observed to the steps between: the one path for start-up, a new, changed or deleted
//! link, a component's call and a reconnect.

use std::collections::{BTreeMap, BTreeSet};

use crate::account;
use crate::partition::Layout;
use crate::policy::Shape;
use crate::step::{self, Step};
use crate::subscription::{MadeBy, Need, Progress, Registered, Subscription};
use crate::topology::{StreamSpec, Topology};
use crate::{
    Code, Incarnation, PlaceName, Policy, Problem, SubscriptionName, TenantId, Timestamp, declared, in_force, layout,
    loss,
};

mod judge;
mod mirrors;
mod notices;
mod observed;
mod other_logs;
mod reached;
mod registry_share;
mod rivals;

pub use notices::{notices, subscriptions_at};
pub use observed::{LeftOut, LogState, MirrorState, Observed};

pub(crate) use reached::place_leases;

use judge::judge_all;
use reached::{is_over, keep, leave_alone, note_given, reached};

/// A subscription that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What.
    pub subscription: Subscription,
    /// For whom.
    pub component: String,
    /// Through which link.
    pub link: String,
    /// How it is asked for.
    pub made_by: MadeBy,
}

impl Plan {
    /// Has the layout be what is there where steps were not taken: a partition that was not made is no place for events, and one that
    /// was not retired, or not bound, is as it was. Returns whether the log has changed from one generation to the next, if it was to.
    pub fn leave_undone(&mut self, is_undone: impl Fn(usize) -> bool, there: &Layout) -> bool {
        let (mut as_made, mut has_turned) = (there.partitions.clone(), true);
        for (i, step) in self.steps.iter().enumerate() {
            match step {
                Step::CreateStream(StreamSpec { partition: Some(p), .. }) if is_undone(i) => {
                    self.layout.partitions.remove(&p.number);
                }
                Step::CreateStream(StreamSpec { partition: Some(p), .. }) => {
                    as_made.insert(p.number, p.clone());
                }
                Step::RetireStream(StreamSpec { partition: Some(p), .. })
                | Step::BindStream(StreamSpec { partition: Some(p), .. })
                    if is_undone(i) =>
                {
                    has_turned = false;
                    if let Some(made) = as_made.get(&p.number) {
                        self.layout.partitions.insert(p.number, made.clone());
                    }
                }
                _ => {}
            }
        }
        has_turned
    }
}

/// What to do, and what comes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are to be taken.
    pub steps: Vec<Step>,
    /// The subscriptions as they will be remembered.
    pub registry: BTreeMap<SubscriptionName, Registered>,
    /// The partitions as they will be.
    pub layout: Layout,
    /// What was wanted and can't be had, by its place among the wanted.
    pub refused: BTreeMap<usize, Problem>,
    /// Under which name each of what was wanted is remembered, by its place among the wanted.
    pub names: BTreeMap<usize, SubscriptionName>,
    /// Subscriptions for which nothing can be made or changed, and why.
    pub stuck: BTreeMap<SubscriptionName, Problem>,
    /// Why the topology, or a part of it, stays as it is, although the policy asks for another; empty when it does not.
    pub problems: Vec<Problem>,
    /// The places of whose events not all are mirrored, and why.
    pub places: BTreeMap<PlaceName, Problem>,
    /// What is so between the places, and has to be known.
    pub notices: Vec<Problem>,
}

/// What is asked of a bus besides its policy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// The subscriptions that links and components ask for.
    pub wanted: &'a [Wanted],
    /// A tenant that must have a place in the log now.
    pub tenant: Option<&'a TenantId>,
    /// The partitions stay as they are, although the policy asks for others.
    pub keep_partitions: bool,
    /// Bytes that the server takes in one request, if that is known.
    pub max_payload: Option<u64>,
    /// The bus was brought to this policy before, by who asks.
    pub was_in_force: bool,
}

/// Plans the whole of a policy, or nothing. `now` is in nanoseconds since the Unix epoch.
///
/// # Errors
/// Every reason for which the bus as a whole can't be brought to its policy. Refused subscriptions are no such reason:
/// they are part of the plan.
pub fn plan(policy: &Policy, asked: Asked<'_>, observed: &Observed, now: Timestamp) -> Result<Plan, Vec<Problem>> {
    let unread = observed.unread.values().cloned();
    let problems: Vec<_> = observed.in_the_way.iter().cloned().chain(unread).collect();
    if let Some(problem) = in_force::yields(policy, asked, observed) {
        return Err(problems.into_iter().chain([problem]).collect());
    }
    let planned = plan_with(policy, asked, observed, now, Streams::AsThePolicySays);
    match planned {
        Ok(plan) if problems.is_empty() => Ok(plan),
        Ok(_) => Err(problems),
        Err(more) => Err(problems.into_iter().chain(more).collect()),
    }
}

/// Plans what can be had. Where the bus as a whole can't be brought to its policy, its streams and buckets stay as they are,
/// the plan says why ([`Plan::problems`]), and subscriptions go on with what is there.
pub fn plan_around(policy: &Policy, asked: Asked<'_>, observed: &Observed, now: Timestamp) -> Plan {
    let mut problems = observed.in_the_way.clone();
    if problems.is_empty() {
        let planned = match in_force::yields(policy, asked, observed) {
            Some(problem) => under_another(policy, asked, observed, now, problem),
            None => plan_with(policy, asked, observed, now, Streams::ButLoseNothing),
        };
        match planned {
            Ok(plan) => return plan,
            Err(more) => problems = more,
        }
    }
    let has_registry = observed.topology.buckets.contains_key(&policy.names().registry());
    let kept = has_registry.then(|| plan_with(policy, asked, observed, now, Streams::AsTheyAre));
    let nothing = || Plan {
        registry: observed.registry.clone(),
        layout: observed.topology.layout(),
        refused: (0..asked.wanted.len()).map(|i| (i, not_ready(&problems))).collect(),
        ..Plan::default()
    };
    let plan = kept.and_then(Result::ok).unwrap_or_else(nothing);
    Plan { problems, ..plan }
}

/// Plans what can be had on a bus that is under another policy, and says so unless both come to the same.
fn under_another(
    policy: &Policy,
    asked: Asked<'_>,
    observed: &Observed,
    now: Timestamp,
    problem: Problem,
) -> Result<Plan, Vec<Problem>> {
    let kept = plan_with(policy, asked, observed, now, Streams::OfAnotherPolicy)?;
    let says_which = |step: &Step| {
        let Step::UpdateStream(s) = step else { return false };
        let have = observed.topology.streams.get(&s.name);
        have.is_some_and(|have| {
            let same = StreamSpec {
                policy: have.policy.clone(),
                ..s.clone()
            };
            same == *have
        })
    };
    let wished = plan_with(policy, asked, observed, now, Streams::AsThePolicySays);
    let same = wished.is_ok_and(|wished| wished.steps.iter().filter(|step| !says_which(step)).eq(&kept.steps));
    let problems = if same { Vec::new() } else { vec![problem] };
    Ok(Plan { problems, ..kept })
}

/// Why nothing is made for a subscription while the bus itself can't be made.
fn not_ready(problems: &[Problem]) -> Problem {
    let why = problems.first().map_or_else(String::new, ToString::to_string);
    Problem::new(
        Code::BusNotReady,
        format!("the bus can't be brought to its policy: {why}"),
    )
}

/// Whether a plan may change streams and buckets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Streams {
    AsThePolicySays,
    /// But for what would lose events: that stays as it is, and the plan says so.
    ButLoseNothing,
    /// What is missing is made; what is there is another policy's.
    OfAnotherPolicy,
    AsTheyAre,
}

fn plan_with(
    policy: &Policy,
    asked: Asked<'_>,
    observed: &Observed,
    now: Timestamp,
    streams: Streams,
) -> Result<Plan, Vec<Problem>> {
    let have = observed.topology.layout();
    let frozen = streams == Streams::AsTheyAre;
    let of_another = streams == Streams::OfAnotherPolicy;
    // Where none takes events any more, and whoever ended them made no other, this policy's are made.
    let takes_events = have.own().any(|p| !p.is_retired());
    let is_anothers = of_another && takes_events && !layout::fits(policy, &have);
    let keep_partitions = asked.keep_partitions || frozen || is_anothers;
    let tenants = asked.tenant.into_iter().cloned().collect();
    let mut layout = if keep_partitions {
        have.clone()
    } else {
        layout::next(policy, &have, &tenants, now).map_err(|p| vec![p])?
    };
    let mut places = BTreeMap::new();
    if !frozen {
        // The last one stays, so that no number is given twice.
        let last = layout.own().map(|p| p.number).max();
        layout
            .partitions
            .retain(|number, _| Some(*number) == last || !is_over(have.partitions.get(number), observed, now));
        places = mirrors::bring(policy, of_another, &mut layout, observed);
    }

    let other_logs = observed.other_logs();
    if !frozen {
        for (number, p) in layout.partitions.iter_mut().filter(|(_, p)| !p.is_mirror()) {
            if !have.partitions.contains_key(number) && observed.had_a_log(*number) {
                p.log = Incarnation::new(now);
            }
        }
        for number in &other_logs {
            if let Some(p) = layout.partitions.get_mut(number) {
                p.log = Incarnation::new(now).after(p.log);
            }
        }
    }
    let mut registry = observed.registry.clone();
    for (name, lost) in &observed.lost {
        if !observed.unreadable.contains_key(name) {
            registry.entry(name.clone()).or_insert_with(|| lost.clone());
        }
    }
    if !frozen {
        for registered in registry.values_mut() {
            if have.partitions.is_empty() {
                registered.begin_anew();
            }
            // A partition that is not there any more, or was made again after someone had deleted it, begins anew.
            for numbers in [&mut registered.head, &mut registered.delivered_before] {
                numbers.0.retain(|number, _| have.partitions.contains_key(number));
            }
            other_logs::begin(registered, &other_logs, &layout, observed);
        }
    }
    let mut over = BTreeSet::new();
    registry.retain(|name, r| {
        let is_over = !of_another
            && r.made_by == MadeBy::Policy
            && policy
                .subscriptions
                .keys()
                .all(|declared| declared.as_str() != name.plain())
            && policy.allows_loss(&format!("subscriptions.{name}"));
        if is_over {
            over.insert(name.clone());
        }
        !is_over
    });
    if !frozen {
        over.extend(rivals::withhold(policy, &mut registry, observed));
    }
    let judged = judge_all(policy, asked, of_another, &mut registry, &layout, observed, now);
    if !frozen {
        for registered in registry.values_mut() {
            // What goes with this plan is forgotten with it.
            for numbers in [&mut registered.head, &mut registered.delivered_before] {
                numbers.0.retain(|number, _| layout.partitions.contains_key(number));
            }
        }
    }
    for registered in registry.values_mut() {
        note_given(registered, &layout, observed);
    }
    let (mut problems, mut kept_back) = (Vec::new(), Vec::new());
    if policy.shape == Shape::WorkQueue && !frozen {
        problems = no_work_queue(&registry);
    }
    // One that is moved aside is written before the one that has its name now.
    let (moved, others): (Vec<_>, Vec<_>) = registry
        .iter()
        .filter(|(name, r)| observed.registry.get(*name) != Some(*r))
        .partition(|(name, _)| judged.moved.contains(*name));
    let remember = moved
        .into_iter()
        .chain(others)
        .map(|(_, r)| Step::Remember(Box::new(r.clone())));
    let mut desired = reached(policy, &layout, &registry, observed);
    if keep_partitions || of_another {
        // Their limits are those of the policy that they were made for.
        keep(&mut desired, &other_logs, &layout, observed);
    }
    if frozen {
        desired.streams.clone_from(&observed.topology.streams);
        desired.buckets.clone_from(&observed.topology.buckets);
    } else {
        let losses = loss::check(policy, observed, &desired, now);
        // Which places there are is said by the policy that the bus is under.
        let places = match of_another {
            true => Vec::new(),
            false => loss::of_places(policy, observed),
        };
        if streams == Streams::ButLoseNothing {
            loss::keep(&losses, &mut desired, &observed.topology, policy);
            kept_back = losses.into_iter().map(|loss| loss.problem).collect();
            kept_back.extend(places);
        } else {
            problems.extend(losses.into_iter().map(|loss| loss.problem));
            problems.extend(places);
        }
    }
    let stuck = leave_alone(&mut desired, &registry, &over, observed);
    let diff = match step::diff(&observed.topology, &desired) {
        Ok(diff) => diff,
        Err(more) => {
            problems.splice(0..0, more);
            step::Diff::default()
        }
    };
    let stores = [diff.stores.as_slice(), diff.generation_change.as_slice()].concat();
    problems.extend(account::check(policy, observed, &stores));
    if !problems.is_empty() {
        return Err(problems);
    }
    // A subscription is remembered before its consumer is made: after a crash in between, the consumer is made again;
    // the other way round it would be an orphan that another instance deletes.
    let steps = diff
        .stores
        .into_iter()
        .chain(over.into_iter().map(Step::Forget))
        .chain(remember)
        .chain(diff.consumers)
        .chain(diff.generation_change)
        .collect();
    Ok(Plan {
        steps,
        registry,
        layout,
        refused: judged.refused,
        names: judged.names,
        stuck,
        problems: kept_back,
        places,
        notices: notices(policy, observed),
    })
}

/// Why remembered subscriptions can't live on a work queue.
fn no_work_queue(registry: &BTreeMap<SubscriptionName, Registered>) -> Vec<Problem> {
    let going_on = || {
        registry
            .values()
            .filter(|r| r.progress != Progress::Finished)
            .map(|r| &r.subscription)
    };
    let backfills = going_on()
        .filter(|s| matches!(s.need, Need::Backfill { .. }))
        .map(|s| declared::no_backfill(&s.name));
    let crossing = declared::crossing(going_on().map(|s| (&s.name, &s.need, &s.filter)));
    backfills.chain(crossing).collect()
}

/// What the store would hold for a policy once its plan is applied, and nothing else is asked of it.
///
/// # Errors
/// As [`plan`].
pub fn desired(policy: &Policy, observed: &Observed) -> Result<Topology, Vec<Problem>> {
    let plan = plan(policy, Asked::default(), observed, Timestamp::EPOCH)?;
    Ok(reached(policy, &plan.layout, &plan.registry, observed))
}

#[cfg(test)]
mod tests;
