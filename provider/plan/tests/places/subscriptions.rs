//! A subscription is delivered at one place.

use expect_test::expect;
use fanout_plan::floor::Floor;
use fanout_plan::last_known::LastKnown;
use fanout_plan::place::Scope;
use fanout_plan::planner::{Asked, plan};
use fanout_plan::subscription::{Need, Registered};
use fanout_plan::withheld::Withheld;
use fanout_plan::{Code, Incarnation, PlaceName, Position, SubscriptionName, Timestamp};

use crate::world::{World, of_the_log, policy, want};

#[test]
fn a_subscription_is_at_one_place_and_of_two_the_older_stands() {
    let (frankfurt, virginia) = (policy(2, "frankfurt", &[]), policy(2, "virginia", &[]));
    let mut world = World::default();
    let billing = [want("billing", Need::Durable, Scope::Everywhere)];
    let withheld = |world: &World, place: &str| {
        let registered = &world.0[place].registry[&"billing".parse().unwrap()];
        registered.withheld_problem().map(|p| (p.code, registered.delivers()))
    };
    let everywhere = [
        want("local", Need::Durable, Scope::Here),
        want("fast", Need::Queue, Scope::Everywhere),
    ];
    world.bring(&frankfurt, "frankfurt", &[], &everywhere, 1);
    let second = world.bring(&virginia, "virginia", &[], &[&billing[..], &everywhere].concat(), 2);
    assert!(second.refused.is_empty(), "{:?}", second.refused);
    let refused = world.bring(&frankfurt, "frankfurt", &[], &billing, 3).refused;
    assert_eq!(refused[&0].code, Code::AtAnotherPlace, "{refused:?}");
    assert!(refused[&0].message.contains("at place virginia"), "{refused:?}");

    // What is made while the link is cut is withheld once both see each other, whichever looks first, and comes back.
    world.bring(&frankfurt, "frankfurt", &["virginia"], &billing, 4);
    let younger = world.bring(&frankfurt, "frankfurt", &[], &billing, 5);
    assert_eq!(younger.refused[&0].code, Code::AtAnotherPlace);
    assert_eq!(withheld(&world, "frankfurt"), Some((Code::AtAnotherPlace, false)));
    world.bring(&virginia, "virginia", &[], &billing, 6);
    assert_eq!(withheld(&world, "virginia"), None);
    let keeps = |world: &World| {
        world.0["frankfurt"]
            .topology
            .consumers
            .keys()
            .any(|(_, name)| name.starts_with("billing"))
    };
    assert!(keeps(&world), "its place in the log is kept");
    world.bring(&frankfurt, "frankfurt", &["virginia"], &billing, 7);
    assert!(
        withheld(&world, "frankfurt").is_some(),
        "a cut link gives it back to nobody"
    );
    world.0.get_mut("virginia").unwrap().registry.clear();
    let again = world.bring(&frankfurt, "frankfurt", &[], &billing, 8);
    assert!(again.refused.is_empty() && withheld(&world, "frankfurt").is_none());
    assert!(keeps(&world));

    // Of the same age, the place with the smaller number has it.
    let mut alike = World::default();
    for (policy, place) in [(&frankfurt, "frankfurt"), (&virginia, "virginia")] {
        alike.bring(policy, place, &["frankfurt", "virginia"], &billing, 9);
    }
    alike.bring(&virginia, "virginia", &[], &billing, 10);
    alike.bring(&frankfurt, "frankfurt", &[], &billing, 10);
    assert!(withheld(&alike, "frankfurt").is_none() && withheld(&alike, "virginia").is_some());
}

