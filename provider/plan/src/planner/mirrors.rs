//! What this place mirrors of the other places' logs.
//!
//! A mirror is the stream of the partition's own number, which keeps the numbers of its messages. Which partitions there are is
//! read from the place itself: a place that can't be read has its mirrors left as they are.

use std::collections::{BTreeMap, BTreeSet};

use super::Observed;
use crate::partition::{Binding, Keeps, Layout, Partition};
use crate::place::Place;
use crate::{Code, PlaceName, Policy, Problem, loss};

/// Adds to a layout the mirrors of what the other places hold, and drops those of which nothing comes any more. Says of which places
/// not everything can be mirrored, and why. On a bus that is under another policy, which may have other places, the places that are
/// mirrored stay the same, and no mirror is dropped.
pub(super) fn bring(
    policy: &Policy,
    of_another: bool,
    layout: &mut Layout,
    observed: &Observed,
) -> BTreeMap<PlaceName, Problem> {
    let mut problems = BTreeMap::new();
    let Some((places, own)) = policy.places.as_ref().and_then(|p| Some((p, p.own()?))) else {
        return problems;
    };
    // Of a place that the policy does not have any more, what is here stays for as long as it is retained. While something is lost
    // with the place the mirror stays, empty or not: by its mirrors it is known that there was such a place.
    let is_empty = |number: &u32| observed.logs.get(number).is_some_and(|log| log.messages == 0);
    layout.partitions.retain(|number, p| match &p.place {
        Some(place) if p.is_mirror() && !of_another && !places.all.contains_key(place) => {
            !is_empty(number) || !loss::may_go_without(policy, *number, place, observed)
        }
        _ => true,
    });
    let mirrored: BTreeSet<PlaceName> = layout.partitions.values().filter_map(|p| p.place.clone()).collect();
    for (name, place) in places.others() {
        if of_another && !mirrored.contains(name) {
            continue;
        }
        let theirs = match observed.elsewhere.get(name) {
            None => continue,
            Some(Err(problem)) => {
                problems.insert(name.clone(), problem.clone());
                continue;
            }
            Some(Ok(theirs)) if theirs.is_empty() => {
                let message = format!(
                    "place {name}: JetStream domain {} has no log of bus {} yet: it is mirrored once an instance has begun there",
                    place.domain, policy.bus
                );
                problems.insert(name.clone(), Problem::new(Code::PlaceUnreachable, message));
                continue;
            }
            Some(Ok(theirs)) => theirs,
        };
        for partition in theirs.iter().filter(|p| own.keeps_any_of(&p.slot)) {
            match mirror(name, place, partition, layout) {
                Ok(mirror) => drop(layout.partitions.insert(mirror.number, mirror)),
                Err(problem) => drop(problems.entry(name.clone()).or_insert(problem)),
            }
        }
        let there: BTreeSet<u32> = theirs.iter().map(|p| p.number).collect();
        let holds_some = |number: &u32| observed.logs.get(number).is_some_and(|log| log.messages > 0);
        layout.partitions.retain(|number, p| {
            // What is gone there stays here for as long as it is retained.
            let is_gone = p.place.as_ref() == Some(name) && p.is_mirror() && !there.contains(number);
            !is_gone || of_another || holds_some(number)
        });
    }
    problems
}

/// The mirror of another place's partition.
fn mirror(name: &PlaceName, place: &Place, partition: &Partition, layout: &Layout) -> Result<Partition, Problem> {
    let number = partition.number;
    let conflict = |why: String| Err(Problem::new(Code::PlaceConflict, format!("place {name}: {why}")));
    if partition.place.as_ref() != Some(name) || !place.partitions().contains(&number) {
        let whose = match &partition.place {
            Some(other) => format!("place {other}'s"),
            None => "a bus's without places".to_owned(),
        };
        return conflict(format!(
            "JetStream domain {} holds partition {number}, which is {whose}: nothing of it is mirrored; correct `places.{name}.jetstream.domain` or `number`",
            place.domain
        ));
    }
    match layout.partitions.get(&number) {
        Some(have) if !have.is_mirror() => {
            conflict(format!("its partition {number} has the number of one of this place"))
        }
        Some(have) if have.log != partition.log => conflict(format!(
            "its partition {number} was made anew or put back, and its positions mean other events now: what was mirrored before stays; to have the new ones, delete stream partition {number} of this place once nobody needs what it holds"
        )),
        _ => Ok(Partition {
            binding: Binding::Mirror,
            keeps: Keeps::Log,
            ..partition.clone()
        }),
    }
}
