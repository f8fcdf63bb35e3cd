//! Subscriptions of one name at two places: one stands, the other is withheld.
//!
//! Both places come to the same by what both can read, whichever looks first: the older one stands, and of two that were made at
//! the same moment that of the place with the smaller number. Of one and the same subscription that of the later stay stands: it
//! went on there while this place was lost. A place that can't be read changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::{Observed, Wanted};
use crate::subscription::Registered;
use crate::withheld::Withheld;
use crate::{Code, PlaceName, Policy, Problem, SubscriptionName, Timestamp};

/// By what two subscriptions of one name are compared: when each was made, and the number of its place.
type Age = (Timestamp, u32);

/// Withholds what another place's stands for, and lets go on what none does any more. Returns what was handed over and has ended
/// since.
pub(super) fn withhold(
    policy: &Policy,
    registry: &mut BTreeMap<SubscriptionName, Registered>,
    observed: &Observed,
) -> BTreeSet<SubscriptionName> {
    let mut over = BTreeSet::new();
    let Some(own) = policy.places.as_ref().and_then(|places| places.own()) else {
        return over;
    };
    for registered in registry.values_mut().filter(|r| r.is_at_one_place()) {
        let name = &registered.subscription.name;
        if !registered.has_moved()
            && let Some(place) = went_on_at(policy, registered, observed)
        {
            registered.withheld = Some(Withheld::MovedTo(place.clone()));
            continue;
        }
        let before = match &registered.withheld {
            Some(Withheld::MovesTo(place)) => {
                let there = observed.registries.get(place).and_then(|r| r.get(name));
                // The place that it goes to has it, and whoever handed it over did not come to say so.
                if there.is_some_and(|there| there.id() == registered.id() && there.withheld.is_none()) {
                    registered.withheld = Some(Withheld::MovedTo(place.clone()));
                }
                continue;
            }
            Some(Withheld::MovedTo(place)) => {
                if !is_unread(policy, place, observed) && rivals(policy, name, None, observed).next().is_none() {
                    over.insert(name.clone());
                }
                continue;
            }
            Some(Withheld::Migrates(_) | Withheld::Migrated(_)) => continue,
            Some(Withheld::StandsAt(place)) => Some(place),
            None => None,
        };
        // What can't be read stays as it is.
        if before.is_some_and(|place| is_unread(policy, place, observed)) {
            continue;
        }
        let mine = (registered.made_at, own.number);
        let oldest = rivals(policy, name, Some(registered), observed).min_by_key(|(age, _)| *age);
        registered.withheld = oldest
            .filter(|(age, _)| *age < mine)
            .map(|(_, place)| Withheld::StandsAt(place.clone()));
    }
    registry.retain(|name, _| !over.contains(name));
    over
}

/// Why a subscription can't be made here, or is not delivered here.
pub(super) fn refuse(
    policy: &Policy,
    want: &Wanted,
    (name, have): (&SubscriptionName, Option<&Registered>),
    observed: &Observed,
) -> Result<(), Problem> {
    if let Some(have) = have {
        return match &have.withheld {
            None | Some(Withheld::MovesTo(_) | Withheld::Migrates(_) | Withheld::Migrated(_)) => Ok(()),
            Some(withheld) => Err(withheld.problem(name)),
        };
    }
    if !want.subscription.is_at_one_place() {
        return Ok(());
    }
    let Some((_, place)) = rivals(policy, name, None, observed).next() else {
        return match last_known_at(policy, name, observed) {
            Some(place) => Err(Problem::new(
                Code::AtAnotherPlace,
                format!(
                    "subscription {name} is at place {place}, which can't be read from here now: its deliveries go on there, or once that place is back; if it is lost for good, `fanout move {name} --to {} --from-lost` has it go on here",
                    policy
                        .places
                        .as_ref()
                        .map_or_else(String::new, |places| places.here.to_string())
                ),
            )),
            None => Ok(()),
        };
    };
    Err(Problem::new(
        Code::AtAnotherPlace,
        format!(
            "subscription {name} is at place {place}, where its events are delivered: a durable or backfill subscription is at one place; `fanout move` hands it over; end it there to have another here, use another name, or let each place deliver its own events with `scope` = `here`"
        ),
    ))
}

fn is_unread(policy: &Policy, place: &PlaceName, observed: &Observed) -> bool {
    let is_known = policy.places.as_ref().is_some_and(|p| p.all.contains_key(place));
    is_known && !observed.registries.contains_key(place)
}

/// The subscriptions of a name that other places have, as far as these can be read; earlier stays of `mine` left out.
fn rivals<'a>(
    policy: &'a Policy,
    name: &'a SubscriptionName,
    mine: Option<&'a Registered>,
    observed: &'a Observed,
) -> impl Iterator<Item = (Age, &'a PlaceName)> {
    let places = policy.places.iter().flat_map(|places| places.others());
    places.filter_map(move |(place, of)| {
        let there = observed.registries.get(place)?.get(name)?;
        let is_earlier = mine.is_some_and(|mine| mine.id() == there.id() && there.stay < mine.stay);
        (has_it(there) && !is_earlier).then_some(((there.made_at, of.number), place))
    })
}

/// Whether a place delivers a subscription as that of its whole bus, or would but for an older one.
fn has_it(there: &Registered) -> bool {
    let is_leaving = matches!(there.withheld, Some(Withheld::MovesTo(_) | Withheld::MovedTo(_)));
    there.is_at_one_place() && !is_leaving
}

/// The place at which the same subscription is at a later stay: whoever had it go on there could not reach this place.
fn went_on_at<'a>(policy: &'a Policy, mine: &Registered, observed: &'a Observed) -> Option<&'a PlaceName> {
    let places = policy.places.iter().flat_map(|places| places.others());
    let later = places.filter_map(|(place, _)| {
        let there = observed.registries.get(place)?.get(&mine.subscription.name)?;
        let is_later = there.id() == mine.id() && there.stay > mine.stay;
        (is_later && has_it(there)).then_some((there.stay, place))
    });
    later.max_by_key(|(stay, _)| *stay).map(|(_, place)| place)
}

/// The place that had a subscription when it was read last, and that can't be read now.
fn last_known_at<'a>(policy: &Policy, name: &SubscriptionName, observed: &'a Observed) -> Option<&'a PlaceName> {
    let mut known = observed.last_known.iter();
    let found = known.find(|(place, names)| names.contains(name) && is_unread(policy, place, observed));
    found.map(|(place, _)| place)
}
