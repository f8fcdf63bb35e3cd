//! From what is wanted and what is observed to the steps between: the one path for start-up, a new, changed or deleted
//! link, a component's call and a reconnect.

use std::collections::{BTreeMap, BTreeSet};

use crate::account::{self, Account};
use crate::by_partition::ByPartition;
use crate::floor::Floor;
use crate::partition::{Keeps, Layout, Partition};
use crate::policy::Shape;
use crate::step::{self, Step};
use crate::subscription::{MadeBy, Need, Progress, Registered, Subscription};
use crate::topology::{self, StreamSpec, Topology};
use crate::unregistered::{Made, Tombstone};
use crate::{
    Code, Incarnation, Policy, Problem, SubscriptionName, TenantId, declared, entry, in_force, layout, loss, places,
};

mod other_logs;

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

/// What a stream holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last offset; 0 when nothing was ever stored.
    pub head: u64,
    /// Events that it holds.
    pub messages: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// When the oldest was stored, nanoseconds since the Unix epoch.
    pub oldest_at: i64,
    /// When the event at the last offset was stored, nanoseconds since the Unix epoch.
    pub head_at: i64,
    /// When the stream was made, nanoseconds since the Unix epoch.
    pub made_at: i64,
}

/// What the store holds for a bus now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Streams, buckets and those consumers that Fanout made.
    pub topology: Topology,
    /// The remembered subscriptions.
    pub registry: BTreeMap<SubscriptionName, Registered>,
    /// Each partition of the log.
    pub logs: BTreeMap<u32, LogState>,
    /// The dead letters.
    pub dead_letters: LogState,
    /// The account's other streams, and the subjects that each holds.
    pub others: BTreeMap<String, Vec<String>>,
    /// What the account may have; `None` where it is not known.
    pub account: Option<Account>,
    /// What is under the bus's names and is not the bus's, or could not be read: nothing of the topology is changed
    /// around it.
    pub in_the_way: Vec<Problem>,
    /// Partitions whose consumers, or which themselves, could not be read.
    pub unread: BTreeMap<u32, Problem>,
    /// Entries of the registry that can't be read: what belongs to them is left alone.
    pub unreadable: BTreeMap<SubscriptionName, Problem>,
    /// Consumers under the bus's names that Fanout did not make.
    pub foreign_consumers: BTreeSet<(u32, String)>,
    /// Up to which offset each consumer's events are settled.
    pub settled: BTreeMap<(u32, String), u64>,
    /// What is remembered of each consumer: where it goes on if it has to be made again.
    pub floors: BTreeMap<(u32, String), Floor>,
    /// What each consumer says of itself.
    pub made: BTreeMap<(u32, String), Made>,
    /// Subscriptions that were ended.
    pub ended: BTreeMap<SubscriptionName, Tombstone>,
    /// Subscriptions that are known, are not in the registry, and were not ended: the store has lost them.
    pub lost: BTreeMap<SubscriptionName, Registered>,
}

impl Observed {
    /// Each partition's last offset.
    pub fn heads(&self) -> ByPartition {
        self.logs
            .iter()
            .map(|(partition, log)| (*partition, log.head))
            .collect()
    }

