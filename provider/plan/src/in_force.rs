//! Which of several policies is in force on a bus. Two instances whose policies differ would change the bus in turns, for ever:
//! what a bus was brought to last is said beside it, the policy with the greater `revision` wins, and the other says so and
//! goes on with what is there.

use std::cmp::Ordering;

use crate::name::digest;
use crate::planner::{Asked, Observed};
use crate::setting::Settings;
use crate::{Code, Policy, Problem};

/// Which policy a bus was brought to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// The policy's `revision`; 0 where it has none.
    pub revision: u64,
    /// Of its settings.
    pub digest: String,
}

/// Settings that instances may have different ones of: where they are, and what a change may lose.
const OWN: [&str; 3] = ["change.allow-loss", "place", "revision"];

impl InForce {
    /// Of a policy's settings, those of callers and of an instance left out.
    pub(crate) fn of(revision: u64, settings: &Settings) -> Self {
        let all = settings.iter().filter(|(key, _)| !OWN.contains(&key.as_str()));
        let texts: Vec<&str> = all.flat_map(|(key, value)| [key.as_str(), value.as_str()]).collect();
        Self {
            revision,
            digest: digest(&texts),
        }
    }
}

/// Why a bus can't be worked on under a policy where it has to be the one that is in force, whichever is newer; `None` if it is.
pub fn is_another(policy: &Policy, in_force: &InForce) -> Option<Problem> {
    let (bus, mine) = (&policy.bus, &policy.in_force);
    let (code, what_to_do) = match mine.revision.cmp(&in_force.revision) {
        _ if mine == in_force => return None,
        Ordering::Less => (Code::OlderPolicy, "use the policy in force"),
        Ordering::Equal => (Code::PolicyConflict, "use the policy in force"),
        Ordering::Greater => (
            Code::PolicyConflict,
            "use the policy in force, or bring the bus to this one first (`fanout apply`)",
        ),
    };
    Some(Problem::new(
        code,
        format!(
            "bus {bus} is under another policy, of `revision` {}, than this one, of `revision` {}: {what_to_do}; nothing was changed",
            in_force.revision, mine.revision
        ),
    ))
}

/// Why a policy does not come into force on a bus that was brought to another one; `None` if it does.
pub(crate) fn yields(policy: &Policy, asked: Asked<'_>, observed: &Observed) -> Option<Problem> {
    let mine = &policy.in_force;
    let bus = &policy.bus;
    let goes_on = "until then this instance goes on with what is there";
    let problem = |code, message| Some(Problem::new(code, message));
    let newest = observed.policies.iter().max_by_key(|(_, theirs)| theirs.revision);
    if let Some((place, theirs)) = newest.filter(|(_, theirs)| theirs.revision > mine.revision) {
        return problem(
            Code::OlderPolicy,
            format!(
                "place {place} of bus {bus} is under `revision` {} of its policy, and this one is {}: give this instance the newer policy, or raise its `revision` if it is to win; {goes_on}",
                theirs.revision, mine.revision
            ),
        );
    }
    let theirs = observed.in_force(policy)?;
    match mine.revision.cmp(&theirs.revision) {
        _ if mine == theirs => None,
        Ordering::Greater => None,
        Ordering::Less => problem(
            Code::OlderPolicy,
            format!(
                "bus {bus} is under `revision` {} of its policy, and this one is {}: give this instance the newer policy, or raise its `revision` if it is to win; {goes_on}",
                theirs.revision, mine.revision
            ),
        ),
        Ordering::Equal if mine.revision > 0 => problem(
            Code::PolicyConflict,
            format!(
                "bus {bus} is under another policy that has the `revision` {}, too: give every instance the same policy, or raise the `revision` of the one that is to win; {goes_on}",
                mine.revision
            ),
        ),
        Ordering::Equal if asked.was_in_force => problem(
            Code::TopologyChanged,
            format!(
                "bus {bus} was brought to another policy by another instance or by `fanout apply`: give every instance the same policy, or give the one that is to win a `revision`; {goes_on}"
            ),
        ),
        // Whoever was told last says what is so.
        Ordering::Equal => None,
    }
}

impl Observed {
    /// The policy that the bus was brought to, where that is said.
    pub(crate) fn in_force(&self, policy: &Policy) -> Option<&InForce> {
        let said_by = self.topology.streams.get(&policy.names().dead_letters())?;
        said_by.policy.as_ref()
    }
}
