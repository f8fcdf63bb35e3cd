//! Places join, change their shards and keep what they were told to.

use expect_test::expect;
use fanout_plan::place::Scope;
use fanout_plan::planner::{Asked, Observed, plan};
use fanout_plan::step::Step;
use fanout_plan::subscription::Need;
use fanout_plan::{Code, Policy, Settings, Timestamp};

use crate::world::{World, apply, name, of_the_log, policy, refused, settings, want};

#[test]
fn a_place_joins_and_changes_its_shards() {
    let mut world = World::default();
    let wanted = [
        want("billing", Need::Durable, Scope::Everywhere),
        want("local", Need::Durable, Scope::Here),
        want("fast", Need::Queue, Scope::Everywhere),
    ];
    let first = world.bring(&policy(2, "frankfurt", &[]), "frankfurt", &[], &wanted, 1);
    expect![[r#"
        create stream fanout_payments_log on fanout.part.payments.0.whole.> for 7d
        create consumer billing on payments.*.webhook.invoice.* from offset 1
        create consumer local on payments.*.webhook.invoice.* from offset 1
        not mirrored: place virginia: JetStream domain virginia has no log of bus payments yet: it is mirrored once an instance has begun there [place-unreachable]
    "#]]
    .assert_eq(&of_the_log(&first));
    let joins = world.bring(&policy(2, "virginia", &[]), "virginia", &[], &[], 2);
    expect![[r#"
        create stream fanout_payments_log as a mirror of place frankfurt's for 7d
        create stream fanout_payments_log_100000 on fanout.part.payments@virginia.0.whole.> for 7d
    "#]]
    .assert_eq(&of_the_log(&joins));
    let mirrors = world.bring(&policy(2, "frankfurt", &[]), "frankfurt", &[], &wanted, 3);
    expect![[r#"
        create stream fanout_payments_log_100000 as a mirror of place virginia's for 7d
        create consumer billing of partition 100000 on payments.*.webhook.invoice.* from offset 1
    "#]]
    .assert_eq(&of_the_log(&mirrors));

    // A new generation of one place is none of another's, whose mirrors go by what they see there.
    let sharded = [("topology", "sharded(2)")];
    let shards = world.bring(&policy(2, "virginia", &sharded), "virginia", &[], &[], 4);
    expect![[r#"
        create stream fanout_payments_log_100001 on fanout.part.payments@virginia.1.0.> for 7d, shard 0 of 2
        create stream fanout_payments_log_100002 on fanout.part.payments@virginia.1.1.> for 7d, shard 1 of 2
        retire stream fanout_payments_log_100000: what it holds is still read
    "#]]
    .assert_eq(&of_the_log(&shards));
    let follows = world.bring(&policy(2, "frankfurt", &[]), "frankfurt", &[], &wanted, 5);
    expect![[r#"
        create stream fanout_payments_log_100001 as a mirror of place virginia's for 7d, shard 0 of 2
        create stream fanout_payments_log_100002 as a mirror of place virginia's for 7d, shard 1 of 2
        create consumer billing of partition 100001 on payments.*.webhook.invoice.* from offset 1
        create consumer billing of partition 100002 on payments.*.webhook.invoice.* from offset 1
    "#]]
    .assert_eq(&of_the_log(&follows));
    let cut = world.bring(&policy(2, "frankfurt", &[]), "frankfurt", &["virginia"], &wanted, 6);
    assert_eq!(cut.steps, [], "what can't be read stays as it is");
}

#[test]
fn a_place_has_copies_of_its_own() {
    let more = [("retention.replicas", "3"), ("places.shop-42.retention.replicas", "1")];
    for (place, copies) in [("frankfurt", 3), ("virginia", 3), ("shop-42", 1)] {
        let mut world = World::default();
        let policy = policy(3, place, &more);
        let plan = world.bring(&policy, place, &[], &[], 1);
        let wrong = plan.steps.iter().find(|step| match step {
            Step::CreateStream(stream) => stream.replicas != copies,
            Step::CreateBucket(bucket) => bucket.replicas != copies,
            _ => false,
        });
        assert_eq!(wrong, None, "{place}");
        assert!(plan.steps.len() > 3);
    }
    let wrong = settings(3, "frankfurt", &[("places.shop-42.retention.replicas", "6")]);
    assert_eq!(
        refused(&wrong),
        [(
            Code::InvalidSetting,
            "policy: places.shop-42: setting `retention.replicas`: \"6\" is not a whole number from 1 to 5".to_owned()
        )]
    );
}

#[test]
fn what_a_place_keeps_is_a_filter_that_stays() {
    let mut world = World::default();
    let keeps = [
        ("places.shop-42.keeps", "acme,globex"),
        ("places.shop-42.leaf-of", "frankfurt"),
    ];
    world.bring(&policy(3, "frankfurt", &keeps), "frankfurt", &[], &[], 1);
    world.bring(&policy(3, "shop-42", &keeps), "shop-42", &["virginia"], &[], 2);
    let mirror = world.0["shop-42"].topology.streams["fanout_payments_log"]
        .mirror
        .clone()
        .unwrap();
    assert_eq!(mirror.api, "$JS.frankfurt.API");
    assert_eq!(
        mirror.subjects,
        ["payments.acme.webhook.>", "payments.globex.webhook.>"]
    );
    let more = policy(3, "shop-42", &[("places.shop-42.keeps", "acme")]);
    let seen = world.seen_from(&more, "shop-42", &[]);
    let problems = plan(&more, Asked::default(), &seen, Timestamp::from_nanoseconds(3)).unwrap_err();
    assert_eq!(problems[0].code, Code::ImmutableSetting, "{problems:?}");
}

#[test]
fn a_bus_becomes_a_place_without_another_meaning_of_its_positions() {
    let without: Settings = settings(0, "", &[]).into_iter().filter(|(k, _)| k != "place").collect();
    let without = Policy::from_settings("policy", &without).unwrap();
    let mut world = World::default();
    let planned = plan(
        &without,
        Asked::default(),
        &Observed::default(),
        Timestamp::from_nanoseconds(1),
    )
    .unwrap();
    let store = world.0.entry("frankfurt").or_default();
    planned.steps.iter().for_each(|step| apply(store, step));
    let becomes = world.bring(&policy(2, "frankfurt", &[]), "frankfurt", &["virginia"], &[], 2);
    expect![[r#"
        create stream fanout_payments_log_1 on fanout.part.payments.1.whole.> for 7d
        retire stream fanout_payments_log: what it holds is still read
        not mirrored: cut [place-unreachable]
    "#]]
    .assert_eq(&of_the_log(&becomes));

    // Another number would give its positions to another place, and another place's store is not taken over.
    let conflicts = |policy: &Policy, store: &str| {
        let seen = world.0[store].clone();
        let problems = plan(policy, Asked::default(), &seen, Timestamp::from_nanoseconds(3)).unwrap_err();
        problems.into_iter().map(|p| p.code).collect::<Vec<_>>()
    };
    let mut renumbered = policy(2, "frankfurt", &[]);
    if let Some(place) = renumbered
        .places
        .as_mut()
        .and_then(|p| p.all.get_mut(&name("frankfurt")))
    {
        place.number = 7;
    }
    assert_eq!(conflicts(&renumbered, "frankfurt"), [Code::PlaceConflict]);
    assert_eq!(
        conflicts(&policy(2, "virginia", &[]), "frankfurt"),
        [Code::PlaceConflict]
    );
    assert_eq!(conflicts(&without, "frankfurt"), [Code::PlaceConflict]);
}

#[test]
fn three_places_with_four_shards_mirror_what_each_keeps() {
    let sharded = [
        ("topology", "sharded(4)"),
        ("places.shop-42.keeps", "acme"),
        ("places.shop-42.leaf-of", "frankfurt"),
    ];
    let mut world = World::default();
    for place in ["frankfurt", "virginia"] {
        world.bring(&policy(3, place, &sharded), place, &["shop-42"], &[], 1);
    }
    let joins = world.bring(
        &policy(3, "shop-42", &sharded),
        "shop-42",
        &[],
        &[want("billing", Need::Durable, Scope::Everywhere)],
        2,
    );
    // A filter finds no shard: of each other place that of its tenant, and a consumer on each mirror.
    expect![[r#"
        create stream fanout_payments_log_100003 as a mirror of place virginia's for 7d, shard 3 of 4
        create stream fanout_payments_log_3 as a mirror of place frankfurt's for 7d, shard 3 of 4
        create stream fanout_payments_log_4200000 on fanout.part.payments@shop-42.0.0.> for 7d, shard 0 of 4
        create stream fanout_payments_log_4200001 on fanout.part.payments@shop-42.0.1.> for 7d, shard 1 of 4
        create stream fanout_payments_log_4200002 on fanout.part.payments@shop-42.0.2.> for 7d, shard 2 of 4
        create stream fanout_payments_log_4200003 on fanout.part.payments@shop-42.0.3.> for 7d, shard 3 of 4
        create consumer billing of partition 3 on payments.*.webhook.invoice.* from offset 1
        create consumer billing of partition 100003 on payments.*.webhook.invoice.* from offset 1
        create consumer billing of partition 4200000 on payments.*.webhook.invoice.* from offset 1
        create consumer billing of partition 4200001 on payments.*.webhook.invoice.* from offset 1
        create consumer billing of partition 4200002 on payments.*.webhook.invoice.* from offset 1
        create consumer billing of partition 4200003 on payments.*.webhook.invoice.* from offset 1
    "#]]
    .assert_eq(&of_the_log(&joins));
}
