//! A place is taken out.

use fanout_plan::planner::{Asked, LeftOut, plan, plan_around};
use fanout_plan::{Code, Policy, Problem, Timestamp};

use crate::world::{World, apply, name, of_the_log_steps, policy, settings};

#[test]
fn a_place_is_taken_out_once_nothing_is_lost_with_it() {
    let mut world = World::default();
    world.bring(&policy(2, "frankfurt", &[]), "frankfurt", &[], &[], 1);
    world.bring(&policy(2, "virginia", &[]), "virginia", &[], &[], 2);
    world.bring(&policy(2, "frankfurt", &[]), "frankfurt", &[], &[], 3);
    world
        .0
        .get_mut("frankfurt")
        .unwrap()
        .logs
        .get_mut(&100_000)
        .unwrap()
        .messages = 5;
    let mut without = settings(2, "frankfurt", &[]);
    without.remove("places.virginia.number");
    let allowed = |loss: &str| {
        let mut settings = without.clone();
        settings.insert("change.allow-loss".to_owned(), loss.to_owned());
        Policy::from_settings("policy", &settings).unwrap()
    };
    let policy = Policy::from_settings("policy", &without).unwrap();
    let mut seen = world.0["frankfurt"].clone();
    let none = LeftOut::default();
    let events = LeftOut {
        not_mirrored: [(100_000, 3)].into_iter().collect(),
        ..none.clone()
    };
    let subscribed = LeftOut {
        subscriptions: ["billing".parse().unwrap()].into(),
        ..none.clone()
    };
    let nowhere = LeftOut {
        kept_nowhere: 2,
        ..none.clone()
    };
    let unread = Problem::new(Code::PlaceUnreachable, "cut");
    let left = [
        (Ok(events), "3 of its events"),
        (Ok(subscribed), "(billing)"),
        (Ok(nowhere), "2 of its events are kept by no other place"),
        (Err(unread), "can't be read"),
    ];
    // The mirror may hold something or not.
    for (messages, (left, says)) in left.iter().flat_map(|left| [(5, left), (0, left)]) {
        seen.logs.get_mut(&100_000).unwrap().messages = messages;
        let left = left.clone();
        seen.left_out = [(name("virginia"), left)].into();
        let now = Timestamp::from_nanoseconds(4);
        let refused = plan(&policy, Asked::default(), &seen, now).unwrap_err();
        assert_eq!(refused[0].code, Code::WouldLoseEvents);
        assert!(refused[0].message.contains(says), "{refused:?}");
        let around = plan_around(&policy, Asked::default(), &seen, now);
        assert!(
            around.problems[0].code == Code::WouldLoseEvents,
            "{:?}",
            around.problems
        );
        assert!(
            around.layout.partitions.contains_key(&100_000),
            "it is mirrored as before"
        );
        assert_eq!(of_the_log_steps(&around), [""; 0], "and is not let go");
        assert!(plan(&allowed("places.virginia"), Asked::default(), &seen, now).is_ok());
    }
    seen.logs.get_mut(&100_000).unwrap().messages = 5;
    seen.left_out = [(name("virginia"), Ok(none))].into();
    let planned = plan(&policy, Asked::default(), &seen, Timestamp::from_nanoseconds(5)).unwrap();
    assert!(
        planned.layout.partitions.contains_key(&100_000),
        "what it mirrored stays"
    );
    let deleted = ["delete stream fanout_payments_log_100000: nothing needs it any more"];
    let mut empty = seen.clone();
    empty.logs.get_mut(&100_000).unwrap().messages = 0;
    let planned = plan(&policy, Asked::default(), &empty, Timestamp::from_nanoseconds(6)).unwrap();
    assert_eq!(of_the_log_steps(&planned), deleted);
}

