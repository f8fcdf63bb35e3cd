//! The difference between what the store holds and what it must hold, as steps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::partition::{Binding, Keeps, Layout, Partition};
use crate::planner::Observed;
use crate::setting::show_duration;
use crate::subject::meet;
use crate::subscription::Registered;
use crate::topology::{BucketSpec, ConsumerSpec, ConsumerStart, StreamSpec, Topology};
use crate::{Code, ConsumerName, PlaceName, Problem, SubscriptionName};

/// One change of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes a stream.
    CreateStream(StreamSpec),
    /// Changes a stream in place.
    UpdateStream(StreamSpec),
    /// Lets a stream of the log take nothing new. From this moment on the next generation does.
    RetireStream(StreamSpec),
    /// Lets a stream of the log take the bus's subjects too, now that no other has them.
    BindStream(StreamSpec),
    /// Removes a stream that is not needed any more: a retired one whose last event has expired, or one of a setting that was
    /// switched off.
    DeleteStream(String),
    /// Makes a bucket.
    CreateBucket(BucketSpec),
    /// Changes a bucket in place.
    UpdateBucket(BucketSpec),
    /// Writes a subscription into the registry.
    Remember(Box<Registered>),
    /// Takes a subscription out of the registry; what waits for it is let go.
    Forget(SubscriptionName),
    /// Makes a consumer of the log.
    CreateConsumer(ConsumerSpec),
    /// Changes a consumer of the log in place.
    UpdateConsumer(ConsumerSpec),
    /// Removes a consumer of the log whose subscription has ended, or has nothing more to read there.
    DeleteConsumer {
        /// The partition that it reads.
        partition: u32,
        /// Its name.
        name: ConsumerName,
    },
}

/// What a step is for. When it fails, what needs that part goes without, and nothing else does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A partition of the log.
    Partition(u32),
    /// Another stream.
    Stream(String),
    /// A bucket.
    Bucket(String),
    /// One subscription.
    Subscription(SubscriptionName),
    /// What another place has published.
    Place(PlaceName),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(number) => write!(f, "partition {number} of the log"),
            Self::Stream(name) => write!(f, "stream {name}"),
            Self::Bucket(name) => write!(f, "bucket {name}"),
            Self::Subscription(name) => write!(f, "subscription {name}"),
            Self::Place(name) => write!(f, "the events of place {name}"),
        }
    }
}

impl Step {
    /// What it is for.
    pub fn part(&self) -> Part {
        let of_stream = |s: &StreamSpec| match &s.partition {
            Some(p) => Part::Partition(p.number),
            None => Part::Stream(s.name.clone()),
        };
        match self {
            Self::CreateStream(s) | Self::UpdateStream(s) | Self::RetireStream(s) | Self::BindStream(s) => of_stream(s),
            Self::DeleteStream(name) => Part::Stream(name.clone()),
            Self::CreateBucket(b) | Self::UpdateBucket(b) => Part::Bucket(b.name.clone()),
            Self::Remember(r) => Part::Subscription(r.subscription.name.clone()),
            Self::Forget(name) => Part::Subscription(name.clone()),
            Self::CreateConsumer(ConsumerSpec { name, .. })
            | Self::UpdateConsumer(ConsumerSpec { name, .. })
            | Self::DeleteConsumer { name, .. } => name
                .subscription()
                .map_or_else(|| Part::Stream(name.to_string()), Part::Subscription),
        }
    }

    /// What takes it back, where that is something that was made or changed for a subscription. `before` is what the store
    /// held before the step.
    pub fn undo(&self, before: &Observed) -> Option<Self> {
        Some(match self {
            Self::Remember(r) => match before.registry.get(&r.subscription.name) {
                Some(have) => Self::Remember(Box::new(have.clone())),
                None => Self::Forget(r.subscription.name.clone()),
            },
            Self::CreateConsumer(c) => Self::DeleteConsumer {
                partition: c.partition,
                name: c.name.clone(),
            },
            Self::UpdateConsumer(c) => {
                let have = before.topology.consumers.get(&(c.partition, c.name.clone()))?;
                Self::UpdateConsumer(have.clone())
            }
            _ => return None,
        })
    }
}

