//! The difference between what the store holds and what it must hold, as steps.

use std::fmt;
use std::time::Duration;

use crate::partition::{Binding, Layout, Partition};
use crate::setting::show_duration;
use crate::subscription::Registered;
use crate::topology::{BucketSpec, ConsumerSpec, ConsumerStart, StreamSpec, Topology};
use crate::{Code, Problem, SubscriptionName};

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
    /// Removes a retired stream whose last event has expired.
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
        name: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateStream(s) => write!(
                f,
                "create stream {} on {} {}{}",
                s.name,
                s.subjects.join(", "),
                match s.max_age {
                    Duration::ZERO => "for ever".to_owned(),
                    age => format!("for {}", show_duration(age)),
                },
                part(s.partition.as_ref())
            ),
            Self::UpdateStream(s) => write!(f, "update stream {}", s.name),
            Self::RetireStream(s) => write!(f, "retire stream {}: what it holds is still read", s.name),
            Self::BindStream(s) => write!(f, "bind stream {} to {}", s.name, s.subjects.join(", ")),
            Self::DeleteStream(name) => write!(f, "delete stream {name}: its last event has expired"),
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
                    c.name,
                    of(c.partition),
                    c.filter_subjects.join(", ")
                )?;
                match c.start {
                    ConsumerStart::First => f.write_str("the first event"),
                    ConsumerStart::Offset(o) => write!(f, "offset {o}"),
                    ConsumerStart::New => f.write_str("what is new"),
                    ConsumerStart::Time(t) => f.write_str(&crate::timestamp::to_rfc3339(t)),
                }
            }
            Self::UpdateConsumer(c) => write!(
                f,
                "update consumer {}{} to {}",
                c.name,
                of(c.partition),
                c.filter_subjects.join(", ")
            ),
            Self::DeleteConsumer { partition, name } => write!(f, "delete consumer {name}{}", of(*partition)),
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
    pub turn: Vec<Step>,
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
    for (key, want) in &desired.consumers {
        match observed.consumers.get(key) {
            None => diff.consumers.push(Step::CreateConsumer(want.clone())),
            Some(have) => {
                // Where a consumer began is history: it is not compared, and not changed.
                let want = ConsumerSpec {
                    start: have.start,
                    ..want.clone()
                };
                if *have != want {
                    diff.consumers.push(Step::UpdateConsumer(want));
                }
            }
        }
    }
    if problems.is_empty() { Ok(diff) } else { Err(problems) }
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
    diff.turn.extend(retired.into_iter().cloned().map(Step::RetireStream));
    diff.turn.extend(bound.into_iter().cloned().map(Step::BindStream));
    for name in observed.streams.keys().filter(|n| !desired.streams.contains_key(*n)) {
        diff.turn.push(Step::DeleteStream(name.clone()));
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

fn storage_is_fixed(name: &str) -> Problem {
    Problem::new(
        Code::ImmutableSetting,
        format!("`retention.storage` of {name} can't change once it exists: keep it, or use another bus name"),
    )
}
