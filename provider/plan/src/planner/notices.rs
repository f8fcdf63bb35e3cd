//! What is so between the places of a bus, keeps nothing from being done here, and has to be known.

use std::time::Duration;

use super::Observed;
use crate::place::Places;
use crate::setting::show_duration;
use crate::step::listed;
use crate::subscription::{Progress, Registered};
use crate::{Code, PlaceName, Policy, Problem, SubscriptionName};

/// The difference between two places' clocks that is said. Reading them takes a moment, and servers are set by network time to
/// fractions of a second.
const CLOCKS_DIFFER: Duration = Duration::from_secs(30);

/// The most subscriptions that are named at once of a place that can't be read: whoever has them go on needs their names.
const MOST_NAMED: usize = 100;

/// Everything of that kind, in the light of what each place that can be read holds.
pub fn notices(policy: &Policy, observed: &Observed) -> Vec<Problem> {
    let Some(places) = &policy.places else {
        return Vec::new();
    };
    let mut all = Vec::new();
    at_a_retired_place(places, observed, &mut all);
    waiting_for_a_place(places, observed, &mut all);
    other_policies(policy, places, observed, &mut all);
    not_where_declared(policy, places, observed, &mut all);
    clocks(places, observed, &mut all);
    all
}

/// The subscriptions of a place that would have to be handed over if it is to go.
pub fn subscriptions_at<'a>(
    places: &Places,
    place: &PlaceName,
    observed: &'a Observed,
) -> Option<impl Iterator<Item = &'a Registered> + use<'a>> {
    let registry = match *place == places.here {
        true => &observed.registry,
        false => observed.registries.get(place)?,
    };
    let stays = |r: &&Registered| r.is_at_one_place() && !r.has_moved() && r.progress != Progress::Finished;
    Some(registry.values().filter(stays))
}

fn at_a_retired_place(places: &Places, observed: &Observed, all: &mut Vec<Problem>) {
    for name in places.all.iter().filter(|(_, p)| p.retired).map(|(name, _)| name) {
        let names: Vec<_> = subscriptions_at(places, name, observed)
            .into_iter()
            .flatten()
            .map(|r| r.subscription.name.to_string())
            .collect();
        if !names.is_empty() {
            let message = format!(
                "place {name} is retired, and subscriptions are at it ({}): hand each over with `fanout move NAME --to PLACE`",
                listed(&names)
            );
            all.push(Problem::new(Code::PlaceRetired, message));
        }
    }
}

/// Subscriptions of a place that can't be read, which nobody has go on elsewhere.
fn waiting_for_a_place(places: &Places, observed: &Observed, all: &mut Vec<Problem>) {
    let unread = |name: &PlaceName| places.all.contains_key(name) && !observed.registries.contains_key(name);
    for (place, names) in observed.last_known.iter().filter(|(place, _)| unread(place)) {
        let goes_on = |name: &&SubscriptionName| {
            let mut registries = observed.registries.values().chain([&observed.registry]);
            // One that each place has of its own is another, and one that waits for that place goes on nowhere.
            let has_it = |r: &Registered| r.is_at_one_place() && (r.withheld.is_none() || r.migrates());
            registries.any(|registry| registry.get(*name).is_some_and(has_it))
        };
        let waiting: Vec<_> = names
            .iter()
            .filter(|name| !goes_on(name))
            .map(ToString::to_string)
            .collect();
        if waiting.is_empty() {
            continue;
        }
        let more = match waiting.len().saturating_sub(MOST_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = waiting[..waiting.len().min(MOST_NAMED)].join(", ");
        let message = format!(
            "place {place} can't be read, and these subscriptions are at it: {named}{more}; if it is lost for good, each goes on here with `fanout move NAME --to {} --from-lost`",
            places.here
        );
        all.push(Problem::new(Code::PlaceUnreachable, message));
    }
}

fn other_policies(policy: &Policy, places: &Places, observed: &Observed, all: &mut Vec<Problem>) {
    let here = &places.here;
    let mine = observed.in_force(policy).unwrap_or(&policy.in_force);
    for (name, theirs) in observed.policies.iter().filter(|(_, theirs)| *theirs != mine) {
        let (code, message) = match mine.revision.cmp(&theirs.revision) {
            std::cmp::Ordering::Less => (
                Code::OlderPolicy,
                format!(
                    "place {name} is under `revision` {} of the policy, and place {here} under {}: bring place {here} to the newer one",
                    theirs.revision, mine.revision
                ),
            ),
            std::cmp::Ordering::Greater => (
                Code::OlderPolicy,
                format!(
                    "place {name} is under `revision` {} of the policy, and place {here} under {}: bring place {name} to the newer one",
                    theirs.revision, mine.revision
                ),
            ),
            std::cmp::Ordering::Equal => (
                Code::PolicyConflict,
                format!(
                    "places {here} and {name} are under different policies of one `revision` ({}): bring both to the same, and raise its `revision`",
                    mine.revision
                ),
            ),
        };
        all.push(Problem::new(code, message));
    }
}

/// Subscriptions that are here, and whose policy names another place.
fn not_where_declared(policy: &Policy, places: &Places, observed: &Observed, all: &mut Vec<Problem>) {
    for (name, declared) in &policy.subscriptions {
        let Some(at) = declared.at.as_ref().filter(|at| **at != places.here) else {
            continue;
        };
        let is_here = |r: &Registered| r.is_at_one_place() && r.withheld.is_none();
        if observed.registry.get(name).is_some_and(is_here) {
            let mut problem = Problem::new(
                Code::AtAnotherPlace,
                format!(
                    "subscription {name}: `at` is {at}, and it is at place {}: a change of `at` moves nothing; `fanout move {name} --to {at}` does, or set `at` to where it is",
                    places.here
                ),
            );
            problem.setting = Some(format!("subscriptions.{name}.at"));
            all.push(problem);
        }
    }
}

fn clocks(places: &Places, observed: &Observed, all: &mut Vec<Problem>) {
    for (name, ahead) in &observed.clocks {
        let by = Duration::from_nanos(ahead.unsigned_abs());
        if by < CLOCKS_DIFFER {
            continue;
        }
        let (way, by) = (
            if *ahead > 0 { "ahead of" } else { "behind" },
            show_duration(Duration::from_secs(by.as_secs())),
        );
        let message = format!(
            "the clock of place {name}'s servers is {by} {way} that of place {}: its events expire by so much too late or too early where they are mirrored, and of two subscriptions that were made while a link was cut the wrong one may be taken for the older; set the clocks",
            places.here
        );
        all.push(Problem::new(Code::ClocksDiffer, message));
    }
}
