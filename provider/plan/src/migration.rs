//! How far a bus has come on its way from one JetStream domain to another: judged by what both hold, and by nothing else, so
//! that whoever goes on with it begins where the last one stopped.

use crate::account;
use crate::partition::{Keeps, Partition, Slot};
use crate::planner::{Observed, place_leases};
use crate::policy::Shape;
use crate::step::Step;
use crate::topology::{Topology, leases};
use crate::{Code, Policy, Problem};

/// A stream of the bus in the domain that it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtOrigin {
    /// It has its subjects.
    Open,
    /// The migration took them: nothing is stored in it any more.
    Closed,
}

/// The stream of the same name in the domain that the bus goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtTarget {
    /// There is none.
    Absent,
    /// The migration's mirror.
    Mirror,
    /// It was promoted, and waits for the others.
    Promoted,
    /// It is a stream like any other: the migration is done with it, or never made it.
    Open,
}

/// A stream of the bus in both domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Its name.
    pub stream: String,
    /// Where the bus leaves.
    pub origin: AtOrigin,
    /// Where it goes.
    pub target: AtTarget,
}

/// How far a migration has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing was done.
    NotBegun,
    /// Mirrors follow, and the bus goes on where it was.
    Copying,
    /// Nothing is stored where it was any more, and nothing is promoted yet.
    Closed,
    /// The first stream was promoted: it can only go on.
    Promoting,
    /// The bus is where it goes to.
    Done,
}

impl Stage {
    /// Whether the bus can still stay where it was.
    pub fn goes_back(self) -> bool {
        self < Self::Promoting
    }

    /// As a line of progress says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotBegun => "not begun",
            Self::Copying => "copying",
            Self::Closed => "closed",
            Self::Promoting => "promoting",
            Self::Done => "done",
        }
    }
}

/// How far a migration has come.
///
/// # Errors
/// When the target holds a stream of the bus that the migration did not make.
pub fn stage(pairs: &[Pair]) -> Result<Stage, Problem> {
    use AtTarget::{Absent, Mirror, Open, Promoted};
    let closed = pairs.iter().any(|p| p.origin == AtOrigin::Closed);
    // Copies are opened once there is no mirror left.
    let is_copying = pairs.iter().any(|p| p.target == Mirror);
    let foreign = |p: &&Pair| p.target == Open && (is_copying || p.origin == AtOrigin::Open);
    if let Some(pair) = pairs.iter().find(foreign) {
        return Err(Problem::new(
            Code::TargetNotEmpty,
            format!(
                "stream {} is there already, and no migration of this bus made it: nothing was changed; remove what is left of the bus there, or migrate to another server",
                pair.stream
            ),
        ));
    }
    let has = |target| pairs.iter().any(|p| p.target == target);
    Ok(match () {
        () if closed && pairs.iter().all(|p| p.target == Open) => Stage::Done,
        () if has(Promoted) || has(Open) => Stage::Promoting,
        () if closed => Stage::Closed,
        () if has(Mirror) => Stage::Copying,
        () => {
            debug_assert!(pairs.iter().all(|p| p.target == Absent), "nothing else is left");
            Stage::NotBegun
        }
    })
}

const PLACES: &str = "it has places: let the new servers join as a place, and retire the old one";
const SHAPE: &str = "`topology` is `work-queue` or `per-tenant`: only `shared` and `sharded` logs are migrated";

/// Why a bus can't be migrated under a policy, before anything is read.
pub fn unsupported(policy: &Policy) -> Option<Problem> {
    let what = if policy.places.is_some() {
        PLACES
    } else if policy.quotas.bounds_bytes() {
        "its policy bounds the stored bytes of tenants (`quotas`), and a mirror of the counters can't be promoted (nats-server 2.15): take the bound out for the migration"
    } else if matches!(policy.shape, Shape::WorkQueue | Shape::PerTenant) {
        SHAPE
    } else {
        return None;
    };
    Some(not_migratable(policy, what))
}