/// Which parts of a plan could not be had so far, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// The first reason for each.
    parts: BTreeMap<Part, Problem>,
    /// Subscriptions whose entry could not be written: nothing may be made or removed for them.
    unwritten: BTreeSet<String>,
    /// Parts that are not tried.
    given_up: BTreeSet<Part>,
}

impl Failures {
    /// Begins with parts that failed before and are not tried again now.
    pub fn giving_up(parts: BTreeMap<Part, Problem>) -> Self {
        Self {
            given_up: parts.keys().cloned().collect(),
            parts,
            unwritten: BTreeSet::new(),
        }
    }

    /// Notes that a step failed.
    pub fn add(&mut self, step: &Step, problem: Problem) {
        if let Step::Remember(r) = step {
            self.unwritten.insert(r.subscription.name.plain().to_owned());
        }
        if let Step::Forget(name) = step {
            self.unwritten.insert(name.plain().to_owned());
        }
        self.parts.entry(step.part()).or_insert(problem);
    }

    /// Whether a step is to be taken: everything that it needs is there, as far as this plan makes it.
    pub fn allow(&self, step: &Step) -> bool {
        if self.given_up.contains(&step.part()) {
            return false;
        }
        let partition = |number: u32| !self.parts.contains_key(&Part::Partition(number));
        let no_partition_failed = || !self.parts.keys().any(|p| matches!(p, Part::Partition(_)));
        let written = |name: &SubscriptionName| !self.unwritten.contains(name.plain());
        let of_consumer = |name: &ConsumerName| name.subscription().is_none_or(|n| written(&n));
        match step {
            Step::CreateStream(_) | Step::UpdateStream(_) | Step::CreateBucket(_) | Step::UpdateBucket(_) => true,
            // The change from one generation to the next is one of all partitions.
            Step::RetireStream(_) | Step::BindStream(_) => no_partition_failed(),
            Step::DeleteStream(_) => true,
            // One that takes a name over is written after the one that it moves.
            Step::Remember(r) => written(&r.subscription.name),
            Step::Forget(_) => true,
            Step::CreateConsumer(c) | Step::UpdateConsumer(c) => partition(c.partition) && of_consumer(&c.name),
            Step::DeleteConsumer { name, .. } => of_consumer(name),
        }
    }

    /// Why a part could not be had.
    pub fn of(&self, part: &Part) -> Option<&Problem> {
        self.parts.get(part)
    }

    /// Takes a part out, because what was done for it was undone.
    pub fn forgive(&mut self, part: &Part) -> Option<Problem> {
        self.parts.remove(part)
    }

    /// Every part that could not be had.
    pub fn into_parts(self) -> BTreeMap<Part, Problem> {
        self.parts
    }
}

/// How many items of a list a step's text shows.
const SHOWN: usize = 4;

/// A list as a text shows it, however long it is.
pub(crate) fn listed(items: &[String]) -> String {
    let mut shown = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if items.len() > SHOWN {
        shown.push_str(&format!(" and {} more", items.len() - SHOWN));
    }
    shown
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateStream(s) => write!(
                f,
                "create stream {} {} {}{}",
                s.name,
                match (&s.mirror, s.partition.as_ref().and_then(|p| p.place.as_ref())) {
                    (Some(_), Some(origin)) => format!("as a mirror of place {origin}'s"),
                    _ => format!("on {}", listed(&s.subjects)),
                },
                match s.max_age {
                    Duration::ZERO => "for ever".to_owned(),
                    age => format!("for {}", show_duration(age)),
                },
                part(s.partition.as_ref())
            ),
            Self::UpdateStream(s) => write!(f, "update stream {}", s.name),
            Self::RetireStream(s) => write!(f, "retire stream {}: what it holds is still read", s.name),
            Self::BindStream(s) => write!(f, "bind stream {} to {}", s.name, listed(&s.subjects)),
            Self::DeleteStream(name) => write!(f, "delete stream {name}: nothing needs it any more"),
            Self::CreateBucket(b) => write!(f, "create bucket {}", b.name),
            Self::UpdateBucket(b) => write!(f, "update bucket {}", b.name),
            Self::Remember(r) => {
                write!(
                    f,
                    "remember {} subscription {}",
                    r.subscription.need.as_str(),
                    r.subscription.name
                )?;
                if r.component.is_empty() {
                    return f.write_str(", which waits for a component");
                }
                write!(f, " of component {}", r.component)
            }
            Self::Forget(name) => write!(f, "forget subscription {name}"),
            Self::CreateConsumer(c) => {
                write!(
                    f,
                    "create consumer {}{} on {} from ",
                    c.name.without_incarnation(),
                    of(c.partition),
                    listed(&c.filter_subjects)
                )?;
                match c.start {
                    ConsumerStart::First => f.write_str("the first event"),
                    ConsumerStart::Offset(o) => write!(f, "offset {o}"),
                    ConsumerStart::New => f.write_str("what is new"),
                    ConsumerStart::Time(t) => t.fmt(f),
                }
            }
            Self::UpdateConsumer(c) => write!(
                f,
                "update consumer {}{} to {}",
                c.name.without_incarnation(),
                of(c.partition),
                listed(&c.filter_subjects)
            ),
            Self::DeleteConsumer { partition, name } => {
                write!(f, "delete consumer {}{}", name.without_incarnation(), of(*partition))
            }
        }
    }
}