#[test]
fn a_place_that_was_taken_out_is_asked_nothing_more_whether_or_not_its_servers_are_there() {
    let mut world = World::default();
    world.bring(&policy(2, "frankfurt", &[]), "frankfurt", &[], &[], 1);
    world.bring(&policy(2, "virginia", &[]), "virginia", &[], &[], 2);
    world.bring(&policy(2, "frankfurt", &[]), "frankfurt", &[], &[], 3);
    let mirror = |world: &mut World, messages| {
        let logs = &mut world.0.get_mut("frankfurt").unwrap().logs;
        logs.get_mut(&100_000).unwrap().messages = messages;
    };
    mirror(&mut world, 5);
    let mut without = settings(2, "frankfurt", &[]);
    without.remove("places.virginia.number");
    let without_it = Policy::from_settings("policy", &without).unwrap();
    without.insert("change.allow-loss".to_owned(), "places.virginia".to_owned());
    let accepted = Policy::from_settings("policy", &without).unwrap();
    let unread = Err(Problem::new(Code::PlaceUnreachable, "cut"));
    for (taken_out, left) in [(&without_it, Ok(LeftOut::default())), (&accepted, unread)] {
        let mut seen = world.0["frankfurt"].clone();
        seen.left_out = [(name("virginia"), left)].into();
        let planned = plan(taken_out, Asked::default(), &seen, Timestamp::from_nanoseconds(4)).unwrap();
        planned.steps.iter().for_each(|step| apply(&mut seen, step));
        assert!(
            seen.topology.streams["fanout_payments_log_100000"].let_go,
            "{:?}",
            planned.steps
        );
        // Nobody asks for it, and the loss need not be accepted twice.
        seen.left_out.clear();
        let now = Timestamp::from_nanoseconds(5);
        let again = plan(&without_it, Asked::default(), &seen, now).unwrap();
        assert_eq!(of_the_log_steps(&again), [""; 0]);
        seen.logs.get_mut(&100_000).unwrap().messages = 0;
        let expired = plan(&without_it, Asked::default(), &seen, now).unwrap();
        assert_eq!(
            of_the_log_steps(&expired),
            ["delete stream fanout_payments_log_100000: nothing needs it any more"]
        );
        // Put back, it is a place as the others are.
        seen.elsewhere = world
            .seen_from(&policy(2, "frankfurt", &[]), "frankfurt", &[])
            .elsewhere;
        let back = plan(&policy(2, "frankfurt", &[]), Asked::default(), &seen, now).unwrap();
        back.steps.iter().for_each(|step| apply(&mut seen, step));
        assert!(!seen.topology.streams["fanout_payments_log_100000"].let_go);
    }
}

#[test]
fn which_places_there_are_is_said_by_the_policy_that_the_bus_is_under() {
    let newer = [("revision", "2")];
    let mut world = World::default();
    world.bring(&policy(2, "frankfurt", &newer), "frankfurt", &[], &[], 1);
    world.bring(&policy(2, "virginia", &newer), "virginia", &[], &[], 2);
    world.bring(&policy(2, "frankfurt", &newer), "frankfurt", &[], &[], 3);
    let mut without = settings(2, "frankfurt", &[("revision", "1")]);
    without.remove("places.virginia.number");
    let older = Policy::from_settings("policy", &without).unwrap();
    let unread = Err(Problem::new(Code::PlaceUnreachable, "cut"));
    let lost = Ok(LeftOut {
        kept_nowhere: 1,
        ..LeftOut::default()
    });
    for left in [unread, lost, Ok(LeftOut::default())] {
        let mut seen = world.0["frankfurt"].clone();
        seen.left_out = [(name("virginia"), left)].into();
        let around = plan_around(&older, Asked::default(), &seen, Timestamp::from_nanoseconds(4));
        let codes: Vec<_> = around.problems.iter().map(|p| p.code).collect();
        assert_eq!(codes, [Code::OlderPolicy], "{:?}", around.problems);
        assert_eq!(around.steps, [], "its mirror stays, though it is empty");
    }
}
