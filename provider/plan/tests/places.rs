//! A bus in several places on a model of their stores: places join in any order, links are cut, the topology is changed, and
//! whatever happens no two places take one subject, and no two partitions have one number.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use expect_test::expect;
use fanout_plan::floor::Floor;
use fanout_plan::in_force::InForce;
use fanout_plan::last_known::LastKnown;
use fanout_plan::partition::Partition;
use fanout_plan::place::Scope;
use fanout_plan::planner::{Asked, LeftOut, Observed, Plan, Wanted, plan, plan_around};
use fanout_plan::step::Step;
use fanout_plan::subscription::{MadeBy, Need, Reach, Registered, Subscription};
use fanout_plan::topology::StreamSpec;
use fanout_plan::withheld::Withheld;
use fanout_plan::{
    Code, Filter, Incarnation, PlaceName, Policy, Position, Problem, Settings, SubscriptionName, TenantId, Timestamp,
};
use proptest::prelude::*;

use crate::subjects::meet;

#[expect(dead_code, reason = "other tests need the rest of it")]
mod subjects;

const PLACES: [(&str, &str); 3] = [("frankfurt", "0"), ("virginia", "1"), ("shop-42", "42")];

/// A policy of the first so many places, as an instance at `place` reads it.
fn settings(places: usize, place: &str, more: &[(&str, &str)]) -> Settings {
    let mut settings: Settings = [
        ("bus", "payments"),
        ("subject", "payments.{tenant}.webhook.{event-type}"),
        ("place", place),
    ]
    .iter()
    .chain(more)
    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
    .collect();
    for (name, number) in &PLACES[..places] {
        settings.insert(format!("places.{name}.number"), (*number).to_owned());
    }
    settings
}

fn policy(places: usize, place: &str, more: &[(&str, &str)]) -> Policy {
    Policy::from_settings("policy", &settings(places, place, more)).unwrap()
}

fn refused(settings: &Settings) -> Vec<(Code, String)> {
    let problems = Policy::from_settings("policy", settings).unwrap_err();
    problems.into_iter().map(|p| (p.code, p.message)).collect()
}

/// The stores of all places, by name.
#[derive(Default)]
struct World(BTreeMap<&'static str, Observed>);

impl World {
    /// What a place observes, where the places of `cut` can't be reached.
    fn seen_from(&self, policy: &Policy, here: &str, cut: &[&str]) -> Observed {
        let mut seen = self.0.get(here).cloned().unwrap_or_default();
        for (name, _) in policy.places.as_ref().unwrap().others() {
            let own = |o: &Observed| -> Vec<Partition> { o.topology.layout().own().cloned().collect() };
            let found = match cut.contains(&name.as_str()) {
                true => Err(Problem::new(Code::PlaceUnreachable, "cut")),
                false => Ok(self.0.get(name.as_str()).map(own).unwrap_or_default()),
            };
            if found.is_ok() {
                let theirs = self.0.get(name.as_str()).map(|o| o.registry.clone());
                seen.registries.insert(name.clone(), theirs.unwrap_or_default());
            }
            seen.elsewhere.insert(name.clone(), found);
        }
        seen
    }

    /// Brings a place to a policy, and returns the plan.
    fn bring(&mut self, policy: &Policy, here: &'static str, cut: &[&str], wanted: &[Wanted], now: i64) -> Plan {
        let seen = self.seen_from(policy, here, cut);
        let asked = Asked {
            wanted,
            ..Asked::default()
        };
        let plan = plan(policy, asked, &seen, Timestamp::from_nanoseconds(now)).unwrap();
        let store = self.0.entry(here).or_default();
        for step in &plan.steps {
            apply(store, step);
        }
        plan
    }

    fn streams(&self) -> impl Iterator<Item = (&str, &StreamSpec)> {
        self.0
            .iter()
            .flat_map(|(place, store)| store.topology.streams.values().map(move |s| (*place, s)))
    }
}

fn apply(store: &mut Observed, step: &Step) {
    let topology = &mut store.topology;
    match step.clone() {
        Step::CreateStream(s) | Step::UpdateStream(s) | Step::RetireStream(s) | Step::BindStream(s) => {
            if let Some(p) = &s.partition {
                store.logs.entry(p.number).or_default();
            }
            if let Some(have) = topology.streams.get(&s.name) {
                assert_eq!(
                    have.mirror, s.mirror,
                    "the server does not change what {} mirrors",
                    s.name
                );
            }
            topology.streams.insert(s.name.clone(), s);
        }
        Step::DeleteStream(name) => {
            let gone = topology.streams.remove(&name).unwrap().partition.unwrap().number;
            assert_eq!(
                store.logs.remove(&gone).unwrap().messages,
                0,
                "only an empty stream goes"
            );
            topology.consumers.retain(|(number, _), _| *number != gone);
        }
        Step::CreateBucket(b) | Step::UpdateBucket(b) => drop(topology.buckets.insert(b.name.clone(), b)),
        Step::Remember(r) => drop(store.registry.insert(r.subscription.name.clone(), *r)),
        Step::Forget(name) => drop(store.registry.remove(&name)),
        Step::CreateConsumer(c) | Step::UpdateConsumer(c) => {
            drop(topology.consumers.insert((c.partition, c.name.clone()), c));
        }
        Step::DeleteConsumer { partition, name } => drop(topology.consumers.remove(&(partition, name))),
    }
}

fn want(name: &str, need: Need, scope: Scope) -> Wanted {
    Wanted {
        subscription: Subscription {
            name: name.parse().unwrap(),
            need,
            filter: Filter::new(vec![], vec!["invoice.*".parse().unwrap()]),
            reach: Reach::Handler,
            batch_size: 1,
            concurrency: 4,
            tell_caught_up: false,
            scope,
        },
        component: name.into(),
        link: "default".into(),
        made_by: MadeBy::Link,
    }
}

fn of_the_log(plan: &Plan) -> String {
    let steps = plan.steps.iter().map(ToString::to_string);
    let log = steps.filter(|s| s.contains("_log") || s.contains("consumer"));
    let problems = plan.places.values().map(|p| format!("not mirrored: {p}"));
    log.chain(problems).map(|line| line + "\n").collect()
}

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

fn name(place: &str) -> PlaceName {
    place.parse().unwrap()
}

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

/// What an observation says of the other places' policies and clocks, and of those that were left out.
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

fn of_the_log_steps(plan: &Plan) -> Vec<String> {
    let steps = plan.steps.iter().map(ToString::to_string);
    steps.filter(|s| s.contains("_log")).collect()
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