fn of(partition: u32) -> String {
    match partition {
        0 => String::new(),
        n => format!(" of partition {n}"),
    }
}

fn part(partition: Option<&Partition>) -> String {
    match partition {
        Some(p) if p.slot != crate::partition::Slot::Whole => format!(", {}", p.slot),
        _ => String::new(),
    }
}

/// Steps in an order in which each can be taken and none leaves a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Before subscriptions are remembered: buckets, streams.
    pub stores: Vec<Step>,
    /// Once they are: their consumers.
    pub consumers: Vec<Step>,
    /// Once every consumer is there: the change from one generation to the next, oldest first.
    pub generation_change: Vec<Step>,
}

/// The steps from `observed` to `desired`. Nothing observed is removed but consumers, and streams that are retired and
/// empty; `observed` holds only what Fanout made.
///
/// # Errors
/// Every change that the server forbids.
pub fn diff(observed: &Topology, desired: &Topology) -> Result<Diff, Vec<Problem>> {
    let mut diff = Diff::default();
    let mut problems = Vec::new();
    for (name, want) in &desired.buckets {
        match observed.buckets.get(name) {
            None => diff.stores.push(Step::CreateBucket(want.clone())),
            Some(have) if have.storage != want.storage => problems.push(storage_is_fixed(name)),
            Some(have) if have != want => diff.stores.push(Step::UpdateBucket(want.clone())),
            Some(_) => {}
        }
    }
    streams(observed, desired, &mut diff, &mut problems);
    for (key, have) in &observed.consumers {
        if !desired.consumers.contains_key(key) {
            diff.consumers.push(Step::DeleteConsumer {
                partition: have.partition,
                name: have.name.clone(),
            });
        }
    }
    let mut made = Vec::new();
    for (key, want) in &desired.consumers {
        match observed.consumers.get(key) {
            None => made.push(Step::CreateConsumer(want.clone())),
            Some(have) => {
                let want = want.of_one_that_is_there(have);
                if *have != want {
                    made.push(Step::UpdateConsumer(want));
                }
            }
        }
    }
    diff.consumers
        .extend(in_the_order_of_a_work_queue(made, observed, desired));
    if problems.is_empty() { Ok(diff) } else { Err(problems) }
}