#[test]
fn a_subscription_that_went_on_elsewhere_is_let_go_by_the_place_that_comes_back() {
    let (frankfurt, virginia) = (policy(2, "frankfurt", &[]), policy(2, "virginia", &[]));
    let billing = [want("billing", Need::Durable, Scope::Everywhere)];
    let name: SubscriptionName = "billing".parse().unwrap();
    for returns_first in [true, false] {
        let mut world = World::default();
        world.bring(&frankfurt, "frankfurt", &[], &billing, 1);
        world.bring(&virginia, "virginia", &[], &[], 2);
        world.bring(&frankfurt, "frankfurt", &[], &billing, 3);

        // While the place can't be read, another one is not made of what it is known to have.
        let mut cut = world.seen_from(&virginia, "virginia", &["frankfurt"]);
        cut.last_known
            .insert("frankfurt".parse().unwrap(), [name.clone()].into());
        let asked = Asked {
            wanted: &billing,
            ..Asked::default()
        };
        let planned = plan(&virginia, asked, &cut, Timestamp::from_nanoseconds(4)).unwrap();
        let said: String = planned.notices.iter().map(|p| p.message.as_str()).collect();
        assert!(said.contains("are at it: billing;"), "{said}");
        // One that this place has of its own name, or that waits for the other, has it go on nowhere.
        let waits = |registered: Registered| {
            let mut cut = cut.clone();
            cut.registry.insert(name.clone(), registered);
            let planned = plan(&virginia, Asked::default(), &cut, Timestamp::from_nanoseconds(4)).unwrap();
            planned
                .notices
                .iter()
                .any(|p| p.message.contains("are at it: billing;"))
        };
        let had = world.0["frankfurt"].registry[&name].clone();
        let mut of_its_own = had.clone();
        of_its_own.subscription.scope = Scope::Here;
        assert!(waits(of_its_own));
        let mut withheld = had.clone();
        withheld.withheld = Some(Withheld::StandsAt("frankfurt".parse().unwrap()));
        assert!(waits(withheld));
        assert!(!waits(had), "it goes on here");
        let refused = planned.refused;
        assert_eq!(refused[&0].code, Code::AtAnotherPlace);
        assert!(refused[&0].message.contains("--from-lost"), "{refused:?}");

        let floor = |partition, settled_to| Floor {
            settled_to,
            head: 90,
            ..Floor::of(
                Incarnation::default(),
                &world.0["frankfurt"].logs[&partition],
                settled_to,
                settled_to,
            )
        };
        let had = &world.0["frankfurt"].registry[&name];
        let known = LastKnown::of(
            had,
            &[0, 100_000].into(),
            |partition, _| Some(floor(partition, if partition == 0 { 7 } else { 9 })),
            &[Position::new(0, 5)].into(),
        );
        let goes_on = known.begun_elsewhere();
        world
            .0
            .get_mut("virginia")
            .unwrap()
            .registry
            .insert(name.clone(), goes_on);
        let begins = world.bring(&virginia, "virginia", &["frankfurt"], &billing, 5);
        expect![[r#"
            create consumer billing=0=1 on payments.*.webhook.invoice.* from offset 5
            create consumer billing=0=1 of partition 100000 on payments.*.webhook.invoice.* from offset 10
            not mirrored: cut [place-unreachable]
        "#]]
        .assert_eq(&of_the_log(&begins));

        if returns_first {
            let returns = world.bring(&frankfurt, "frankfurt", &[], &billing, 6);
            assert_eq!(returns.refused[&0].code, Code::AtAnotherPlace);
        } else {
            world.bring(&virginia, "virginia", &[], &billing, 6);
            world.bring(&frankfurt, "frankfurt", &[], &billing, 7);
        }
        let at = |place: &str| &world.0[place].registry[&name];
        assert_eq!(at("frankfurt").moved_to().map(PlaceName::as_str), Some("virginia"));
        let consumers = &world.0["frankfurt"].topology.consumers;
        assert!(consumers.is_empty(), "nothing delivers it there: {consumers:?}");
        let again = world.bring(&virginia, "virginia", &[], &billing, 8);
        assert_eq!(again.steps, [], "it goes on where it is");
        assert!(world.0["virginia"].registry[&name].withheld.is_none());
    }
}

#[test]
fn a_position_shows_the_place_where_its_event_was_published() {
    let mut world = World::default();
    for (place, now) in [("frankfurt", 1), ("virginia", 2), ("frankfurt", 3), ("virginia", 4)] {
        world.bring(&policy(2, place, &[("topology", "sharded(2)")]), place, &[], &[], now);
    }
    for (here, there) in [("frankfurt", "virginia"), ("virginia", "frankfurt")] {
        let (policy, layout) = (policy(2, here, &[]), world.0[here].topology.layout());
        let places = policy.places.as_ref().unwrap();
        assert_eq!(layout.partitions.len(), 4, "two of its own, and two that it mirrors");
        for (number, partition) in &layout.partitions {
            let place = Some(there).filter(|_| partition.place.as_ref().unwrap().as_str() == there);
            assert_eq!(layout.mirrored_from(*number).map(PlaceName::as_str), place, "{number}");
            assert_eq!(places.other_of(*number).map(PlaceName::as_str), place, "{number}");
        }
        assert_eq!(
            (layout.mirrored_from(4_200_000), places.other_of(4_200_000)),
            (None, None)
        );
    }
}
