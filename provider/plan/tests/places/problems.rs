//! What is wrong between places, or with what is said of them, is said with a code.

use fanout_plan::in_force::InForce;
use fanout_plan::place::Scope;
use fanout_plan::planner::{Asked, Plan, plan, plan_around};
use fanout_plan::step::Step;
use fanout_plan::subscription::Need;
use fanout_plan::{Code, Policy, Settings, Timestamp};

use crate::world::{World, name, policy, refused, settings, want};

#[test]
fn a_store_that_is_not_the_place_that_it_should_be_is_not_mirrored() {
    let mut world = World::default();
    world.bring(&policy(2, "frankfurt", &[]), "frankfurt", &[], &[], 1);
    let here = policy(2, "virginia", &[]);
    let mut seen = world.seen_from(&here, "virginia", &[]);
    let Ok(theirs) = seen.elsewhere.get_mut(&name("frankfurt")).unwrap() else {
        panic!("it can be read");
    };
    theirs[0].place = None;
    let planned = plan(&here, Asked::default(), &seen, Timestamp::from_nanoseconds(2)).unwrap();
    assert_eq!(planned.places[&name("frankfurt")].code, Code::PlaceConflict);
    assert!(planned.layout.partitions.values().all(|p| !p.is_mirror()));
}

#[test]
fn what_is_so_between_places_is_said() {
    let retired = [("places.frankfurt.retired", "true"), ("revision", "3")];
    let billing = [want("billing", Need::Durable, Scope::Everywhere)];
    let mut world = World::default();
    let at_frankfurt = policy(2, "frankfurt", &retired);
    let before = policy(2, "frankfurt", &[("revision", "2")]);
    world.bring(&before, "frankfurt", &[], &billing, 1);
    let said = at_frankfurt.places.as_ref().unwrap().retired_here().unwrap();
    assert_eq!(said.code, Code::PlaceRetired);
    assert!(said.message.contains("at another place: virginia"), "{said}");
    assert!(before.places.as_ref().unwrap().retired_here().is_none());

    // What is there goes on, and is named at both places; nothing new is made there.
    let plan_there = world.bring(&at_frankfurt, "frankfurt", &[], &billing, 2);
    assert!(plan_there.refused.is_empty() && world.0["frankfurt"].registry.len() == 1);
    let more = [
        want("more", Need::Durable, Scope::Everywhere),
        want("fast", Need::Queue, Scope::Everywhere),
    ];
    let refused = world.bring(&at_frankfurt, "frankfurt", &[], &more, 3).refused;
    assert_eq!(refused.keys().collect::<Vec<_>>(), [&0], "{refused:?}");
    assert_eq!(refused[&0].code, Code::PlaceRetired);
    let virginia = policy(2, "virginia", &retired);
    let named = |plan: &Plan| {
        plan.notices
            .iter()
            .map(|p| (p.code, p.message.clone()))
            .collect::<Vec<_>>()
    };
    let at_virginia = world.bring(&virginia, "virginia", &[], &[], 4);
    for plan in [&plan_there, &at_virginia] {
        let said = named(plan);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].0 == Code::PlaceRetired && said[0].1.contains("(billing)"),
            "{said:?}"
        );
    }

    // The newer policy wins by its number, also over a place; clocks that differ are said.
    let mut seen = world.seen_from(&virginia, "virginia", &[]);
    let newer = InForce {
        revision: 4,
        ..virginia.in_force.clone()
    };
    seen.policies.insert(name("frankfurt"), newer);
    seen.clocks.insert(name("frankfurt"), -3_600_000_000_000);
    let planned = plan_around(&virginia, Asked::default(), &seen, Timestamp::from_nanoseconds(5));
    assert!(planned.steps.is_empty(), "{:?}", planned.steps);
    let codes: Vec<_> = planned.notices.iter().map(|p| p.code).collect();
    assert_eq!(codes, [Code::PlaceRetired, Code::OlderPolicy, Code::ClocksDiffer]);
    assert!(
        planned.notices[2].message.contains("1h behind"),
        "{:?}",
        planned.notices
    );
    let wider = policy(2, "virginia", &[("revision", "3"), ("topology", "sharded(2)")]);
    let kept = plan_around(&wider, Asked::default(), &seen, Timestamp::from_nanoseconds(5));
    assert_eq!(kept.problems[0].code, Code::OlderPolicy, "{:?}", kept.problems);
    assert!(kept.steps.is_empty(), "it goes on with what is there: {:?}", kept.steps);
    let same = InForce {
        digest: "other".to_owned(),
        ..virginia.in_force.clone()
    };
    seen.policies.insert(name("frankfurt"), same);
    let conflict = plan_around(&virginia, Asked::default(), &seen, Timestamp::from_nanoseconds(5));
    assert!(conflict.notices.iter().any(|p| p.code == Code::PolicyConflict));
    assert!(conflict.problems.is_empty(), "each place has its own");

    // A change of `at` moves nothing, and is said.
    let declared = |at| {
        policy(
            2,
            "frankfurt",
            &[("subscriptions.stock.need", "durable"), ("subscriptions.stock.at", at)],
        )
    };
    let mut world = World::default();
    world.bring(&declared("frankfurt"), "frankfurt", &[], &[], 1);
    let changed = world.bring(&declared("virginia"), "frankfurt", &[], &[], 2);
    assert!(
        changed
            .steps
            .iter()
            .all(|s| !matches!(s, Step::Forget(_) | Step::DeleteConsumer { .. }))
    );
    assert!(
        changed
            .notices
            .iter()
            .any(|p| p.code == Code::AtAnotherPlace && p.message.contains("moves nothing")),
        "{:?}",
        changed.notices
    );
}