/// Why a bus can't be migrated whose log has this part, whatever its policy is said to be.
pub fn unsupported_part(policy: &Policy, part: &Partition) -> Option<Problem> {
    let stream = policy.names().partition(part.number);
    let what = match (&part.place, &part.slot) {
        (Some(place), _) => format!("{PLACES} (stream {stream} is place {place}'s)"),
        (None, Slot::Tenant(tenant)) if !part.is_retired() => format!("{SHAPE} (stream {stream} is tenant {tenant}'s)"),
        _ if part.keeps == Keeps::WorkQueue => format!("{SHAPE} (stream {stream} is a work queue)"),
        _ => return None,
    };
    Some(not_migratable(policy, &what))
}

fn not_migratable(policy: &Policy, what: &str) -> Problem {
    Problem::new(
        Code::NotMigratable,
        format!("bus {} can't be migrated: {what}; nothing was changed", policy.bus),
    )
}

/// Every reason for which the store that a bus goes to can't hold it: subjects that another stream there holds, and bounds of the
/// account. `bus` is what goes, as it is where it leaves; `target` what is there, the copies that were made so far in its topology.
pub fn refusals(policy: &Policy, bus: &Topology, target: &Observed) -> Vec<Problem> {
    let mut bus = bus.clone();
    let leases = leases(policy);
    bus.buckets.insert(leases.name.clone(), leases);
    // A bound may have been lowered since a copy was made, and a promotion is held to it: all is judged as if it were new.
    let there = Observed {
        account: target.account.as_ref().map(|account| account.without(&target.topology)),
        others: target.others.clone(),
        ..Observed::default()
    };
    place_leases(policy, &there, &mut bus);
    let streams = bus.streams.into_values().map(Step::CreateStream);
    let buckets = bus.buckets.into_values().map(Step::CreateBucket);
    let steps: Vec<_> = streams.chain(buckets).collect();
    account::check(policy, &there, &steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pairs: &[(AtOrigin, AtTarget)]) -> Result<Stage, Code> {
        let named = |(i, (origin, target)): (usize, &(AtOrigin, AtTarget))| Pair {
            stream: format!("S{i}"),
            origin: *origin,
            target: *target,
        };
        let pairs: Vec<_> = pairs.iter().enumerate().map(named).collect();
        stage(&pairs).map_err(|p| p.code)
    }

    #[test]
    fn the_stage_is_what_both_sides_hold() {
        use AtOrigin::{Closed, Open};
        use AtTarget as T;
        assert_eq!(at(&[(Open, T::Absent), (Open, T::Absent)]), Ok(Stage::NotBegun));
        assert_eq!(at(&[(Open, T::Mirror), (Open, T::Absent)]), Ok(Stage::Copying));
        assert_eq!(at(&[(Closed, T::Mirror), (Open, T::Mirror)]), Ok(Stage::Closed));
        assert_eq!(at(&[(Closed, T::Promoted), (Closed, T::Mirror)]), Ok(Stage::Promoting));
        assert_eq!(at(&[(Closed, T::Promoted), (Closed, T::Open)]), Ok(Stage::Promoting));
        assert_eq!(at(&[(Closed, T::Open), (Closed, T::Open)]), Ok(Stage::Done));
        assert_eq!(
            at(&[(Open, T::Open), (Open, T::Absent)]),
            Err(Code::TargetNotEmpty),
            "what somebody else made is not touched"
        );
        assert_eq!(
            at(&[(Closed, T::Mirror), (Closed, T::Open)]),
            Err(Code::TargetNotEmpty),
            "nor is it taken for a copy"
        );
    }

    #[test]
    fn it_goes_back_until_the_first_is_promoted() {
        for stage in [Stage::NotBegun, Stage::Copying, Stage::Closed] {
            assert!(stage.goes_back(), "{}", stage.as_str());
        }
        assert!(!Stage::Promoting.goes_back() && !Stage::Done.goes_back());
    }
}
