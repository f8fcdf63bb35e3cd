//! A place is taken out.

use fanout_plan::planner::{Asked, LeftOut, plan, plan_around};
use fanout_plan::{Code, Policy, Problem, Timestamp};

use crate::world::{World, name, of_the_log_steps, policy, settings};

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
    let unread = Problem::new(Code::PlaceUnreachable, "cut");
    for (left, says) in [
        (Ok(events), "3 of its events"),
        (Ok(subscribed), "(billing)"),
        (Err(unread), "can't be read"),
    ] {
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
        assert!(plan(&allowed("places.virginia"), Asked::default(), &seen, now).is_ok());
    }
    seen.left_out = [(name("virginia"), Ok(none))].into();
    let planned = plan(&policy, Asked::default(), &seen, Timestamp::from_nanoseconds(5)).unwrap();
    assert!(
        planned.layout.partitions.contains_key(&100_000),
        "what it mirrored stays"
    );
    seen.logs.get_mut(&100_000).unwrap().messages = 0;
    let planned = plan(&policy, Asked::default(), &seen, Timestamp::from_nanoseconds(6)).unwrap();
    assert_eq!(
        of_the_log_steps(&planned),
        ["delete stream fanout_payments_log_100000: nothing needs it any more"]
    );
}
