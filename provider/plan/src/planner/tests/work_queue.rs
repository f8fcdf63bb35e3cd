//! Plans of a work queue, on which no two consumers may meet.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[test]
fn a_retired_work_queue_goes_on_with_the_consumers_that_it_had() {
    let queue = policy(&[("topology", "work-queue")]);
    let filtered = |name: &str, pattern: &str| {
        let mut wanted = want(name, Need::Durable, name);
        wanted.subscription.filter = Filter::new(vec![], vec![pattern.parse().unwrap()]);
        wanted
    };
    let first = [filtered("invoicing", "invoice.*"), filtered("charging", "charge.*")];
    let plan_1 = plan(&queue, &first, &Observed::default(), 1).unwrap();
    let observed = at(applied(&plan_1, &Observed::default()), 9);
    // Legal in a log: a new subscription and a changed one that meet others.
    let then = [
        filtered("invoicing", "invoice.*"),
        filtered("charging", "**"),
        filtered("auditing", "invoice.*"),
    ];
    let plan_2 = plan(&policy(&[]), &then, &observed, 2).unwrap();
    let made = shown(&plan_2);
    assert!(made.contains("create consumer auditing of partition 1"), "{made}");
    assert!(!made.contains("create consumer auditing on"), "{made}");
    assert!(!made.contains("update consumer charging to"), "{made}");
    let observed = applied(&plan_2, &observed);
    let again = plan(&policy(&[]), &then, &observed, 3).unwrap();
    assert_eq!(again.steps, Vec::<Step>::new());
}

#[test]
fn what_another_gives_up_on_a_work_queue_is_had_at_once() {
    let with = |mut wanted: Wanted, pattern: &str| {
        wanted.subscription.filter = Filter::new(vec![], vec![pattern.parse().unwrap()]);
        wanted
    };
    let before = [
        with(call("b", Need::Durable, "c"), "invoice.*"),
        with(call("c", Need::Durable, "c"), "charge.*"),
    ];
    let queue = policy(&[("topology", "work-queue")]);
    for policy_before in [policy(&[]), queue.clone()] {
        let observed = bus(&policy_before, &before, 0);
        let after = [
            with(want("a", Need::Durable, "c"), "invoice.*"),
            with(call("b", Need::Durable, "c"), "charge.*"),
            with(call("c", Need::Durable, "c"), "refund.*"),
        ];
        let steps = plan(&queue, &after, &observed, 2).unwrap();
        assert_eq!(steps.refused, BTreeMap::new());
        let made: Vec<_> = steps
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::CreateConsumer(c) | Step::UpdateConsumer(c) => Some(c.name[..1].to_owned()),
                _ => None,
            })
            .collect();
        if policy_before == queue {
            assert_eq!(made, ["c", "b", "a"], "whoever gives way is first");
        }
        let again = plan(&queue, &after, &applied(&steps, &observed), 3).unwrap();
        assert!(!shown(&again).contains("create"), "{}", shown(&again));
    }
}

/// Subscriptions that a work queue holds beside each other, unless two ask for one pattern.
fn of_a_work_queue() -> impl Strategy<Value = Vec<Wanted>> {
    let made_by = prop_oneof![Just(MadeBy::Link), Just(MadeBy::Call)];
    let pattern = proptest::sample::select(vec!["invoice.*", "charge.**", "customer.created", "refund.*"]);
    let one = ("[a-d]", made_by, pattern).prop_map(|(name, made_by, pattern)| {
        let mut wanted = want(&name, Need::Durable, "worker");
        wanted.subscription.filter = Filter::new(vec![], vec![pattern.parse().unwrap()]);
        wanted.made_by = made_by;
        wanted
    });
    proptest::collection::vec(one, 0..5).prop_map(|mut all| {
        let mut names = BTreeSet::new();
        all.retain(|w: &Wanted| names.insert(w.subscription.name.clone()));
        all
    })
}

proptest! {
    #[test]
    fn a_work_queue_is_made_at_once_and_never_has_two_that_meet(rounds in proptest::collection::vec(of_a_work_queue(), 1..4)) {
        let policy = policy(&[("topology", "work-queue")]);
        let mut observed = Observed::default();
        for (i, wanted) in rounds.iter().enumerate() {
            let steps = plan(&policy, wanted, &observed, i as i64).unwrap();
            for taken in 1..=steps.steps.len() {
                let so_far = Plan { steps: steps.steps[..taken].to_vec(), ..Plan::default() };
                let there = applied(&so_far, &observed);
                let filters: Vec<_> = there.topology.consumers.values().flat_map(|c| &c.filter_subjects).collect();
                let different: BTreeSet<_> = filters.iter().collect();
                prop_assert_eq!(filters.len(), different.len(), "{}", shown(&steps));
            }
            observed = applied(&steps, &observed);
            let again = plan(&policy, wanted, &observed, i as i64 + 1).unwrap();
            prop_assert_eq!(again.steps, Vec::<Step>::new());
            prop_assert_eq!(again.refused, steps.refused);
        }
    }
}
