//! What the store does not hold, can't hold, or fails to do.

use expect_test::expect;

use super::*;

#[test]
fn what_is_not_there_was_not_ended() {
    let policy = policy(&[("retention.storage", "memory")]);
    let wanted = [
        call("mine", Need::Durable, "c"),
        call(
            "from",
            Need::Backfill {
                start: Start::Position(crate::Position::undivided(7)),
                end: None,
            },
            "c",
        ),
    ];
    let first = bus(&policy, &wanted[..1], 9);
    let steps = plan(&policy, &wanted, &first, 1).unwrap();
    let before = applied(&steps, &first);
    // The server was restarted, and remembers nothing.
    let lost = Observed {
        lost: before.registry.clone(),
        ..Observed::default()
    };
    let again = plan(&policy, &[], &lost, 2).unwrap();
    let shown = shown(&again);
    assert!(
        shown.contains("remember durable subscription mine of component c"),
        "{shown}"
    );
    assert!(
        shown.contains("create consumer mine on payments.*.webhook.invoice.* from offset 1"),
        "{shown}"
    );
    assert!(
        shown.contains("create consumer from=1 on payments.*.webhook.invoice.* from the first event"),
        "{shown}"
    );
    let after = applied(&again, &Observed::default());
    assert_eq!(plan(&policy, &[], &after, 3).unwrap().steps, Vec::<Step>::new());
}

#[test]
fn what_cannot_be_read_or_is_anothers_is_left_alone() {
    let policy = policy(&[]);
    let (bad, alien): (SubscriptionName, SubscriptionName) = ("bad".parse().unwrap(), "alien".parse().unwrap());
    let mut observed = bus(&policy, &[call("bad", Need::Durable, "c")], 1);
    observed.registry.clear();
    let problem = Problem::new(Code::UnreadableSubscription, "x");
    observed.unreadable.insert(bad.clone(), problem);
    observed.foreign_consumers.insert((0, "alien=i2".into()));
    let wanted = [
        call("bad", Need::Durable, "c"),
        call("alien", Need::Durable, "c"),
        call("good", Need::Durable, "c"),
    ];
    let steps = plan(&policy, &wanted, &observed, 2).unwrap();
    assert_eq!(steps.refused[&0].code, Code::UnreadableSubscription);
    assert_eq!(steps.stuck[&alien].code, Code::ForeignTopology);
    let shown = shown(&steps);
    assert!(
        !shown.contains("consumer bad") && !shown.contains("consumer alien"),
        "{shown}"
    );
    assert!(shown.contains("create consumer good"), "{shown}");
    // A partition whose consumers are not known keeps them.
    observed.topology.consumers.clear();
    observed.unread.insert(0, Problem::new(Code::StoreUnavailable, "x"));
    assert!(plan(&policy, &wanted, &observed, 2).is_err(), "it is no whole plan");
    let around = plan_around(
        &policy,
        Asked {
            wanted: &wanted,
            ..Asked::default()
        },
        &observed,
        2,
    );
    assert!(
        around.steps.iter().all(|s| matches!(s, Step::Remember(_))),
        "{:?}",
        around.steps
    );
    assert!(around.problems.is_empty());
}