#[test]
fn what_is_wrong_with_places_has_a_code() {
    let of = |settings: &Settings| refused(settings).into_iter().map(|(code, _)| code).collect::<Vec<_>>();
    let mut none = settings(2, "x", &[]);
    none.remove("place");
    assert_eq!(of(&none), [Code::MissingSetting]);
    assert_eq!(of(&settings(2, "tokyo", &[])), [Code::UnknownPlace]);
    assert_eq!(of(&settings(0, "tokyo", &[])), [Code::UnknownPlace]);
    for (more, code) in [
        (("places.virginia.leaf-of", "tokyo"), Code::UnknownPlace),
        (("places.virginia.leaf-of", "virginia"), Code::ConflictingSettings),
        (
            ("places.virginia.jetstream.domain", "frankfurt"),
            Code::ConflictingSettings,
        ),
        (("places.virginia.jetstream.domain", "a.b"), Code::InvalidSetting),
        (("places.virginia.size", "1"), Code::UnknownSetting),
        (("places.virginia.keeps", "*,acme"), Code::InvalidSetting),
        (("places.a b.number", "3"), Code::InvalidSetting),
        (("places.tokyo.keeps", "acme"), Code::MissingSetting),
        (("jetstream.domain", "hub"), Code::ConflictingSettings),
        (("topology", "work-queue"), Code::ConflictingSettings),
        (("subscriptions.billing.need", "durable"), Code::MissingSetting),
    ] {
        assert_eq!(of(&settings(2, "virginia", &[more])), [code], "{more:?}");
    }
    let mut twice = settings(2, "virginia", &[]);
    twice.insert("places.virginia.number".to_owned(), "0".to_owned());
    assert_eq!(of(&twice), [Code::ConflictingSettings]);
    let declared = |more: &[(&'static str, &'static str)]| {
        let all: Vec<_> = more
            .iter()
            .chain(&[("subscriptions.billing.need", "durable")])
            .copied()
            .collect();
        Policy::from_settings("policy", &settings(2, "virginia", &all)).map_err(|p| p[0].code)
    };
    let is_here = |policy: Policy| policy.subscriptions.values().next().unwrap().is_here;
    assert_eq!(
        declared(&[("subscriptions.billing.at", "tokyo")]).unwrap_err(),
        Code::UnknownPlace
    );
    assert!(!is_here(
        declared(&[("subscriptions.billing.at", "frankfurt")]).unwrap()
    ));
    assert!(is_here(declared(&[("subscriptions.billing.at", "virginia")]).unwrap()));
    assert!(is_here(declared(&[("subscriptions.billing.scope", "here")]).unwrap()));
    let both = [
        ("subscriptions.billing.scope", "here"),
        ("subscriptions.billing.at", "virginia"),
    ];
    assert_eq!(declared(&both).unwrap_err(), Code::ConflictingSettings);
}