    /// Up to which offset everything of a subscription has been handled, in each partition that it reads.
    fn handled_to(&self, registered: &Registered) -> ByPartition {
        let mut all: BTreeMap<u32, u64> = BTreeMap::new();
        for ((partition, consumer), to) in &self.settled {
            if registered.has_consumer(consumer) {
                let least = all.entry(*partition).or_insert(*to);
                *least = *to.min(least);
            }
        }
        ByPartition(all)
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
pub fn plan(policy: &Policy, asked: Asked<'_>, observed: &Observed, now: i64) -> Result<Plan, Vec<Problem>> {
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
pub fn plan_around(policy: &Policy, asked: Asked<'_>, observed: &Observed, now: i64) -> Plan {
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
    now: i64,
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
    now: i64,
    streams: Streams,
) -> Result<Plan, Vec<Problem>> {
    let have = observed.topology.layout();
    let frozen = streams == Streams::AsTheyAre;
    let of_another = streams == Streams::OfAnotherPolicy;
    let keep_partitions = asked.keep_partitions || frozen || (of_another && !layout::fits(policy, &have));
    let tenants = asked.tenant.into_iter().cloned().collect();
    let mut layout = if keep_partitions {
        have.clone()
    } else {
        layout::next(policy, &have, &tenants, now).map_err(|p| vec![p])?
    };
    if !frozen {
        // The last one stays, so that no number is given twice.
        let last = layout.partitions.keys().max().copied();
        layout
            .partitions
            .retain(|number, _| Some(*number) == last || !is_over(have.partitions.get(number), observed, now));
    }

    let other_logs = observed.other_logs();
    if !frozen {
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
            registered
                .head
                .0
                .retain(|number, _| have.partitions.contains_key(number));
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
    let judged = judge_all(policy, asked, of_another, &mut registry, &layout, observed, now);
    if !frozen {
        for registered in registry.values_mut() {
            // What goes with this plan is forgotten with it.
            registered
                .head
                .0
                .retain(|number, _| layout.partitions.contains_key(number));
        }
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
        if streams == Streams::ButLoseNothing {
            loss::keep(&losses, &mut desired, &observed.topology, policy);
            kept_back = losses.into_iter().map(|loss| loss.problem).collect();
        } else {
            problems.extend(losses.into_iter().map(|loss| loss.problem));
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
    let stores = [diff.stores.as_slice(), diff.turn.as_slice()].concat();
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
        .chain(diff.turn)
        .collect();
    Ok(Plan {
        steps,
        registry,
        layout,
        refused: judged.refused,
        names: judged.names,
        stuck,
        problems: kept_back,
    })
}

/// What came of everything that is wanted.
#[derive(Default)]
struct Judged {
    refused: BTreeMap<usize, Problem>,
    names: BTreeMap<usize, SubscriptionName>,
    /// The names under which others go on that had the name of one that was declared.
    moved: BTreeSet<SubscriptionName>,
}

/// Takes what is wanted into the registry, or refuses it.
fn judge_all(
    policy: &Policy,
    asked: Asked<'_>,
    of_another: bool,
    registry: &mut BTreeMap<SubscriptionName, Registered>,
    layout: &Layout,
    observed: &Observed,
    now: i64,
) -> Judged {
    let mut judged = Judged::default();
    let mut seen = BTreeSet::new();
    let declared = if of_another {
        Vec::new()
    } else {
        declared(policy, asked.wanted)
    };
    let mut all: Vec<_> = asked.wanted.iter().chain(&declared).enumerate().collect();
    // What the operator declares has its name first.
    all.sort_by_key(|(_, want)| want.made_by == MadeBy::Call);
    for (i, want) in all {
        let name = remembered_as(registry, want);
        if want.made_by != MadeBy::Call && !seen.insert(name.clone()) {
            let problem = Problem::new(
                Code::SubscriptionConflict,
                format!("subscription {name} is declared by two links: give one of them another name"),
            );
            judged.refused.insert(i, problem);
            continue;
        }
        match judge(policy, asked, registry, layout, observed, &name, want, now) {
            Ok(mut next) => {
                if let Some(have) = registry.get(&name).filter(|_| of_another) {
                    // Sizes that nobody asked for are the other policy's.
                    next.registered.subscription.batch_size = have.subscription.batch_size;
                    next.registered.subscription.concurrency = have.subscription.concurrency;
                }
                if let Some(moved) = next.moved {
                    let aside = moved.subscription.name.clone();
                    judged.moved.insert(aside.clone());
                    registry.entry(aside).or_insert(moved);
                }
                judged.names.insert(i, name.clone());
                registry.insert(name, next.registered);
            }
            Err(problem) => drop(judged.refused.insert(i, problem)),
        }
    }
    judged
}

/// The name under which what is wanted is remembered, or would be: that of its caller's own, if it has one.
fn remembered_as(registry: &BTreeMap<SubscriptionName, Registered>, want: &Wanted) -> SubscriptionName {
    let name = &want.subscription.name;
    if want.made_by == MadeBy::Call {
        let own = name.of_caller(&want.component);
        if registry.contains_key(&own) {
            return own;
        }
    }
    name.clone()
}

/// Takes out of what the store must hold what can't or must not be touched; says for which subscriptions that is.
fn leave_alone(
    desired: &mut Topology,
    registry: &BTreeMap<SubscriptionName, Registered>,
    over: &BTreeSet<SubscriptionName>,
    observed: &Observed,
) -> BTreeMap<SubscriptionName, Problem> {
    let mut stuck = observed.unreadable.clone();
    desired.consumers.retain(|(partition, consumer), _| {
        let Some(name) = Registered::of_consumer(consumer).filter(|n| registry.contains_key(n)) else {
            return true;
        };
        if observed.foreign_consumers.contains(&(*partition, consumer.clone())) {
            let problem = Problem::new(
                Code::ForeignTopology,
                format!(
                    "subscription {name}: consumer {consumer} of partition {partition} exists and was not made by Fanout: remove it, or use another name"
                ),
            );
            stuck.entry(name).or_insert(problem);
            return false;
        }
        if let Some(unread) = observed.unread.get(partition) {
            stuck.entry(name).or_insert_with(|| unread.clone());
            return false;
        }
        true
    });
    // One goes by what the registry says of its subscription: that it has others now, or that it was ended.
    for (key, have) in &observed.topology.consumers {
        let goes = Registered::of_consumer(&key.1).is_some_and(|name| {
            let ended = over.contains(&name) || observed.ended.contains_key(&name);
            !observed.unreadable.contains_key(&name) && (ended || registry.contains_key(&name))
        });
        if !goes {
            desired.consumers.insert(key.clone(), have.clone());
        }
    }
    stuck
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
    let plan = plan(policy, Asked::default(), observed, 0)?;
    Ok(reached(policy, &plan.layout, &plan.registry, observed))
}

/// What the store must hold in the end.
fn reached(
    policy: &Policy,
    layout: &Layout,
    registry: &BTreeMap<SubscriptionName, Registered>,
    observed: &Observed,
) -> Topology {
    let mut desired = topology::topology(policy, layout, registry.values());
    for spec in desired.streams.values_mut().filter(|s| s.partition.is_none()) {
        if let Some(have) = observed.topology.streams.get(&spec.name).filter(|have| have.by_hand) {
            keep_bounds(policy, have, spec);
        }
    }
    for spec in desired.streams.values_mut() {
        if let Some(p) = &spec.partition {
            spec.made_at = observed.logs.get(&p.number).map_or(0, |log| log.made_at);
        }
        let retired = spec.partition.as_ref().is_some_and(Partition::is_retired);
        if let Some(have) = observed.topology.streams.get(&spec.name).filter(|_| retired) {
            // What a retired stream holds was stored under the earlier policy: it keeps that one's limits.
            spec.max_age = spec.max_age.max(have.max_age);
            spec.max_bytes = have.max_bytes;
            spec.storage = have.storage;
        }
    }
    // A retired work queue goes on with the filters that it had: new ones may meet (10100), and what it holds was stored
    // under the old ones.
    for (key, c) in &mut desired.consumers {
        let partition = layout.partitions.get(&c.partition);
        if partition.is_some_and(|p| p.is_retired() && p.keeps == Keeps::WorkQueue)
            && let Some(have) = observed.topology.consumers.get(key)
        {
            c.filter_subjects = have.filter_subjects.clone();
        }
    }
    begin_where_they_were(&mut desired, layout, observed);
    // Where a partition that was found retired has nothing for a subscription, it never will, and needs no consumer.
    let found = observed.topology.layout();
    desired.consumers.retain(|(number, _), c| {
        let retired = found.partitions.get(number).is_some_and(Partition::is_retired);
        let head = observed.logs.get(number).map_or(0, |log| log.head);
        !(retired && matches!(c.start, topology::ConsumerStart::Offset(o) if o > head))
    });
    for registered in registry.values() {
        let consumer = registered.consumer_name();
        let mut keys = layout.partitions.keys().rev().map(|number| (*number, consumer.clone()));
        if let Some(key) = keys.find(|key| desired.consumers.contains_key(key))
            && let Some(newest) = desired.consumers.get_mut(&key)
        {
            newest.entry = entry::with_consumer(registered);
        }
    }
    desired
}

/// Leaves a stream the bounds that an operator gave it by hand, where the policy does not name them. No bound at all is
/// none of them.
fn keep_bounds(policy: &Policy, have: &StreamSpec, spec: &mut StreamSpec) {
    let asked = (spec.max_bytes, spec.max_messages);
    if have.max_bytes > 0 && !policy.names_bound(account::size_setting(spec)) {
        spec.max_bytes = have.max_bytes;
    }
    let is_named = account::count_setting(spec).is_some_and(|setting| policy.names_bound(setting));
    if have.max_messages > 0 && !is_named {
        spec.max_messages = have.max_messages;
    }
    spec.by_hand = asked != (spec.max_bytes, spec.max_messages);
}

/// Leaves what is there as it is: streams, buckets, and how long and how much consumers wait for. Only which log a stream is,
/// is still said.
fn keep(desired: &mut Topology, others: &BTreeSet<u32>, layout: &Layout, observed: &Observed) {
    desired.streams.extend(observed.topology.streams.clone());
    desired.buckets.extend(observed.topology.buckets.clone());
    for spec in desired.streams.values_mut() {
        if let Some(p) = spec.partition.as_mut().filter(|p| others.contains(&p.number)) {
            p.log = layout.partitions.get(&p.number).map_or(p.log, |now| now.log);
            spec.made_at = observed.logs.get(&p.number).map_or(0, |log| log.made_at);
        }
    }
    for (key, c) in &mut desired.consumers {
        if let Some(have) = observed.topology.consumers.get(key) {
            (c.ack_wait, c.max_ack_pending) = (have.ack_wait, have.max_ack_pending);
        }
    }
}

/// Lets consumers that were there before, and have to be made again, begin where their events were settled to.
fn begin_where_they_were(desired: &mut Topology, layout: &Layout, observed: &Observed) {
    for (key, c) in &mut desired.consumers {
        // A work queue gives out what nobody has settled, from its first event on (10101).
        let partition = layout.partitions.get(&c.partition).filter(|p| p.keeps == Keeps::Log);
        let (Some(partition), Some(log)) = (partition, observed.logs.get(&c.partition)) else {
            continue;
        };
        let floor = observed.floors.get(key).filter(|floor| floor.is_of(partition.log, log));
        if let Some(floor) = floor.filter(|_| !observed.topology.consumers.contains_key(key)) {
            c.start = topology::ConsumerStart::Offset(floor.settled_to + 1);
        }
    }
}

/// Whether a partition has nothing more to give: it was found retired, so that nothing can come any more, and empty, and
/// it need not know repeats any more of what it held.
fn is_over(found: Option<&Partition>, observed: &Observed, now: i64) -> bool {
    let Some((partition, at)) = found.and_then(|p| Some((p, p.retired_at()?))) else {
        return false;
    };
    let stream = observed
        .topology
        .streams
        .values()
        .find(|s| s.partition.as_ref().is_some_and(|p| p.number == partition.number));
    let remembers = stream.map_or(0, |s| i64::try_from(s.dedupe_window.as_nanos()).unwrap_or(i64::MAX));
    let log = observed.logs.get(&partition.number);
    log.is_some_and(|log| log.messages == 0 && (log.head == 0 || now.saturating_sub(at) > remembers))
}

/// What the policy itself declares and no link asks for.
fn declared(policy: &Policy, wanted: &[Wanted]) -> Vec<Wanted> {
    policy
        .subscriptions
        .iter()
        .filter(|(name, _)| {
            wanted
                .iter()
                .all(|w| w.made_by != MadeBy::Link || w.subscription.name != **name)
        })
        .map(|(name, declared)| Wanted {
            subscription: declared.subscription(name, policy),
            component: declared.component.clone().unwrap_or_default(),
            link: String::new(),
            made_by: MadeBy::Policy,
        })
        .collect()
}

/// A subscription as it will be remembered.
struct Next {
    registered: Registered,
    /// The one that had its name until now, and goes on under another.
    moved: Option<Registered>,
}

#[allow(
    clippy::too_many_arguments,
    reason = "a judgement of one, in the light of all that is known"
)]
fn judge(
    policy: &Policy,
    asked: Asked<'_>,
    registry: &BTreeMap<SubscriptionName, Registered>,
    layout: &Layout,
    observed: &Observed,
    name: &SubscriptionName,
    want: &Wanted,
    now: i64,
) -> Result<Next, Problem> {
    if let Some(unreadable) = observed.unreadable.get(name) {
        return Err(unreadable.clone());
    }
    let have = registry.get(name);
    let subscription = Subscription {
        name: name.clone(),
        ..want.subscription.clone()
    };
    if have.is_none_or(|have| have.subscription.filter != subscription.filter) {
        let widest = layout.partitions.values().map(|p| &p.template).chain([&policy.subject]);
        let widest = widest.max_by_key(|t| t.all().len()).unwrap_or(&policy.subject);
        policy
            .limits
            .filter(name, &subscription.filter, widest, asked.max_payload)?;
    }
    let new = || Registered {
        subscription: subscription.clone(),
        component: want.component.clone(),
        link: want.link.clone(),
        made_by: want.made_by,
        made_at: now,
        // Later than whatever had the name before, and was ended.
        incarnation: match observed.ended.get(name).and_then(|ended| ended.incarnation) {
            Some(ended) => Incarnation::new(now).after(ended),
            None => Incarnation::new(now),
        },
        made_as: None,
        head: observed.heads(),
        replayed: ByPartition::default(),
        progress: Progress::Replaying,
        paused: false,
        rewound: None,
        apart: BTreeMap::new(),
        joined: None,
    };
    let next = match have {
        None => {
            if want.made_by == MadeBy::Call {
                policy
                    .limits
                    .one_more(&subscription, &want.component, registry.values())?;
            }
            places::check(&subscription, layout, observed)?;
            Next {
                registered: new(),
                moved: None,
            }
        }
        Some(have) if have.yields_to(&subscription, &want.component, want.made_by) => {
            places::check(&subscription, layout, observed)?;
            let new = new();
            Next {
                registered: Registered {
                    incarnation: new.incarnation.after(have.incarnation),
                    ..new
                },
                moved: Some(have.moved_aside(observed.handled_to(have))),
            }
        }
        Some(have) => {
            have.can_become(&want.subscription, &want.component, want.made_by)?;
            Next {
                registered: have.with_what_is_asked(want),
                moved: None,
            }
        }
    };
    if policy.shape == Shape::WorkQueue {
        if matches!(want.subscription.need, Need::Backfill { .. }) {
            return Err(declared::no_backfill(name));
        }
        let others = registry
            .values()
            .map(|r| &r.subscription)
            .filter(|s| s.name != *name && s.need == Need::Durable);
        for other in others {
            if want.subscription.need == Need::Durable && other.filter.may_meet(&want.subscription.filter) {
                return Err(if want.made_by == MadeBy::Call {
                    declared::meets_another(name)
                } else {
                    declared::meets(name, &other.name)
                });
            }
        }
    }
    Ok(next)
}

#[cfg(test)]
mod tests;