#[test]
fn a_policy_that_cannot_be_had_leaves_streams_alone_and_subscriptions_go_on() {
    let observed = bus(&policy(&[]), &[call("mine", Need::Durable, "c")], 10);
    let fixed = policy(&[("retention.storage", "memory")]);
    let wanted = [call("new", Need::Durable, "c")];
    assert!(plan(&fixed, &wanted, &observed, 2).is_err());
    let around = plan_around(
        &fixed,
        Asked {
            wanted: &wanted,
            ..Asked::default()
        },
        &observed,
        2,
    );
    assert_eq!(around.problems[0].code, Code::ImmutableSetting);
    expect![[r#"
        remember durable subscription new of component c
        create consumer new on payments.*.webhook.invoice.* from offset 11
    "#]]
    .assert_eq(&shown(&around));
    // Nothing can be made at all: nothing is.
    let mut foreign = Observed::default();
    foreign.in_the_way.push(Problem::new(Code::ForeignTopology, "x"));
    let around = plan_around(
        &fixed,
        Asked {
            wanted: &wanted,
            ..Asked::default()
        },
        &foreign,
        2,
    );
    assert_eq!(around.steps, Vec::<Step>::new());
    assert_eq!(around.refused[&0].code, Code::BusNotReady);
}

#[test]
fn a_failed_step_takes_along_what_needs_it_and_nothing_else() {
    let policy = policy(&[("topology", "sharded(2)")]);
    let wanted = [call("a", Need::Durable, "c"), call("b", Need::Durable, "c")];
    let steps = plan(&policy, &wanted, &Observed::default(), 1).unwrap().steps;
    let refused = || Problem::new(Code::StoreRefused, "x");
    let allowed = |failing: &dyn Fn(&Step) -> bool| {
        let mut failures = Failures::default();
        let mut taken = Vec::new();
        for step in &steps {
            if !failures.allow(step) {
                continue;
            }
            if failing(step) {
                failures.add(step, refused());
            } else {
                taken.push(step.to_string());
            }
        }
        (taken.join("\n"), failures.into_parts())
    };
    let (taken, failed) = allowed(&|s| matches!(s, Step::CreateConsumer(c) if c.name == "a=i1" && c.partition == 0));
    assert_eq!(
        failed.keys().cloned().collect::<Vec<_>>(),
        [Part::Subscription("a".parse().unwrap())]
    );
    assert!(
        taken.contains("create consumer a of partition 1") && taken.contains("create consumer b on"),
        "{taken}"
    );
    let (taken, _) = allowed(&|s| matches!(s, Step::Remember(r) if r.subscription.name.as_str() == "a"));
    assert!(
        !taken.contains("consumer a") && taken.contains("create consumer b on"),
        "{taken}"
    );
    let (taken, failed) = allowed(&|s| matches!(s, Step::CreateStream(s) if s.name == "fanout_payments_log"));
    assert_eq!(failed.keys().cloned().collect::<Vec<_>>(), [Part::Partition(0)]);
    assert!(!taken.contains("create consumer a on"), "{taken}");
    assert!(taken.contains("create consumer a of partition 1"), "{taken}");
    let (taken, _) = allowed(&|s| matches!(s, Step::CreateBucket(b) if b.name.ends_with("attempts")));
    assert!(
        taken.contains("create consumer a on") && taken.contains("create stream fanout_payments_log"),
        "{taken}"
    );
}

#[test]
fn what_was_done_for_a_call_is_taken_back_to_what_was_there() {
    let policy = policy(&[]);
    let observed = bus(&policy, &[call("a", Need::Durable, "c")], 3);
    let other = Filter::new(vec![], vec!["charge.*".parse().unwrap()]);
    let changed = Wanted {
        subscription: Subscription {
            filter: other,
            ..call("a", Need::Durable, "c").subscription
        },
        ..call("a", Need::Durable, "c")
    };
    for wanted in [changed, call("b", BACKFILL, "c")] {
        let steps = plan(&policy, &[wanted], &observed, 2).unwrap();
        let after = applied(&steps, &observed);
        assert_ne!(after, observed);
        let back: Vec<_> = steps.steps.iter().rev().filter_map(|s| s.undo(&observed)).collect();
        let undone = applied(
            &Plan {
                steps: back,
                ..Plan::default()
            },
            &after,
        );
        assert_eq!(undone, observed);
    }
}

#[test]
fn the_greater_revision_wins_and_the_other_goes_on_with_what_is_there() {
    let of = |revision: &str, age: &str| policy(&[("revision", revision), ("retention.max-age", age)]);
    let nothing = Observed::default();
    let observed = at(applied(&plan(&of("2", "9d"), &[], &nothing, 1).unwrap(), &nothing), 9);
    let wanted = [want("invoicing", Need::Durable, "invoicing")];
    let asked = Asked {
        wanted: &wanted,
        ..Asked::default()
    };
    for (other, code) in [
        (of("1", "11d"), Code::OlderPolicy),
        (policy(&[("retention.max-age", "11d")]), Code::OlderPolicy),
        (of("2", "11d"), Code::PolicyConflict),
    ] {
        let kept = plan_around(&other, asked, &observed, 2);
        assert_eq!(kept.problems.iter().map(|p| p.code).collect::<Vec<_>>(), [code]);
        expect![[r#"
            remember durable subscription invoicing of component invoicing
            create consumer invoicing on payments.*.webhook.invoice.* from offset 10
        "#]]
        .assert_eq(&shown(&kept));
        assert_eq!(plan_asked(&other, asked, &observed, 2).unwrap_err()[0].code, code);
    }
    // What comes to the same is no conflict, and the one in force goes on being said.
    let same = plan_around(&policy(&[("retention.max-age", "9d")]), Asked::default(), &observed, 2);
    assert!(same.problems.is_empty() && same.steps.is_empty(), "{same:?}");
    let newer = shown(&plan(&of("3", "11d"), &[], &observed, 2).unwrap());
    assert!(newer.contains("update stream fanout_payments_log"), "{newer}");

    // Without numbers, who was told last; who was in force before says so.
    let unnumbered = policy(&[("retention.max-age", "9d")]);
    let observed = at(applied(&plan(&unnumbered, &[], &nothing, 1).unwrap(), &nothing), 9);
    let other = policy(&[("retention.max-age", "11d")]);
    let told = plan_around(&other, Asked::default(), &observed, 2);
    assert!(told.problems.is_empty() && !told.steps.is_empty());
    let before = Asked {
        was_in_force: true,
        ..Asked::default()
    };
    let kept = plan_around(&other, before, &observed, 2);
    assert!(kept.steps.is_empty() && kept.problems[0].code == Code::TopologyChanged);
}
