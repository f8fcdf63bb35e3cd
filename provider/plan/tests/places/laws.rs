//! Whatever happens, no two places take one subject, and no two partitions have one number.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fanout_plan::last_known::LastKnown;
use fanout_plan::place::Scope;
use fanout_plan::planner::{Asked, plan};
use fanout_plan::subscription::{Need, Registered};
use fanout_plan::withheld::Withheld;
use fanout_plan::{SubscriptionName, TenantId, Timestamp};
use proptest::prelude::*;

use crate::subjects::meet;
use crate::world::{PLACES, World, policy, want};

#[test]
fn every_instance_has_the_same_policy_wherever_it_is() {
    assert_eq!(
        policy(2, "virginia", &[]).in_force,
        policy(2, "frankfurt", &[]).in_force
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_two_places_take_one_subject_and_no_number_is_given_twice(
        rounds in prop::collection::vec(
            (0usize..3, prop::sample::select(vec!["shared", "sharded(2)", "sharded(4)", "per-tenant"]), prop::collection::vec(0usize..3, 0..3), 2usize..4),
            1..12,
        ),
        keeps in prop::sample::select(vec!["*", "acme", "acme,globex"]),
    ) {
        let wanted = [want("billing", Need::Durable, Scope::Everywhere), want("local", Need::Durable, Scope::Here)];
        let tenants: Vec<TenantId> = ["acme", "globex", "initech"].iter().map(|t| t.parse().unwrap()).collect();
        let mut world = World::default();
        let (mut now, mut places, mut shapes) = (0, 2, BTreeMap::new());
        let keeping = ("places.shop-42.keeps", keeps);
        for (who, shape, cut, with) in rounds {
            places = places.max(with);
            let (who, cut): (_, Vec<_>) = (PLACES[who % places].0, cut.iter().map(|c| PLACES[*c].0).collect());
            let more = [("topology", shape), ("tenants.allowed", "acme,globex,initech"), keeping];
            let more = if places < 3 { &more[..2] } else { &more[..] };
            let before: BTreeSet<(String, u32)> = world.streams().filter_map(|(place, s)| Some((place.to_owned(), s.partition.as_ref()?.number))).collect();
            now += 1;
            shapes.insert(who, shape);
            world.bring(&policy(places, who, more), who, &cut, &wanted, now);
            let after: BTreeSet<(String, u32)> = world.streams().filter_map(|(place, s)| Some((place.to_owned(), s.partition.as_ref()?.number))).collect();
            let gone: Vec<_> = before.difference(&after).filter(|(place, _)| place != who).collect();
            prop_assert!(gone.is_empty(), "{:?} of other places", gone);
        }
        // At last every link is there, and each place knows of all.
        for _ in 0..3 {
            for (who, shape) in &shapes {
                now += Duration::from_secs(7200).as_nanos() as i64;
                let more = [("topology", *shape), ("tenants.allowed", "acme,globex,initech"), keeping];
                let more = if places < 3 { &more[..2] } else { &more[..] };
                world.bring(&policy(places, who, more), who, &[], &wanted, now);
            }
        }
        let mut owned = BTreeMap::new();
        for (place, s) in world.streams() {
            for (other, theirs) in world.streams().filter(|(other, t)| (*other, &t.name) > (place, &s.name)) {
                let met = s.subjects.iter().flat_map(|a| theirs.subjects.iter().map(move |b| (a, b))).find(|(a, b)| meet(a, b));
                prop_assert!(met.is_none(), "{} at {} and {} at {}: {:?}", s.name, place, theirs.name, other, met);
            }
            if let Some(p) = s.partition.as_ref().filter(|p| !p.is_mirror()) {
                prop_assert_eq!(owned.insert(p.number, place), None, "partition {}", p.number);
            }
        }
        for (who, shape) in &shapes {
            let store = &world.0[who];
            let here = store.topology.layout();
            for (number, owner) in &owned {
                let origin = &world.0[owner].topology.layout().partitions[number];
                let kept = *who != "shop-42" || keeps == "*" || tenants.iter().any(|t| keeps.contains(t.as_str()) && origin.slot.holds(t));
                prop_assert_eq!(here.partitions.contains_key(number), kept || owner == who, "partition {} of {} at {}", number, owner, who);
            }
            let more = [("topology", *shape), ("tenants.allowed", "acme,globex,initech"), keeping];
            let more = if places < 3 { &more[..2] } else { &more[..] };
            let again = policy(places, who, more);
            let seen = world.seen_from(&again, who, &[]);
            let asked = Asked { wanted: &wanted, ..Asked::default() };
            let next = plan(&again, asked, &seen, Timestamp::from_nanoseconds(now + 1)).unwrap();
            prop_assert_eq!(next.steps, vec![], "once applied nothing is left to do at {}", who);
        }
    }

    #[test]
    fn a_subscription_is_delivered_at_one_place_whichever_was_lost_and_came_back(
        rounds in prop::collection::vec((0usize..3, prop::collection::vec(0usize..3, 0..3), any::<bool>()), 1..10),
    ) {
        let wanted = [want("billing", Need::Durable, Scope::Everywhere)];
        let name: SubscriptionName = "billing".parse().unwrap();
        let mut world = World::default();
        let mut now = 0;
        for (who, cut, goes_on) in rounds {
            now += 1;
            let here = PLACES[who].0;
            let cut: Vec<_> = cut.iter().map(|c| PLACES[*c].0).filter(|c| *c != here).collect();
            // As the command does: of what no place that answers has, the newest that is known of those that do not.
            let had = |place: &str| world.0.get(place).and_then(|o| o.registry.get(&name)).cloned();
            let has_it = |r: &Registered| !matches!(r.withheld, Some(Withheld::MovedTo(_) | Withheld::StandsAt(_)));
            let answering = PLACES.iter().map(|p| p.0).filter(|p| !cut.contains(p));
            let lost: Vec<_> = cut.iter().filter_map(|place| had(place)).filter(has_it).collect();
            if goes_on && world.0.contains_key(here) && answering.filter_map(had).all(|r| !has_it(&r)) {
                let known = lost.into_iter().map(|r| LastKnown::of(&r, &BTreeSet::new(), |_, _| None, &BTreeSet::new()));
                if let Some(known) = known.max_by_key(|known| (known.registered.stay, known.registered.made_at)) {
                    let next = known.begun_elsewhere();
                    let may = had(here).is_none_or(|have| have.id() == next.id() && have.stay < next.stay);
                    if may {
                        world.0.get_mut(here).unwrap().registry.insert(name.clone(), next);
                    }
                }
            }
            world.bring(&policy(3, here, &[]), here, &cut, if goes_on { &[] } else { &wanted }, now);
        }
        let was_made = world.0.values().any(|o| o.registry.contains_key(&name));
        for _ in 0..4 {
            for (here, _) in PLACES {
                now += 1;
                world.bring(&policy(3, here, &[]), here, &[], &[], now);
            }
        }
        let delivers: Vec<_> = PLACES
            .iter()
            .filter(|(place, _)| world.0[place].registry.get(&name).is_some_and(Registered::delivers))
            .collect();
        prop_assert_eq!(delivers.len(), usize::from(was_made), "{:?}", delivers);
    }
}