/// Orders steps so that the server takes each. A work queue refuses a consumer whose filters meet those of another consumer
/// (10100): a consumer that lets go of a filter is changed before the one that gets it.
fn in_the_order_of_a_work_queue(mut left: Vec<Step>, observed: &Topology, desired: &Topology) -> Vec<Step> {
    let layout = desired.layout();
    let is_of_a_queue = |c: &ConsumerSpec| {
        let partition = layout.partitions.get(&c.partition);
        partition.is_some_and(|p| p.keeps == Keeps::WorkQueue)
    };
    let mut ordered = Vec::with_capacity(left.len());
    loop {
        let before = left.len();
        let has_now: Vec<_> = left
            .iter()
            .filter_map(|step| changed(step, observed))
            .cloned()
            .collect();
        let is_in_the_way = |want: &ConsumerSpec, have: &ConsumerSpec| {
            (have.partition, &have.name) != (want.partition, &want.name)
                && have.partition == want.partition
                && meet_any(&have.filter_subjects, &want.filter_subjects)
        };
        let (waiting, next) = left.into_iter().partition(|step| match step {
            Step::CreateConsumer(c) | Step::UpdateConsumer(c) => {
                is_of_a_queue(c) && has_now.iter().any(|have| is_in_the_way(c, have))
            }
            _ => false,
        });
        left = waiting;
        ordered.extend::<Vec<_>>(next);
        if left.is_empty() || left.len() == before {
            ordered.append(&mut left);
            return ordered;
        }
    }
}

/// The consumer that a step changes, as the store has it.
fn changed<'a>(step: &Step, observed: &'a Topology) -> Option<&'a ConsumerSpec> {
    let Step::UpdateConsumer(c) = step else { return None };
    observed.consumers.get(&(c.partition, c.name.clone()))
}

fn meet_any(some: &[String], others: &[String]) -> bool {
    some.iter().any(|one| others.iter().any(|other| meet(one, other)))
}

fn streams(observed: &Topology, desired: &Topology, diff: &mut Diff, problems: &mut Vec<Problem>) {
    let before = observed.layout();
    let (mut retired, mut bound) = (Vec::new(), Vec::new());
    for (name, want) in &desired.streams {
        let Some(have) = observed.streams.get(name) else {
            if is_in_the_way(&before, want) {
                diff.stores.push(Step::CreateStream(unbound(want)));
                bound.push(want);
            } else {
                diff.stores.push(Step::CreateStream(want.clone()));
            }
            continue;
        };
        if have.storage != want.storage {
            problems.push(storage_is_fixed(name));
            continue;
        }
        if have.mirror != want.mirror {
            problems.push(mirror_is_fixed(name));
            continue;
        }
        if have == want {
            continue;
        }
        if have.subjects == want.subjects {
            diff.stores.push(Step::UpdateStream(want.clone()));
        } else if want.partition.as_ref().is_some_and(Partition::is_retired) {
            retired.push(want);
        } else {
            bound.push(want);
        }
    }
    let age = |s: &&StreamSpec| s.partition.as_ref().map(|p| (p.generation, p.number));
    retired.sort_by_key(age);
    bound.sort_by_key(age);
    diff.generation_change
        .extend(retired.into_iter().cloned().map(Step::RetireStream));
    diff.generation_change
        .extend(bound.into_iter().cloned().map(Step::BindStream));
    for name in observed.streams.keys().filter(|n| !desired.streams.contains_key(*n)) {
        diff.generation_change.push(Step::DeleteStream(name.clone()));
    }
}

/// Whether an older partition still holds the bus's subjects that a new one is to have.
fn is_in_the_way(before: &Layout, want: &StreamSpec) -> bool {
    want.partition.as_ref().is_some_and(|p| {
        p.binding == Binding::Plain
            && before
                .partitions
                .values()
                .any(|older| older.binding == Binding::Plain && older.generation < p.generation)
    })
}

/// A stream as it is made while an older one still has the bus's subjects.
fn unbound(want: &StreamSpec) -> StreamSpec {
    let mut made = want.clone();
    if let Some(p) = &mut made.partition {
        p.binding = Binding::Internal;
    }
    // The first is the partition's own.
    made.subjects.truncate(1);
    made
}

/// The server takes no change of what a mirror mirrors (nats-server 2.15, error 10055).
fn mirror_is_fixed(name: &str) -> Problem {
    Problem::new(
        Code::ImmutableSetting,
        format!(
            "stream {name} mirrors another place's, and what it keeps of that can't change once it exists: leave `keeps` and `jetstream.domain` as they were, or delete the stream, and it is mirrored again from the oldest event"
        ),
    )
}

fn storage_is_fixed(name: &str) -> Problem {
    Problem::new(
        Code::ImmutableSetting,
        format!("`retention.storage` of {name} can't change once it exists: keep it, or use another bus name"),
    )
}
