//! The difference between what the store holds and what it must hold, as steps.

use std::fmt;

use crate::setting::show_duration;
use crate::subscription::Registered;
use crate::topology::{BucketSpec, ConsumerSpec, ConsumerStart, StreamSpec, Topology};
use crate::{Code, Problem};

/// One change of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes a stream.
    CreateStream(StreamSpec),
    /// Changes a stream in place.
    UpdateStream(StreamSpec),
    /// Makes a bucket.
    CreateBucket(BucketSpec),
    /// Changes a bucket in place.
    UpdateBucket(BucketSpec),
    /// Writes a subscription into the registry.
    Remember(Box<Registered>),
    /// Makes a consumer of the log.
    CreateConsumer(ConsumerSpec),
    /// Changes a consumer of the log in place.
    UpdateConsumer(ConsumerSpec),
    /// Removes a consumer of the log whose subscription has ended.
    DeleteConsumer(String),
}

impl Step {
    pub(crate) fn is_about_a_consumer(&self) -> bool {
        matches!(
            self,
            Self::CreateConsumer(_) | Self::UpdateConsumer(_) | Self::DeleteConsumer(_)
        )
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateStream(s) => write!(
                f,
                "create stream {} on {} for {}",
                s.name,
                s.subjects.join(", "),
                show_duration(s.max_age)
            ),
            Self::UpdateStream(s) => write!(f, "update stream {}", s.name),
            Self::CreateBucket(b) => write!(f, "create bucket {}", b.name),
            Self::UpdateBucket(b) => write!(f, "update bucket {}", b.name),
            Self::Remember(r) => write!(
                f,
                "remember {} subscription {} of component {}",
                r.subscription.need.as_str(),
                r.subscription.name,
                r.component
            ),
            Self::CreateConsumer(c) => {
                write!(
                    f,
                    "create consumer {} on {} from ",
                    c.name,
                    c.filter_subjects.join(", ")
                )?;
                match c.start {
                    ConsumerStart::First => f.write_str("the first event"),
                    ConsumerStart::Offset(o) => write!(f, "offset {o}"),
                    ConsumerStart::Time(t) => f.write_str(&crate::timestamp::to_rfc3339(t)),
                }
            }
            Self::UpdateConsumer(c) => write!(f, "update consumer {} to {}", c.name, c.filter_subjects.join(", ")),
            Self::DeleteConsumer(name) => write!(f, "delete consumer {name}"),
        }
    }
}

/// The steps from `observed` to `desired`, in an order in which each can be taken. Nothing observed is removed but
/// consumers, and `observed` holds only those that Fanout made.
///
/// # Errors
/// Every change that the server forbids or that would lose stored events.
pub fn diff(observed: &Topology, desired: &Topology) -> Result<Vec<Step>, Vec<Problem>> {
    let mut steps = Vec::new();
    let mut problems = Vec::new();
    for (name, want) in &desired.buckets {
        match observed.buckets.get(name) {
            None => steps.push(Step::CreateBucket(want.clone())),
            Some(have) if have.storage != want.storage => problems.push(storage_is_fixed(name)),
            Some(have) if have != want => steps.push(Step::UpdateBucket(want.clone())),
            Some(_) => {}
        }
    }
    for (name, want) in &desired.streams {
        match observed.streams.get(name) {
            None => steps.push(Step::CreateStream(want.clone())),
            Some(have) => {
                let refused = forbidden(have, want);
                if refused.is_empty() && have != want {
                    steps.push(Step::UpdateStream(want.clone()));
                }
                problems.extend(refused);
            }
        }
    }
    for name in observed
        .consumers
        .keys()
        .filter(|n| !desired.consumers.contains_key(*n))
    {
        steps.push(Step::DeleteConsumer(name.clone()));
    }
    for (name, want) in &desired.consumers {
        match observed.consumers.get(name) {
            None => steps.push(Step::CreateConsumer(want.clone())),
            Some(have) => {
                // Where a consumer began is history: it is not compared, and not changed.
                let want = ConsumerSpec {
                    start: have.start,
                    ..want.clone()
                };
                if *have != want {
                    steps.push(Step::UpdateConsumer(want));
                }
            }
        }
    }
    if problems.is_empty() { Ok(steps) } else { Err(problems) }
}

fn storage_is_fixed(name: &str) -> Problem {
    Problem::new(
        Code::ImmutableSetting,
        format!("`retention.storage` of {name} can't change once it exists: keep it, or use another bus name"),
    )
}

fn forbidden(have: &StreamSpec, want: &StreamSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    if have.storage != want.storage {
        problems.push(storage_is_fixed(&have.name));
    }
    let mut loses = |what: String| {
        problems.push(Problem::new(
            Code::WouldLoseEvents,
            format!(
                "{what} on {} would drop events it holds: keep it, or use another bus name",
                have.name
            ),
        ));
    };
    if want.max_age < have.max_age {
        loses(format!(
            "shortening the age from {} to {}",
            show_duration(have.max_age),
            show_duration(want.max_age)
        ));
    }
    let limit = |b: u64| if b == 0 { u64::MAX } else { b };
    if limit(want.max_bytes) < limit(have.max_bytes) {
        loses(format!(
            "lowering the bytes from {} to {}",
            have.max_bytes, want.max_bytes
        ));
    }
    if have.subjects != want.subjects {
        loses(format!(
            "moving the subjects from {} to {}",
            have.subjects.join(", "),
            want.subjects.join(", ")
        ));
    }
    problems
}
